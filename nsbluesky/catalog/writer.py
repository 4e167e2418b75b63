"""CatalogWriter: the callback that brings runs into the catalog; documents in, logs on disk out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nsbluesky.catalog.supervisor import WriterProcess
from nsbluesky.document_log import SUFFIX, DocumentLog, find_log
from nsbluesky.latest import Latest

__all__ = ["CatalogWriter"]

logger = logging.getLogger(__name__)


class CatalogWriter:
    """Callback: write runs into the catalog, in a process beside this one.

    Documents go to a log on disk, from where that process takes them; nothing waits in the session's memory.
    Whatever goes wrong is logged and kept in `errors`, never raised: the run goes on, and its log goes to
    `backup_directory`, from where `nsbluesky.replay` brings its documents back.

    Parameters
    ----------
    process : WriterProcess

    Attributes
    ----------
    errors : dict
        What went wrong, by the run's uid; of the latest runs.
    backup_directory : Path
    """

    def __init__(self, process: WriterProcess) -> None:
        self.errors: dict[str, str] = Latest()
        self.backup_directory = process.waiting.failed
        self._process = process
        process.waiting.open()
        self._log = DocumentLog(process.waiting.directory)
        self._lock = threading.Lock()  # raw and derived runs come on threads of their own
        self._closed = False

    def __call__(self, name: str, document: Mapping[str, Any]) -> None:
        """Take one document; returns at once."""
        if self._closed:
            self._note(document.get("uid", ""), "RuntimeError: the catalog is closed: open it again before the run")
            return
        with self._lock:
            self._log(name, document)
        if name == "start" and document["uid"] in self._log.errors:
            self._note(document["uid"], self._log.errors[document["uid"]])
        elif name == "start":
            self._process.begin(self._path(document["uid"]), self._note)
        elif name == "stop":
            self._process.end(self._path(document["run_start"]))
        else:
            self._process.tell_news()

    def write_log(self, path: str | Path) -> None:
        """Write a whole run from a document log, which stays where it is; returns at once.

        Raises
        ------
        DocumentLogError
            If there is no such log.
        """
        path = find_log(Path(path).stem, Path(path).parent).resolve()
        self._process.begin(path, self._note)
        self._process.end(path)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything given so far is written; False if that took longer than `timeout` seconds."""
        return self._closed or self._process.flush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Take no more documents, and wait until those given are written, or for `timeout` seconds."""
        if not self._closed:
            self.flush(timeout)
            self._closed = True
            self._log.close()

    def _path(self, uid: str) -> Path:
        return self._log.directory / f"{uid}{SUFFIX}"

    def _note(self, uid: str, error: str, traceback: str = "") -> None:
        self.errors[uid] = error
        logger.error("run %s is not in the catalog but in %s: %s", uid, self.backup_directory, traceback or error)
