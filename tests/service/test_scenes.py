"""Scenes of a beamline day, on real processes: scans follow each other, disks fill up, clocks differ."""

from __future__ import annotations

import os
import random
import signal
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from recorded_scan import (
    TIMEOUT_S,
    RecordedScan,
    Session,
    again,
    assert_all_frames_are_there,
    halves,
    wait_for,
)

from nsbluesky.cli import main
from nsbluesky.cxi import read_cxi
from nsbluesky.document_log import read_documents
from nsbluesky.service.connection import connect
from nsbluesky.service.control import ask
from nsbluesky.service.finished import FinishedRuns
from nsbluesky.service.supervisor import ProcessingService

QUICK = {"sweep_frames": 0, "passes_final": 2}
FULL_DISK = Path(__file__).with_name("full_disk_process.py")


def test_abort_and_immediately_start_the_next_scan(scan: RecordedScan, tmp_path: Path) -> None:
    first, _ = halves(scan.documents)
    start, stop = scan.documents[0][1], scan.documents[-1][1]
    aborted = [*first, ("stop", {**stop, "exit_status": "abort", "reason": "changed my mind"})]
    following = again(scan, "next")
    with (
        ProcessingService(scan.settings(tmp_path, **QUICK)) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        session.send(aborted)
        session.send(following.documents)
        assert session.connection.wait(TIMEOUT_S)
        assert session.connection.finished[start["uid"]].exit_status == "abort"
        assert 0 < session.connection.results[start["uid"]]["num_frames"] < scan.num_points
        assert_all_frames_are_there(session.connection, following)


def test_two_scans_in_quick_succession_by_clocks_that_differ(scan: RecordedScan, tmp_path: Path) -> None:
    """The second one begins while the first is being processed, on a machine whose clock is a day behind."""
    second = again(scan, "second", clock_s=-86400.0)
    third = again(scan, "third", clock_s=+3600.0)
    latencies: list[float] = []

    def note(name: str, document: dict) -> None:
        if name == "event":
            latencies.extend(
                document["data"][key] for key in ("latency_s", "newest_age_s") if key in document["data"]
            )

    with (
        ProcessingService(scan.settings(tmp_path, **QUICK)) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        session.connection.subscribe(note)
        for run in (scan, second, third):
            session.send(run.documents)
        assert session.connection.wait(TIMEOUT_S)
        for run in (scan, second, third):
            assert_all_frames_are_there(session.connection, run)
            assert session.connection.finished[run.uid].exit_status == "success"
        wait_for(lambda: bool(latencies))
    assert all(0 <= latency < TIMEOUT_S for latency in latencies), "by the service's own clock"


def test_a_full_disk_of_the_results(scan: RecordedScan, tmp_path: Path) -> None:
    """The image comes; what could not be written whole is not called a result, and is made when there is space."""
    full = tmp_path / "full"
    first, second = halves(scan.documents)
    service = ProcessingService(scan.settings(tmp_path, **QUICK))
    service.command = (sys.executable, str(FULL_DISK), str(full))  # type: ignore[misc]
    with service, Session(service.address, tmp_path, service.credentials) as session:
        session.send(first)
        wait_for(lambda: bool(list((tmp_path / "results").glob("*.cxi"))))
        full.touch()
        session.send(second)
        assert session.connection.wait(TIMEOUT_S)
        assert session.connection.results[scan.uid]["num_frames"] == scan.num_points
        finished = session.connection.finished[scan.uid]
        assert finished.exit_status == "fail" and finished.cxi == ""
        assert "CXIWriter: [Errno 28] no space left" in finished.reason
        assert [path.name for path in (tmp_path / "results").glob("*.cxi")] == [f"{scan.uid:.8}_clean.incomplete.cxi"]
        assert FinishedRuns(tmp_path / "results").read() == []
        status = ask(service.address, "status")
        assert service.restarts == [] and status["state"] == "idle" and status["open_runs"] == []
        full.unlink()
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("NSBLUESKY_STATE", str(tmp_path / "state"))
            arguments = ["--address", service.address, "--log", str(tmp_path / "documents"), "--json"]
            assert main(["resume", scan.uid, *arguments]) == 0
        (run,) = FinishedRuns(tmp_path / "results").read()
        with read_cxi(run.cxi) as cxi:
            assert len(cxi.seq_nums) == scan.num_points


def test_a_run_that_is_ended_on_a_full_disk_is_made_when_there_is_space(scan: RecordedScan, tmp_path: Path) -> None:
    """It was noted as ended at once, for a process that takes over; but it has no files."""
    full = tmp_path / "full"
    first, second = halves(scan.documents)
    settings = scan.settings(tmp_path, **QUICK)
    service = ProcessingService(settings)
    service.command = (sys.executable, str(FULL_DISK), str(full))  # type: ignore[misc]
    with service, Session(service.address, tmp_path, service.credentials) as session:
        session.send(first)
        wait_for(lambda: bool(list((tmp_path / "results").glob("*.cxi"))))
        full.touch()
        ask(service.address, "abort", service.credentials, run=scan.uid)
        wait_for(lambda: scan.uid in session.connection.finished)
        assert session.connection.finished[scan.uid].exit_status == "fail"
        session.send(second)
    with (
        ProcessingService(settings) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        session.send(scan.documents)
        assert session.connection.wait(TIMEOUT_S)
        assert_all_frames_are_there(session.connection, scan)


@pytest.mark.nightly
def test_workers_of_the_service(scan: RecordedScan, tmp_path: Path) -> None:
    """Frames are cleaned by another process: it ends with the service's, however that ends, and begins with it."""
    pytest.importorskip("distributed")
    first, second = halves(scan.documents)
    settings = replace(scan.settings(tmp_path, **QUICK), workers=1)
    with (
        ProcessingService(settings) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        wait_for(lambda: ask(service.address, "status")["workers"] == 1)
        children = psutil.Process(service.pid).children(recursive=True)
        session.send(first)
        wait_for(lambda: session.connection.queued == 0)
        os.kill(service.pid, signal.SIGKILL)
        session.send(second)
        assert session.connection.wait(TIMEOUT_S)
        assert_all_frames_are_there(session.connection, scan)
        assert psutil.wait_procs(children, TIMEOUT_S)[1] == []
        children = psutil.Process(service.pid).children(recursive=True)
        assert children
    assert psutil.wait_procs(children, TIMEOUT_S)[1] == []
    assert list((tmp_path / "results" / "recipes").iterdir()) == []


@pytest.mark.nightly
def test_workers_come_with_the_backlog_and_go_with_it(scan: RecordedScan, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    settings = replace(scan.settings(tmp_path, **QUICK), workers=1, adaptive=True)
    with (
        ProcessingService(settings) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):

        def workers() -> int:
            return int(ask(service.address, "status")["workers"])

        assert workers() == 0
        session.send(scan.documents)
        wait_for(lambda: workers() == 1)
        assert session.connection.wait(TIMEOUT_S)
        assert_all_frames_are_there(session.connection, scan)
        wait_for(lambda: workers() == 0)


@pytest.mark.nightly
@pytest.mark.parametrize("workers", [1, 2])
def test_a_frame_that_kills_every_worker(
    scan: RecordedScan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """It is left out and listed; those that were at the same workers are not."""
    pytest.importorskip("distributed")
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", str(Path(__file__).with_name("poisoned_worker.py")))
    monkeypatch.setenv("NSBLUESKY_POISON", "30")
    with (
        ProcessingService(replace(scan.settings(tmp_path, **QUICK), workers=workers)) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        session.send(scan.documents)
        assert session.connection.wait(2 * TIMEOUT_S)
        assert_all_frames_are_there(session.connection, scan, missing=[31])
        assert session.connection.live.snapshot().bad == (31,)
        assert service.restarts == []


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(10))
def test_fifty_kills_at_random_moments(scan: RecordedScan, tmp_path: Path, seed: int) -> None:
    """Five in each scan: of the service's process, or of the session, whose next one sends what the log has."""
    rng = random.Random(seed)
    documents = again(scan, f"seed{seed}").documents
    cuts = sorted(rng.sample(range(len(documents)), 5))
    with ProcessingService(scan.settings(tmp_path, **QUICK)) as service:
        session = Session(service.address, tmp_path, service.credentials)
        for begin, end in zip([0, *cuts], cuts, strict=False):
            session.send(documents[begin:end])
            wait_for(lambda: rng.random() < 0.2)
            if rng.random() < 0.5:
                count = len(service.restarts) + 1
                os.kill(service.pid, signal.SIGKILL)
                assert service.wait_for_restart(count, TIMEOUT_S)
            else:
                session.connection.close(timeout=0)
                session.connection = connect(service.address, session.log, service.credentials)
                for name, document in read_documents(documents[0][1]["uid"], session.log.directory):
                    session.connection(name, document)
        session.send(documents[cuts[-1] :])
        with session:
            assert session.connection.wait(2 * TIMEOUT_S)
            assert_all_frames_are_there(session.connection, again(scan, f"seed{seed}"))


@pytest.mark.nightly
def test_memory_stays_flat_over_many_scans(scan: RecordedScan, tmp_path: Path) -> None:
    with (
        ProcessingService(scan.settings(tmp_path, **QUICK)) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        memory_MB = []
        for k in range(20):
            session.send(again(scan, f"scan{k}").documents)
            assert session.connection.wait(TIMEOUT_S)
            memory_MB.append(ask(service.address, "status")["memory_MB"])
        assert len(FinishedRuns(tmp_path / "results").read()) == 20
    assert memory_MB[-1] < 1.1 * memory_MB[4]
