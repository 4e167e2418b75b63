"""The settings that a run was processed with, from the documents of its processing."""

from __future__ import annotations

from pathlib import Path

from nsbluesky.callbacks.derived_run import DerivedRun
from nsbluesky.document_log import DocumentLog
from nsbluesky.service.recorded_settings import for_replay, processed_runs, settings_of, settings_of_run
from nsbluesky.settings import PipelineSettings


def test_the_last_settings_count_also_beside_a_broken_line(tmp_path: Path) -> None:
    before, after = PipelineSettings(), PipelineSettings().replace(solver__modes=5)
    run = DerivedRun({"uid": "raw"}, before)
    log = DocumentLog(tmp_path / "derived")
    log("start", run.start_document)
    assert settings_of_run("raw", tmp_path) == before.to_dict()
    for name, document in run.event("settings", settings=after.to_json(), changes="{}"):
        log(name, document)
    log.close()
    with (tmp_path / "derived" / f"{run.uid}.jsonl").open("a") as file:
        file.write("no document\n")
    assert settings_of_run("raw", tmp_path) == after.to_dict()
    (derived,) = processed_runs(tmp_path)
    assert settings_of(derived)["solver"]["modes"] == 5


def test_a_run_that_was_never_processed(tmp_path: Path) -> None:
    assert settings_of_run("raw", tmp_path) is None
    assert for_replay(None) == (PipelineSettings(warm_start=False), [])
