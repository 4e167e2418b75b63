"""``nsbluesky resume``: what a dead session or a dead service left undone is finished, and nothing twice."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import h5py
import pytest
from recorded_scan import TIMEOUT_S, RecordedScan, Session, halves, wait_for

from nsbluesky.cli import main
from nsbluesky.cxi import read_cxi
from nsbluesky.document_log import DocumentLog, DocumentLogError, end_log, read_documents
from nsbluesky.service.control import ask
from nsbluesky.service.supervisor import ProcessingService

AWAY = "tcp://127.0.0.1:9"


@pytest.fixture
def resume(tmp_path: Path, scan: RecordedScan, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return what runs the command and returns its summary, or its complaint."""
    settings = scan.beamline.settings(sweep_frames=0, passes_final=2)
    changed = {f"cleaning.{key}": json.dumps(value) for key, value in settings.cleaning.to_dict().items()}
    changed |= {"backend": "numpy", "solver.sweep_frames": "0", "solver.passes_final": "2"}

    def resume(*arguments: str, address: str = AWAY, code: int = 0) -> Any:
        capsys.readouterr()
        folders = ["--log", str(tmp_path / "documents"), "--out", str(tmp_path / "results")]
        options = [f"--set={key}={value}" for key, value in changed.items()]
        assert main(["resume", *arguments, "--address", address, *folders, *options, "--json"]) == code
        out, err = capsys.readouterr()
        return json.loads(out) if code == 0 else err

    return resume


def test_a_session_that_died(scan: RecordedScan, tmp_path: Path, resume: Any) -> None:
    """Its log ends in the middle of a line; what is whole of it is processed, once."""
    first, _ = halves(scan.documents)
    log = DocumentLog(tmp_path / "documents")
    for name, document in first:
        log(name, document)
    path = log.directory / f"{scan.uid}.jsonl"
    assert "the run goes on" in resume(scan.uid, code=1), "its session is alive"
    log.close()
    with path.open("a") as file:
        file.write('{"name": "event", "doc": {"uid')
    assert resume() == {scan.uid: "ptycho_scan"}
    summary = resume(scan.uid[:8])
    assert summary["session_had_died"] and summary["exit_status"] == "abort"
    with read_cxi(summary["cxi"]) as cxi:
        assert len(cxi.seq_nums) == summary["frames_used"] > scan.num_points // 3
    *_, (name, stop) = read_documents(path)
    assert name == "stop" and stop["reason"] == "its session ended before the run did"
    assert resume() == {"unfinished": "no run"}
    again = resume(scan.uid)
    assert not again["session_had_died"] and str(again["frames_used"]) == str(summary["frames_used"])
    assert len(list((tmp_path / "results").glob("*.cxi"))) == 1, "what is finished is not processed again"


def test_a_session_that_died_and_a_service_that_goes_on(scan: RecordedScan, tmp_path: Path, resume: Any) -> None:
    """The service has half of the run already, and gets the rest."""
    first, second = halves(scan.documents)
    with ProcessingService(scan.settings(tmp_path, sweep_frames=0, passes_final=2)) as service:
        with Session(service.address, tmp_path, service.credentials) as session:
            session.send(first)
            wait_for(lambda: session.connection.queued == 0)
            for name, document in second[:-1]:
                session.log(name, document)
        state = str(tmp_path / "state")
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("NSBLUESKY_STATE", state)
            summary = resume(scan.uid, address=service.address)
            assert summary["frames_used"] == scan.num_points
            environment.setenv("NSBLUESKY_STATE", str(tmp_path / "another"))
            (tmp_path / "documents" / "another.jsonl").write_text(
                (tmp_path / "documents" / f"{scan.uid}.jsonl").read_text().replace(scan.uid, "another")
            )
            assert "token that does not belong" in resume("another", address=service.address, code=1)
        wait_for(lambda: ask(service.address, "status")["open_runs"] == [])
        assert service.restarts == []


def test_a_run_is_resumed_with_the_settings_that_it_had(
    scan: RecordedScan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The defaults are another detector mode, with which there is no frame."""
    first, _ = halves(scan.documents)
    settings = scan.settings(tmp_path, sweep_frames=0, passes_final=2)
    derived = tmp_path / "results" / "derived"
    with (
        ProcessingService(settings) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        session.send(first)
        wait_for(lambda: list(derived.glob("*.jsonl")))
    folders = ["--log", str(tmp_path / "documents"), "--out", str(tmp_path / "results")]
    assert main(["resume", scan.uid, "--address", AWAY, *folders, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["frames_used"] > scan.num_points // 3


@pytest.mark.parametrize("is_first", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_a_run_of_which_no_line_was_written_is_resumed_with_the_settings_of_the_latest(
    scan: RecordedScan, tmp_path: Path, capsys: pytest.CaptureFixture[str], is_first: bool
) -> None:
    """As where the folder of the results could not be written; without any other run there are the defaults."""
    settings = scan.settings(tmp_path, sweep_frames=0, passes_final=2).pipeline.to_dict()
    if not is_first:
        derived = DocumentLog(tmp_path / "results" / "derived")
        derived("start", {"uid": "derived", "raw_uid": "another", "time": 0.0, "settings": settings})
        derived.close()
    log = DocumentLog(tmp_path / "documents")
    for name, document in scan.documents:
        log(name, document)
    folders = ["--log", str(tmp_path / "documents"), "--out", str(tmp_path / "results")]
    assert main(["resume", scan.uid, "--address", AWAY, *folders, "--json"]) == int(is_first)
    out, err = capsys.readouterr()
    assert json.loads(out)["frames_used"] == (0 if is_first else scan.num_points)
    assert (f"'nsbluesky replay {scan.uid[:8]} --set …' processes it with other settings" in err) == is_first


HALF_FULL = """
import errno
from nsbluesky.callbacks import derived_run_writer
from nsbluesky.service.process import main

def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

derived_run_writer.ArrayFile = full
main()
"""


def test_a_run_of_which_not_all_files_could_be_written_is_told_and_made_again(
    scan: RecordedScan, tmp_path: Path, resume: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = DocumentLog(tmp_path / "documents")
    for name, document in scan.documents:
        log(name, document)
    with monkeypatch.context() as full:
        full.setattr(ProcessingService, "command", (sys.executable, "-c", HALF_FULL))
        told = resume(scan.uid, code=1)
        assert "not all of the files could be written: DerivedRunWriter: [Errno 28] No space left" in told
    assert resume() == {scan.uid: "ptycho_scan"}
    assert resume(scan.uid)["frames_used"] == scan.num_points


def test_runs_that_there_are_not(resume: Any, tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    assert "no such document log" in resume("nothing", code=1)
    assert resume() == {"unfinished": "no run"}


def test_the_log_of_a_run_that_ended_stays_as_it_is(scan: RecordedScan, tmp_path: Path) -> None:
    log = DocumentLog(tmp_path)
    for name, document in scan.documents:
        log(name, document)
    path = tmp_path / f"{scan.uid}.jsonl"
    before = path.read_bytes()
    assert not end_log(path)
    assert path.read_bytes() == before
    (tmp_path / "empty.jsonl").write_text("")
    assert not end_log(tmp_path / "empty.jsonl")
    (tmp_path / "broken.jsonl").write_text("no document\n")
    with pytest.raises(DocumentLogError, match="is no document"):
        end_log(tmp_path / "broken.jsonl")


def test_recording_survives_the_process_and_ends_with_the_service(scan: RecordedScan, tmp_path: Path) -> None:
    first, second = halves(scan.documents)
    settings = scan.settings(tmp_path, sweep_frames=0, passes_final=2)
    folder = tmp_path / "results" / "recorded"
    with (
        ProcessingService(settings) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        answer = ask(service.address, "record", service.credentials, stages=["clean", "raw"])
        assert answer["recording"] == ["raw", "clean"]
        session.send(first)
        wait_for(lambda: (folder / f"{scan.uid:.8}_clean.h5").exists())
        os.kill(service.pid, signal.SIGKILL)
        session.send(second)
        assert session.connection.wait(TIMEOUT_S)
        assert ask(service.address, "status")["recording"] == ["raw", "clean"]
    assert_rows(folder / f"{scan.uid:.8}_clean_2.h5", scan.num_points)
    assert_rows(folder / f"{scan.uid:.8}_primary_2.h5", scan.num_points)
    with ProcessingService(settings) as service:
        assert ask(service.address, "status")["recording"] == []


def assert_rows(path: Path, count: int) -> None:
    with h5py.File(path) as file:
        assert sorted(file["seq_num"][()].tolist()) == list(range(1, count + 1))
        assert len(file["frame"]) == count
