"""The catalog: databroker and its server tiled inside this process, on SQLite; no port, nothing to start."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import fcntl
import logging
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
from tiled.server.app import build_app

from nsbluesky.catalog.database import DATABASE, LOCK, is_made

__all__ = ["open_context"]


def open_context(folder: Path, readable: Sequence[str]) -> tiled.client.Context:
    """Open the catalog in a folder, and return what its clients are made of.

    Parameters
    ----------
    folder : Path
        There already; the first time the catalog is made in it, which takes a second.
    readable : sequence of str
        Folders that frames may be read from.
    """
    # Two processes that make the same catalog at once would each leave half of it.
    with _lock(folder / LOCK):
        if not is_made(folder / DATABASE):
            with ThreadPoolExecutor(1) as thread:  # IPython's may be within an event loop
                thread.submit(_make, folder / DATABASE).result()
        tree = tiled.catalog.from_uri(
            f"sqlite:///{folder}/{DATABASE}",
            specs=[{"name": "CatalogOfBlueskyRuns", "version": "3.0"}],
            writable_storage=[str(folder / "data"), f"sqlite:///{folder}/tables.db"],
            readable_storage=list(readable),
        )
        _let_tables_be_read_while_written(folder / "tables.db")
    registry = copy.copy(default_serialization_registry)
    registry.register("BlueskyRun", "application/json-seq", json_seq_exporter)  # documents() asks for it
    with _quiet():
        app = build_app(tree, serialization_registry=registry)
        app.add_middleware(_NoStreams)
        return tiled.client.Context.from_app(app)


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
