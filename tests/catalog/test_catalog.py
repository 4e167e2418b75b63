"""The catalog: real runs into real SQLite, read back through databroker's client."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import event_model
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plans as bp
from bluesky.protocols import Flyable, Readable
from bluesky.utils import is_plan
from flown_frames import Camera, fly
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from ophyd import Signal
from ophyd.sim import SynAxis, SynGauss
from tiled.queries import Eq

from nsbluesky.catalog import Catalog, CatalogBehind, CatalogWriter, open_catalog
from nsbluesky.catalog.catalog import ctrl_c_waits
from nsbluesky.catalog.database import is_made
from nsbluesky.catalog.lazy_client import LazyClient
from nsbluesky.catalog.run_writer import RowsLeftOut, run_writer
from nsbluesky.document_log import DocumentLog, DocumentLogError, read_documents
from nsbluesky.folders import data_directory
from nsbluesky.replay import ROWS_LEFT_OUT, documents_of, replay

# Starlette speaks about its test client, which tiled uses to reach its server inside the process.

TIMEOUT_S = 60.0


def test_a_step_scan_is_found_in_every_way(RE: RunEngine, catalog: Catalog) -> None:
    writer = catalog.writer()
    RE.subscribe(writer)
    motor = SynAxis(name="motor")
    uid = RE(bp.scan([SynGauss("det", motor, "motor", 0, 1)], motor, -1, 1, 5)).run_start_uids[0]
    assert writer.flush(TIMEOUT_S)
    assert writer.errors == {}
    for run in (catalog.client[-1], catalog.client[uid], catalog.client[RE.md["scan_id"]]):
        assert run.start["uid"] == uid and run.stop["exit_status"] == "success"
    np.testing.assert_allclose(catalog.client[uid]["primary"]["motor"][:], np.linspace(-1, 1, 5))


def test_the_last_run_is_there_once_it_is_flushed(RE: RunEngine, catalog: Catalog) -> None:
    writer = catalog.writer()
    RE.subscribe(writer)
    for _ in range(3):
        uid = RE(bp.count([Signal(name="x", value=1.0)])).run_start_uids[0]
        assert writer.flush(TIMEOUT_S)
        assert catalog.client[-1].start["uid"] == uid


def test_a_look_up_waits_for_the_run_that_has_just_ended(RE: RunEngine, catalog: Catalog) -> None:
    RE.subscribe(catalog.writer())
    look_ups: list[Callable[[str, int], Any]] = [
        lambda uid, scan_id: catalog.client[-1],
        lambda uid, scan_id: catalog.client[uid],
        lambda uid, scan_id: catalog.client[uid[:8]],
        lambda uid, scan_id: catalog.client[scan_id],
        lambda uid, scan_id: catalog.client.values().last(),
        lambda uid, scan_id: catalog.client.search(Eq("start.uid", uid)).values()[0],
    ]
    for look_up in look_ups:
        count = len(list(catalog.client))
        uid = RE(bp.count([Signal(name="x", value=1.0)], 5)).run_start_uids[0]
        run = look_up(uid, RE.md["scan_id"])
        assert (run.start["uid"], run.metadata["stop"]["exit_status"]) == (uid, "success")
        assert (len(list(catalog.client)), len(list(catalog.client.keys()))) == (count + 1, count + 1)


def test_a_look_up_does_not_give_another_run_while_the_catalog_is_behind(
    RE: RunEngine, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The process that writes may get no processor for half a minute: what is the latest is not known then."""
    writer = catalog.writer()
    RE.subscribe(writer)
    uid = RE(bp.count([Signal(name="x", value=1.0)])).run_start_uids[0]
    assert writer.flush(TIMEOUT_S)
    waited: list[float | None] = []
    monkeypatch.setattr(catalog, "flush", lambda timeout=None: waited.append(timeout))
    for key in (-1, RE.md["scan_id"], slice(-1, None)):
        for client in (catalog.client, catalog.scans):
            with pytest.raises(CatalogBehind, match=r"may be a run that is not in the catalog yet: try again"):
                client[key]
    assert waited == [5.0, 25.0] * 6
    assert "waiting up to 25 s for the latest runs" in caplog.text
    assert catalog.client[uid].start["uid"] == uid, "what is named is no other run"
    answers = iter([False, True])
    monkeypatch.setattr(catalog, "flush", lambda timeout=None: next(answers, True))
    assert catalog.client[-1].start["uid"] == uid


def write_derived_run(writer: CatalogWriter | DocumentLog, raw_uid: str) -> str:
    run = event_model.compose_run(metadata={"plan_name": "ptycho_processing", "raw_uid": raw_uid})
    writer("start", dict(run.start_doc))
    writer("stop", dict(run.compose_stop()))
    return str(run.start_doc["uid"])


def test_a_scan_stays_the_latest_when_its_processing_has_come(RE: RunEngine, catalog: Catalog) -> None:
    writer = catalog.writer()
    RE.subscribe(writer)
    x = Signal(name="x", value=1.0)
    before, uid = (RE(bp.count([x], md={"ptycho": {}})).run_start_uids[0] for _ in range(2))
    count = len(catalog.scans)
    with pytest.raises(LookupError, match=f"nothing of the processing of run {uid[:8]} is in the catalog yet"):
        catalog.processed(catalog.scans[-1])
    write_derived_run(writer, uid)
    again = write_derived_run(writer, uid)
    other = write_derived_run(writer, before)
    assert [catalog.scans[k].start["uid"] for k in (-1, -2)] == [uid, before]
    assert catalog.scans.v2[-1].metadata["start"]["uid"] == catalog.scans.v3[-1].start["uid"] == uid
    assert catalog.scans[RE.md["scan_id"]].start["uid"] == catalog.scans[uid[:8]].start["uid"] == uid
    assert catalog.scans.search(Eq("plan_name", "count"))[-1].start["uid"] == uid and len(catalog.scans) == count
    for scan in (catalog.scans[-1], -1, RE.md["scan_id"], uid, uid[:8]):
        assert catalog.processed(scan).start["uid"] == again
    assert catalog.processed(-2).start["uid"] == catalog.client[-1].start["uid"] == other
    with pytest.raises(LookupError):
        catalog.processed("0123456789")


@dataclass
class Finished:
    derived_uid: str = ""
    reason: str = ""
    documents: str = ""


def test_a_processing_that_was_over_after_its_session_is_written_when_it_is_asked_for(
    RE: RunEngine, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RE.subscribe(catalog.writer())
    uid = RE(bp.count([Signal(name="x", value=1.0)])).run_start_uids[0]
    finished = Finished()

    def refusal() -> str:
        with pytest.raises(LookupError) as error:
            catalog.processed(uid)
        return str(error.value)

    for found in ({}, {uid: finished}):
        monkeypatch.setattr(catalog, "find_finished", found.get)
        assert f"run {uid[:8]} was not processed: its start document has no 'ptycho'" in refusal()
    finished.derived_uid, finished.reason = "somewhere", "DerivedRunWriter: no space left"
    assert (
        f"has left nothing for the catalog: DerivedRunWriter: no space left; 'nsbluesky resume {uid[:8]}'"
        in refusal()
    )
    finished.documents = str(tmp_path / "somewhere.jsonl")
    assert "its log is gone" in refusal()
    Path(finished.documents).write_text("no document\n")
    assert "cannot be written into the catalog: DocumentLogError" in refusal()
    log = DocumentLog(tmp_path)
    derived = write_derived_run(log, uid)
    finished.derived_uid, finished.documents = derived, str(tmp_path / f"{derived}.jsonl")
    assert catalog.processed(uid).start["uid"] == derived


def test_frames_are_read_by_reference_stream_by_stream(
    RE: RunEngine, catalog: Catalog, tmp_path: Path, rng: np.random.Generator
) -> None:
    writer = catalog.writer()
    RE.subscribe(writer)
    RE.subscribe(DocumentLog(tmp_path / "log"))
    streams = {
        "dark": rng.integers(0, 99, (3, 5, 6), dtype=np.uint16),
        "primary": rng.integers(0, 99, (4, 5, 6), dtype=np.uint16),
    }
    uid = RE(fly(Camera("fccd", tmp_path), streams)).run_start_uids[0]
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    for stream, frames in streams.items():
        array = catalog.client[uid][stream]["fccd_image"]
        assert array.shape == frames.shape
        np.testing.assert_array_equal(array[1:3], frames[1:3])
    for documents in (documents_of(uid, tmp_path / "log"), documents_of(uid, catalog=catalog)):
        names = [name for name, _ in documents]
        assert (names[0], names[-1]) == ("start", "stop") and names.count("stream_resource") == 2


def test_whole_numbers_first_and_fractions_later(RE: RunEngine, catalog: Catalog) -> None:
    writer = catalog.writer()
    RE.subscribe(writer)
    signal = Signal(name="signal", value=0)

    def plan() -> Any:
        for value in (1, 2.5):
            yield from bps.abs_set(signal, value, wait=True)
            yield from bps.trigger_and_read([signal])

    uid = RE(bpp.run_wrapper(plan())).run_start_uids[0]
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    assert catalog.client[uid].stop is not None
    assert catalog.client[uid]["primary"]["signal"][:].tolist() == [1.0, 2.5]


@pytest.mark.parametrize("shape", [(3,), (20, 10)])
def test_inline_arrays_of_old_devices(RE: RunEngine, catalog: Catalog, shape: tuple[int, ...]) -> None:
    writer = catalog.writer()
    RE.subscribe(writer)
    image = np.arange(np.prod(shape), dtype=float).reshape(shape)
    uid = RE(bp.count([Signal(name="image", value=image)], 2)).run_start_uids[0]
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    np.testing.assert_array_equal(np.stack(list(catalog.client[uid]["primary"]["image"][:])), [image, image])


def test_trouble_never_fails_a_run_and_loses_no_document(
    RE: RunEngine, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    writer = catalog.writer()

    def break_event(name: str, document: dict[str, Any]) -> None:
        if name == "event" and "bad" in document["data"]:
            document = {**document, "data": {}, "seq_num": "three"}
        writer(name, document)

    RE.subscribe(break_event)
    bad = RE(bp.count([Signal(name="bad", value=1.0)], 2)).run_start_uids[0]
    good = RE(bp.count([Signal(name="good", value=1.0)], 2)).run_start_uids[0]
    assert writer.flush(TIMEOUT_S)
    assert writer.errors.keys() == {bad} and bad in caplog.text
    names = [name for name, _ in read_documents(bad, writer.backup_directory)]
    assert names == ["start", "descriptor", "event", "event", "stop"]
    assert catalog.client[good]["primary"]["good"].shape == (2,)


def test_a_run_that_cannot_be_logged_is_told(catalog: Catalog) -> None:
    writer, run = catalog.writer(), event_model.compose_run()
    uid = run.start_doc["uid"]
    writer("start", run.start_doc)
    writer("descriptor", {"uid": "d", "run_start": uid, "what": object()})
    writer("stop", run.compose_stop())
    assert writer.flush(TIMEOUT_S)
    assert "ends before the run does" in writer.errors[uid]
    assert [name for name, _ in read_documents(uid, writer.backup_directory)] == ["start"]


def test_a_run_that_two_writers_are_given_is_there_once(RE: RunEngine, catalog: Catalog) -> None:
    writers = catalog.writer(), catalog.writer()
    for writer in writers:
        RE.subscribe(writer)
    uid = RE(bp.count([Signal(name="x", value=1.0)], 3)).run_start_uids[0]
    assert catalog.flush(TIMEOUT_S)
    assert [writer.errors for writer in writers] == [{}, {}]
    assert catalog.client[uid]["primary"]["x"].shape == (3,)


def test_a_run_that_is_in_the_catalog_is_not_written_again(RE: RunEngine, catalog: Catalog, tmp_path: Path) -> None:
    writer = catalog.writer()
    RE.subscribe(DocumentLog(tmp_path))
    RE.subscribe(writer)
    uid = RE(bp.count([Signal(name="x", value=1.0)], 3)).run_start_uids[0]
    replay(documents_of(uid, tmp_path), writer)
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    assert catalog.client[uid]["primary"]["x"].shape == (3,)


def test_a_run_that_was_left_half_written_is_written_again(RE: RunEngine, catalog: Catalog, tmp_path: Path) -> None:
    RE.subscribe(DocumentLog(tmp_path))
    uid = RE(bp.count([Signal(name="x", value=1.0)], 3)).run_start_uids[0]
    half = run_writer(catalog.client)
    for name, document in itertools.islice(documents_of(uid, tmp_path), 3):
        half(name, document)
    assert "stop" not in catalog.client[uid].metadata
    writer = catalog.writer()
    writer.write_log(tmp_path / f"{uid}.jsonl")
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    assert catalog.client[uid].stop["exit_status"] == "success"
    assert catalog.client[uid]["primary"]["x"].shape == (3,)


def test_a_run_from_a_log_that_stays_where_it_is(RE: RunEngine, catalog: Catalog, tmp_path: Path) -> None:
    RE.subscribe(DocumentLog(tmp_path))
    good, bad = (RE(bp.count([Signal(name="x", value=1.0)], 3)).run_start_uids[0] for _ in range(2))
    path = tmp_path / f"{bad}.jsonl"
    path.write_text(path.read_text().replace('"name": "event"', '"nume": "event"', 1))
    writer = catalog.writer()
    for uid in (good, bad):
        writer.write_log(tmp_path / f"{uid}.jsonl")
    assert writer.flush(TIMEOUT_S)
    assert catalog.client[good]["primary"]["x"].shape == (3,)
    assert writer.errors.keys() == {bad} and "line 3 is no document" in writer.errors[bad]
    assert (writer.backup_directory / path.name).read_text() == path.read_text()
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    with pytest.raises(DocumentLogError, match="no such document log"):
        writer.write_log(tmp_path / "nothing.jsonl")


def test_no_server_is_asked_to_close_a_stream(catalog: Catalog) -> None:
    """There are no streams; an answer from the server would be that there is no such node."""
    url = f"{catalog.client.context.api_uri}stream/close/nowhere"
    assert catalog.client.context.http_client.delete(url).status_code == 204


def test_a_logged_run_can_be_brought_into_the_catalog(RE: RunEngine, catalog: Catalog, tmp_path: Path) -> None:
    RE.subscribe(DocumentLog(tmp_path))
    uid = RE(bp.count([Signal(name="x", value=1.0)], 3)).run_start_uids[0]
    assert uid not in catalog.client
    writer = catalog.writer()
    replay(documents_of(uid, tmp_path), writer)
    assert writer.flush(TIMEOUT_S)
    assert catalog.client[uid]["primary"]["x"].shape == (3,)


def test_data_live_where_the_environment_says(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_directory() == data_folder
    monkeypatch.delenv("NSBLUESKY_DATA")
    assert data_directory().name == "nsbluesky"


def test_a_run_with_two_files_of_frames_is_noted() -> None:
    """The IOC was away: nobody knows what is at the end of the first file."""
    rows = RowsLeftOut()
    for uid, start, stop in (("first", 0, 4), ("second", 0, 3)):
        rows.stream_resource({"uid": uid, "data_key": "image"})
        datum = {"descriptor": "d", "stream_resource": uid, "indices": {"start": start, "stop": stop}}
        assert rows.stream_datum(datum) is datum
    assert rows.stop({"run_start": "r"})[ROWS_LEFT_OUT] is True


def test_a_catalog_of_which_only_half_was_made_is_made_anew(
    tmp_path: Path, new_catalog: Callable[[Path], Path]
) -> None:
    """As a session leaves it that is killed at its first start."""
    with contextlib.closing(sqlite3.connect(new_catalog(tmp_path) / "catalog.db")) as made:
        made.execute("DROP TABLE alembic_version")
        made.execute("DROP TABLE webhooks")
    with open_catalog(tmp_path) as catalog:
        assert len(catalog.client) == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "catalog.db")) as made:
        assert made.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
        assert made.execute("SELECT count(*) FROM webhooks").fetchone() == (0,)
    assert (tmp_path / "catalog.incomplete").is_file() and not (tmp_path / "catalog.new").exists()


def test_a_catalog_that_cannot_be_read_now_is_not_taken_for_one_that_is_half_made(
    tmp_path: Path, new_catalog: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = new_catalog(tmp_path) / "catalog.db"
    before = database.read_bytes()
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, timeout=0.0))  # else it waits 5 s
    with contextlib.closing(sqlite3.connect(database)) as made:
        made.execute("PRAGMA journal_mode = DELETE")
        made.execute("PRAGMA locking_mode = EXCLUSIVE")
        made.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            is_made(database)
    assert len(database.read_bytes()) == len(before)


def test_no_client_is_made_to_say_that_it_is_no_device() -> None:
    """Else tiled would be imported as soon as bluesky-queueserver has read the startup files."""
    looks: list[str] = []

    def look() -> Any:
        looks.append("made")
        return object()

    client = LazyClient(look)
    assert not isinstance(client, (Readable, Flyable)) and not hasattr(client, "children")
    assert not is_plan(client)
    assert not looks


LOOKS = """
import pathlib, sys, threading
from nsbluesky.catalog import open_catalog

with open_catalog(sys.argv[1]) as catalog:
    db, processed, writer = catalog.scans, catalog.processed, catalog.writer()
    writer("start", {"uid": "a" * 36, "time": 1.0, "scan_id": 7})
    writer("stop", {"uid": "b" * 36, "time": 2.0, "run_start": "a" * 36, "exit_status": "success"})
    assert writer.flush(60)
    assert "tiled" not in sys.modules, "documents go into the catalog without it"
    assert (pathlib.Path(sys.argv[1]) / "catalog.db").is_file(), "the process that writes has made it"
    print(db)
    assert db[-1].start["scan_id"] == 7 and len(db) == 1 and list(db) == list(db.keys()) == ["a" * 36]
    assert "a" * 36 in db and "nowhere" not in db
"""


def test_the_first_look_opens_it(tmp_path: Path) -> None:
    """A session's prompt need not wait for what is not looked at."""
    done = subprocess.run(
        [sys.executable, "-c", LOOKS, str(tmp_path)], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "<Catalog {7}>\n", "")


def test_scans_are_used_as_databroker_s_catalog_is(catalog: Catalog) -> None:
    shell = InteractiveShell.instance()
    assert isinstance(catalog.scans, Mapping) and repr(copy.copy(catalog.scans)) == repr(catalog.scans)
    assert catalog.scans.get("nowhere") is None
    with pytest.raises(AttributeError):
        catalog.scans.nothing  # noqa: B018
    shell.push({"db": catalog.scans})
    assert {"search", "keys", "scan_id", "v2"} <= set(dir(catalog.scans))
    with provisionalcompleter():
        for text, found in (("db.sea", "search"), ("db.v2.sea", "search"), ("db.scan_", "scan_id")):
            assert found in {match.text.rpartition(".")[2] for match in shell.Completer.completions(text, len(text))}
    assert shell.display_formatter.format(catalog.scans)[0]["text/plain"] == repr(catalog.scans)


def test_a_catalog_that_is_closed_says_so(tmp_path: Path) -> None:
    catalog = open_catalog(tmp_path)
    catalog.close()
    for look in (lambda: catalog.client, lambda: catalog.scans[-1], catalog.processed, lambda: repr(catalog.scans)):
        with pytest.raises(RuntimeError, match="is closed: open it again"):
            look()


def test_where_no_catalog_can_be_that_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not at the first look, when a day's runs may have been lost to it."""
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        open_catalog(tmp_path / "file")
    (tmp_path / "catalog.db").write_bytes(b"no database " * 100)
    with pytest.raises(sqlite3.DatabaseError, match=r"catalog\.db cannot be read: file is not a database: expected"):
        open_catalog(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, who may do all
    with pytest.raises(PermissionError, match=r"catalog\.db may not be written: "):
        open_catalog(tmp_path)


def test_ctrl_c_at_the_first_look_leaves_no_half_of_a_module() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), ctrl_c_waits():
        signal.raise_signal(signal.SIGINT)
        done.append("all of the block")
    assert done == ["all of the block"]
