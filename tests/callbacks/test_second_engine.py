"""A second engine on the same frames: it has its own picture, and the image is as without it."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from simulated_runs import METRES_PER_UM, Streams, process, simulate

from nsbluesky.backend import get_backend
from nsbluesky.callbacks import second_engine
from nsbluesky.callbacks.derived_run import DerivedRun
from nsbluesky.callbacks.incremental_reconstructor import IncrementalReconstructor
from nsbluesky.callbacks.live_plots import LivePlots
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.callbacks.second_engine import ReconstructWithSecondEngine
from nsbluesky.callbacks.stage import RunContext
from nsbluesky.settings import SettingsError
from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.quality import contrast_correlation

RIM_PX = 10
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def scan():
    return simulate("none", (10, 10), points_across=20)


def wait_for(condition):
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.01)


def settings(scan, engine="rpie", **solver):
    quick = {"sweep_frames": 40, "sweep_candidates": 5, "sweep_passes": 2, "passes_final": 12, "final_s": 1e6}
    quick |= {"find_orientation": False}
    return scan.settings(**quick | solver).replace(second_engine=engine)


@pytest.fixture(scope="module")
def both(scan, tmp_path_factory):
    return process(
        IncrementalReconstructor(settings(scan, publish_hz=1000.0)), scan.documents(tmp_path_factory.mktemp("both"))
    )


def test_both_engines_have_all_frames(scan, both):
    for stream in ("reconstruction", "second_engine"):
        last = both.last(stream)
        assert last["final"] and last["num_frames"] == 100 and last["r_factor"] < 0.2
        assert contrast_correlation(last["object"], scan.simulator.sample.object, RIM_PX) > 0.7
    assert both.last("second_engine")["engine"] == "rpie"
    assert both.stop["exit_status"] == "success" and both.stop["reason"] == ""


def test_they_are_different_engines(both):
    assert not np.array_equal(both.last("reconstruction")["probe"], both.last("second_engine")["probe"])


def test_the_second_ends_after_the_image(both):
    pictures = both.events["second_engine"]
    assert [picture["final"] for picture in pictures].count(True) == 1
    names = [name for name in both.order if name in ("reconstruction", "second_engine")]
    assert names[-1] == "second_engine"
    last_of_first = len(names) - 1 - names[::-1].index("reconstruction")
    finals = [picture["final"] for picture in pictures]
    assert not any(finals[: names[:last_of_first].count("second_engine")]), "the image comes first"


def test_without_one_there_is_no_stream(scan, tmp_path):
    streams = process(
        IncrementalReconstructor(settings(scan, "", sweep_frames=0, passes_final=2)), scan.documents(tmp_path)
    )
    assert "second_engine" not in streams.events


def test_an_engine_that_there_is_not_is_refused(scan):
    for engine, why in (("epic", "second_engine = 'epic'"), ("rpie:0", "second_engine = 'rpie:0': expected 1 to")):
        with pytest.raises(SettingsError, match=why):
            IncrementalReconstructor(settings(scan, engine))
        with pytest.raises(SettingsError, match=why):
            IncrementalReconstructor(settings(scan)).configure({"second_engine": engine})
    with pytest.raises(SettingsError, match=r"solver\.algorithm = 'epic'"):
        IncrementalReconstructor(settings(scan, algorithm="epic"))
    with pytest.raises(SettingsError, match="probe_variation = 1 with algorithm 'raar'"):
        IncrementalReconstructor(settings(scan)).configure({"second_engine": "raar", "solver.probe_variation": 1})


def test_an_engine_that_fails_costs_the_image_nothing(scan, tmp_path, monkeypatch):
    class Broken(IncrementalSolver):
        def take_over(self, first):
            raise RuntimeError("no such thing")

    monkeypatch.setattr(second_engine, "IncrementalSolver", Broken)
    streams = process(IncrementalReconstructor(settings(scan, passes_final=2)), scan.documents(tmp_path))
    assert streams.last("reconstruction")["final"] and streams.last("reconstruction")["num_frames"] == 100
    assert "second_engine: no such thing" in streams.stop["reason"]
    assert "second_engine" not in streams.events


def test_it_is_named_and_changed_in_the_middle_of_a_run(scan, tmp_path):
    """With the frames that came before; another engine begins anew, and none makes no more pictures."""
    documents = scan.documents(tmp_path)
    pipeline, seen = PtychoPipeline(settings(scan, "", publish_hz=1000.0, passes_final=2)), Streams()
    pipeline.subscribe(seen)
    half = len(documents) // 2

    for name, document in documents[:half]:
        pipeline(name, document)
    wait_for(lambda: seen.events.get("geometry") and seen.events.get("reconstruction"))
    assert "second_engine" not in seen.events

    def told_of():
        return [stage.stage for run in pipeline.activity() for stage in run.stages]

    assert "reconstruction" in told_of() and "second_engine" not in told_of(), "nobody asked for one"
    pipeline.configure({"second_engine": "rpie"})
    wait_for(lambda: seen.events.get("second_engine"))
    assert 30 < seen.last("second_engine")["num_frames"] < 100, "those that came before it was named"
    assert told_of()[-1] == "second_engine"
    pipeline.configure({"second_engine": "epie"})
    wait_for(lambda: seen.last("second_engine")["engine"] == "epie")
    state = pipeline.live.snapshot()
    assert state.second.engine == "epie" and len(state.second_history.r_factor) >= 1
    for name, document in documents[half:]:
        pipeline(name, document)
    assert pipeline.wait(TIMEOUT_S) and pipeline.close()
    assert seen.last("second_engine")["final"] and seen.last("second_engine")["num_frames"] == 100


def test_it_waits_for_the_probe_and_begins_anew_with_another_orientation(scan):
    wanted = settings(scan, find_orientation=True)
    start = {"uid": "raw", "ptycho": {"scan": {"num_points": len(scan.frames)}}}
    run = RunContext(start, wanted, scan.simulator.geometry, get_backend("numpy"), DerivedRun(start, wanted))
    stage = ReconstructWithSecondEngine(run)
    first = run.solver = IncrementalSolver(
        wanted.solver,
        frame_px=scan.frames.shape[-1],
        pixel_m=scan.simulator.geometry.object_pixel_m(scan.frames.shape[-1]),
        geometry=scan.simulator.geometry,
        backend=run.backend,
    )
    first.add_frames(np.arange(20), scan.frames[:20], scan.points_um[:20] * METRES_PER_UM)
    first.step(0.0)
    assert first.state is not None and not stage.has_work, "40 frames are needed to look for the defocus"
    first.add_frames(np.arange(20, 60), scan.frames[20:60], scan.points_um[20:60] * METRES_PER_UM)
    while not first.knows_probe:
        assert not stage.has_work
        first.step(0.0)
    assert first.is_searching and stage.has_work, "the orientation need not be known"
    list(stage.work(0.0))
    while first.is_searching:
        first.step(0.0)
    list(stage.work(0.0))
    before = stage._solver
    list(stage.work(0.0))
    assert stage._solver is before
    first._intake.turn(5)
    list(stage.work(0.0))
    assert stage._solver is not before and stage._solver.frame_orientation == first.frame_orientation
    assert stage._solver.num_frames == 60


def test_a_replayed_run_tells_both(both):
    """LivePlots makes its state from the documents alone."""
    live = LivePlots()
    for name, document in both.documents:
        live(name, document)
    state = live.snapshot()
    assert state.second.engine == "rpie" and state.second.final
    assert len(state.second_history.r_factor) == len(both.events["second_engine"])
    assert state.errors == []
