"""The catalog as a session has it: runs go in from the first moment, tiled is imported when somebody looks."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from nsbluesky.catalog.current import current_client
from nsbluesky.catalog.database import check_usable
from nsbluesky.catalog.lazy_client import LazyClient
from nsbluesky.catalog.supervisor import WriterProcess
from nsbluesky.catalog.writer import CatalogWriter
from nsbluesky.document_log import DocumentLogError
from nsbluesky.folders import data_directory
from nsbluesky.heap import no_collections

__all__ = ["Catalog", "open_catalog"]

logger = logging.getLogger(__name__)

RAW_UID = "raw_uid"
"""Key that only the start documents of derived runs have."""

QUIETLY_S, PATIENCE_S = 5.0, 30.0
"""For which a look-up waits for runs on their way, without a word and in all."""


def open_catalog(directory: str | Path | None = None, readable: Iterable[str | Path] = ("/",)) -> Catalog:
    """Open the catalog of a directory.

    Whether a catalog can be there is seen at once.  The first look into it takes the seconds that tiled takes to
    import, and one more where the catalog has to be made.

    Parameters
    ----------
    directory : path, optional
        ``catalog`` in `data_directory` by default.
    readable : iterable of path
        Folders that frames may be read from.  Everything that this user may read by default: nobody else can reach
        a catalog inside this process.

    Raises
    ------
    OSError
        If the directory cannot be written.
    sqlite3.DatabaseError
        If what is there is locked or no database.
    """
    folder = Path(directory) if directory is not None else data_directory() / "catalog"
    folder, folders = folder.resolve(), [str(Path(path).resolve()) for path in readable]
    check_usable(folder)
    return Catalog(folder, folders)


@contextlib.contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block: modules that were imported by halves cannot be imported again."""
    if threading.current_thread() is not threading.main_thread():
        yield  # which Ctrl-C does not reach
        return
    pressed: list[tuple[Any, ...]] = []
    before = signal.signal(signal.SIGINT, lambda *arguments: pressed.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed and callable(before):
        before(*pressed[-1])


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
    scans : tiled client
        `client` without the derived runs: ``scans[-1]`` is the latest scan, also when its processing has come later.
    find_finished : callable
        Takes the uid of a run and returns what became of its processing, a `Finished`, or None: not over yet.
    """

    def __init__(self, directory: Path, readable: Sequence[str]) -> None:
        self.directory = directory
        self.scans = LazyClient(self._look_at_scans)
        self.find_finished: Callable[[str], Finished | None] = lambda uid: None
        self._readable = readable
        self._process = WriterProcess(directory, readable)
        self._writers: list[CatalogWriter] = []
        self._opening = threading.RLock()
        self._context: Any = None
        self._clients: tuple[Any, Any] | None = None
        self._closed = False

    @property
    def client(self) -> Any:
        """databroker's catalog: ``client[-1]``, ``client[uid]``, ``client[scan_id]``, lazy arrays.

        A look-up waits up to 30 s for what its writers were given; after that one by a number raises
        `CatalogBehind`, others find what is there.
        """
        return self._open()[0]

    def _look_at_scans(self) -> Any:
        return self._open()[1]

    def _open(self) -> tuple[Any, Any]:
        """Return the clients of all runs and of the scans; the first time tiled is imported."""
        with self._opening:
            if self._closed:
                raise RuntimeError(f"the catalog {self.directory} is closed: open it again with open_catalog()")
            if self._clients is None:
                with ctrl_c_waits(), no_collections():  # which take a quarter of the seconds
                    from tiled.queries import KeyPresent

                    from nsbluesky.catalog.embedded import open_context
                self._context = self._context or open_context(self.directory, self._readable)
                client = current_client(self._context, self._catch_up)
                self._clients = client, client.search(KeyPresent(RAW_UID, exists=False))
            return self._clients

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
        from tiled.queries import Eq

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
        writer = CatalogWriter(self._process)  # for this run alone: not among those that `close` closes
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
        with self._opening:
            self._closed = True
            if self._context is not None:
                self._context.__exit__(None, None, None)

    def __enter__(self) -> Self:
        """Return the catalog itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the catalog."""
        self.close()
