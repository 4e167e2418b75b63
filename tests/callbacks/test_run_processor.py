"""What must never happen: a scan that waits for the processing, or fails with it."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from types import SimpleNamespace

import event_model
import numpy as np
import pytest
from raw_runs import DARKS, FRAMES, X_UM, Y_UM, Collector, RawRun, fly_run

from nsbluesky.backend import get_backend
from nsbluesky.callbacks import run_chain
from nsbluesky.callbacks.derived_run import DerivedRun
from nsbluesky.callbacks.document_queue import DocumentQueue
from nsbluesky.callbacks.frame_source import ReadFrames
from nsbluesky.callbacks.run_chain import RunChain
from nsbluesky.callbacks.run_processor import MAX_ENDED, RunProcessor
from nsbluesky.callbacks.stage import RunContext, Stage
from nsbluesky.geometry import Geometry
from nsbluesky.settings import PipelineSettings


class Double(Stage):
    """Twice every frame, as `clean`; cannot bear a frame whose first pixel is in `poison`."""

    name = "double"
    poison: tuple[int, ...] = ()

    def on_event_page(self, page):
        if self.stream_of(page) == "primary":
            frames = page["data"]["frame"]
            if np.isin(frames[:, 0, 0], self.poison).any():
                raise ValueError("a poisoned frame")
            data = {key: page["data"][key] for key in ("x_m", "y_m")}
            yield from self.run.derived.page("clean", page["seq_num"], page["time"], frame=2 * frames, **data)


class Doubler(RunProcessor):
    stages = (ReadFrames, Double)


def process(processor, documents):
    collector = Collector()
    processor.subscribe(collector)
    for name, document in documents:
        processor(name, document)
    assert processor.close(timeout=30)
    return collector


def test_poisoned_frame_is_isolated(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Double, "poison", (int(FRAMES[5, 0, 0]),))
    with caplog.at_level(logging.CRITICAL, logger="nsbluesky"):
        collector = process(Doubler(), fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM))
    assert sorted(collector.frames["clean"]) == [1, 2, 3, 4, 5, 7, 8, 9, 10]
    np.testing.assert_array_equal(collector.frames["clean"][7], 2 * FRAMES[6])
    assert collector.health()["bad"] == [6]
    errors = [d["data"] for n, d in collector.documents if n == "event" and d["data"].get("state") == "error"]
    assert errors[0]["stage"] == "double"
    assert errors[0]["message"] == "a poisoned frame"
    assert "double: a poisoned frame" in collector.stop()["reason"]
    assert collector.stop()["exit_status"] == "success"


def test_frames_before_and_after_a_stage_that_always_raises_are_there(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Double, "poison", tuple(range(1000)))
    with caplog.at_level(logging.CRITICAL, logger="nsbluesky"):
        collector = process(Doubler(), fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM))
    assert sorted(collector.frames["primary"]) == list(range(1, 11))
    assert collector.frames["clean"] == {}
    assert collector.health()["bad"] == list(range(1, 11))


def test_stage_that_fails_at_its_own_work_does_not_keep_the_run_open(tmp_path, caplog):
    class Tired(Stage):
        name = "tired"
        attempts = 0
        has_work = True

        def work(self, budget_s):
            Tired.attempts += 1
            raise RuntimeError("no more")
            yield

    class Processor(RunProcessor):
        stages = (ReadFrames, Tired)

    with caplog.at_level(logging.CRITICAL, logger="nsbluesky"):
        collector = process(Processor(), fly_run(tmp_path, FRAMES, None, X_UM, Y_UM))
    assert Tired.attempts == run_chain.MAX_FAILURES_AT_WORK
    assert collector.stop()["reason"] == "tired: no more"


def test_why_a_run_failed_is_told_to_those_who_see_only_the_derived_run(tmp_path):
    documents = list(fly_run(tmp_path, FRAMES, None, X_UM, Y_UM))
    documents[-1] = ("stop", {**documents[-1][1], "exit_status": "fail", "reason": "no trigger for 30 s"})
    stop = process(Doubler(), documents).stop()
    assert (stop["exit_status"], stop["reason"]) == ("fail", "no trigger for 30 s")


def test_a_clock_that_is_set_back_in_a_run_makes_no_frame_clean_before_it_came(tmp_path, monkeypatch):
    earlier = SimpleNamespace(time=lambda: time.time() - 3600, monotonic=time.monotonic)
    monkeypatch.setattr(run_chain, "time", earlier)
    collector = process(Doubler(), fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM))
    assert sorted(collector.frames["clean"]) == list(range(1, 11))
    assert collector.health()["latency_s"] == 0.0 and collector.health()["rate_hz"] >= 0.0


class Uid(str):
    """A text that tells when nobody keeps it any more."""


def test_nothing_is_kept_of_the_documents_of_a_run_that_is_over(tmp_path):
    raw = fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM)
    documents = [(name, {**d, "uid": Uid(d["uid"])} if "uid" in d else d) for name, d in raw]
    kept = [(name, weakref.ref(d["uid"])) for name, d in documents if "uid" in d]
    assert {"start", "descriptor", "stream_resource", "stop"} <= {name for name, _ in kept}
    processor = Doubler()
    while documents:
        processor(*documents.pop(0))
    for run in (event_model.compose_run(), event_model.compose_run()):  # the next document takes the last one's place
        processor("start", dict(run.start_doc))
    assert processor.wait(30)
    gc.collect()
    assert [name for name, uid in kept if uid() is not None] == []
    processor.close(0)


def fail(*_: object) -> None:
    raise OSError("no such folder")


@pytest.mark.parametrize(
    "broken", [{"__init__": fail}, {"has_work": property(fail)}, {"queue": property(fail)}, {"close": fail}], ids=list
)
def test_whatever_a_stage_raises_in_costs_no_other_stage_and_no_later_run(tmp_path, caplog, broken):
    class Processor(RunProcessor):
        stages = (ReadFrames, type("Broken", (Stage,), {"name": "broken", **broken}))

    processor = Processor()
    with caplog.at_level(logging.CRITICAL, logger="nsbluesky"):
        for folder in (tmp_path / "first", tmp_path / "second"):
            folder.mkdir()
            collector = Collector()
            processor.subscribe(collector)
            for name, document in fly_run(folder, FRAMES, None, X_UM, Y_UM):
                processor(name, document)
            assert processor.wait(timeout=30)
            assert len(collector.frames["primary"]) == 10
            assert collector.stop()["reason"] == "broken: no such folder"
        assert processor.alive
    processor.close()


def test_the_rate_goes_down_while_a_scan_rests(tmp_path, monkeypatch):
    start = RawRun(tmp_path).start[1]
    settings = PipelineSettings()
    derived = DerivedRun(start, settings)
    chain = RunChain(RunContext(start, settings, Geometry.from_start(start), get_backend("numpy"), derived), [])
    chain._frame_times.extend(np.arange(11) / 10)
    for now, rate_hz in ((1.0, 10.0), (101.0, 10 / 101)):
        monkeypatch.setattr(run_chain.time, "time", lambda now=now: now)
        assert chain._state("pipeline", "ok", "")["rate_hz"] == pytest.approx(rate_hz)
    chain.raw_stop = {}  # what is told of a run that is over is how fast it was
    assert chain._state("pipeline", "ok", "")["rate_hz"] == pytest.approx(10.0)


def test_raising_subscriber_disturbs_nobody(tmp_path, caplog):
    processor = Doubler()

    def broken(name, document):
        raise RuntimeError("a broken window")

    processor.subscribe(broken)
    with caplog.at_level(logging.CRITICAL, logger="nsbluesky"):
        collector = process(processor, fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM))
    assert len(collector.frames["clean"]) == 10
    errors = [d["data"] for n, d in collector.documents if n == "event" and d["data"].get("state") == "error"]
    assert [(error["stage"], error["message"]) for error in errors] == [("broken", "a broken window")]
    assert collector.documents[0][0] == "start"
    assert "broken: a broken window" in collector.stop()["reason"]


def test_abort_ends_a_run_whose_stages_would_go_on(tmp_path):
    class Endless(Stage):
        name = "endless"
        has_work = True

    class Processor(RunProcessor):
        stages = (ReadFrames, Endless)

    processor, collector = Processor(), Collector()
    processor.subscribe(collector)
    for name, document in fly_run(tmp_path, FRAMES, None, X_UM, Y_UM):
        processor(name, document)
    assert not processor.wait(timeout=0.5)
    processor.abort()
    assert processor.close(timeout=30)
    assert len(collector.frames["primary"]) == 10
    assert collector.stop()["exit_status"] == "success"


def test_an_abort_while_a_stage_is_at_work_is_not_lost(tmp_path):
    at_work, aborted = threading.Event(), threading.Event()

    class Endless(Stage):
        name = "endless"
        has_work = False

        def on_stop(self, document):
            self.has_work = self.is_raw(document)
            yield from ()

        def work(self, budget_s):
            at_work.set()
            assert aborted.wait(30)
            yield from ()

    class Processor(RunProcessor):
        stages = (ReadFrames, Endless)

    processor = Processor()
    for name, document in fly_run(tmp_path, FRAMES, None, X_UM, Y_UM):
        processor(name, document)
    assert at_work.wait(30)
    processor.abort()
    aborted.set()
    assert processor.wait(timeout=10)
    assert processor.close()


@pytest.mark.parametrize("works_in_scan", [False, True])
@pytest.mark.parametrize("abort_comes", ["before the run", "while its documents wait"])
def test_an_abort_concerns_the_runs_that_have_ended_when_it_comes_and_no_others(tmp_path, abort_comes, works_in_scan):
    passes = []

    class LastPasses(Stage):
        name = "last passes"
        has_work = works_in_scan
        has_ended = False

        def on_stop(self, document):
            self.has_ended |= self.is_raw(document)
            self.has_work = True
            yield from ()

        def work(self, budget_s):
            if self.has_ended:
                passes.append(len(passes) + 1)
            self.has_work = len(passes) < 3
            yield from ()

    class Processor(RunProcessor):
        stages = (ReadFrames, LastPasses)

    processor = Processor()
    if abort_comes == "before the run":
        processor.abort()
    processor.pause()
    for name, document in fly_run(tmp_path, FRAMES, None, X_UM, Y_UM):
        processor(name, document)
    if abort_comes == "while its documents wait":  # to whoever measures, the run has ended
        processor.abort()
    processor.resume()
    assert processor.wait(timeout=30)
    assert passes == ([1, 2, 3] if abort_comes == "before the run" else [])
    assert processor.close()


@pytest.mark.parametrize(("processors", "in_scan", "afterwards"), [(2, 1, 2), (1, 1, 1), (16, 8, 8)])
def test_a_processor_is_left_to_the_scan_while_it_goes_on(tmp_path, monkeypatch, processors, in_scan, afterwards):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(processors))
    working = {}

    class Watch(Stage):
        name = "watch"
        has_work = False

        def on_event_page(self, page):
            working["in the scan"] = self.run.backend.working
            yield from ()

        def on_stop(self, document):
            self.has_work = self.is_raw(document)
            yield from ()

        def work(self, budget_s):
            working["afterwards"] = self.run.backend.working
            self.has_work = False
            yield from ()

    class Processor(RunProcessor):
        stages = (ReadFrames, Watch)

    process(Processor(), fly_run(tmp_path, FRAMES, None, X_UM, Y_UM))
    assert working == {"in the scan": in_scan, "afterwards": afterwards}


def test_call_never_waits_for_a_stuck_stage(tmp_path):
    """All documents are taken while the first stage is stuck; nothing is lost when it comes free."""
    free, stuck = threading.Event(), threading.Event()

    class Stuck(Stage):
        name = "stuck"

        def on_start(self, document):
            stuck.set()
            assert free.wait(20)
            yield from ()

    class Processor(RunProcessor):
        stages = (Stuck, ReadFrames, Double)

    processor, collector = Processor(PipelineSettings(queue_bytes=0)), Collector()
    processor.subscribe(collector)
    documents = list(fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM))
    processor(*documents[0])
    assert stuck.wait(20)
    for name, document in documents[1:]:
        processor(name, document)
    assert processor.queued == len(documents) - 1
    assert not processor.wait(timeout=0)
    free.set()
    assert processor.close(timeout=30)
    assert len(collector.frames["clean"]) == 10


def test_malformed_documents_do_not_end_the_thread(tmp_path, caplog):
    processor = Doubler()
    with caplog.at_level(logging.CRITICAL, logger="nsbluesky"):
        processor("stop", {})
        processor("event", {"data": {}, "descriptor": "never declared"})
        processor("nonsense", {})
        collector = process(processor, fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM))
    assert len(collector.frames["clean"]) == 10


def test_a_start_document_that_comes_again_begins_nothing(tmp_path, caplog):
    start, *others = fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM)
    collector = process(Doubler(), [start, *others[:5], start, *others[5:]])
    assert sorted(collector.frames["clean"]) == list(range(1, 11))
    assert [name for name, _ in collector.documents].count("start") == 1
    assert not caplog.records


def test_a_document_that_the_queue_has_lost_does_not_end_the_thread(tmp_path, monkeypatch, caplog):
    """As where a file in which it waits cannot be read; the first one of all."""
    get, losses = DocumentQueue.get, [OSError("cannot be read")]

    def lose_one(self, timeout):
        item = get(self, timeout)
        if losses:
            raise losses.pop()
        return item

    monkeypatch.setattr(DocumentQueue, "get", lose_one)
    with caplog.at_level(logging.CRITICAL, logger="nsbluesky"):
        processor = Doubler()
        processor("event", {})
        collector = process(processor, fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM))
    assert len(collector.frames["clean"]) == 10


def test_two_interleaved_runs(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    runs = [
        list(fly_run(tmp_path / "a", FRAMES, DARKS, X_UM, Y_UM)),
        list(fly_run(tmp_path / "b", FRAMES + 1, DARKS, X_UM, Y_UM)),
    ]
    processor = Doubler()
    seen: dict[str, list[np.ndarray]] = {}
    runs_of: dict[str, str] = {}

    def callback(name, document):
        if name == "start":
            runs_of[document["uid"]] = document["raw_uid"]
        elif name == "descriptor" and document["name"] == "clean":
            runs_of[document["uid"]] = runs_of[document["run_start"]]
        elif name == "event_page" and document["descriptor"] in runs_of:
            seen.setdefault(runs_of[document["descriptor"]], []).append(document["data"]["frame"])

    processor.subscribe(callback)
    for pair in zip(*runs, strict=True):
        for name, document in pair:
            processor(name, document)
    assert processor.close(timeout=30)
    for run, frames in zip(runs, (FRAMES, FRAMES + 1), strict=True):
        np.testing.assert_array_equal(np.concatenate(seen[run[0][1]["uid"]]), 2 * frames)


def test_unsubscribe(tmp_path):
    processor, collector = Doubler(), Collector()
    processor.unsubscribe(processor.subscribe(collector))
    process(processor, fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM))
    assert collector.documents == []


def test_every_document_validates(tmp_path):
    for name, document in process(Doubler(), fly_run(tmp_path, FRAMES, DARKS, X_UM, Y_UM)).documents:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(document)


@pytest.mark.parametrize("exit_status", ["success", "abort", "fail"])
def test_exit_status_is_the_raw_runs(tmp_path, exit_status):
    documents = list(fly_run(tmp_path, FRAMES, None, X_UM, Y_UM))
    documents[-1] = ("stop", {**documents[-1][1], "exit_status": exit_status})
    assert process(Doubler(), documents).stop()["exit_status"] == exit_status


def test_ended_runs_that_wait_hold_later_ones_back(tmp_path):
    """A queue of scans that is faster than the processing must not fill the memory."""
    release, begun = threading.Event(), []

    class Slow(Stage):
        name = "slow"

        def __init__(self, run):
            super().__init__(run)
            begun.append(run.start["uid"])

        @property
        def has_work(self):
            return not release.is_set()

    class Processor(RunProcessor):
        stages = (ReadFrames, Slow)

    processor = Processor()
    for number in range(MAX_ENDED + 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, document in fly_run(folder, FRAMES, DARKS, X_UM, Y_UM):
            processor(name, document)
    assert not processor.wait(0.5)
    assert len(begun) == MAX_ENDED
    assert processor.queued > 0
    release.set()
    assert processor.close(30)
    assert len(begun) == MAX_ENDED + 2
