"""The plans with pure-Python twins: what a run contains, and what is left when it is disturbed."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.preprocessors import SupplementalData
from bluesky.suspenders import SuspendFloor
from bluesky.utils import FailedStatus, Msg, RunEngineInterrupted
from ophyd import Signal
from ophyd.sim import SynAxis
from ophyd.status import Status
from ophyd.utils import LimitError
from recorded_run import TIMEOUT_S, RecordedRun, interrupt, path_of
from twin_beamline import Twins

from nsbluesky import lost_ioc
from nsbluesky.devices.detector import Acquisition
from nsbluesky.devices.status import DeviceError
from nsbluesky.devices.twins import SimShutter
from nsbluesky.geometry import Geometry, Optic
from nsbluesky.plans import ptycho_darks, ptycho_fly_scan, ptycho_points, ptycho_scan, take_darks
from nsbluesky.trajectories import make_trajectory

GEOMETRY = Geometry(energy_eV=1000.0, detector_distance_m=0.1, optic=Optic(diameter_m=1e-4, outer_zone_m=5e-8))
SHAPE = (4, 5)
STEP_UM = 0.2
NUM_DARK = 3
POINTS_UM = make_trajectory("jittered_raster", SHAPE, STEP_UM, seed=7)
COMMON: dict[str, Any] = {
    "geometry": GEOMETRY,
    "shape": SHAPE,
    "step_um": STEP_UM,
    "num_dark": NUM_DARK,
    "exposure_s": 0.001,
    "seed": 7,
}
OFFSET_NM = 30_000
CENTER_UM = np.array([1.0, -2.0])
PLANS = [
    pytest.param(ptycho_scan, {}, id="step"),
    pytest.param(ptycho_fly_scan, {"rate_hz": 40.0}, id="fly"),
]


def encode_position(x_m: float, y_m: float, *, shutter_open: bool, exposure_s: float, index: int) -> Any:
    """A frame that says where it was taken."""
    frame = np.zeros((8, 8), np.uint16)
    frame[0, :3] = round(x_m * 1e9) + OFFSET_NM, round(y_m * 1e9) + OFFSET_NM, shutter_open
    frame[0, 3] = round(exposure_s * 1e6)
    return frame


def positions_nm(frames: Any) -> Any:
    return frames[:, 0, :2].astype(int) - OFFSET_NM


class Beamline(Twins):
    def is_safe(self) -> bool:
        """Shutter closed, camera idle, file closed."""
        return not self.shutter.is_open and self.fccd.is_idle and self.fccd.file._file is None


@pytest.fixture(autouse=True)
def losses_are_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twins have no IOC that could be away: a plan that failed need not look for one for two seconds."""
    monkeypatch.setattr(lost_ioc, "NOTICE_S", 0.02)


@pytest.fixture
def beamline(tmp_path: Path) -> Beamline:
    beamline = Beamline.make(tmp_path, encode_position, (8, 8), stall_s=5.0)
    beamline.stage.x.set(1.0)
    beamline.stage.y.set(-2.0)
    return beamline


@pytest.fixture
def run(RE: RunEngine) -> Iterator[RecordedRun]:
    recorded = RecordedRun()
    RE.subscribe(recorded)
    yield recorded


def assert_complete(run: RecordedRun) -> None:
    """Every point once, in the order of the trajectory, each frame taken where its position says."""
    x, y = run.column("primary", "stage_x"), run.column("primary", "stage_y")
    np.testing.assert_allclose(np.column_stack([x, y]), POINTS_UM + CENTER_UM, atol=1e-9)
    frames = run.column("primary", "fccd_image")
    np.testing.assert_allclose(positions_nm(frames), np.column_stack([x, y]) * 1000, atol=0.5)
    assert np.all(frames[:, 0, 2] == 1), "a frame of the scan was taken with the shutter closed"


@pytest.mark.parametrize(("plan", "more"), PLANS)
def test_run_is_complete(
    RE: RunEngine, beamline: Beamline, run: RecordedRun, plan: Any, more: dict[str, Any]
) -> None:
    RE(plan(*beamline.devices, **COMMON, **more))
    assert_complete(run)
    assert run.stop["exit_status"] == "success"
    assert beamline.is_safe()
    assert (beamline.stage.x.position, beamline.stage.y.position) == (1.0, -2.0), "the stage returns to the centre"


@pytest.mark.parametrize(("plan", "more"), PLANS)
def test_darks_are_dark_and_in_their_own_file(
    RE: RunEngine, beamline: Beamline, run: RecordedRun, plan: Any, more: dict[str, Any]
) -> None:
    beamline.shutter.set("open")
    RE(plan(*beamline.devices, **COMMON, **more))
    darks = run.column("dark", "fccd_image")
    assert len(darks) == NUM_DARK
    assert np.all(darks[:, 0, 2] == 0)
    resources = {r["uid"]: r for r in run.all("stream_resource")}
    files = {
        stream: {path_of(resources[d["stream_resource"]]) for k, d in run.data(stream) if k == "fccd_image"}
        for stream in ("dark", "primary")
    }
    assert len(files["dark"]) == len(files["primary"]) == 1
    assert files["dark"] != files["primary"]


@pytest.mark.parametrize(("plan", "more"), PLANS)
def test_start_document(RE: RunEngine, beamline: Beamline, run: RecordedRun, plan: Any, more: dict[str, Any]) -> None:
    RE(plan(*beamline.devices, **COMMON, **more, md={"sample": "gold"}))
    start = run.start
    assert start["plan_name"] == plan.__name__
    assert start["sample"] == "gold"
    assert Geometry.from_start(start) == GEOMETRY
    assert start["ptycho"]["keys"] == {"image": "fccd_image", "x": "stage_x", "y": "stage_y"}
    assert start["ptycho"]["exposures_s"] == [0.001]
    assert start["ptycho"]["scan"] == {
        "pattern": "jittered_raster",
        "step_um": STEP_UM,
        "shape": list(SHAPE),
        "num_points": len(POINTS_UM),
        "seed": 7,
        **more,
    }
    for key in ("stage_x", "stage_y"):
        assert run.descriptor("primary")["data_keys"][key]["units"] == "um"
    assert run.descriptor("primary")["data_keys"]["fccd_image"]["external"] == "STREAM:"
    assert len(run.events("baseline")) == 2


@pytest.mark.parametrize(("plan", "more"), PLANS)
@pytest.mark.parametrize("deferred", [False, True])
def test_pause_and_resume(
    RE: RunEngine, beamline: Beamline, run: RecordedRun, plan: Any, more: dict[str, Any], deferred: bool
) -> None:
    if more:
        more = {"rate_hz": 15.0}  # a deferred pause takes half a second to come
    some = run.when(lambda r: len(r.data("primary")) >= 6)
    interrupt(RE, plan(*beamline.devices, **COMMON, **more), some, lambda: RE.request_pause(deferred))
    assert RE.state == "paused"
    assert not beamline.shutter.is_open, "the sample gets no dose during a pause"
    assert beamline.fccd.is_idle
    RE.resume()
    assert_complete(run)
    assert run.stop["exit_status"] == "success"
    assert beamline.is_safe()


@pytest.mark.parametrize(("plan", "more"), PLANS)
def test_pauses_while_frames_begin(
    RE: RunEngine, beamline: Beamline, run: RecordedRun, plan: Any, more: dict[str, Any]
) -> None:
    """The RunEngine does again what it did since the checkpoint, and the plan waits for what it was told before."""

    def pause_after(message: Msg) -> Any:
        return None, bps.pause() if message.command in ("prepare", "kickoff", "complete") else None

    with pytest.raises(RunEngineInterrupted):
        RE(bpp.plan_mutator(plan(*beamline.devices, **COMMON, **more), pause_after))
    pauses = 1
    while RE.state == "paused":
        assert not beamline.shutter.is_open
        pauses += 1
        with suppress(RunEngineInterrupted):
            RE.resume()
    assert pauses > 3
    assert_complete(run)
    assert run.column("dark", "fccd_image").shape[0] == NUM_DARK
    assert run.stop["exit_status"] == "success"


def test_a_pause_of_another_plan_leaves_the_shutter_alone(
    RE: RunEngine, beamline: Beamline, run: RecordedRun
) -> None:
    """Which would not open it again."""
    RE(ptycho_scan(*beamline.devices, **COMMON))
    run.documents.clear()
    beamline.shutter.set("open")
    some = run.when(lambda r: len(r.events("primary")) >= 2)
    interrupt(RE, bp.count([beamline.fccd], num=50), some, RE.request_pause)
    RE.resume()
    frames = run.column("primary", "fccd_image")
    assert len(frames) == 50
    assert np.all(frames[:, 0, 2] == 1)


def test_pause_during_the_darks(RE: RunEngine, beamline: Beamline, run: RecordedRun) -> None:
    some = run.when(lambda r: len(r.data("dark")) >= 1)
    settings = {**COMMON, "num_dark": 60, "rate_hz": 100.0}
    interrupt(RE, ptycho_fly_scan(*beamline.devices, **settings), some, RE.request_pause)
    RE.resume()
    darks = run.column("dark", "fccd_image")
    assert len(darks) == 60
    assert np.all(darks[:, 0, 2] == 0)
    assert_complete(run)


def test_a_pause_in_an_exposure_may_last(RE: RunEngine, beamline: Beamline, run: RecordedRun) -> None:
    """Longer than the camera may take for a frame: nobody waits for the one that the pause has cut off."""
    exposure_s, original = beamline.fccd.camera.exposure, beamline.fccd.trigger
    statuses: list[Status] = []
    exposing = threading.Event()

    def trigger() -> Any:
        exposure_s.put(TIMEOUT_S if len(statuses) == 2 else COMMON["exposure_s"])
        statuses.append(original())
        if len(statuses) == 3:
            exposing.set()
        return statuses[-1]

    beamline.fccd.trigger = trigger  # type: ignore[method-assign]
    interrupt(RE, ptycho_scan(*beamline.devices, **{**COMMON, "num_dark": 0}), exposing, RE.request_pause)
    assert statuses[2].exception(TIMEOUT_S) is None
    RE.resume()
    assert_complete(run)
    assert run.stop["exit_status"] == "success"


def test_frames_of_an_interrupted_point_belong_to_no_event(
    RE: RunEngine, beamline: Beamline, run: RecordedRun
) -> None:
    """Pause between trigger and save: the frame is in the file, and its point is taken again."""
    original = beamline.fccd.trigger

    third_frame_written = threading.Event()

    def trigger() -> Any:
        status = original()
        if len(run.events("primary")) == 2 and not third_frame_written.is_set():
            status.wait(TIMEOUT_S)
            third_frame_written.set()
            return Status()  # never done, so that the pause comes before the event
        return status

    beamline.fccd.trigger = trigger  # type: ignore[method-assign]
    interrupt(RE, ptycho_scan(*beamline.devices, **COMMON), third_frame_written, RE.request_pause)
    RE.resume()
    assert_complete(run)
    indices = [d["indices"]["start"] for _, d in run.data("primary")]
    assert len(indices) == len(POINTS_UM)
    assert indices == [0, 1, *range(3, len(POINTS_UM) + 1)], "the frame of the interrupted point is left out"


@pytest.mark.parametrize(("plan", "more"), PLANS)
@pytest.mark.parametrize(("action", "exit_status"), [("stop", "success"), ("abort", "abort")])
def test_stop_and_abort(
    RE: RunEngine,
    beamline: Beamline,
    run: RecordedRun,
    plan: Any,
    more: dict[str, Any],
    action: str,
    exit_status: str,
) -> None:
    some = run.when(lambda r: len(r.data("primary")) >= 6)
    interrupt(RE, plan(*beamline.devices, **COMMON, **more), some, RE.request_pause)
    getattr(RE, action)()
    assert run.stop["exit_status"] == exit_status
    assert beamline.is_safe()
    count = len(run.column("primary", "fccd_image"))
    assert 2 <= count < len(POINTS_UM)
    np.testing.assert_allclose(
        positions_nm(run.column("primary", "fccd_image")), (POINTS_UM[:count] + CENTER_UM) * 1000, atol=0.6
    )


@pytest.mark.parametrize(("plan", "more"), PLANS)
def test_abort_while_running(
    RE: RunEngine, beamline: Beamline, run: RecordedRun, plan: Any, more: dict[str, Any]
) -> None:
    some = run.when(lambda r: len(r.data("primary")) >= 6)
    interrupt(RE, plan(*beamline.devices, **COMMON, **more), some, lambda: RE.abort("enough"))
    assert run.stop["exit_status"] == "abort"
    assert beamline.is_safe()


def test_a_trajectory_that_was_not_flown_does_not_move_the_next_scan(
    RE: RunEngine, beamline: Beamline, run: RecordedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_folder() -> None:
        raise DeviceError("the IOC sees no folder")

    with monkeypatch.context() as broken:
        broken.setattr(beamline.fccd.file, "open", no_folder)
        with pytest.raises(FailedStatus):
            RE(ptycho_fly_scan(*beamline.devices, **{**COMMON, "num_dark": 0, "seed": 8}, rate_hz=40.0))
    beamline.stage.x.set(CENTER_UM[0])
    beamline.stage.y.set(CENTER_UM[1])
    run.documents.clear()
    RE(ptycho_scan(*beamline.devices, **COMMON))
    assert_complete(run)


@pytest.mark.parametrize(("plan", "more"), PLANS)
def test_error_in_the_camera_fails_the_run(
    RE: RunEngine, beamline: Beamline, run: RecordedRun, plan: Any, more: dict[str, Any]
) -> None:
    def broken(*args: Any, index: int, **kwargs: Any) -> Any:
        if index == NUM_DARK + 4:
            raise OSError("the camera's cable is out")
        return encode_position(*args, index=index, **kwargs)

    beamline.fccd._make_frame = broken
    beamline.fccd._stall_s = 0.2
    with pytest.raises(FailedStatus) as error:
        RE(plan(*beamline.devices, **COMMON, **more))
    assert isinstance(error.value.__cause__, (DeviceError, OSError))
    assert run.stop["exit_status"] == "fail"
    assert run.stop["reason"] == str(error.value) == str(error.value.__cause__)
    assert len(run.column("primary", "fccd_image")) == 4, "frames before the error are kept"
    assert beamline.is_safe()


def test_a_run_of_darks_that_fails_says_why(RE: RunEngine, beamline: Beamline, run: RecordedRun) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise OSError("the camera's cable is out")

    beamline.fccd._make_frame = broken
    beamline.fccd._stall_s = 0.2
    with pytest.raises(FailedStatus) as error:
        RE(ptycho_darks(beamline.fccd, beamline.shutter, geometry=GEOMETRY, num_dark=3))
    assert run.stop["reason"] == str(error.value) == str(error.value.__cause__)


def test_the_error_of_a_fly_scan_is_the_cameras_where_the_plan_sees_it_first(
    RE: RunEngine, beamline: Beamline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A status is done before it has called back, on a thread of its own."""

    class Silent(Status):
        def add_callback(self, callback: Any) -> None:
            pass

    def complete() -> Status:
        beamline.fccd.stop()
        status = Silent()
        status.set_exception(DeviceError("the camera's cable is out"))
        status._event.wait(TIMEOUT_S)
        return status

    monkeypatch.setattr(beamline.fccd, "complete", complete)
    with pytest.raises(FailedStatus) as error:
        RE(ptycho_fly_scan(*beamline.devices, **COMMON, rate_hz=40.0))
    assert "cable is out" in str(error.value.__cause__)
    assert beamline.is_safe()


@pytest.mark.parametrize(("plan", "more"), PLANS)
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"pattern": "hexagons"}, ValueError, "jittered_raster"),
        ({"md": "gold"}, ValueError, "md = .gold.: expected a mapping"),
        ({"md": {"sample": "gold", 1: 12}}, ValueError, "md = .*expected a mapping of names"),
        ({"md": {"ptycho": 5}}, ValueError, "md has 'ptycho': expected names"),
        ({"md": {"sample": "gold", "run": 12, "time": 0}}, ValueError, "md has 'run', 'time': expected"),
        ({"step_um": 0.0}, ValueError, "step_um"),
        ({"step_um": 1e-7}, ValueError, "step_um = 1e-07, where .*expected a step in µm"),
        ({"geometry": Geometry(930.0, 250.0)}, ValueError, "detector_distance_m = 250 and .*in m"),
        ({"step_um": "0.1"}, ValueError, "step_um = '0.1': expected"),
        ({"step_um": 30.0}, LimitError, "stage_x.*soft limits"),
        ({"shape": (0, 3)}, ValueError, "shape"),
        ({"shape": "22"}, ValueError, "shape = '22': expected two whole numbers"),
        ({"shape": (2.5, 2)}, ValueError, "shape = .*expected two whole numbers"),
        ({"shape": (math.inf, 2)}, ValueError, "shape = .*expected two whole numbers"),
        ({"seed": None}, ValueError, "seed = None: expected"),
        ({"seed": -1}, ValueError, "seed = -1: expected"),
        ({"exposure_s": -1.0}, ValueError, "exposure_s"),
        ({"exposure_s": (0.01, math.nan)}, ValueError, "exposure_s"),
        ({"exposure_s": ()}, ValueError, r"exposure_s (is empty|= \(\)): expected"),
        ({"exposure_s": "10ms"}, ValueError, "exposure_s = '10ms'"),
        ({"exposure_s": np.array([0.1, 0.01])}, ValueError, "exposure_s"),
        ({"num_dark": -1}, ValueError, "num_dark"),
        ({"num_dark": None}, ValueError, "num_dark = None: expected"),
        ({"num_dark": math.nan}, ValueError, "num_dark = nan: expected"),
        ({"darks_from": 5}, ValueError, "darks_from = '5'"),
        ({"baseline": ["stage"]}, ValueError, "baseline = .*expected devices"),
        ({"baseline": SimShutter(name="another")}, ValueError, "baseline = .*expected devices"),
        ({"geometry": None}, ValueError, "Geometry"),
        ({"center_um": (math.nan, 0.0)}, ValueError, "center_um"),
        ({"center_um": (1.0, 2.0, 3.0)}, ValueError, "center_um"),
        ({"center_um": 3.0}, ValueError, "center_um"),
        ({"center_um": ("1", "2")}, ValueError, "center_um = .*expected x and y"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_moves(
    RE: RunEngine,
    beamline: Beamline,
    run: RecordedRun,
    plan: Any,
    more: dict[str, Any],
    wrong: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    moved = []
    beamline.stage.x.subscribe(lambda **_: moved.append(1), run=False)
    beamline.shutter.status.subscribe(lambda **_: moved.append(1), run=False)
    with pytest.raises(error, match=message):
        RE(plan(*beamline.devices, **{**COMMON, **more, **wrong}))
    assert run.documents == []
    assert moved == []


@pytest.mark.parametrize(("plan", "more"), PLANS)
def test_a_scan_around_another_place(
    RE: RunEngine, beamline: Beamline, run: RecordedRun, plan: Any, more: dict[str, Any]
) -> None:
    RE(plan(*beamline.devices, **COMMON, **more, center_um=(3.0, 1.5)))
    measured = np.column_stack([run.column("primary", name) for name in ("stage_x", "stage_y")])
    np.testing.assert_allclose(measured, POINTS_UM + np.array([3.0, 1.5]), atol=1e-9)
    assert (beamline.stage.x.position, beamline.stage.y.position) == (3.0, 1.5)


def test_several_exposures_a_point_follow_one_another(RE: RunEngine, beamline: Beamline, run: RecordedRun) -> None:
    RE(ptycho_scan(*beamline.devices, **{**COMMON, "exposure_s": (1e-3, 1e-4)}))
    frames = run.column("primary", "fccd_image")
    assert frames[:, 0, 3].tolist() == [1000, 100] * len(POINTS_UM)
    np.testing.assert_allclose(positions_nm(frames[::2]) / 1000, POINTS_UM + CENTER_UM, atol=1e-3)
    np.testing.assert_array_equal(positions_nm(frames[::2]), positions_nm(frames[1::2]))
    for stream, exposure_us in (("dark", 1000), ("dark_1", 100)):
        darks = run.column(stream, "fccd_image")
        assert len(darks) == NUM_DARK
        assert set(darks[:, 0, 3]) == {exposure_us}
        assert not darks[:, 0, 2].any()
    start = run.all("start")[0]
    assert start["ptycho"]["exposures_s"] == [1e-3, 1e-4]
    assert start["num_points"] == len(POINTS_UM)


def test_what_the_camera_is_prepared_for(RE: RunEngine, beamline: Beamline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The darks of a fly scan come at its rate; the frames of a step scan, one by one, have room for the longest."""
    prepared: list[Acquisition] = []
    prepare = beamline.fccd.prepare
    monkeypatch.setattr(beamline.fccd, "prepare", lambda value: prepared.append(value) or prepare(value))
    few = {**COMMON, "shape": (1, 2)}
    RE(ptycho_fly_scan(*beamline.devices, **few, rate_hz=125.0))
    assert prepared == [Acquisition(1e-3, NUM_DARK, 0.008), Acquisition(1e-3, 2, 0.008)]
    prepared.clear()
    RE(ptycho_scan(*beamline.devices, **{**few, "exposure_s": (1e-4, 1e-3)}))
    assert prepared == [Acquisition(1e-4, NUM_DARK), Acquisition(1e-3, NUM_DARK), Acquisition(1e-3)]


@pytest.mark.parametrize("rate_hz", ["10", None, 0.0])
def test_rate_that_is_none(RE: RunEngine, beamline: Beamline, rate_hz: Any) -> None:
    with pytest.raises(ValueError, match=f"rate_hz = {rate_hz!r}: expected a positive number"):
        RE(ptycho_fly_scan(*beamline.devices, **COMMON, rate_hz=rate_hz))


def test_rate_that_leaves_no_room_for_the_exposure(RE: RunEngine, beamline: Beamline, run: RecordedRun) -> None:
    with pytest.raises(ValueError, match="at most 1000 Hz"):
        RE(ptycho_fly_scan(*beamline.devices, **COMMON, rate_hz=2000.0))
    assert run.documents == []


def test_positions_are_converted_to_the_motors_unit(RE: RunEngine, beamline: Beamline, run: RecordedRun) -> None:
    for axis in (beamline.stage.x, beamline.stage.y):
        axis._egu = "mm"
        axis.set(0.0)
    RE(ptycho_scan(*beamline.devices, **COMMON))
    np.testing.assert_allclose(run.column("primary", "stage_x"), POINTS_UM[:, 0] / 1000, atol=1e-12)


@pytest.mark.parametrize(("plan", "more"), PLANS)
def test_a_session_with_a_baseline_of_its_own(
    RE: RunEngine, beamline: Beamline, run: RecordedRun, plan: Any, more: dict[str, Any]
) -> None:
    RE.preprocessors.append(SupplementalData(baseline=[SynAxis(name="temperature")]))
    RE(plan(*beamline.devices, **COMMON, **more))
    assert run.stop["exit_status"] == "success"
    assert [event["data"].keys() for event in run.events("baseline")] == [{"temperature", "temperature_setpoint"}] * 2
    assert len(run.column("primary", "stage_x")) == len(POINTS_UM)


@pytest.mark.parametrize("was", ["open", "close"])
@pytest.mark.parametrize(("plan", "more"), PLANS)
def test_what_a_scan_moved_is_put_back_where_it_was(
    RE: RunEngine, beamline: Beamline, run: RecordedRun, plan: Any, more: dict[str, Any], was: str
) -> None:
    """The shutter's reading is what it is set to again."""
    beamline.shutter.set(was)
    RE(bpp.reset_positions_wrapper(plan(*beamline.devices, **COMMON, **more)))
    assert_complete(run)
    assert beamline.shutter.is_open == (was == "open")
    assert (beamline.stage.x.position, beamline.stage.y.position) == (1.0, -2.0)


@pytest.mark.parametrize(("plan", "more"), PLANS)
def test_a_suspender_with_plans_of_its_own_leaves_the_run_whole(
    RE: RunEngine, beamline: Beamline, run: RecordedRun, plan: Any, more: dict[str, Any]
) -> None:
    """The beam goes and comes; what the suspender does with the shutter then is no concern of the scan."""
    beam, some, held = (
        Signal(name="beam", value=5.0),
        run.when(lambda r: len(r.data("primary")) >= 3),
        threading.Event(),
    )
    was_open: list[bool] = []

    def before() -> Any:
        was_open.append(beamline.shutter.is_open)
        held.set()
        yield from bps.null()

    def come_and_go() -> None:
        if some.wait(TIMEOUT_S):
            beam.put(0.0)
            held.wait(TIMEOUT_S)
            beam.put(5.0)

    beam_comes_and_goes = threading.Thread(target=come_and_go)
    beam_comes_and_goes.start()
    back = bps.mv(beamline.shutter, "open")
    RE(
        bpp.suspend_wrapper(
            plan(*beamline.devices, **COMMON, **more), SuspendFloor(beam, 2.0, pre_plan=before(), post_plan=back)
        )
    )
    beam_comes_and_goes.join(TIMEOUT_S)
    assert was_open == [False], "the sample gets no dose while the plan is held"
    assert_complete(run)
    assert run.stop["exit_status"] == "success" and beamline.is_safe()


@pytest.mark.parametrize("value", ["Open", 2, -1, None, ""])
def test_a_shutter_refuses_what_is_neither_open_nor_closed(beamline: Beamline, value: Any) -> None:
    with pytest.raises(ValueError, match="expected 'open' or 'close'"):
        beamline.shutter.set(value)


def test_no_darks(RE: RunEngine, beamline: Beamline, run: RecordedRun) -> None:
    RE(ptycho_scan(*beamline.devices, **{**COMMON, "num_dark": 0}))
    assert set(run.streams().values()) == {"baseline", "primary"}


def test_take_darks_in_a_run_of_its_own(RE: RunEngine, beamline: Beamline, run: RecordedRun) -> None:
    def plan() -> Any:
        yield from bps.open_run()
        yield from take_darks(beamline.fccd, beamline.shutter, 5, exposure_s=0.001)
        yield from bps.close_run()

    RE(plan())
    assert len(run.column("dark", "fccd_image")) == 5


def test_points_one_by_one(RE: RunEngine, beamline: Beamline, run: RecordedRun) -> None:
    """They are places on the stage, wherever it stands, and it goes back there."""
    points = [(2.5, -1.0), (-3.0, 4.25)]
    md = {"retake_of": "another", "retaken": [3, 9]}
    RE(ptycho_points(*beamline.devices, geometry=GEOMETRY, points_um=points, exposure_s=1e-3, num_dark=2, md=md))
    found = np.column_stack([run.column("primary", "stage_x"), run.column("primary", "stage_y")])
    np.testing.assert_allclose(found, points, atol=1e-9)
    frames = run.column("primary", "fccd_image")
    np.testing.assert_allclose(positions_nm(frames), np.multiply(points, 1000), atol=0.5)
    assert len(run.column("dark", "fccd_image")) == 2
    assert (run.start["retake_of"], run.start["num_points"]) == ("another", 2)
    assert run.start["ptycho"]["scan"] == {"pattern": "points", "num_points": 2}
    assert beamline.is_safe()
    assert (beamline.stage.x.position, beamline.stage.y.position) == (1.0, -2.0)


@pytest.mark.parametrize(
    ("points_um", "message"),
    [
        *((points, "points_um = .*expected at least one") for points in ([], 5, "ab", [(1, 2, 3)], [(None, 1)])),
        ([(0.0, float("nan"))], "points_um"),
        ([(1000.0, 0.0)], "soft limits"),
        ([(1e-6, 2e-6), (1e-6, 3e-6), (2e-6, 3e-6)], "points_um in steps of 1e-06, where .*expected points in µm"),
    ],
)
def test_points_that_cannot_be_are_refused(RE: RunEngine, beamline: Beamline, points_um: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RE(ptycho_points(*beamline.devices, geometry=GEOMETRY, points_um=points_um))
    assert (beamline.stage.x.position, beamline.stage.y.position) == (1.0, -2.0)


def test_points_and_a_distance_in_millimetres(RE: RunEngine, beamline: Beamline) -> None:
    with pytest.raises(ValueError, match=r"detector_distance_m = 250 and .*in m"):
        RE(ptycho_points(*beamline.devices, geometry=Geometry(930.0, 250.0), points_um=POINTS_UM))


@pytest.mark.parametrize("count", [1, 3])
def test_one_place_has_no_step_that_could_be_wrong(
    RE: RunEngine, beamline: Beamline, run: RecordedRun, count: int
) -> None:
    RE(ptycho_points(*beamline.devices, geometry=GEOMETRY, points_um=[(0.1, 0.2)] * count, num_dark=0))
    assert run.stop["exit_status"] == "success" and run.start["num_points"] == count


def test_a_run_of_darks(RE: RunEngine, beamline: Beamline, run: RecordedRun) -> None:
    RE(ptycho_darks(beamline.fccd, beamline.shutter, geometry=GEOMETRY, exposure_s=(2e-3, 1e-3), num_dark=3))
    assert set(run.streams().values()) == {"dark", "dark_1"}
    frames = run.column("dark", "fccd_image")
    assert len(frames) == 3 and not frames[:, 0, 2].any()
    assert run.start["ptycho"]["exposures_s"] == [2e-3, 1e-3]
    assert run.stop["exit_status"] == "success" and beamline.is_safe()
    with pytest.raises(ValueError, match="at least 1"):
        RE(ptycho_darks(beamline.fccd, beamline.shutter, geometry=GEOMETRY, num_dark=0))
