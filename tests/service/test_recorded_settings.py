"""The settings that a run was processed with, from the documents of its processing."""

from __future__ import annotations

from pathlib import Path

from nsbluesky.callbacks.derived_run import DerivedRun
from nsbluesky.document_log import DocumentLog
from nsbluesky.replay import Document
from nsbluesky.service.recorded_settings import (
    RecordedSettings,
    for_replay,
    processed_runs,
    recorded_in,
    settings_of,
    settings_of_run,
)
from nsbluesky.settings import PipelineSettings


def test_the_last_settings_count_also_beside_a_broken_line(tmp_path: Path) -> None:
    before, after = PipelineSettings(), PipelineSettings().replace(solver__modes=5)
    run = DerivedRun({"uid": "raw"}, before)
    log = DocumentLog(tmp_path / "derived")
    log("start", run.start_document)
    assert settings_of_run("raw", tmp_path) == RecordedSettings(before.to_dict())
    for name, document in run.event("settings", settings=after.to_json(), changes="{}"):
        log(name, document)
    log.close()
    with (tmp_path / "derived" / f"{run.uid}.jsonl").open("a") as file:
        file.write("no document\n")
    recorded = settings_of_run("raw", tmp_path)
    assert recorded is not None and recorded.settings == after.to_dict()
    (derived,) = processed_runs(tmp_path)
    assert settings_of(derived)["solver"]["modes"] == 5


def test_each_change_is_told_with_its_moment_and_what_was_before() -> None:
    """But none of what suits the session alone, for a replay leaves it."""
    settings = PipelineSettings().replace(solver__modes=1)
    started = {"uid": "derived", "time": 100.0, "settings": settings.to_dict()}
    documents: list[Document] = [("start", started), ("descriptor", {"uid": "1", "name": "settings"})]
    for moment, changes in (
        (112.0, {"solver.modes": 3, "solver.publish_hz": 9.0}),
        (113.0, {"block_frames": 7}),
        (190.5, {"cleaning.photon_threshold": 2.0, "solver.algorithm": "rpie", "second_engine": "cg"}),
        (191.0, {"solver.modes": 1}),
    ):
        settings = settings.replace(**changes)
        event = {"descriptor": "1", "time": moment, "data": {"settings": settings.to_json(), "changes": "{}"}}
        documents.append(("event", event))
    recorded = recorded_in(documents)
    assert recorded.settings == settings.to_dict()
    default = PipelineSettings()
    assert recorded.changes == (
        "after 12.0 s: solver.modes=3 (was 1)",
        f"after 90.5 s: cleaning.photon_threshold=2.0 (was {default.cleaning.photon_threshold}), "
        'solver.algorithm=rpie (was wasp), second_engine=cg (was "")',
        "after 91.0 s: solver.modes=1 (was 3)",
    )


def test_a_run_that_was_never_processed(tmp_path: Path) -> None:
    assert settings_of_run("raw", tmp_path) is None
    assert for_replay(None) == (PipelineSettings(warm_start=False), [])
