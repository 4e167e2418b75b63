"""The pipeline of the service and what it keeps in files, without the sockets."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from recorded_scan import TIMEOUT_S, RecordedScan, again

from nsbluesky.callbacks import run_processor
from nsbluesky.service.order import RECORDING
from nsbluesky.service.processing import Processing
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.settings import PipelineSettings
from nsbluesky.solver.incremental import IncrementalSolver


@contextmanager
def processing(directory: Path) -> Iterator[Processing]:
    settings = ServiceSettings(str(directory), ("/",), warm_up=False)
    made = Processing(settings, PipelineSettings(backend="numpy"), lambda name, document: None)
    try:
        yield made
    finally:
        made.close(0)


def test_what_was_recorded_is_recorded_by_the_next_process(tmp_path: Path) -> None:
    with processing(tmp_path) as first:
        assert first.recording == []
        first.record(["clean", "raw"])
    with processing(tmp_path) as second:
        assert second.recording == ["raw", "clean"]


def test_what_cannot_be_written_down_is_recorded_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with processing(tmp_path / "results") as made:
        shutil.rmtree(tmp_path / "results")
        made.record(["clean"])
        assert made.recording == ["clean"]
        assert "will not record the same stages" in caplog.text


@pytest.mark.parametrize("told", ["", '["raw", "cle', "7", '{"raw": 1', '["no such stage"]', '[["raw"]]', "null"])
def test_a_damaged_note_of_what_was_recorded_keeps_nobody_away(
    tmp_path: Path, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that cannot begin is tried five times, and then the service is given up."""
    (tmp_path / RECORDING).write_text(told)
    with processing(tmp_path) as taking_over:
        assert taking_over.recording == []
        assert "cannot be used, nothing is recorded" in caplog.text
        taking_over.record(["raw"])
        assert taking_over.recording == ["raw"]


@pytest.mark.nightly
def test_a_process_that_takes_over_begins_the_next_run_with_the_probe_of_the_last(
    scan: RecordedScan, tmp_path: Path
) -> None:
    """Two scans, each in a service of its own life."""
    settings = scan.settings(tmp_path, sweep_frames=30)
    told: list[dict[str, Any]] = []

    def publish(name: str, document: dict[str, Any]) -> None:
        if name == "event" and "warm_run" in document["data"]:
            told.append(document["data"])

    for run in (scan, again(scan, "later", clock_s=60.0)):
        made = Processing(settings, settings.pipeline, publish)
        for name, document in run.documents:
            made(name, document)
        assert made.close(TIMEOUT_S)
    first, second = told[-2:]
    assert first["warm_run"] == "" and second["warm_run"] == scan.uid
    assert second["warm_fits"] and second["warm_age_s"] == 60.0


def test_a_processing_that_is_closed_while_the_solver_works_writes_nothing_more(
    scan: RecordedScan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a reset does, after which a run begins anew: neither a checkpoint nor a document of the former life."""
    settings = scan.settings(tmp_path, sweep_frames=0)
    made = Processing(settings, settings.pipeline.replace(checkpoint_s=1e-6), lambda *_: told.append(1))
    told: list[int] = []
    at_work, free = threading.Event(), threading.Event()
    step = IncrementalSolver.step

    def last_step(solver: IncrementalSolver, budget_s: float) -> None:
        step(solver, budget_s)
        if solver.state is not None:
            at_work.set()
            free.wait(TIMEOUT_S)

    monkeypatch.setattr(IncrementalSolver, "step", last_step)
    monkeypatch.setattr(run_processor, "CLOSE_S", 0.0)
    for name, document in scan.documents:
        made(name, document)
    assert at_work.wait(TIMEOUT_S)
    made.close(0)
    made.pipeline.forget(scan.uid)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}, len(told)
    monkeypatch.setattr(IncrementalSolver, "step", step)
    free.set()
    made.pipeline._thread.join(TIMEOUT_S)
    assert not made.pipeline.alive
    assert ({path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}, len(told)) == before
