"""Names of files, also where they are made of what came from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nsbluesky import session
from nsbluesky.callbacks.derived_run_writer import DerivedRunWriter
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.document_log import DocumentLog
from nsbluesky.folders import data_directory, new_file, state_directory
from nsbluesky.refusals import MARK


def test_a_file_that_is_there_stays_and_the_next_one_is_numbered(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        path = new_file(tmp_path, "0123abcd_clean.v1.cxi")
        path.touch()
        names.append(path.name)
    assert names == ["0123abcd_clean.v1.cxi", "0123abcd_clean.v1_2.cxi", "0123abcd_clean.v1_3.cxi"]


@pytest.mark.parametrize("name", ["../x.h5", "../../ab_primary.h5", "/elsewhere/x.h5", "a/../../x.h5"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="leads out of"):
        new_file(tmp_path / "results", name)


@pytest.mark.parametrize("made", [session.open_catalog, session.simulated_beamline, session.start_processing])
def test_a_session_whose_user_has_no_home_says_in_a_line_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Callable[..., object]
) -> None:
    home = tmp_path / "home"
    home.write_text("no folder, so that root cannot make one in it either")
    monkeypatch.setenv("NSBLUESKY_DATA", str(home / "data"))
    monkeypatch.setenv("NSBLUESKY_STATE", str(home / "state"))
    monkeypatch.setenv("NSBLUESKY_SIM", "1")
    monkeypatch.delenv("NSBLUESKY_SERVICE", raising=False)
    variable, folder = ("STATE", "state") if made is session.start_processing else ("DATA", "data")
    with pytest.raises(OSError, match=f"{home / folder} .*: set NSBLUESKY_{variable} to a folder") as refused:
        made(*[None] * (made is session.start_processing))
    assert hasattr(refused.value, MARK), "the prompt shows it in one line"


def test_a_session_that_changes_its_directory_keeps_its_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    for folder in (before, after):
        folder.mkdir()
    monkeypatch.setenv("NSBLUESKY_DATA", "some-data")
    monkeypatch.setenv("NSBLUESKY_STATE", "some-state")
    monkeypatch.chdir(before)
    folders = data_directory(), state_directory()
    log = DocumentLog("logs")
    derived = DerivedRunWriter("derived", log)
    pipeline = PtychoPipeline(directory="results")
    pipeline.close()
    monkeypatch.chdir(after)
    assert (data_directory(), state_directory()) == folders == (before / "some-data", before / "some-state")
    log("start", {"uid": "a", "time": 0.0})
    log.close()
    assert not log.errors and (before / "logs" / "a.jsonl").is_file()
    assert derived.directory == before / "derived"
    assert pipeline.cxi is not None and pipeline.cxi.directory == before / "results"
    assert pipeline.recorder is not None and pipeline.recorder.directory == before / "results" / "recorded"
