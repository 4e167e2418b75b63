"""What every streaming detector does, on the twin: files, documents, and what it says when frames do not come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ophyd.status import SubscriptionStatus
from recorded_run import path_of
from twin_beamline import Twins

from nsbluesky.devices.detector import Acquisition
from nsbluesky.devices.status import DeviceError
from nsbluesky.devices.twins import SimFCCD

TIMEOUT_S = 10.0
SHAPE = (2, 3)


class Gate:
    """Makes frames, each filled with its index, only as many as a test lets through."""

    def __init__(self) -> None:
        self._asked = threading.Semaphore(0)
        self._permits = threading.Semaphore(0)
        self.error_at: int | None = None

    def let_through(self, num: int) -> None:
        self._permits.release(num)

    def await_exposures(self, num: int) -> None:
        """Wait till so many exposures more have begun."""
        for _ in range(num):
            assert self._asked.acquire(timeout=TIMEOUT_S), "the camera makes too few frames"

    def __call__(self, x_m: float, y_m: float, *, shutter_open: bool, exposure_s: float, index: int) -> Any:
        self._asked.release()
        assert self._permits.acquire(timeout=TIMEOUT_S), "the test let too few frames through"
        if index == self.error_at:
            raise OSError("the cable is out")
        return np.full(SHAPE, index, np.uint16)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.let_through(1000)


@pytest.fixture
def fccd(tmp_path: Path, gate: Gate) -> SimFCCD:
    camera = Twins.make(tmp_path, gate, SHAPE, stall_s=60.0).fccd
    camera.stage()
    return camera


def prepare(fccd: SimFCCD, num: int) -> None:
    fccd.prepare(Acquisition(exposure_s=1e-4, num_frames=num)).wait(TIMEOUT_S)


def await_frames(fccd: SimFCCD, num: int) -> None:
    SubscriptionStatus(fccd.file.num_written, lambda *, value, **_: value >= num, timeout=TIMEOUT_S).wait(TIMEOUT_S)


def fly(fccd: SimFCCD, gate: Gate, num: int) -> list[tuple[str, Any]]:
    """Take frames and return their documents."""
    prepare(fccd, num)
    fccd.kickoff().wait(TIMEOUT_S)
    status = fccd.complete()
    gate.let_through(num)
    status.wait(TIMEOUT_S)
    return list(fccd.collect_asset_docs())


def indices(documents: list[tuple[str, Any]]) -> list[tuple[int, int]]:
    return [(d["indices"]["start"], d["indices"]["stop"]) for name, d in documents if name == "stream_datum"]


def frames_in(resource: dict[str, Any]) -> list[int]:
    """Indices of the frames in a file."""
    with h5py.File(path_of(resource), "r", swmr=True, libver="latest") as file:
        data = file[resource["parameters"]["dataset"]]
        assert data.shape[1:] == SHAPE
        return [int(n) for n in data[:, 0, 0]]


def test_prepare_twice_makes_two_files_and_two_resources(fccd: SimFCCD, gate: Gate) -> None:
    (name_a, first), datum_a = fly(fccd, gate, 2)
    (name_b, second), datum_b = fly(fccd, gate, 3)
    fccd.unstage()
    assert name_a == name_b == "stream_resource"
    assert first["uid"] != second["uid"]
    assert first["uri"] != second["uri"]
    assert (frames_in(first), frames_in(second)) == ([0, 1], [2, 3, 4])
    assert indices([datum_a]) == [(0, 2)]
    assert indices([datum_b]) == [(0, 3)], "rows count from the start of each file"


def test_documents_in_pieces(fccd: SimFCCD, gate: Gate) -> None:
    prepare(fccd, 5)
    assert list(fccd.collect_asset_docs()) == [], "nothing to tell before the first frame"
    fccd.kickoff().wait(TIMEOUT_S)
    gate.let_through(4)
    await_frames(fccd, 4)
    assert fccd.get_index() == 4
    pieces = [list(fccd.collect_asset_docs(1)), list(fccd.collect_asset_docs(1)), list(fccd.collect_asset_docs(3))]
    assert [[name for name, _ in piece] for piece in pieces] == [
        ["stream_resource", "stream_datum"],
        [],
        ["stream_datum"],
    ]
    beyond = list(fccd.collect_asset_docs(9))
    assert [indices(piece) for piece in (*pieces, beyond)] == [[(0, 1)], [], [(1, 3)], [(3, 4)]]
    gate.let_through(1)
    fccd.unstage()


def test_complete_is_done_when_every_frame_is_in_the_file(fccd: SimFCCD, gate: Gate) -> None:
    prepare(fccd, 3)
    fccd.kickoff().wait(TIMEOUT_S)
    status = fccd.complete()
    gate.let_through(2)
    await_frames(fccd, 2)
    assert not status.done
    assert fccd.complete() is status, "asked again after a pause"
    gate.let_through(1)
    status.wait(TIMEOUT_S)
    ((_, resource), _) = fccd.collect_asset_docs()
    assert frames_in(resource) == [0, 1, 2]
    fccd.unstage()


def test_step_scan_needs_no_prepare(fccd: SimFCCD, gate: Gate) -> None:
    gate.let_through(2)
    told = []
    for _ in range(2):
        fccd.trigger().wait(TIMEOUT_S)
        told += list(fccd.collect_asset_docs())
    assert [name for name, _ in told] == ["stream_resource", "stream_datum", "stream_datum"]
    assert indices(told) == [(0, 1), (1, 2)]
    fccd.unstage()


def test_unstage_closes_the_file(fccd: SimFCCD, gate: Gate) -> None:
    ((_, resource), _) = fly(fccd, gate, 2)
    fccd.unstage()
    with h5py.File(path_of(resource), "r+"):
        pass  # HDF5 locks a file that is still being written
    assert list(fccd.collect_asset_docs()) == []


def halt_during_an_exposure(fccd: SimFCCD, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the camera end the exposure that goes on when it is halted."""
    halt = fccd.camera.halt

    def halted() -> None:
        halt()
        gate.let_through(1)

    monkeypatch.setattr(fccd.camera, "halt", halted)


def test_stop_in_the_middle_ends_everything_and_keeps_the_frames(
    fccd: SimFCCD, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    halt_during_an_exposure(fccd, gate, monkeypatch)
    prepare(fccd, 100)
    fccd.kickoff().wait(TIMEOUT_S)
    status = fccd.complete()
    gate.let_through(2)
    gate.await_exposures(3)
    fccd.stop()
    status.wait(TIMEOUT_S)
    assert fccd.is_idle
    ((_, resource), datum) = fccd.collect_asset_docs()
    assert fccd.get_index() == 3, "the exposure that was going on is kept"
    assert indices([datum]) == [(0, 3)]
    assert frames_in(resource) == [0, 1, 2]
    fccd.unstage()
    with pytest.raises(DeviceError, match="kickoff comes before complete"):
        fccd.complete()


def test_the_clock_begins_anew_when_a_held_camera_goes_on(
    fccd: SimFCCD, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    halt_during_an_exposure(fccd, gate, monkeypatch)
    prepare(fccd, 2)
    fccd.kickoff().wait(TIMEOUT_S)
    status = fccd.complete()
    began_in_pause: list[bool] = []
    monkeypatch.setattr(status, "restart", lambda: began_in_pause.append(fccd.held))
    gate.await_exposures(1)
    fccd.pause()
    fccd.kickoff().wait(TIMEOUT_S)
    assert began_in_pause == [True]
    gate.let_through(1)
    status.wait(TIMEOUT_S)
    fccd.unstage()


def test_camera_that_does_not_stop_says_so_and_blocks_nothing(
    fccd: SimFCCD, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nsbluesky.devices.detector.STOP_TIMEOUT_S", 0.05)
    prepare(fccd, 1)
    fccd.kickoff().wait(TIMEOUT_S)
    status = fccd.complete()
    gate.await_exposures(1)
    with pytest.raises(DeviceError, match=r"still busy after 0.05 s: stop it, or restart its IOC"):
        fccd.unstage()
    status.wait(TIMEOUT_S)
    fccd.stage()
    prepare(fccd, 1)
    fccd.unstage()


def test_a_pause_while_it_is_prepared_is_no_loss(
    fccd: SimFCCD, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    open_file, opening, paused = fccd.file.open, threading.Event(), threading.Event()

    def slowly() -> None:
        opening.set()
        assert paused.wait(TIMEOUT_S)
        open_file()

    monkeypatch.setattr(fccd.file, "open", slowly)
    status = fccd.prepare(Acquisition(0.001))
    assert opening.wait(TIMEOUT_S)
    fccd.pause()
    paused.set()
    status.wait(TIMEOUT_S)
    assert (fccd.lost, caplog.messages) == (False, [])


def test_kickoff_before_prepare(fccd: SimFCCD) -> None:
    with pytest.raises(DeviceError, match="prepare"):
        fccd.kickoff()


def test_stall_says_where_to_look(fccd: SimFCCD, gate: Gate) -> None:
    fccd._stall_s = 0.05
    prepare(fccd, 3)
    fccd.kickoff().wait(TIMEOUT_S)
    gate.let_through(1)
    await_frames(fccd, 1)
    status = fccd.complete()
    error = status.exception(TIMEOUT_S)
    gate.let_through(2)
    assert isinstance(error, DeviceError)
    message = str(error)
    assert "fccd_file_num_written says 1 of 3" in message, "the signal to look at, and how far it got"
    assert "check that the camera runs" in message
    fccd.unstage()


def test_error_in_the_camera_does_not_outlive_its_scan(fccd: SimFCCD, gate: Gate) -> None:
    gate.error_at = 1
    gate.let_through(3)
    fccd.trigger().wait(TIMEOUT_S)
    with pytest.raises(OSError, match="cable"):
        fccd.trigger().wait(TIMEOUT_S)
    fccd.unstage()
    gate.error_at = None
    fccd.stage()
    prepare(fccd, 1)
    fccd.trigger().wait(TIMEOUT_S)
    ((_, resource), _) = fccd.collect_asset_docs()
    assert frames_in(resource) == [1]
    fccd.unstage()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"exposure_s": 0.0}, "exposure_s"),
        ({"exposure_s": float("nan")}, "exposure_s"),
        ({"exposure_s": 1.0, "num_frames": 0}, "num_frames"),
        ({"exposure_s": 1.0, "period_s": -1.0}, "period_s"),
        ({"exposure_s": 1.0, "period_s": float("inf")}, "period_s"),
    ],
)
def test_impossible_acquisitions(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Acquisition(**wrong)


def test_twins_have_no_channels_to_lose(tmp_path: Path) -> None:
    twins = Twins.make(tmp_path, lambda *_: np.zeros(SHAPE, np.uint16), SHAPE)
    devices = (twins.fccd, twins.stage)  # the shutter knows no connection
    assert not any(device.connection.has_channels for device in devices)
