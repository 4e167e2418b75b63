"""Frames that are made before they are asked for, and a trajectory that waits for them."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from nsbluesky.simulation import ioc
from nsbluesky.simulation.ioc_frames import Frame, FramesAhead, Shot
from nsbluesky.simulation.ioc_settings import BeamlineSettings

TIMEOUT_S = 10.0


def shots(num: int, shutter_open: bool = True) -> list[Shot]:
    return [Shot(k, 1e-9 * k, 0.0, shutter_open, 0.01) for k in range(num)]


class Maker:
    """Makes frames that hold their number, once `go` is set; remembers which shots it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Shot] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, shot: Shot) -> Frame:
        self.asked.append(shot)
        assert self.go.wait(TIMEOUT_S)
        return np.full((2, 2), shot.index, np.uint16)


def test_frames_come_in_their_order_and_are_made_once() -> None:
    make = Maker()
    ahead = FramesAhead(make, depth=3, workers=1)
    ahead.expect(shots(8))
    assert len(ahead.waiting()) == 3
    ahead.expect(shots(8))  # what is expected already is not begun anew
    assert [int(ahead.take(shot).result(TIMEOUT_S)[0, 0]) for shot in shots(8)] == list(range(8))
    assert make.asked == shots(8) and ahead.waiting() == []
    ahead.close()


def test_a_shot_that_was_not_foreseen_is_made_as_it_is() -> None:
    make = Maker()
    ahead = FramesAhead(make, depth=2, workers=1)
    ahead.expect(shots(4))
    dark = Shot(0, 0.0, 0.0, False, 0.01)
    assert ahead.take(dark).result(TIMEOUT_S)[0, 0] == 0
    assert make.asked[-1] == dark and ahead.waiting() == []
    ahead.close()


@pytest.mark.parametrize("in_time", [True, False])
def test_a_trajectory_waits_for_a_full_pool_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_time: bool
) -> None:
    settings = BeamlineSettings(str(tmp_path), layout="none", pool=4, fill_pool=True, workers=2)
    beamline = ioc._Beamline(settings)
    make = Maker()
    beamline.frames.close()
    beamline.frames = FramesAhead(make, settings.pool, settings.workers)
    monkeypatch.setattr(beamline.camera, "expect", lambda num: beamline.frames.expect(shots(num)))
    if not in_time:
        make.go.clear()
        monkeypatch.setattr(ioc, "FILL_TIMEOUT_S", 0.05)
    asyncio.run(asyncio.wait_for(beamline._armed(6), TIMEOUT_S))
    waiting = beamline.frames.waiting()
    assert [frame.done() for frame in waiting] == 4 * [in_time]
    make.go.set()
    assert [int(frame.result(TIMEOUT_S)[0, 0]) for frame in waiting] == [0, 1, 2, 3]
    beamline.frames.close()


def test_a_camera_whose_frames_come_late_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no time left to wait for its next exposure, as on a machine that is busy."""
    beamline = ioc._Beamline(BeamlineSettings(str(tmp_path), layout="none", workers=1))
    make, camera = Maker(), beamline.camera
    beamline.frames.close()
    monkeypatch.setattr(camera, "_frames", FramesAhead(make, depth=1, workers=1))
    monkeypatch.setattr(camera, "_min_period_s", 0.0)
    make.go.clear()

    async def stop_in_the_first_exposure() -> int:
        for channel, value in ((camera.exposure, 0.0), (camera.period, 0.0), (camera.num_images, 50)):
            await channel.write(value)
        await camera.image_mode.write("Multiple")
        started = asyncio.create_task(camera.acquire.write("Acquire"))
        while not make.asked:
            await asyncio.sleep(0)
        stopped = asyncio.create_task(camera.acquire.write("Done"))
        while not camera._stop.is_set():
            await asyncio.sleep(0)
        make.go.set()
        await asyncio.gather(started, stopped)
        return int(camera.images_done.value)

    assert asyncio.run(asyncio.wait_for(stop_in_the_first_exposure(), TIMEOUT_S)) == 1
    camera._frames.close()
