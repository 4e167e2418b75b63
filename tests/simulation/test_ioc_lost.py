"""What a scan does when frames or the whole IOC get lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus
from ophyd.signal import EpicsSignalBase
from ophyd.status import SubscriptionStatus
from ophyd.utils import DisconnectedError
from recorded_run import RecordedRun

from nsbluesky.devices.detector import Acquisition
from nsbluesky.devices.fccd import FCCD
from nsbluesky.devices.shutter import Shutter
from nsbluesky.devices.stage import ScanStage
from nsbluesky.devices.status import DeviceError
from nsbluesky.plans import ptycho_fly_scan, ptycho_scan
from nsbluesky.simulation.beamline import SimulatedBeamline

pytestmark = pytest.mark.epics

LOST_FRAME = 8


@pytest.fixture
def beamline(tmp_path: Path) -> Iterator[SimulatedBeamline]:
    with SimulatedBeamline(tmp_path, layout="none", lost_frames=[LOST_FRAME]) as running:
        yield running


@pytest.fixture
def devices(beamline: SimulatedBeamline) -> Iterator[tuple[FCCD, ScanStage, Shutter]]:
    frames = str(beamline.frames_directory)
    fccd = FCCD(f"{beamline.prefix}FCCD:", name="fccd", write_path=frames, stall_s=1.0)
    stage = ScanStage(f"{beamline.prefix}STAGE:", name="stage", write_path=frames)
    shutter = Shutter(f"{beamline.prefix}SHUTTER:", name="shutter")
    for device in (fccd, stage, shutter):
        device.wait_for_connection(timeout=20)
    yield fccd, stage, shutter
    for device in (fccd, stage, shutter):
        device.destroy()


def test_lost_frame_fails_the_scan_and_says_how_many_came(
    RE: RunEngine, beamline: SimulatedBeamline, devices: tuple[FCCD, ScanStage, Shutter]
) -> None:
    run = RecordedRun()
    RE.subscribe(run)
    scan = ptycho_fly_scan(*devices, geometry=beamline.geometry, shape=(4, 5), rate_hz=40.0, num_dark=2, step_um=0.05)
    with pytest.raises(FailedStatus) as failed:
        RE(scan)
    assert isinstance(failed.value.__cause__, DeviceError)
    assert "19 of 20" in str(failed.value.__cause__)
    assert run.stop["reason"] == str(failed.value.__cause__)
    assert run.stop["exit_status"] == "fail"
    assert not devices[2].status.get(use_monitor=False), "the shutter is closed"
    assert all(device.connection.has_channels for device in devices), "a loss of each may be told late"


def test_killed_ioc_ends_the_run_and_the_session_goes_on(
    RE: RunEngine,
    beamline: SimulatedBeamline,
    devices: tuple[FCCD, ScanStage, Shutter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = RecordedRun()
    RE.subscribe(run)
    some = run.when(lambda r: len(r.data("primary")) >= 3)

    def kill() -> None:
        if some.wait(20):
            os.kill(beamline.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    scan = ptycho_fly_scan(
        *devices, geometry=beamline.geometry, shape=(6, 10), rate_hz=20.0, num_dark=2, step_um=0.05
    )
    closings = []
    last: list[str] = []
    waits: list[str] = []

    def note(message: Any) -> None:
        last[:] = [message.command]
        if message.args == ("close",):
            closings.append(message)

    def wait_for(signal: Any, *pvs: Any, timeout: Any) -> None:
        if last == ["unstage"]:
            waits.extend(pv.pvname for pv in pvs if not pv.connected)
        ensure_connected(signal, *pvs, timeout=timeout)

    ensure_connected = EpicsSignalBase._ensure_connected
    monkeypatch.setattr(EpicsSignalBase, "_ensure_connected", wait_for)
    RE.msg_hook = note
    with pytest.raises(DeviceError, match=r"SIM:FCCD:\S+ does not answer: is the camera's IOC running\?"):
        RE(scan)
    killer.join()
    assert [message.obj for message in closings[-1:]] == [devices[2]], "whoever is left tried to close the shutter"
    assert waits == [], "a second for each, though all are known to be lost"
    assert run.stop["exit_status"] == "fail"
    assert "does not answer" in run.stop["reason"]
    assert len(run.column("primary", "fccd_image")) >= 1, "frames that were told are kept"

    beamline.stop()
    beamline.start()
    for device in devices:
        device.wait_for_connection(timeout=20)
    RE(ptycho_fly_scan(*devices, geometry=beamline.geometry, shape=(2, 2), rate_hz=20.0, num_dark=2, step_um=0.05))
    assert run.all("stop")[-1]["exit_status"] == "success", "once it is back, the same session goes on"


def test_a_device_of_which_one_channel_is_lost_is_ended_where_it_answers(
    devices: tuple[FCCD, ScanStage, Shutter],
) -> None:
    """Channels of one device may be those of several IOCs."""
    fccd, stage, _ = devices
    fccd.stage()
    fccd.prepare(Acquisition(exposure_s=0.01)).wait(20)
    assert fccd.file.capture.get(use_monitor=False) == 1
    fccd.connection._on_metadata(obj=fccd.camera.acquire, connected=False)
    with pytest.raises(DeviceError, match="cam1:Acquire does not answer"):
        fccd.unstage()
    assert fccd.file.capture.get(use_monitor=False) == 0, "the file is closed"

    stage.connection._on_metadata(obj=stage.fly.abort_command, connected=False)
    stage.x.velocity.set(0.01).wait(20)
    goal = stage.x.position + 1.0
    begun = SubscriptionStatus(stage.x.motor_is_moving, lambda *, value, **_: value == 1, run=False)
    move = stage.x.set(goal)
    begun.wait(20)
    with pytest.raises(DisconnectedError, match="FLY:Abort: the channel is lost"):
        stage.stop()
    move.exception(20)
    assert stage.x.user_readback.get(use_monitor=False) < goal - 0.5, "the axis is stopped"


def test_a_wrong_prefix_is_told_by_the_part_and_its_pv(
    RE: RunEngine, beamline: SimulatedBeamline, devices: tuple[FCCD, ScanStage, Shutter], tmp_path: Path
) -> None:
    fccd, stage, shutter = devices
    options: dict[str, Any] = {"geometry": beamline.geometry, "shape": (2, 2), "num_dark": 2}
    elsewhere = ScanStage("WRONG:", name="stage", write_path=tmp_path)
    with pytest.raises(DeviceError, match=r"WRONG:X.EGU does not answer: is the stage's IOC running\? does it have"):
        RE(ptycho_scan(fccd, elsewhere, shutter, **options))
    closed = Shutter("WRONG:", name="shutter")
    with pytest.raises(DeviceError, match="WRONG:Status_RBV does not answer: is the shutter's IOC running"):
        RE(ptycho_scan(fccd, stage, closed, **options))
    with pytest.raises(DeviceError, match="WRONG:Cmd does not answer"):
        closed.set("open")
