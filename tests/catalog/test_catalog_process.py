"""The process that writes the catalog: what becomes of runs when it, the session or SQLite is not at its best."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import adbc_driver_sqlite.dbapi
import event_model
import numpy as np
import psutil
import pytest
from bluesky import RunEngine
from bluesky import plans as bp
from flown_frames import Camera, fly
from ophyd import Signal

from nsbluesky.catalog import Catalog, CatalogWriter, open_catalog
from nsbluesky.catalog.process import LogsIntoCatalog
from nsbluesky.catalog.supervisor import WriterProcess
from nsbluesky.catalog.waiting import WaitingLogs
from nsbluesky.document_log import DocumentLog, read_documents

TIMEOUT_S = 60.0

Documents = list[tuple[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, new_catalog: Callable[[Path], Path]) -> Iterator[Catalog]:
    with open_catalog(new_catalog(tmp_path_factory.mktemp("catalog"))) as catalog:
        yield catalog
    assert list((catalog.directory / "waiting").iterdir()) == []


@pytest.fixture
def documents(RE: RunEngine, tmp_path: Path, rng: np.random.Generator) -> Documents:
    """Documents of a run with three dark and four light frames."""
    documents: Documents = []
    RE.subscribe(lambda name, document: documents.append((name, document)))
    streams = {name: rng.integers(0, 99, (n, 5, 6), dtype=np.uint16) for name, n in (("dark", 3), ("primary", 4))}
    RE(fly(Camera("fccd", tmp_path), streams))
    return documents


def counted(value: float) -> Documents:
    """Documents of a run with three events."""
    run = event_model.compose_run()
    keys = {"x": {"source": "test", "dtype": "number", "shape": []}}
    stream = run.compose_descriptor(name="primary", data_keys=keys)
    events = [stream.compose_event(data={"x": value}, timestamps={"x": 0.0}) for _ in range(3)]
    named = [("start", run.start_doc), ("descriptor", stream.descriptor_doc)]
    return [*named, *(("event", event) for event in events), ("stop", run.compose_stop())]


def feed(writer: CatalogWriter | DocumentLog, documents: Documents) -> None:
    for name, document in documents:
        writer(name, document)


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Nobody else can write.  Tiled has a SQLite of its own for tables, and Python's would take away its locks."""
    if database.name == "tables.db":
        connection = adbc_driver_sqlite.dbapi.connect(str(database), autocommit=True)
    else:
        connection = sqlite3.connect(database, isolation_level=None)
    with contextlib.closing(connection), contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        yield
        cursor.execute("ROLLBACK")


def kill(catalog: Catalog, number: signal.Signals = signal.SIGKILL) -> None:
    assert catalog.writer_pid is not None
    os.kill(catalog.writer_pid, number)


def test_killed_in_the_middle_of_runs_nothing_is_lost_or_twice(catalog: Catalog, documents: Documents) -> None:
    """One run is whole, two are half written, and one waits in the input of a process that stands still."""
    writer, whole, half, waiting = catalog.writer(), counted(1.0), counted(2.0), counted(3.0)
    uid = documents[0][1]["uid"]
    feed(writer, whole)
    feed(writer, half[:4])
    feed(writer, documents[: len(documents) // 2])
    assert writer.flush(TIMEOUT_S)
    assert uid in catalog.client and "stop" not in catalog.client[uid].metadata
    kill(catalog, signal.SIGSTOP)
    feed(writer, waiting)
    assert not writer.flush(0.01)
    kill(catalog)
    feed(writer, documents[len(documents) // 2 :])
    feed(writer, half[4:])
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    for name, count in (("dark", 3), ("primary", 4)):
        assert catalog.client[uid][name]["fccd_image"][:].shape == (count, 5, 6)
    for run, value in ((whole, 1.0), (half, 2.0), (waiting, 3.0)):
        assert catalog.client[run[0][1]["uid"]]["primary"]["x"][:].tolist() == [value] * 3
    assert not writer.backup_directory.exists()


def test_flush_waits_for_what_was_given_and_close_ends_it(catalog: Catalog) -> None:
    writer = catalog.writer()
    feed(writer, counted(0.0))
    assert writer.flush(TIMEOUT_S)
    run = event_model.compose_run()
    kill(catalog, signal.SIGSTOP)
    writer("start", run.start_doc)
    assert not writer.flush(0.01)
    kill(catalog, signal.SIGCONT)
    assert writer.flush(TIMEOUT_S)
    assert run.start_doc["uid"] in catalog.client
    writer.close()
    writer.close()
    assert writer.flush(0)
    writer("stop", run.compose_stop())
    assert "closed" in next(iter(writer.errors.values()))


@pytest.mark.parametrize("database", ["catalog.db", "tables.db"])
def test_it_waits_where_another_process_has_locked_a_database(catalog: Catalog, database: str) -> None:
    """SQLite waits by itself for the first one; the run is written again for the second one."""
    writer, run = catalog.writer(), counted(3.0)
    with locked(catalog.directory / database):
        feed(writer, run)
        assert not writer.flush(0.2)
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    assert catalog.client[run[0][1]["uid"]]["primary"]["x"][:].tolist() == [3.0] * 3


class Deadly(WriterProcess):
    command = (sys.executable, "-S", "-c", "raise SystemExit(3)")


def test_a_run_that_no_process_survives_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    process = Deadly(tmp_path)
    writer, run = CatalogWriter(process), counted(1.0)
    uid = run[0][1]["uid"]
    feed(writer, run)
    assert writer.flush(TIMEOUT_S)
    assert "ended with status 3" in writer.errors[uid] and uid in caplog.text
    assert [name for name, _ in read_documents(uid, writer.backup_directory)] == [name for name, _ in run]
    feed(writer, run[:3])
    writer.close()
    process.close()
    assert [name for name, _ in read_documents(uid, writer.backup_directory)] == [name for name, _ in run[:3]]


@pytest.mark.nightly
def test_what_a_killed_session_leaves_is_written(catalog: Catalog) -> None:
    """Its run becomes one that was aborted; the events till then are there."""
    script = (
        "import json, os, sys\n"
        "from nsbluesky.catalog import open_catalog\n"
        "catalog = open_catalog(sys.argv[1])\n"
        "writer = catalog.writer()\n"
        "for name, document in json.loads(sys.argv[2]):\n"
        "    writer(name, document)\n"
        "writer.flush()\n"
        "os.kill(os.getpid(), 9)"
    )
    run = counted(4.0)[:-1]
    # the output is whole when the writing process has ended as well
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, catalog.directory, json.dumps(run)],
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    entry = catalog.client[run[0][1]["uid"]]
    assert entry.stop["exit_status"] == "abort" and "session ended" in entry.stop["reason"]
    assert entry["primary"]["x"][:].tolist() == [4.0] * 3


def test_the_process_can_be_there_before_the_first_run_and_after_the_session(
    catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    """A session that does not wait leaves the writing to it."""
    process, run, last = WriterProcess(catalog.directory), counted(8.0), counted(7.0)
    process.start()
    assert process.flush(TIMEOUT_S)
    pid = process.pid
    assert pid is not None
    process.start()
    writer = CatalogWriter(process)
    feed(writer, run)
    assert writer.flush(TIMEOUT_S) and process.pid == pid
    assert catalog.client[run[0][1]["uid"]]["primary"]["x"][:].tolist() == [8.0] * 3
    with locked(catalog.directory / "catalog.db"):
        feed(writer, last)
        writer.close(timeout=0.0)
        process.close(timeout=0.0)
    assert "goes on writing" in caplog.text and process.pid == pid
    psutil.Process(pid).wait(TIMEOUT_S)
    assert catalog.client[last[0][1]["uid"]]["primary"]["x"][:].tolist() == [7.0] * 3
    assert not process.waiting.directory.exists()


def test_a_session_does_not_wait_for_a_process_that_has_nothing_to_write(
    catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    process = WriterProcess(catalog.directory)
    process.start()
    assert process.flush(TIMEOUT_S) and process.pid is not None
    pid = process.pid
    os.kill(pid, signal.SIGSTOP)  # as one that imports
    process.close(TIMEOUT_S)
    assert not psutil.pid_exists(pid) and caplog.text == ""


def test_a_folder_that_somebody_takes_away_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = WaitingLogs(tmp_path / "waiting" / "1-new", tmp_path / "failed")
    flock, calls = fcntl.flock, []

    def take_away(descriptor: int, operation: int) -> None:
        if not calls:
            waiting.directory.rmdir()
        calls.append(operation)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", take_away)
    waiting.open()
    assert waiting.directory.is_dir() and len(calls) == 2
    with WaitingLogs(tmp_path / "waiting" / "2-next", tmp_path / "failed").left_by_others() as left:
        assert left == []
    waiting.close()


def test_what_a_session_and_its_process_leave_is_written_by_the_next(catalog: Catalog) -> None:
    failed, runs = catalog.directory / "failed", [counted(5.0), counted(6.0)[:-1]]
    dead = DocumentLog(catalog.directory / "waiting" / "1-dead")
    feed(dead, runs[0] + runs[1])
    dead.close()
    before_its_first_run = catalog.directory / "waiting" / "1-dead-too"
    before_its_first_run.mkdir()
    alive = WaitingLogs(catalog.directory / "waiting" / "2-alive", failed)
    alive.open()
    (alive.directory / "run.jsonl").write_text("")
    told: list[dict[str, Any]] = []
    own = WaitingLogs(catalog.directory / "waiting" / "3-own", failed)
    LogsIntoCatalog(catalog.client, own, lambda **message: told.append(message)).take_over()
    assert [list(message) for message in told] == [["done"], ["done"]]
    for run, status in zip(runs, ("success", "abort"), strict=True):
        assert catalog.client[run[0][1]["uid"]].stop["exit_status"] == status
    assert not dead.directory.exists() and not before_its_first_run.exists()
    alive.remove(alive.directory / "run.jsonl")
    alive.close()
    assert not alive.directory.exists() and not failed.exists()


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(catalog: Catalog, seed: int) -> None:
    writer, runs, rng = catalog.writer(), [counted(float(k)) for k in range(12)], random.Random(seed)
    feed(writer, counted(0.0))
    assert writer.flush(TIMEOUT_S)
    for first in range(0, len(runs), 3):
        for documents in zip(*runs[first : first + 3], strict=True):  # three at a time
            feed(writer, list(documents))
        writer.flush(rng.uniform(0.0, 1.0))
        kill(catalog)
        assert writer.flush(TIMEOUT_S)
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    for k, run in enumerate(runs):
        assert catalog.client[run[0][1]["uid"]]["primary"]["x"][:].tolist() == [float(k)] * 3


@pytest.mark.nightly
def test_two_sessions_write_and_one_reads(catalog: Catalog) -> None:
    runs = [counted(float(k)) for k in range(16)]
    with open_catalog(catalog.directory) as other:
        writers = catalog.writer(), other.writer()
        for writer in writers:
            feed(writer, counted(0.0))
            assert writer.flush(TIMEOUT_S)
        for k, run in enumerate(runs):
            feed(writers[k % 2], run)
        while not all(writer.flush(0.01) for writer in writers):
            entry = catalog.client[-1]
            if entry.metadata.get("stop"):
                assert entry["primary"]["x"][:].shape == (3,)
        assert [writer.errors for writer in writers] == [{}, {}]
    for k, run in enumerate(runs):
        assert catalog.client[run[0][1]["uid"]]["primary"]["x"][:].tolist() == [float(k)] * 3


@pytest.mark.nightly
def test_another_process_finds_the_runs(RE: RunEngine, catalog: Catalog) -> None:
    writer = catalog.writer()
    RE.subscribe(writer)
    uid = RE(bp.count([Signal(name="x", value=7.0)], 3)).run_start_uids[0]
    assert writer.flush(TIMEOUT_S)
    script = (
        "import sys; from nsbluesky.catalog import open_catalog\n"
        "with open_catalog(sys.argv[1]) as c: print(c.client[sys.argv[2]]['primary']['x'][:].tolist())"
    )
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, catalog.directory, uid],
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    assert "[7.0, 7.0, 7.0]" in output.stdout
