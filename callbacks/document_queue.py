"""A queue of documents between the RunEngine's thread and the processing: never blocks, never drops.

Documents that refer to frames cost a few hundred bytes each.  Only frames that lie in the events themselves cost
memory; what exceeds the limit waits in a file.
"""

from __future__ import annotations

import logging
import queue
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SWITCH_INTERVAL_S", "DocumentQueue", "QueuedDocument"]

log = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 5e-4
"""How long one Python thread may keep the others waiting: less than Python's own 5 ms, so that the RunEngine, the
windows and the processing wait less for each other.  What a scan pays: benchmarks/bench_overhead.py."""


@dataclass(frozen=True)
class QueuedDocument:
    """A document and when it came."""

    name: str
    document: dict[str, Any]
    time: float


class DocumentQueue:
    """First in, first out, for any number of writers and one reader.

    Parameters
    ----------
    max_bytes : int
        Inline arrays that may wait in memory; further ones wait in temporary files.
    """

    def __init__(self, max_bytes: int) -> None:
        self._queue: queue.SimpleQueue[QueuedDocument] = queue.SimpleQueue()
        self._max_bytes = max_bytes
        self._bytes_put = 0
        self._bytes_got = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._spilled = 0
        self._next_file = 0
        self._writing = threading.Lock()
        """Held where writers count, and not while one of them writes a file."""

    def __len__(self) -> int:
        """Return how many documents wait."""
        return self._queue.qsize()

    @property
    def bytes_in_memory(self) -> int:
        """Size of the inline arrays that wait in memory."""
        return self._bytes_put - self._bytes_got

    @property
    def spilled(self) -> int:
        """How many arrays had to wait in a file so far."""
        return self._spilled

    def put(self, name: str, document: dict[str, Any]) -> None:
        """Add a document; arrays beyond the limit are written to a file first."""
        if any(_num_bytes(value) for value in _data_of(name, document).values()):
            document = {**document, "data": {key: self._keep(value) for key, value in document["data"].items()}}
        self._queue.put(QueuedDocument(name, document, time.time()))

    def get(self, timeout: float | None) -> QueuedDocument:
        """Return the oldest document.

        Raises
        ------
        queue.Empty
            If none comes within `timeout` seconds.
        OSError, ValueError
            If an array of it cannot be read back; the document is lost.
        """
        item = self._queue.get(timeout=timeout)
        kept = _data_of(item.name, item.document)
        if kept:
            self._bytes_got += sum(map(_num_bytes, kept.values()))
            data = {key: _read_back(value) for key, value in kept.items()}
            item = QueuedDocument(item.name, {**item.document, "data": data}, item.time)
        return item

    def close(self) -> None:
        """Remove the temporary files."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _keep(self, value: Any) -> Any:
        if isinstance(value, list) and _num_bytes(value):  # a column of a page
            return [self._keep(item) for item in value]
        if not isinstance(value, np.ndarray):
            return value
        with self._writing:
            fits = self.bytes_in_memory + value.nbytes <= self._max_bytes
            self._bytes_put += value.nbytes if fits else 0
        if fits:
            return value
        try:
            return self._spill(value)
        except (OSError, ValueError) as error:  # no space there either, or objects: the scan must go on
            log.warning("an array waits in memory beyond the limit: %s", error)
        with self._writing:
            self._bytes_put += value.nbytes
        return value

    def _spill(self, value: np.ndarray[Any, Any]) -> Path:
        """Write an array to a file."""
        with self._writing:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="nsbluesky-queue-")
            path = Path(self._folder.name) / f"{self._next_file}.npy"
            self._next_file += 1
        np.save(path, value, allow_pickle=False)
        with self._writing:
            self._spilled += 1
        return path


def _num_bytes(value: Any) -> int:
    """Return the size of an array, or of those in a page's column; 0 for all else."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    return sum(item.nbytes for item in value if isinstance(item, np.ndarray)) if isinstance(value, list) else 0


def _read_back(value: Any) -> Any:
    """Return an array that waits in a file, and remove the file; all else is as it was."""
    if isinstance(value, list) and any(isinstance(item, Path) for item in value):
        return [_read_back(item) for item in value]
    if not isinstance(value, Path):
        return value
    try:
        return np.load(value, allow_pickle=False)
    finally:
        value.unlink(missing_ok=True)


def _data_of(name: str, document: dict[str, Any]) -> dict[str, Any]:
    """Return the data of events; nothing of other documents, and of one that is none: its reader will tell."""
    data = document.get("data") if name in ("event", "event_page") else None
    return data if isinstance(data, dict) else {}
