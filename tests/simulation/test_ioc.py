"""The simulated beamline over real Channel Access: devices and plans against the IOC, with small frames."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.preprocessors import reset_positions_wrapper
from ophyd import EpicsSignal, EpicsSignalRO
from ophyd.utils import LimitError
from recorded_run import RecordedRun, interrupt, path_of

from nsbluesky.camera.frame_file import ATTRIBUTES, EPICS_EPOCH_S, TIMESTAMP
from nsbluesky.devices.area_detector import AreaDetector
from nsbluesky.devices.detector import Acquisition
from nsbluesky.devices.fccd import FCCD, CameraSite
from nsbluesky.devices.shutter import Shutter
from nsbluesky.devices.stage import ScanStage, Trajectory
from nsbluesky.devices.status import DeviceError
from nsbluesky.plans import ptycho_darks, ptycho_fly_scan, ptycho_scan
from nsbluesky.simulation.beamline import BeamlineError, SimulatedBeamline
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import gold_balls
from nsbluesky.trajectories import make_trajectory

pytestmark = pytest.mark.epics

TIMEOUT_S = 20.0
SEED = 5
COMMON: dict[str, Any] = {"shape": (5, 6), "step_um": 0.05, "num_dark": 4, "exposure_s": 0.005}
PLANS = [
    pytest.param(ptycho_scan, {}, id="step"),
    pytest.param(ptycho_fly_scan, {"rate_hz": 40.0}, id="fly"),
]


@dataclass
class Connected:
    beamline: SimulatedBeamline
    fccd: FCCD
    stage: ScanStage
    shutter: Shutter

    @property
    def devices(self) -> tuple[FCCD, ScanStage, Shutter]:
        return self.fccd, self.stage, self.shutter

    def is_safe(self) -> bool:
        """Shutter closed, camera idle, file closed: as the IOC says."""
        fccd = self.fccd
        return not (
            self.shutter.status.get(use_monitor=False)
            or fccd.camera.acquire.get(use_monitor=False)
            or fccd.file.capture.get(use_monitor=False)
        )


@pytest.fixture(scope="module")
def connected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connected]:
    directory = tmp_path_factory.mktemp("beamline")
    with SimulatedBeamline(directory, layout="none", seed=SEED, image_rate_hz=100.0) as beamline:
        frames = str(beamline.frames_directory)
        fccd = FCCD(f"{beamline.prefix}FCCD:", name="fccd", write_path=frames, stall_s=5.0)
        stage = ScanStage(f"{beamline.prefix}STAGE:", name="stage", write_path=frames)
        shutter = Shutter(f"{beamline.prefix}SHUTTER:", name="shutter")
        for device in (fccd, stage, shutter):
            device.wait_for_connection(timeout=TIMEOUT_S)
        yield Connected(beamline, fccd, stage, shutter)
        for device in (fccd, stage, shutter):
            device.destroy()


@pytest.fixture
def run(RE: RunEngine, connected: Connected) -> RecordedRun:
    for axis in (connected.stage.x, connected.stage.y):
        axis.set(0.0).wait(TIMEOUT_S)
    recorded = RecordedRun()
    RE.subscribe(recorded)
    return recorded


def truth_of(run: RecordedRun, stream: str) -> dict[str, Any]:
    """What the IOC knows of the frames of a stream."""
    resources = {r["uid"]: r for r in run.all("stream_resource")}
    path = next(path_of(resources[d["stream_resource"]]) for key, d in run.data(stream) if key == "fccd_image")
    with h5py.File(path.with_suffix(".truth.h5")) as file:
        return {name: file[name][()] for name in file}


def assert_complete(run: RecordedRun, num: int) -> None:
    """Every frame is what the simulator makes at the true position, and that is where the stage says it is."""
    frames = run.column("primary", "fccd_image")
    read = np.column_stack([run.column("primary", key) for key in ("stage_x", "stage_y")])
    truth = truth_of(run, "primary")
    true_um = np.column_stack([truth["x_m"], truth["y_m"]]) * 1e6
    assert len(frames) == num
    assert np.all(truth["shutter_open"])
    assert 0 < np.std(true_um - read) < 1e-3, "the unknown error is below a nanometre, but there is one"
    planned = make_trajectory("jittered_raster", COMMON["shape"], COMMON["step_um"])
    assert np.max(np.abs(read - planned)) < 0.02
    simulator = FrameSimulator(gold_balls(), layout="none", seed=SEED)
    for i in (0, num // 2, num - 1):
        expected = simulator.raw_frame(
            truth["x_m"][i],
            truth["y_m"][i],
            shutter_open=True,
            exposure_s=truth["exposure_s"][i],
            index=int(truth["index"][i]),
        )
        np.testing.assert_array_equal(frames[i], expected)


@pytest.mark.parametrize(("plan", "more"), PLANS)
def test_scan(RE: RunEngine, connected: Connected, run: RecordedRun, plan: Any, more: dict[str, Any]) -> None:
    RE(plan(*connected.devices, geometry=connected.beamline.geometry, **COMMON, **more))
    assert_complete(run, 30)
    assert run.stop["exit_status"] == "success"
    keys = run.descriptor("primary")["data_keys"]
    assert [keys[key]["units"] for key in ("stage_x", "stage_y")] == ["um", "um"]
    assert keys["fccd_image"]["shape"] == list(connected.beamline.frame_shape)
    assert connected.is_safe()


def test_darks_are_dark(RE: RunEngine, connected: Connected, run: RecordedRun) -> None:
    connected.shutter.set("open").wait(TIMEOUT_S)
    RE(ptycho_fly_scan(*connected.devices, geometry=connected.beamline.geometry, rate_hz=40.0, **COMMON))
    assert run.column("dark", "fccd_image").shape[0] == COMMON["num_dark"]
    assert not run.column("dark", "fccd_image").any()
    assert run.column("primary", "fccd_image").any(axis=(1, 2)).all()


def test_an_open_shutter_is_put_back(RE: RunEngine, connected: Connected, run: RecordedRun) -> None:
    """What a positioner reads it can be set to."""
    shutter = connected.shutter
    shutter.set("open").wait(TIMEOUT_S)
    darks = ptycho_darks(connected.fccd, shutter, geometry=connected.beamline.geometry, num_dark=2)
    RE(reset_positions_wrapper(darks))
    assert shutter.status.get(use_monitor=False) == 1
    shutter.set(0).wait(TIMEOUT_S)
    assert connected.is_safe()


@pytest.mark.parametrize(("plan", "more"), PLANS)
def test_pause_and_resume(
    RE: RunEngine, connected: Connected, run: RecordedRun, plan: Any, more: dict[str, Any]
) -> None:
    some = run.when(lambda r: len(r.data("primary")) >= 6)
    scan = plan(*connected.devices, geometry=connected.beamline.geometry, **COMMON, **more)
    interrupt(RE, scan, some, RE.request_pause)
    assert not connected.fccd.camera.acquire.get(use_monitor=False)
    RE.resume()
    frames = run.column("primary", "fccd_image")
    assert len(frames) == 30
    if plan is ptycho_fly_scan:
        assert_complete(run, 30)
    assert connected.is_safe()


def test_a_move_that_is_stopped_on_purpose_has_ended_well(connected: Connected) -> None:
    axis = connected.stage.x
    move = axis.set(axis.position + 40.0)
    axis.stop(success=True)
    assert move.done and move.success
    axis.set(axis.position).wait(TIMEOUT_S)
    assert move.success


def test_no_end_of_a_move_that_was_refused_is_waited_for(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The RunEngine stops, as well, what it could not move."""
    axis = connected.stage.x
    axis.set(axis.position).wait(TIMEOUT_S)
    with pytest.raises(LimitError):
        axis.set(1e6)
    waited: list[bool] = []
    ended = axis._ended.wait
    monkeypatch.setattr(axis._ended, "wait", lambda timeout: waited.append(ended(timeout)))
    axis.stop(success=True)
    assert waited == [True]


@pytest.mark.parametrize(("plan", "more"), PLANS)
def test_abort(RE: RunEngine, connected: Connected, run: RecordedRun, plan: Any, more: dict[str, Any]) -> None:
    some = run.when(lambda r: len(r.data("primary")) >= 6)
    scan = plan(*connected.devices, geometry=connected.beamline.geometry, **COMMON, **more)
    interrupt(RE, scan, some, lambda: RE.abort("enough"))
    assert run.stop["exit_status"] == "abort"
    assert 2 <= len(run.column("primary", "fccd_image")) < 30
    assert connected.is_safe()
    RE(plan(*connected.devices, geometry=connected.beamline.geometry, **COMMON, **more))
    assert run.all("stop")[-1]["exit_status"] == "success", "the next scan works"


def test_soft_limits(RE: RunEngine, connected: Connected, run: RecordedRun) -> None:
    with pytest.raises(LimitError, match=r"stage_[xy].*soft limits"):
        RE(ptycho_scan(*connected.devices, geometry=connected.beamline.geometry, shape=(5, 5), step_um=40.0))
    assert run.documents == []


def test_trajectory_beyond_the_travel_is_refused(connected: Connected) -> None:
    status = connected.stage.prepare(Trajectory(np.array([0.0, 90.0]), np.zeros(2)))
    with pytest.raises(DeviceError, match="outside the travel"):
        status.wait(TIMEOUT_S)


def test_folder_that_the_ioc_does_not_see(connected: Connected, tmp_path: Path) -> None:
    fccd = FCCD(connected.fccd.prefix, name="fccd", write_path=str(tmp_path / "nowhere"))
    fccd.wait_for_connection(timeout=TIMEOUT_S)
    with pytest.raises(DeviceError, match="nowhere"):
        fccd.prepare(Acquisition(0.01)).wait(TIMEOUT_S)
    fccd.destroy()


def test_any_camera_of_areadetector(connected: Connected) -> None:
    """Shape and type are asked from the camera, the file's name needs no template in the IOC."""
    camera = AreaDetector(
        f"{connected.beamline.prefix}FCCD:", name="other", write_path=connected.fccd.file.write_path
    )
    try:
        camera.wait_for_connection(timeout=TIMEOUT_S)
        camera.file.template.set([*b"no template", 0]).wait(TIMEOUT_S)
        camera.prepare(Acquisition(0.01)).wait(TIMEOUT_S)
        camera.trigger().wait(TIMEOUT_S)
        (_, resource), _ = camera.collect_asset_docs()
        with h5py.File(path_of(resource), libver="latest", swmr=True) as file:
            frames = file[camera.dataset]
            assert frames.shape == (1, *camera.frame_shape)
            assert frames.dtype.str == camera.describe()["other_image"]["dtype_numpy"] == "<u2"
        assert "gain" not in str(sorted(camera.read_configuration()))
    finally:
        camera.unstage()
        camera.destroy()


def test_readers_elsewhere_find_the_frames_at_their_own_path(connected: Connected) -> None:
    fccd = FCCD(
        connected.fccd.prefix, name="fccd", write_path=connected.fccd.file.write_path, read_path="/mnt/ioc disk"
    )
    fccd.wait_for_connection(timeout=TIMEOUT_S)
    fccd.trigger().wait(TIMEOUT_S)
    (resource, _) = fccd.collect_asset_docs()
    assert resource[1]["uri"].startswith("file://localhost/mnt/ioc%20disk/")
    fccd.unstage()
    fccd.destroy()


def test_letters_beyond_ascii_in_the_folder(connected: Connected) -> None:
    folder = connected.beamline.frames_directory / "Müller, 1 µm"
    folder.mkdir()
    fccd = FCCD(connected.fccd.prefix, name="fccd", write_path=str(folder))
    fccd.wait_for_connection(timeout=TIMEOUT_S)
    fccd.trigger().wait(TIMEOUT_S)
    ((_, resource), _) = fccd.collect_asset_docs()
    fccd.unstage()
    assert path_of(resource).parent == folder and path_of(resource).is_file()
    fccd.file.write_path = "/another"
    with pytest.raises(DeviceError, match="expected a file in /another"):
        fccd.file.uri()
    fccd.destroy()


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("FCCD:cam1:AcquireTime", 0.02, "FCCD:cam1:AcquireTime_RBV"),
        ("FCCD:cam1:NumImages", 7, "FCCD:cam1:NumImages_RBV"),
        ("FCCD:cam1:FCRICGain", 2, "FCCD:cam1:FCRICGain_RBV"),
        ("FCCD:HDF1:FileNumber", 12, "FCCD:HDF1:FileNumber_RBV"),
        ("SHUTTER:Cmd", 1, "SHUTTER:Status_RBV"),
    ],
)
def test_readbacks_follow_their_set_points(connected: Connected, name: str, value: float, read: str) -> None:
    prefix = connected.beamline.prefix
    set_point = EpicsSignal(prefix + name, name="set_point", put_complete=True)
    readback = EpicsSignalRO(prefix + read, name="readback")
    for signal_ in (set_point, readback):
        signal_.wait_for_connection(timeout=TIMEOUT_S)
    set_point.set(value).wait(TIMEOUT_S)
    assert readback.get(use_monitor=False) == value
    for signal_ in (set_point, readback):
        signal_.destroy()


def test_statistics_are_those_of_the_frame(connected: Connected) -> None:
    site = CameraSite(connected.fccd.prefix, connected.beamline.frame_shape, plugins=("stats1",))
    fccd = FCCD.at(site, name="fccd", write_path=str(connected.beamline.frames_directory))
    fccd.wait_for_connection(timeout=TIMEOUT_S)
    connected.shutter.set("open").wait(TIMEOUT_S)
    fccd.stats1.enable.set("Enable").wait(TIMEOUT_S)
    fccd.prepare(Acquisition(0.01)).wait(TIMEOUT_S)
    fccd.trigger().wait(TIMEOUT_S)
    assert fccd.read().keys() >= {"fccd_stats1_total", "fccd_stats1_maximum"}
    total, maximum = (signal_.get(use_monitor=False) for signal_ in (fccd.stats1.total, fccd.stats1.maximum))
    ((_, resource), _) = fccd.collect_asset_docs()
    fccd.unstage()
    with h5py.File(path_of(resource), libver="latest", swmr=True) as file:
        frame = file["/entry/data/data"][-1]
    assert (total, maximum) == (frame.sum(), frame.max())
    fccd.stats1.enable.set("Disable").wait(TIMEOUT_S)
    fccd.destroy()


def test_long_paths_survive(connected: Connected) -> None:
    """Plain EPICS strings end after 40 characters."""
    long = connected.beamline.frames_directory / ("x" * 100)
    long.mkdir(exist_ok=True)
    connected.fccd.file.path.set(str(long)).wait(TIMEOUT_S)
    assert connected.fccd.file.path.get(use_monitor=False) == f"{long}/"
    assert connected.fccd.file.path_exists.get(use_monitor=False)


def test_live_image_carries_the_bits_of_a_frame(connected: Connected) -> None:
    """The file has the same frame, and when it was taken."""
    before_s = time.time()
    prefix = f"{connected.beamline.prefix}FCCD:"
    image = EpicsSignalRO(f"{prefix}image1:ArrayData", name="image")
    image.wait_for_connection(timeout=TIMEOUT_S)
    connected.shutter.set("open").wait(TIMEOUT_S)
    connected.fccd.prepare(Acquisition(0.01)).wait(TIMEOUT_S)
    connected.fccd.trigger().wait(TIMEOUT_S)
    shown = np.asarray(image.get(use_monitor=False)).astype(np.int16).view(np.uint16)
    ((_, resource), _) = connected.fccd.collect_asset_docs()
    connected.fccd.unstage()
    with h5py.File(path_of(resource), libver="latest", swmr=True) as file:
        written = file["/entry/data/data"][-1]
        taken_s = file[f"{ATTRIBUTES}/{TIMESTAMP}"][-1] + EPICS_EPOCH_S
    np.testing.assert_array_equal(shown.reshape(connected.beamline.frame_shape), written)
    assert before_s <= taken_s <= time.time()
    image.destroy()


def test_truth_is_saved(connected: Connected) -> None:
    with h5py.File(connected.beamline.truth_path) as truth:
        assert truth["object"].dtype == np.complex64


def test_one_beamline_per_process(connected: Connected, tmp_path: Path) -> None:
    with pytest.raises(BeamlineError, match="already"):
        SimulatedBeamline(tmp_path).start()


def wait_for_exit(pid: int) -> bool:
    """Wait till a process that need not be our child is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], TIMEOUT_S)[0])
    finally:
        os.close(descriptor)


def test_no_orphan_when_the_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from nsbluesky.simulation.beamline import SimulatedBeamline\n"
        "beamline = SimulatedBeamline(sys.argv[1], layout='none')\n"
        "beamline.start()\n"
        "print(beamline.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    assert wait_for_exit(pid), "the IOC outlived its parent"


def test_in_the_foreground(tmp_path: Path) -> None:
    """As ``nsbluesky ioc`` runs it: updates go out at once, and SIGTERM ends it."""
    program = (
        "import os, signal, sys\n"
        "from caproto.server import common\n"
        "from nsbluesky.simulation.ioc import BeamlineSettings, serve\n"
        "def say(ready):\n"
        "    print(ready.prefix, common.HIGH_LOAD_TIMEOUT, common.MAX_LATENCY)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "serve(BeamlineSettings(sys.argv[1], layout='none'), on_ready=say)\n"
        "print('over')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    prefix, batch_s, latency_s, over = done.stdout.split()
    assert (prefix, over) == ("SIM:", "over")
    assert float(batch_s) <= 0.001
    assert float(latency_s) <= 0.01


def test_wrong_sample_is_told(tmp_path: Path) -> None:
    """And what another session's beamline has written into the same log stays."""
    (tmp_path / "ioc.log").write_text("of another session\n")
    program = (
        "import sys\n"
        "from nsbluesky.simulation.beamline import BeamlineError, SimulatedBeamline\n"
        "try:\n"
        "    SimulatedBeamline(sys.argv[1], sample='/no/picture.png').start()\n"
        "except BeamlineError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    assert "does not start" in done.stdout
    assert "/no/picture.png" in done.stdout
    assert (tmp_path / "ioc.log").read_text().startswith("of another session\n")
