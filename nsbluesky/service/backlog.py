"""What the service does not have yet: the newest documents in memory, all of them in the document log."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nsbluesky.document_log import DocumentLogError, read_documents

__all__ = ["Backlog", "DocumentLost", "RunBacklog"]

DOCUMENT_BYTES = 4096
"""What a document is taken to weigh beside its arrays."""


class DocumentLost(LookupError):
    """A document is neither in memory nor in the log."""


class RunBacklog:
    """The documents of one run.

    Attributes
    ----------
    count : int
        Documents so far.
    sent, taken : int
        How many were sent, and how many the service has.
    """

    def __init__(self, uid: str, log_directory: Path) -> None:
        self.uid = uid
        self.count = 0
        self.sent = 0
        self.taken = 0
        self._log_directory = log_directory
        self._recent: deque[tuple[str, Mapping[str, Any], int]] = deque()
        self._reader: Iterator[tuple[str, dict[str, Any]]] | None = None
        self._reader_index = 0

    @property
    def in_memory(self) -> int:
        """How many of the newest documents are in memory."""
        return len(self._recent)

    def keep(self, name: str, document: Mapping[str, Any], size: int) -> None:
        """Add the newest document."""
        self._recent.append((name, document, size))
        self.count += 1

    def drop_oldest(self) -> int:
        """Take the oldest document out of memory and return its size."""
        return self._recent.popleft()[2]

    def from_memory(self, index: int) -> tuple[str, Mapping[str, Any]] | None:
        """Return a document, or None where only the log has it."""
        place = index - (self.count - len(self._recent))
        return self._recent[place][:2] if place >= 0 else None

    def from_log(self, index: int) -> tuple[str, Mapping[str, Any]]:
        """Return a document from the log; one after the other is fast.

        Raises
        ------
        DocumentLost
            If it is not there.
        """
        try:
            if self._reader is None or index < self._reader_index:
                self._reader, self._reader_index = read_documents(self.uid, self._log_directory), 0
            for document in self._reader:
                self._reader_index += 1
                if self._reader_index > index:
                    return document
        except (DocumentLogError, OSError) as error:
            raise DocumentLost(str(error)) from error
        raise DocumentLost(f"document {index} of run {self.uid} is not in the document log")


class Backlog:
    """The documents of all runs that are not finished; a writer's and a sender's thread.

    Parameters
    ----------
    log_directory : path
        Of the `DocumentLog` that gets each document before this does.
    max_bytes : int
        Documents that may be in memory; older ones are read from the log.
    """

    def __init__(self, log_directory: Path, max_bytes: int) -> None:
        self._log_directory = log_directory
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        self._runs: dict[str, RunBacklog] = {}

    @property
    def bytes_in_memory(self) -> int:
        """What the documents in memory weigh."""
        return self._bytes

    def begin(self, uid: str) -> None:
        """Begin a run."""
        with self._lock:
            self._runs[uid] = RunBacklog(uid, self._log_directory)

    def add(self, uid: str, name: str, document: Mapping[str, Any]) -> None:
        """Add a document of a run; without effect where the run is finished."""
        size = _size(name, document)
        with self._lock:
            run = self._runs.get(uid)
            if run is None:
                return
            run.keep(name, document, size)
            self._bytes += size
            while self._bytes > self._max_bytes:
                self._bytes -= max(self._runs.values(), key=lambda run: run.in_memory).drop_oldest()

    def runs(self) -> list[RunBacklog]:
        """Return the runs that are not finished, oldest first."""
        with self._lock:
            return list(self._runs.values())

    def document(self, run: RunBacklog, index: int) -> tuple[str, Mapping[str, Any]]:
        """Return a document from memory, else from the log.

        Raises
        ------
        DocumentLost
            If it is in neither.
        """
        with self._lock:
            kept = run.from_memory(index)
        return kept if kept is not None else run.from_log(index)

    def taken(self, run: RunBacklog, count: int) -> None:
        """Note that the service has the first `count` documents; they need not stay in memory."""
        with self._lock:
            run.taken = max(0, min(count, run.count))
            while run.count - run.in_memory < run.taken:
                self._bytes -= run.drop_oldest()

    def finish(self, uid: str) -> None:
        """Forget a run."""
        with self._lock:
            run = self._runs.pop(uid, None)
            while run is not None and run.in_memory:
                self._bytes -= run.drop_oldest()


def _size(name: str, document: Mapping[str, Any]) -> int:
    """Return what a document weighs: arrays in it count, all else is small."""
    if name not in ("event", "event_page"):
        return DOCUMENT_BYTES
    columns = [value if isinstance(value, list) else [value] for value in document["data"].values()]
    return DOCUMENT_BYTES + sum(item.nbytes for column in columns for item in column if isinstance(item, np.ndarray))
