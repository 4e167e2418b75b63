"""What every streaming stage does, on the twin: trajectories in, positions out by file and documents."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ophyd.utils import LimitError
from recorded_run import path_of

from nsbluesky.devices.stage import Trajectory
from nsbluesky.devices.status import CountReached, DeviceError
from nsbluesky.devices.twins import SimStage

TIMEOUT_S = 10.0
X = np.array([0.0, 1.0, 2.0, 3.0])
Y = np.array([5.0, 4.0, 3.0, 2.0])


@pytest.fixture
def stage(tmp_path: Path) -> SimStage:
    stage = SimStage(name="stage", directory=tmp_path)
    stage.stage()
    return stage


def prepare(stage: SimStage, x: Any = X, y: Any = Y) -> None:
    stage.prepare(Trajectory(x, y)).wait(TIMEOUT_S)


def trigger(stage: SimStage, num: int) -> None:
    for _ in range(num):
        stage.fly.trigger_point()


def read(resource: dict[str, Any]) -> list[float]:
    with h5py.File(path_of(resource), "r", swmr=True, libver="latest") as file:
        return list(file[resource["parameters"]["dataset"]])


def test_positions_travel_by_file(stage: SimStage) -> None:
    prepare(stage)
    assert (stage.x.position, stage.y.position) == (0.0, 5.0), "at the first point when prepared"
    stage.kickoff().wait(TIMEOUT_S)
    status = stage.complete()
    trigger(stage, 3)
    assert stage.get_index() == 3
    assert not status.done
    assert stage.complete() is status, "asked again after a pause"
    first = list(stage.collect_asset_docs(2))
    trigger(stage, 1)
    status.wait(TIMEOUT_S)
    second = list(stage.collect_asset_docs(4))
    assert [name for name, _ in first] == ["stream_resource", "stream_resource", "stream_datum", "stream_datum"]
    assert [name for name, _ in second] == ["stream_datum", "stream_datum"]
    x, y = (document for name, document in first if name == "stream_resource")
    assert (x["data_key"], y["data_key"]) == ("stage_x", "stage_y")
    assert (read(x), read(y)) == (list(X), list(Y))
    assert [d["indices"] for n, d in second if n == "stream_datum"] == [{"start": 2, "stop": 4}] * 2
    stage.unstage()


def test_prepare_twice_makes_two_files(stage: SimStage) -> None:
    resources = []
    for x in (X, -X):
        prepare(stage, x)
        stage.kickoff().wait(TIMEOUT_S)
        trigger(stage, 4)
        resources.append(next(iter(stage.collect_asset_docs(4)))[1])
    assert resources[0]["uri"] != resources[1]["uri"]
    assert [read(resource) for resource in resources] == [list(X), list(-X)]
    stage.unstage()


def test_a_plain_read_tells_nothing(stage: SimStage) -> None:
    """As in the baseline, while a trajectory is loaded but does not run."""
    prepare(stage)
    trigger(stage, 2)
    assert list(stage.collect_asset_docs()) == []
    stage.unstage()
    assert list(stage.collect_asset_docs(2)) == []


def test_stop_in_the_middle(stage: SimStage) -> None:
    prepare(stage)
    stage.kickoff().wait(TIMEOUT_S)
    status = stage.complete()
    trigger(stage, 2)
    stage.stop()
    status.wait(TIMEOUT_S)
    trigger(stage, 1)
    assert stage.get_index() == 2, "the trajectory is left"
    resource = next(iter(stage.collect_asset_docs(2)))[1]
    assert read(resource) == list(X[:2])
    stage.unstage()


def test_unstage_ends_what_waits_for_points(stage: SimStage) -> None:
    """Of a scan that was halted: its clock would run on, and stop the axes in the middle of the next one."""
    prepare(stage)
    stage.kickoff().wait(TIMEOUT_S)
    status = stage.complete()
    trigger(stage, 2)
    stage.unstage()
    status.wait(TIMEOUT_S)


def test_what_is_loaded_too_late_does_not_stay(stage: SimStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a plan is aborted while the controller takes the trajectory."""
    load, unstaged = stage.fly.load, threading.Event()

    def slowly(trajectory: Trajectory) -> None:
        assert unstaged.wait(TIMEOUT_S)
        load(trajectory)

    monkeypatch.setattr(stage.fly, "load", slowly)
    status = stage.prepare(Trajectory(X, Y))
    stage.unstage()
    unstaged.set()
    with pytest.raises(DeviceError, match="not wanted any more"):
        status.wait(TIMEOUT_S)
    assert not stage.fly._active


def test_no_trigger_says_where_to_look(tmp_path: Path) -> None:
    stage = SimStage(name="stage", directory=tmp_path, stall_s=0.05)
    prepare(stage)
    stage.kickoff().wait(TIMEOUT_S)
    trigger(stage, 1)
    error = stage.complete().exception(TIMEOUT_S)
    assert isinstance(error, DeviceError)
    assert "stage_fly_num_triggers says 1 of 4" in str(error)
    assert "trigger reaches the stage" in str(error)
    stage.unstage()


def test_the_clock_stands_still_in_a_pause(tmp_path: Path) -> None:
    stage = SimStage(name="stage", directory=tmp_path, stall_s=0.02)
    prepare(stage)
    stage.kickoff().wait(TIMEOUT_S)
    stage.pause()
    status = stage.complete()
    with pytest.raises(TimeoutError):
        status.wait(0.2)
    stage.resume()
    assert isinstance(status.exception(TIMEOUT_S), DeviceError)


def test_the_clock_begins_anew_after_a_pause(stage: SimStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first frame takes a moment, and most of the time may have gone by in the pause."""
    prepare(stage)
    stage.kickoff().wait(TIMEOUT_S)
    stage.pause()
    status = stage.complete()
    began_in_pause: list[bool] = []
    monkeypatch.setattr(status, "restart", lambda: began_in_pause.append(stage._paused))
    stage.resume()
    assert began_in_pause == [True]
    stage.unstage()


def test_a_pause_that_ends_as_the_time_is_up(stage: SimStage) -> None:
    looks = 0
    goes_on = threading.Event()

    def paused() -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            status.restart()
            return False
        goes_on.set()
        return True

    status = CountReached(
        stage, stage.fly.num_triggers, 1, stall_s=0.02, paused=paused, stalled=lambda _: "it has stalled"
    )
    assert goes_on.wait(TIMEOUT_S)
    assert not status.done
    status.give_up()
    status.wait(TIMEOUT_S)
    stage.unstage()


def test_kickoff_before_prepare(stage: SimStage) -> None:
    with pytest.raises(DeviceError, match="prepare"):
        stage.kickoff()


def test_soft_limits_name_axis_reach_and_limits(stage: SimStage) -> None:
    with pytest.raises(LimitError, match=r"stage_y: the scan reaches 57 um, the soft limits are \(-50.0, 50.0\)"):
        stage.check_trajectory(X, Y + 55.0)
    stage.check_trajectory(X, Y)


@pytest.mark.parametrize(("x", "y"), [(X, Y[:3]), (np.zeros((2, 2)), np.zeros((2, 2))), (X[:0], Y[:0])])
def test_impossible_trajectories(x: Any, y: Any) -> None:
    with pytest.raises(ValueError, match="two equal rows of points"):
        Trajectory(x, y)
