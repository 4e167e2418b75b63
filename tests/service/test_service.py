"""The service on real processes: a scan in one, its processing in another, and the result comes back."""

from __future__ import annotations

import logging
import logging.handlers
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import event_model
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from recorded_scan import TIMEOUT_S, RecordedScan, Session, halves, wait_for
from twin_beamline import QUICK_SOLVER, make_twin_beamline

import nsbluesky
from nsbluesky.cxi import read_cxi
from nsbluesky.document_log import DocumentLog, find_runs
from nsbluesky.folders import data_directory
from nsbluesky.plans import ptycho_scan
from nsbluesky.service.connection import Connection
from nsbluesky.service.control import ServiceAway, ask, ask_snapshot
from nsbluesky.service.finished import FinishedRun
from nsbluesky.service.logs import BACKUPS, MAX_BYTES, ModuleLogs, follow, log_files
from nsbluesky.service.messages import ControlError
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.service.subscriber import DerivedRuns
from nsbluesky.service.supervisor import ProcessingService
from nsbluesky.simulation.loopback import free_port


class Derived:
    """A viewer that counts blocks of frames and keeps the stop documents."""

    def __init__(self) -> None:
        self.pages = 0
        self.stops: list[dict[str, Any]] = []

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        self.pages += name == "event_page"
        if name == "stop":
            self.stops.append(document)


def test_scan_here_processing_there(RE: RunEngine, tmp_path: Path) -> None:
    """A real RunEngine, whose session has nothing but one subscription."""
    (tmp_path / "frames").mkdir()
    beamline = make_twin_beamline(tmp_path / "frames")
    settings = ServiceSettings(
        directory=str(tmp_path / "results"),
        roots=(str(tmp_path / "frames"),),
        address="tcp://127.0.0.1:0",
        state=str(tmp_path / "state"),
        pipeline=beamline.settings(**QUICK_SOLVER),
    )
    derived = Derived()
    with (
        ProcessingService(settings) as service,
        nsbluesky.connect(service.address, credentials=service.credentials) as connection,
    ):
        connection.subscribe(derived)
        RE.subscribe(connection)
        (uid,) = RE(ptycho_scan(*beamline.devices, **beamline.arguments((5, 5)))).run_start_uids
        assert connection.wait(TIMEOUT_S)
        result = connection.results[uid]
        assert result["final"] and result["num_frames"] == 25
        assert service.pid != os.getpid()
        assert_comes_after_the_scan(service.pid)
        assert [stop["exit_status"] for stop in derived.stops] == ["success"]
        path = connection.cxi_path(uid)
        assert path is not None
        with read_cxi(path) as cxi:
            assert sorted(cxi.seq_nums.tolist()) == list(range(1, 26))
            assert cxi.images[0].complete
        assert connection.live.snapshot().finished
        assert connection.queued == 0 and connection.errors == {}
    assert [run.uid for run in find_runs(data_directory() / "documents")] == [uid]


def assert_comes_after_the_scan(pid: int) -> None:
    """By its priority, which on Linux counts within one session only; Ctrl-C does not reach it."""
    assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getsid(pid) == os.getsid(0)
    assert os.getpgid(pid) != os.getpgid(0)


def test_a_scan_without_a_service(RE: RunEngine, tmp_path: Path) -> None:
    """Nobody listens: the scan goes on as if somebody did, and the documents wait in the log."""
    (tmp_path / "frames").mkdir()
    beamline = make_twin_beamline(tmp_path / "frames")
    with nsbluesky.connect("tcp://127.0.0.1:9") as connection:
        RE.subscribe(connection)
        (uid,) = RE(ptycho_scan(*beamline.devices, **beamline.arguments((3, 3)))).run_start_uids
        assert connection.queued > 9
        assert not connection.wait(0)
        wait_for(lambda: "no answer" in connection.errors.get("", ""))
    assert [run.uid for run in find_runs(data_directory() / "documents")] == [uid]


def test_a_connection_that_keeps_the_log_closes_it(scan: RecordedScan) -> None:
    """Also of a run that has no end yet: who reads the log then sees that nobody writes it."""
    first, _ = halves(scan.documents)
    with nsbluesky.connect("tcp://127.0.0.1:9") as connection:
        for name, document in first:
            connection(name, document)
        path = data_directory() / "documents" / f"{scan.uid}.jsonl"
        assert path.resolve() in _open_files()
    assert path.resolve() not in _open_files()


def _open_files() -> set[Path]:
    return {link.resolve() for link in Path("/proc/self/fd").iterdir()}


def test_a_start_document_that_comes_again_is_not_sent_again(scan: RecordedScan, tmp_path: Path) -> None:
    """As from a proxy that repeats: with it the run would begin anew here, and not at the service."""
    first, second = halves(scan.documents)
    with Session("tcp://127.0.0.1:9", tmp_path, None) as session:
        session.send([*first, scan.documents[0], *second])
        assert session.connection.queued == len(scan.documents)
    assert len((tmp_path / "documents" / f"{scan.uid}.jsonl").read_text().splitlines()) == len(scan.documents)


def test_metadata_that_cannot_be_sent_cost_no_image(scan: RecordedScan, tmp_path: Path) -> None:
    """A start document that is refused for one entry would be sent again and again, and the session never end."""
    (name, start), *others = scan.documents
    odd = {"file": Path("/a b"), "name": "half a letter: \udc80"}
    with (
        ProcessingService(scan.settings(tmp_path, sweep_frames=0, passes_final=2)) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        session.send([(name, start | odd), *others])
        assert session.connection.wait(TIMEOUT_S)
        assert session.connection.results[scan.uid]["num_frames"] == scan.num_points
        assert "surrogates" in session.connection.errors[scan.uid]


# ---- control


def test_pause_configure_and_resume(scan: RecordedScan, tmp_path: Path) -> None:
    with (
        ProcessingService(scan.settings(tmp_path, sweep_frames=0, passes_final=2)) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        owner = service.credentials
        ask(service.address, "pause", owner)
        with pytest.raises(ControlError, match="paused"):
            ask(service.address, "checkpoint", owner)
        changed = ask(service.address, "configure", owner, settings={"solver.modes": 1})
        assert changed["settings"]["solver"]["modes"] == 1
        session.send(scan.documents)
        wait_for(lambda: session.connection.queued == 0)
        status = ask(service.address, "status")
        assert status["state"] == "paused" and status["runs"] == [] and status["queue"] > 0
        assert status["open_runs"] == [scan.uid]
        ask(service.address, "resume", owner)
        assert session.connection.wait(TIMEOUT_S)
        result = session.connection.results[scan.uid]
        assert result["num_frames"] == scan.num_points and len(result["probe"]) == 1
        assert ask(service.address, "checkpoint", owner)["checkpoints"] == {}  # the run is finished


def test_a_run_that_goes_on_is_told_of_and_aborted(scan: RecordedScan, tmp_path: Path) -> None:
    """The heartbeat tells of every stage.  It ends with what there is; what is still sent of it is left alone."""
    first, second = halves(scan.documents)
    derived = Derived()
    with (
        ProcessingService(scan.settings(tmp_path, sweep_frames=0, passes_final=2)) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        session.connection.subscribe(derived)
        session.send(first)
        wait_for(lambda: derived.pages > 0 and bool(session.connection.heartbeat.get("runs")))
        assert_tells_of_every_stage(session.connection.heartbeat, scan.uid)
        with pytest.raises(ControlError, match="is not open"):
            ask(service.address, "abort", service.credentials, run="another")
        ask(service.address, "abort", service.credentials, run=scan.uid)
        session.send(second)
        assert session.connection.wait(TIMEOUT_S)
        (stop,) = derived.stops
        assert stop["exit_status"] == "abort"
        assert 0 < session.connection.results[scan.uid]["num_frames"] < scan.num_points
        assert ask(service.address, "status")["runs"] == []


def test_a_run_that_was_aborted_stays_so_when_the_process_dies_before_its_end(
    scan: RecordedScan, tmp_path: Path
) -> None:
    """As where it is aborted because it hangs, and the process is replaced for that."""
    first, second = halves(scan.documents)
    with (
        ProcessingService(scan.settings(tmp_path, sweep_frames=0, passes_final=2)) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        ask(service.address, "pause", service.credentials)
        session.send(first)
        wait_for(lambda: session.connection.queued == 0)
        ask(service.address, "abort", service.credentials, run=scan.uid)
        os.kill(service.pid, signal.SIGKILL)
        assert service.wait_for_restart(1, TIMEOUT_S)
        session.send(second)
        assert session.connection.wait(TIMEOUT_S)
        finished = session.connection.finished[scan.uid]
        assert (finished.exit_status, finished.reason) == ("abort", "ended at the processing service")
        assert session.connection.results == {}


def assert_tells_of_every_stage(heartbeat: dict[str, Any], uid: str) -> None:
    (run,) = heartbeat["runs"]
    assert run["raw_uid"] == uid
    stages = {stage["stage"]: stage for stage in run["stages"]}
    assert list(stages) == ["frames", "darks", "clean", "low_resolution", "reconstruction"]
    for stage in stages.values():
        assert stage["state"] in ("idle", "busy")
        assert stage["queue"] >= 0 and stage["age_s"] >= 0 and stage["rate_hz"] >= 0
    assert stages["frames"]["num_blocks"] > 0


def test_reset_begins_anew_in_the_same_process(scan: RecordedScan, tmp_path: Path) -> None:
    first, second = halves(scan.documents)
    derived = Derived()
    with (
        ProcessingService(scan.settings(tmp_path, sweep_frames=0, passes_final=2)) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        session.connection.subscribe(derived)
        session.send(first)
        wait_for(lambda: derived.pages > 0)
        pid = service.pid
        assert ask(service.address, "reset", service.credentials)["runs"] == [scan.uid]
        session.send(second)
        assert session.connection.wait(TIMEOUT_S)
        assert session.connection.results[scan.uid]["num_frames"] == scan.num_points
        assert service.pid == pid and service.restarts == []
        ask(service.address, "clear", service.credentials)
        assert ask_snapshot(service.address)[1] == []


def test_a_folder_of_results_that_is_away_for_a_while(scan: RecordedScan, tmp_path: Path) -> None:
    """What is changed meanwhile is in force, and nothing that cannot begin ends what there is."""
    results = tmp_path / "results"
    with (
        ProcessingService(scan.settings(tmp_path, sweep_frames=0, passes_final=2)) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        owner = service.credentials
        shutil.rmtree(results)
        results.write_text("a file in its place")
        changed = ask(service.address, "configure", owner, settings={"solver.modes": 1, "solver.most_modes": 1})
        assert changed["settings"]["solver"]["modes"] == 1
        with pytest.raises(ControlError, match=str(results)):
            ask(service.address, "reset", owner)
        results.unlink()
        session.send(scan.documents)
        assert session.connection.wait(TIMEOUT_S)
        result = session.connection.results[scan.uid]
        assert result["num_frames"] == scan.num_points and len(result["probe"]) == 1
        assert service.restarts == []


# ---- viewers and logs


def test_a_viewer_that_comes_late_and_a_shutdown_that_is_no_crash(scan: RecordedScan, tmp_path: Path) -> None:
    with (
        ProcessingService(scan.settings(tmp_path, sweep_frames=0, passes_final=2)) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        session.send(scan.documents)
        assert session.connection.wait(TIMEOUT_S)
        late = DerivedRuns(service.address)
        try:
            assert late.wait_for_state(TIMEOUT_S)
            early, state = session.connection.live.snapshot(), late.live.snapshot()
            assert state.finished and early.finished and len(state.positions_m) == scan.num_points
            assert state.reconstruction is not None and early.reconstruction is not None
            np.testing.assert_array_equal(state.reconstruction.object, early.reconstruction.object)
            assert late.heartbeat["instance"] == service.instance
        finally:
            late.close()
        ask(service.address, "shutdown", service.credentials)
        assert service.wait(TIMEOUT_S)
        assert service.restarts == []
        with pytest.raises(ServiceAway):
            ask(service.settings.address, "status", timeout_s=0.2)


def test_logs_rotate_by_module(tmp_path: Path) -> None:
    logs = ModuleLogs(tmp_path)
    for name in ("nsbluesky.callbacks.frame_source", "nsbluesky.service.server", "h5py._conv", "odd/../name"):
        logs.handle(logging.makeLogRecord({"name": name, "msg": f"said by {name}", "levelno": logging.INFO}))
    for _ in range(3):
        big = {"name": "nsbluesky.service.server", "msg": "x" * MAX_BYTES, "levelno": logging.INFO}
        logs.handle(logging.makeLogRecord(big))
    logs.close()
    files = log_files(tmp_path)
    assert sorted(files) == ["frame_source", "h5py", "other", "server"]
    assert "said by nsbluesky.callbacks.frame_source" in files["frame_source"].read_text()
    assert sorted(path.name for path in tmp_path.glob("server*")) == [
        "server.log",
        *(f"server.log.{k}" for k in (1, 2, 3)),
    ]


def test_logs_are_followed_through_rotation(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text("one\n")
    stop = threading.Event()
    lines = follow(path, stop)
    assert next(lines) == "one\n"
    with path.open("a") as file:
        file.write("two\n")
    assert next(lines) == "two\n"
    path.rename(tmp_path / "server.log.1")
    path.write_text("three\n")
    assert next(lines) == "three\n"
    stop.set()
    assert list(lines) == []


def test_no_log_in_between_is_lost(tmp_path: Path) -> None:
    """Nor two of them: whoever follows looks now and then."""
    path = tmp_path / "server.log"
    handler = logging.handlers.RotatingFileHandler(path, backupCount=BACKUPS)
    told = [f"{number}\n" for number in range(BACKUPS + 1)]
    stop = threading.Event()
    given_up = threading.Timer(20.0, stop.set)
    given_up.start()
    lines = follow(path, stop)
    handler.handle(logging.makeLogRecord({"msg": "0"}))
    assert next(lines) == told[0]
    for number in range(1, BACKUPS + 1):
        handler.doRollover()
        handler.handle(logging.makeLogRecord({"msg": f"{number}"}))
    assert [next(lines, "") for _ in told[1:]] == told[1:]
    for _ in range(BACKUPS + 1):  # the one that is read is removed
        handler.doRollover()
    handler.handle(logging.makeLogRecord({"msg": "newest"}))
    assert next(lines, "") == "newest\n"
    handler.close()
    given_up.cancel()
    stop.set()
    assert list(lines) == []


def test_a_log_that_is_put_aside_while_it_is_opened_is_followed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "server.log"
    path.write_text("one\n")
    open_file = Path.open

    def open_and_rotate(self: Path, *args: Any, **kwargs: Any) -> Any:
        file = open_file(self, *args, **kwargs)
        monkeypatch.setattr(Path, "open", open_file)
        path.rename(tmp_path / "server.log.1")
        path.write_text("two\n")
        return file

    monkeypatch.setattr(Path, "open", open_and_rotate)
    stop = threading.Event()
    given_up = threading.Timer(20.0, stop.set)
    given_up.start()
    lines = follow(path, stop)
    assert [next(lines, None), next(lines, None)] == ["one\n", "two\n"]
    given_up.cancel()
    stop.set()


def test_an_image_that_cannot_be_read_here_costs_no_connection(tmp_path: Path) -> None:
    """The file is shorter than the documents tell, as after a copy that was cut off."""
    with h5py.File(tmp_path / "reconstruction.h5", "w") as file:
        file["object"] = np.zeros((1, 4, 4), np.complex64)
    run = event_model.compose_run()
    key = {"source": "test", "dtype": "array", "shape": [4, 4], "external": "STREAM:"}
    bundle = run.compose_descriptor(name="reconstruction", data_keys={"object": key})
    resource = run.compose_stream_resource(
        mimetype="application/x-hdf5",
        uri=f"file://localhost{tmp_path / 'reconstruction.h5'}",
        data_key="object",
        parameters={"dataset": "object"},
    )
    datum = resource.compose_stream_datum(
        indices={"start": 0, "stop": 2}, seq_nums={"start": 1, "stop": 3}, descriptor=bundle.descriptor_doc
    )
    log = DocumentLog(tmp_path / "derived")
    log("start", run.start_doc)
    log("descriptor", bundle.descriptor_doc)
    log("stream_resource", resource.stream_resource_doc)
    log("stream_datum", datum)
    log.close()
    uid = run.start_doc["uid"]
    with Connection(f"tcp://127.0.0.1:{free_port()}", tmp_path / "documents") as connection:
        connection._note_finished(
            FinishedRun("raw", uid, documents=str(tmp_path / f"derived/{uid}.jsonl")), shown=False
        )
        assert connection.finished.keys() == {"raw"}
        assert "cannot be read here" in connection.errors["raw"]
