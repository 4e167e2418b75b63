"""A scan outlasts its IOC: killed in the middle, started again, and every point of the run is whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus, Msg
from ophyd.utils import DisconnectedError
from recorded_run import RecordedRun

from nsbluesky.callbacks import FrameSource
from nsbluesky.devices.fccd import FCCD
from nsbluesky.devices.shutter import Shutter
from nsbluesky.devices.stage import ScanStage
from nsbluesky.devices.status import DeviceError
from nsbluesky.lost_ioc import SuspendWhileAway
from nsbluesky.plans import ptycho_fly_scan, ptycho_scan
from nsbluesky.simulation.beamline import SimulatedBeamline
from nsbluesky.trajectories import make_trajectory

pytestmark = pytest.mark.epics

TIMEOUT_S = 60.0

LATEST_MESSAGE = 80
"""Of a plan, after its first checkpoint; by then most of its frames are there."""

Devices = tuple[FCCD, ScanStage, Shutter]


@pytest.fixture
def beamline(tmp_path: Path) -> Iterator[SimulatedBeamline]:
    with SimulatedBeamline(tmp_path, layout="none") as running:
        yield running


@pytest.fixture
def devices(beamline: SimulatedBeamline) -> Iterator[Devices]:
    frames = str(beamline.frames_directory)
    fccd = FCCD(f"{beamline.prefix}FCCD:", name="fccd", write_path=frames)
    stage = ScanStage(f"{beamline.prefix}STAGE:", name="stage", write_path=frames)
    shutter = Shutter(f"{beamline.prefix}SHUTTER:", name="shutter")
    for device in (fccd, stage, shutter):
        device.wait_for_connection(timeout=20)
    yield fccd, stage, shutter
    for device in (fccd, stage, shutter):
        device.destroy()


@contextmanager
def killed_and_started(beamline: SimulatedBeamline, when: threading.Event, held: threading.Event) -> Iterator[None]:
    """Kill the IOC at an event; start it again when the RunEngine is told to hold the plan."""
    outcome: list[bool] = []

    def work() -> None:
        outcome.append(when.wait(TIMEOUT_S))
        os.kill(beamline.pid, signal.SIGKILL)
        outcome.append(held.wait(TIMEOUT_S))
        beamline.stop()
        beamline.start()

    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join(TIMEOUT_S)
    assert outcome == [True, True], "the IOC was killed, and the RunEngine held the plan"


def outlast(
    RE: RunEngine,
    beamline: SimulatedBeamline,
    devices: Devices,
    stream: str,
    scan: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> RecordedRun:
    """Run a scan whose IOC is killed after some frames of a stream, and return the run."""
    run = RecordedRun()
    RE.subscribe(run)
    some = run.when(lambda r: len(r.values_told(stream, "fccd_image")) >= 3)
    held, suspend = threading.Event(), RE.request_suspend
    monkeypatch.setattr(RE, "request_suspend", lambda *args, **kwargs: (suspend(*args, **kwargs), held.set()))
    RE.install_suspender(SuspendWhileAway(*devices, sleep=0.5))
    with killed_and_started(beamline, some, held):
        RE(scan)
    assert run.stop["exit_status"] == "success"
    RE.clear_suspenders()
    return run


def check_every_point(run: RecordedRun, num: int, positions: np.ndarray) -> None:
    """Each point has one frame, with light, and its own position; what the processing makes of it agrees."""
    frames = run.column("primary", "fccd_image")
    assert len(frames) == num
    assert (frames.reshape(num, -1).max(axis=1) > frames.min() + 50).all(), "there was light on each of them"
    measured = np.stack([run.column("primary", key) for key in ("stage_x", "stage_y")], axis=1)
    np.testing.assert_allclose(measured, positions, atol=0.05)
    derived: list[tuple[str, dict[str, Any]]] = []
    source = FrameSource()
    source.subscribe(lambda name, document: derived.append((name, document)))
    for name, document in run.documents:
        source(name, document)
    assert source.wait(TIMEOUT_S)
    source.close()
    seq_nums = [
        n for name, page in derived if name == "event_page" and "x_m" in page["data"] for n in page["seq_num"]
    ]
    assert sorted(set(seq_nums)) == list(range(1, num + 1)), "each of them is read"


@pytest.mark.parametrize("stream", ["primary", pytest.param("dark", marks=pytest.mark.nightly)])
def test_fly_scan_goes_on_with_the_frames_that_are_missing(
    RE: RunEngine, beamline: SimulatedBeamline, devices: Devices, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_dark = {"primary": 2, "dark": 20}[stream]
    scan = ptycho_fly_scan(
        *devices, geometry=beamline.geometry, shape=(4, 8), rate_hz=20.0, num_dark=num_dark, pattern="raster"
    )
    run = outlast(RE, beamline, devices, stream, scan, monkeypatch)
    resources = [r for r in run.all("stream_resource") if r["data_key"] == "fccd_image"]
    assert len(resources) == 3, "darks, frames, and a new file after the loss"
    check_every_point(run, 32, make_trajectory("raster", (4, 8), 0.1))
    assert len(run.column("dark", "fccd_image")) == num_dark


def test_step_scan_takes_the_point_again(
    RE: RunEngine, beamline: SimulatedBeamline, devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = ptycho_scan(*devices, geometry=beamline.geometry, shape=(3, 4), num_dark=2, pattern="raster")
    run = outlast(RE, beamline, devices, "primary", scan, monkeypatch)
    check_every_point(run, 12, make_trajectory("raster", (3, 4), 0.1))


@contextmanager
def busy_processors(number: int) -> Iterator[None]:
    """Let so many other processes compute for nothing."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(30))
def test_an_ioc_that_is_back_at_once(RE: RunEngine, beamline: SimulatedBeamline, devices: Devices, seed: int) -> None:
    """Killed at a random message of a plan, and started again at once, on a machine with other things to do."""
    moment = random.Random(seed)
    at, load, settle_s = moment.randrange(1, LATEST_MESSAGE), moment.choice((0, 2, 6)), moment.choice((0.0, 0.5))
    run, messages, restarted = RecordedRun(), [], threading.Thread(target=beamline.start)
    RE.subscribe(run)
    RE.install_suspender(SuspendWhileAway(*devices, sleep=settle_s))

    def hook(message: Msg) -> None:
        if message.command == "checkpoint" or messages:
            messages.append(message)
        if len(messages) == at:
            os.kill(beamline.pid, signal.SIGKILL)
            beamline.stop()
            restarted.start()

    RE.msg_hook = hook
    plan, options = ((ptycho_fly_scan, {"rate_hz": 20.0}), (ptycho_scan, {}))[seed % 2]
    with busy_processors(load):
        RE(plan(*devices, geometry=beamline.geometry, shape=(4, 6), num_dark=2, pattern="raster", **options))
    restarted.join(TIMEOUT_S)
    assert run.stop["exit_status"] == "success"
    check_every_point(run, 24, make_trajectory("raster", (4, 6), 0.1))
    assert len(run.column("dark", "fccd_image")) == 2
    RE.clear_suspenders()


@pytest.mark.nightly
def test_without_a_suspender_the_run_fails(RE: RunEngine, beamline: SimulatedBeamline, devices: Devices) -> None:
    suspender = SuspendWhileAway(*devices)
    RE.install_suspender(suspender)
    RE.remove_suspender(suspender)
    run = RecordedRun()
    RE.subscribe(run)
    some = run.when(lambda r: len(r.events("primary")) >= 2)
    killer = threading.Thread(target=lambda: some.wait(TIMEOUT_S) and os.kill(beamline.pid, signal.SIGKILL))
    killer.start()
    with pytest.raises((DeviceError, TimeoutError, FailedStatus, DisconnectedError)):
        RE(ptycho_scan(*devices, geometry=beamline.geometry, shape=(3, 4), num_dark=2))
    killer.join()
    assert run.stop["exit_status"] == "fail"
