"""The catalog: databroker and its server tiled inside this process, on SQLite; no port, nothing to start."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import fcntl
import logging
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import adbc_driver_sqlite.dbapi
import alembic.command
import alembic.config
import tiled.catalog
import tiled.client
from bluesky_tiled_plugins.exporters import json_seq_exporter
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from tiled.catalog.alembic_constants import ALEMBIC_DIR
from tiled.catalog.core import initialize_database
from tiled.media_type_registration import default_serialization_registry
from tiled.queries import Eq, KeyPresent
from tiled.server.app import build_app

from nsbluesky.catalog.current import current_client
from nsbluesky.catalog.supervisor import WriterProcess
from nsbluesky.catalog.writer import CatalogWriter
from nsbluesky.document_log import DocumentLogError
from nsbluesky.folders import data_directory

__all__ = ["Catalog", "open_catalog"]

logger = logging.getLogger(__name__)

RAW_UID = "raw_uid"
"""Key that only the start documents of derived runs have."""

QUIETLY_S, PATIENCE_S = 5.0, 30.0
"""For which a look-up waits for runs on their way, without a word and in all."""


def open_catalog(directory: str | Path | None = None, readable: Iterable[str | Path] = ("/",)) -> Catalog:
    """Open the catalog of a directory; the first time it is made, which takes a second.

    Parameters
    ----------
    directory : path, optional
        ``catalog`` in `data_directory` by default.
    readable : iterable of path
        Folders that frames may be read from.  Everything that this user may read by default: nobody else can reach
        a catalog inside this process.
    """
    folder = Path(directory) if directory is not None else data_directory() / "catalog"
    folder, folders = folder.resolve(), [str(Path(path).resolve()) for path in readable]
    folder.mkdir(parents=True, exist_ok=True)
    # Two processes that make the same catalog at once would each leave half of it.
    with _lock(folder / "lock"):
        if not _is_made(folder / "catalog.db"):
            with ThreadPoolExecutor(1) as thread:  # IPython's may be within an event loop
                thread.submit(_make, folder / "catalog.db").result()
        tree = tiled.catalog.from_uri(
            f"sqlite:///{folder}/catalog.db",
            specs=[{"name": "CatalogOfBlueskyRuns", "version": "3.0"}],
            writable_storage=[str(folder / "data"), f"sqlite:///{folder}/tables.db"],
            readable_storage=folders,
        )
        _let_tables_be_read_while_written(folder / "tables.db")
    registry = copy.copy(default_serialization_registry)
    registry.register("BlueskyRun", "application/json-seq", json_seq_exporter)  # documents() asks for it
    with _quiet():
        app = build_app(tree, serialization_registry=registry)
        app.add_middleware(_NoStreams)
        context = tiled.client.Context.from_app(app)
    return Catalog(folder, context, WriterProcess(folder, folders))


def _make(database: Path) -> None:
    """Make tiled's tables, as `tiled catalog init` does, whole or not at all; what is half made is set aside.

    tiled itself would do it in a process, which imports all of tiled once more: five seconds.
    """
    new, aside = database.with_suffix(".new"), database.with_suffix(".incomplete")
    for part in ("", "-wal", "-shm"):  # SQLite's own files beside it
        Path(f"{new}{part}").unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            Path(f"{database}{part}").replace(f"{aside}{part}")
    uri = f"sqlite+aiosqlite:///{new}"

    async def make_tables() -> None:
        engine = create_async_engine(uri)
        try:
            await initialize_database(engine)
        finally:
            await engine.dispose()

    asyncio.run(make_tables())
    version = alembic.config.Config()  # tiled's own would put the working directory on sys.path
    options = {"script_location": ALEMBIC_DIR, "sqlalchemy.url": uri, "path_separator": "os"}
    for name, value in options.items():
        version.set_main_option(name, value.replace("%", "%%"))
    alembic.command.stamp(version, "head")
    with contextlib.closing(sqlite3.connect(new)) as made:
        made.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # all is in the one file that gets the name
    new.replace(database)


def _let_tables_be_read_while_written(database: Path) -> None:
    """Give the tables the journal that tiled gives the catalog itself; the file remembers it.

    By the SQLite that tiled uses for them: it has one of its own in ADBC, and Python's would take away its locks.
    """
    with (
        adbc_driver_sqlite.dbapi.connect(str(database), autocommit=True) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("PRAGMA journal_mode = WAL")


class _NoStreams:
    """Answers at the server's door that a stream is closed: there are none without tiled's streaming cache.

    TiledWriter closes one for every node of a run, which is a third of its requests.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and scope["method"] == "DELETE" and "/stream/close/" in scope["path"]:
            await Response(status_code=204)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what tiled's server says at its start, and Starlette's advice to tiled, out of a session."""
    server = logging.getLogger("tiled.server.app")
    level = server.level
    server.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using `httpx` with `starlette")
            yield
    finally:
        server.setLevel(level)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_made(database: Path) -> bool:
    """Return whether tiled's tables are complete; its version is what initialisation writes last."""
    if not database.is_file():
        return False
    with contextlib.closing(sqlite3.connect(database)) as connection:
        try:
            return bool(connection.execute("SELECT count(*) FROM alembic_version").fetchone()[0])
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return False
            raise


class Finished(Protocol):
    """A run whose processing is over, as `nsbluesky.service` records it."""

    @property
    def derived_uid(self) -> str:
        """The uid of the derived run, "" for none."""

    @property
    def reason(self) -> str:
        """Why it failed."""

    @property
    def documents(self) -> str:
        """Path of its document log, "" for none."""


class Catalog:
    """An open catalog; use it as a context manager, or `close` it (see `open_catalog`).

    Attributes
    ----------
    directory : Path
    client : tiled client
        databroker's catalog: ``client[-1]``, ``client[uid]``, ``client[scan_id]``, lazy arrays.  A look-up waits up
        to 30 s for what its writers were given; after that one by a number raises `CatalogBehind`, others find
        what is there.
    scans : tiled client
        The same without the derived runs: ``scans[-1]`` is the latest scan, also when its processing has come later.
    find_finished : callable
        Takes the uid of a run and returns what became of its processing, a `Finished`, or None: not over yet.
    """

    def __init__(self, directory: Path, context: Any, process: WriterProcess) -> None:
        self.directory = directory
        self._context = context
        self._process = process
        self.client = current_client(context, self._catch_up)
        self.scans = self.client.search(KeyPresent(RAW_UID, exists=False))
        self.find_finished: Callable[[str], Finished | None] = lambda uid: None
        self._writers: list[CatalogWriter] = []

    @property
    def writer_pid(self) -> int | None:
        """Process id of what writes, None before `start_writing` and the first run."""
        return self._process.pid

    def start_writing(self) -> None:
        """Start the process that writes; else it starts with the first run, and a look-up waits seconds for that."""
        self._process.start()

    def writer(self) -> CatalogWriter:
        """Return a callback for ``RE.subscribe`` that writes runs into the catalog."""
        writer = CatalogWriter(self._process)
        self._writers.append(writer)
        return writer

    def processed(self, scan: Any = -1) -> Any:
        """Return the derived run of a scan: what its processing has found; the newest one where there are several.

        Parameters
        ----------
        scan : run, int or str
            As in ``processed(db[-1])``, or what `scans` finds it by: ``processed(12)``.

        Raises
        ------
        LookupError
            If there is no such scan, or nothing of its processing: not yet, or because that failed.
        CatalogBehind
            For a number, while the latest scans are not in the catalog.
        """
        run = self.scans[scan] if isinstance(scan, (int, str)) else scan
        start = run.metadata["start"]
        derived = self.client.search(Eq(RAW_UID, start["uid"])).values()
        if not len(derived):
            self._write_finished(start)
        return derived.last()

    def _write_finished(self, start: Mapping[str, Any]) -> None:
        """Write the derived run of a run whose processing was over after its session."""
        uid = start["uid"]
        finished = self.find_finished(uid)
        if finished is None and "ptycho" in start:
            raise LookupError(
                f"nothing of the processing of run {uid[:8]} is in the catalog yet: pipeline.wait() waits for what "
                f"goes on, 'nsbluesky resume' tells what is unfinished"
            )
        if finished is None or not finished.derived_uid:
            raise LookupError(f"run {uid[:8]} was not processed: its start document has no 'ptycho' entry")
        if not finished.documents:
            raise LookupError(
                f"the processing of run {uid[:8]} has left nothing for the catalog: {finished.reason}; "
                f"'nsbluesky resume {uid[:8]}' tries again"
            )
        writer = self.writer()
        try:
            writer.write_log(finished.documents)
        except DocumentLogError as error:
            raise LookupError(f"the processing of run {uid[:8]} is over, but its log is gone: {error}") from error
        writer.flush()
        if reason := writer.errors.get(finished.derived_uid):
            raise LookupError(f"the processing of run {uid[:8]} cannot be written into the catalog: {reason}")

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything given to its writers is written; False if that took longer than `timeout` seconds."""
        return self._process.flush(timeout)

    def _catch_up(self) -> bool:
        """Wait for what was given to the writers; return whether all of it is there."""
        if self.flush(QUIETLY_S):
            return True
        logger.warning("the catalog is behind: waiting up to %g s for the latest runs", PATIENCE_S - QUIETLY_S)
        if self.flush(PATIENCE_S - QUIETLY_S):
            return True
        logger.warning("the catalog is behind, the latest runs may be missing: flush() waits for them")
        return False

    def close(self, timeout: float | None = None) -> None:
        """Write what waits, and close the catalog; what takes longer than `timeout` seconds is written afterwards."""
        for writer in self._writers:
            writer.close(timeout=0.0)
        self._process.close(timeout)
        self._context.__exit__(None, None, None)

    def __enter__(self) -> Self:
        """Return the catalog itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the catalog."""
        self.close()
