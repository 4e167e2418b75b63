"""The catalog: databroker and its server tiled inside this process, on SQLite; no port, nothing to start."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import logging
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import bluesky_tiled_plugins
import numpy as np
import tiled.catalog
import tiled.client
from bluesky.callbacks.buffer import BufferingWrapper
from bluesky_tiled_plugins.exporters import json_seq_exporter
from tiled.media_type_registration import default_serialization_registry
from tiled.server.app import build_app

from nsbluesky.document_log import DocumentLog
from nsbluesky.folders import data_directory
from nsbluesky.replay import FRAMES_MISPLACED, ROWS_LEFT_OUT
from nsbluesky.run_index import RunIndex

__all__ = ["Catalog", "CatalogWriter", "open_catalog"]

logger = logging.getLogger(__name__)


def open_catalog(directory: str | Path | None = None, readable: Iterable[str | Path] = ("/",)) -> Catalog:
    """Open the catalog of a directory; the first time it is made, which takes some seconds.

    Parameters
    ----------
    directory : path, optional
        ``catalog`` in `data_directory` by default.
    readable : iterable of path
        Folders that frames may be read from.  Everything that this user may read by default: nobody else can reach
        a catalog inside this process.
    """
    folder = Path(directory) if directory is not None else data_directory() / "catalog"
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    # Two processes that make the same catalog at once would each leave half of it.
    with _lock(folder / "lock"):
        tree = tiled.catalog.from_uri(
            f"sqlite:///{folder}/catalog.db",
            specs=[{"name": "CatalogOfBlueskyRuns", "version": "3.0"}],
            init_if_not_exists=not _is_made(folder / "catalog.db"),
            writable_storage=[str(folder / "data"), f"sqlite:///{folder}/tables.db"],
            readable_storage=[str(Path(path).resolve()) for path in readable],
        )
    registry = copy.copy(default_serialization_registry)
    registry.register("BlueskyRun", "application/json-seq", json_seq_exporter)  # documents() asks for it
    with _quiet():
        context = tiled.client.Context.from_app(build_app(tree, serialization_registry=registry))
    return Catalog(folder, context)


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
        except sqlite3.OperationalError:
            return False


class Catalog:
    """An open catalog; use it as a context manager, or `close` it (see `open_catalog`).

    Attributes
    ----------
    directory : Path
    client : tiled client
        databroker's catalog: ``client[-1]``, ``client[uid]``, ``client[scan_id]``, lazy arrays.
    """

    def __init__(self, directory: Path, context: Any) -> None:
        self.directory = directory
        self._context = context
        self.client = tiled.client.from_context(context)
        self._writers: list[CatalogWriter] = []

    def writer(self) -> CatalogWriter:
        """Return a callback for ``RE.subscribe`` that writes runs into the catalog."""
        writer = CatalogWriter(self.client, self.directory / "failed")
        self._writers.append(writer)
        return writer

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything given to its writers is written; False if that took longer than `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        return all(
            writer.flush(None if end is None else max(end - time.monotonic(), 0.0)) for writer in self._writers
        )

    def close(self) -> None:
        """Write what waits, and close the catalog."""
        for writer in self._writers:
            writer.close()
        self._context.__exit__(None, None, None)

    def __enter__(self) -> Self:
        """Return the catalog itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the catalog."""
        self.close()


class CatalogWriter:
    """Callback: write runs into the catalog on a thread of its own.

    Whatever goes wrong there is logged and kept in `errors`, never raised: the run goes on, and all its documents go
    to a document log in `backup_directory`, from where `nsbluesky.replay` brings them back.

    Attributes
    ----------
    errors : dict
        What went wrong, by the run's uid.
    backup_directory : Path
    """

    def __init__(self, client: Any, backup_directory: Path) -> None:
        self.errors: dict[str, str] = {}
        self.backup_directory = backup_directory
        self._client = client
        self._index = RunIndex()
        self._runs: dict[str, _RunWriter] = {}
        self._buffer = BufferingWrapper(self._write)
        self._closed = False

    def __call__(self, name: str, document: Mapping[str, Any]) -> None:
        """Queue one document; returns at once."""
        if self._closed:
            self._note(document.get("uid", ""), RuntimeError("the catalog is closed: open it again before the run"))
            return
        self._buffer(name, document)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything given so far is written; False if that took longer than `timeout` seconds."""
        if self._closed:
            return True
        written = threading.Event()
        self._buffer("flush", written)
        return written.wait(timeout)

    def close(self) -> None:
        """Write what waits, and take no more documents."""
        if not self._closed:
            self._closed = True
            self._buffer.shutdown(wait=True)

    def _write(self, name: str, document: Any) -> None:
        if name == "flush":
            document.set()
            return
        for uid in self._index.runs_of(name, document):
            if name == "start":
                self._runs[uid] = _RunWriter(self._client, self.backup_directory)
            error = self._runs[uid].write(name, document)
            if error is not None:
                self._note(uid, error)
            if name == "stop":
                del self._runs[uid]

    def _note(self, uid: str, error: Exception) -> None:
        self.errors[uid] = f"{type(error).__name__}: {error}"
        logger.error("run %s is not in the catalog but in %s", uid, self.backup_directory, exc_info=error)


class _RunWriter:
    """Writes one run; after an error all its documents, also those before, go to the backup.

    TiledWriter has a backup of its own, which tells nobody and cannot hold arrays.
    """

    def __init__(self, client: Any, backup_directory: Path) -> None:
        self._tables = _FloatColumns()
        self._rows = _RowsLeftOut()
        self._writer = bluesky_tiled_plugins.TiledWriter(
            client,
            patches={
                "descriptor": self._tables.descriptor,
                "event": self._tables.event,
                "stream_resource": self._rows.stream_resource,
                "stream_datum": self._rows.stream_datum,
                "stop": self._rows.stop,
            },
            max_array_size=0,  # SQLite has no columns of lists: every array becomes a zarr
        )
        self._backup_directory = backup_directory
        self._backup: DocumentLog | None = None
        self._seen: list[tuple[str, Mapping[str, Any]]] = []

    def write(self, name: str, document: Mapping[str, Any]) -> Exception | None:
        """Write one document; return the error if this one was the first that failed."""
        if self._backup is not None:
            self._backup(name, document)
            return None
        self._seen.append((name, document))
        try:
            self._writer(name, document)
        except Exception as error:
            self._backup = DocumentLog(self._backup_directory)
            for seen in self._seen:
                self._backup(*seen)
            self._seen.clear()
            return error
        return None


class _RowsLeftOut:
    """Notes in the stop document that a file of a run holds rows that belong to no point.

    A pause between trigger and save leaves such a row, and an IOC that dies may leave some at the end of its file,
    after which the run goes on with another.  The documents say so, but bluesky-tiled-plugins 2.0.12 takes the rows
    of a file as if none were left out: the catalog then shows each later frame beside its neighbour's point.
    """

    def __init__(self) -> None:
        self._next: dict[str, int] = {}
        self._keys: dict[str, str] = {}
        self._files: dict[tuple[str, str], str] = {}
        self._found = False

    def stream_resource(self, document: dict[str, Any]) -> dict[str, Any]:
        """Note whose file it is."""
        self._keys[document["uid"]] = document["data_key"]
        return document

    def stream_datum(self, document: dict[str, Any]) -> dict[str, Any]:
        """Compare the rows with those that came before."""
        resource, rows = document["stream_resource"], document["indices"]
        column = document["descriptor"], self._keys.get(resource, "")
        is_first_file = self._files.setdefault(column, resource) == resource
        self._found = self._found or not is_first_file or rows["start"] != self._next.get(resource, 0)
        self._next[resource] = rows["stop"]
        return document

    def stop(self, document: dict[str, Any]) -> dict[str, Any]:
        """Add the note."""
        if self._found:
            logger.warning("run %s in the catalog: %s", document["run_start"], FRAMES_MISPLACED)
            document[ROWS_LEFT_OUT] = True
        return document


class _FloatColumns:
    """Makes every column of numbers one of floats.

    A device's first value may be 0 and the next 0.5; bluesky-tiled-plugins 2.0.12 takes the type from the first one
    and loses the run at the second.
    """

    def __init__(self) -> None:
        self._columns: dict[str, set[str]] = {}

    def descriptor(self, document: dict[str, Any]) -> dict[str, Any]:
        """Note the columns of single numbers, and declare them as floats."""
        columns = set()
        for name, key in document["data_keys"].items():
            if key["dtype"] in ("number", "integer") and not key["shape"] and "external" not in key:
                columns.add(name)
                key["dtype"] = "number"
                key["dtype_numpy"] = "<f8"
        self._columns[document["uid"]] = columns
        return document

    def event(self, document: dict[str, Any]) -> dict[str, Any]:
        """Make the numbers of these columns floats."""
        for name in self._columns[document["descriptor"]] & document["data"].keys():
            value = document["data"][name]
            if isinstance(value, (int, float, np.number, np.ndarray)):
                document["data"][name] = float(value)
        return document
