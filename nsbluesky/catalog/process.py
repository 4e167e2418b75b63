"""The process that writes a catalog: it follows document logs on disk, and ends when its input does.

With the arguments CATALOG WAITING [READABLE ...] it is told by lines of JSON on standard input,

- ``{"log": path, "again": bool}``: the log of a run, which may be growing; `again` after a process that died over it;
- ``{"news": true}``: logs have grown;
- ``{"end": path}``: a log is complete;
- ``{"flush": number}``

and tells in the same way on standard output

- ``{"done": path}``: the run is in the catalog, or its log is among the failed ones;
- ``{"error": text, "traceback": text, "log": path}``
- ``{"flushed": number}``: all that the logs held is written;
- ``{"level": number, "logger": name, "text": text}``: a line for the session's log.

A run whose writing fails is written again from its log, which helps where an earlier process has left it half
written, and where SQLite was locked by another one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nsbluesky.catalog.embedded  # noqa: F401 - now, that no look for garbage goes through it later
from nsbluesky.catalog import open_catalog
from nsbluesky.catalog.run_writer import run_writer
from nsbluesky.catalog.waiting import WaitingLogs
from nsbluesky.child_process import take_output
from nsbluesky.document_log import DocumentLogError, GrowingLog, aborted

__all__ = ["LogsIntoCatalog", "main"]

TRIES = 2
"""The second one removes what an earlier process has left of the run."""
LOCKED, TRIES_WHILE_LOCKED = "database is locked", 4
PAUSE_S = 0.2
"""Before the second try while SQLite is locked; before later ones it is longer."""

Tell = Callable[..., None]


class LogsIntoCatalog:
    """Writes runs into a catalog from their logs.

    Parameters
    ----------
    client : tiled client
        Of the catalog.
    waiting : WaitingLogs
    tell : callable
        Takes what is to be told, as keywords.
    """

    def __init__(self, client: Any, waiting: WaitingLogs, tell: Tell) -> None:
        self._client = client.include_data_sources()
        self._waiting = waiting
        self._tell = tell
        self._runs: dict[Path, _Run] = {}

    def take(self, message: dict[str, Any]) -> None:
        """Do what a message says."""
        match message:
            case {"log": path, "again": again}:
                self._runs[Path(path)] = _Run(self._client, Path(path), again)
        for run in self._runs.values():
            self._do(run, run.follow)
        match message:
            case {"end": path}:
                self._end(Path(path))
            case {"flush": number}:
                self._tell(flushed=number)

    def take_over(self) -> None:
        """Write what sessions have left that died together with their writing processes, as when power fails."""
        with self._waiting.left_by_others() as left:
            for waiting in left:
                LogsIntoCatalog(self._client, waiting, self._tell).close()

    def close(self) -> None:
        """Write what there is: the session has ended, and with it its runs."""
        for path in self._waiting.logs():  # a session that was killed may not have told of all
            self._runs.setdefault(path, _Run(self._client, path, again=True))
        for path, run in list(self._runs.items()):
            self._do(run, run.follow)
            self._do(run, run.abort)
            self._end(path)
        self._waiting.close()

    def _do(self, run: _Run, action: Callable[[], None]) -> None:
        failed_before = run.has_failed
        action()
        if run.has_failed and not failed_before:
            self._tell_error(run)

    def _end(self, path: Path) -> None:
        run = self._runs.pop(path)
        run.close()
        try:
            if not run.has_stopped and not run.has_failed:
                run.error = DocumentLogError(f"{path} ends before the run does: see the session's log for the reason")
                self._tell_error(run)
            if run.has_failed:
                self._waiting.set_aside(path)
            else:
                self._waiting.remove(path)
        except OSError as error:
            logging.getLogger(__name__).error("the document log %s stays where it is: %s", path, error)
        self._tell(done=str(path))

    def _tell_error(self, run: _Run) -> None:
        error = run.error
        assert error is not None
        text = "".join(traceback.format_exception(error))
        self._tell(error=f"{type(error).__name__}: {error}", traceback=text, log=str(run.path))


class _Run:
    """A run on its way from its log into the catalog.

    Attributes
    ----------
    path : Path
        Of the log.
    error : Exception or None
        Why it is not in the catalog.
    has_stopped : bool
    """

    def __init__(self, client: Any, path: Path, again: bool) -> None:
        self.path = path
        self.error: Exception | None = None
        self.has_stopped = False
        self._client = client
        self._tries = 0
        self._again = again
        self._uid = ""
        self._is_written = False
        self._log: GrowingLog | None = None

    @property
    def has_failed(self) -> bool:
        """Whether it will not be in the catalog."""
        return self.error is not None

    def follow(self) -> None:
        """Write what is new in the log."""
        while not self.has_failed:
            try:
                if self._log is None:
                    self._log, self._writer = GrowingLog(self.path), run_writer(self._client)
                for name, document in self._log.new_documents():
                    self._write(name, document)
                return
            except Exception as error:
                self._tries += 1
                self._again = True
                self.close()
                is_locked = LOCKED in str(error)
                if self._tries >= (TRIES_WHILE_LOCKED if is_locked else TRIES):
                    self.error = error
                elif is_locked:
                    time.sleep(PAUSE_S * self._tries**2)

    def abort(self) -> None:
        """Let the run stop, if it has not."""
        if self.has_stopped or self.has_failed:
            return
        try:
            self._write("stop", aborted(self._uid, "its session ended before the run did"))
        except Exception as error:
            self.error = error

    def close(self) -> None:
        """Close the log; it begins anew if it is followed again."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def _write(self, name: str, document: dict[str, Any]) -> None:
        if name == "start":
            self._uid, self.has_stopped = document["uid"], False
            self._is_written = self._again and self._clear()
        if not self._is_written:
            self._writer(name, document)
        if name == "stop":
            self.has_stopped = True

    def _clear(self) -> bool:
        """Remove what a try before this one has left of the run; return whether it was whole."""
        if self._uid not in self._client:
            return False
        left = self._client[self._uid]
        if left.metadata.get("stop"):
            return True
        left.delete(recursive=True, external_only=False)  # frames are external: tiled never deletes these
        return False


class _ToSession(logging.Handler):
    """Sends what has to be known to the log of the session."""

    def __init__(self, tell: Tell) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        self._tell(level=record.levelno, logger=record.name, text=self.format(record))


def main(directory: str, waiting: str, *readable: str) -> None:
    """Run as a child: write the catalog of a directory until the input ends."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # nobody is there to read them
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends with the session, when all is written
    out = take_output(sys.stdout)
    one_at_a_time = threading.Lock()

    def tell(**message: Any) -> None:
        # a session that has died hears nothing: what it gave is written all the same
        with one_at_a_time, contextlib.suppress(BrokenPipeError):
            os.write(out, json.dumps(message).encode() + b"\n")

    logging.getLogger().addHandler(_ToSession(tell))
    with open_catalog(directory, readable) as catalog:
        kept = WaitingLogs(Path(waiting), catalog.directory / "failed")
        kept.open()
        logs = LogsIntoCatalog(catalog.client, kept, tell)
        logs.take_over()
        for line in sys.stdin.buffer:
            if line.endswith(b"\n"):  # else the session was killed while it spoke
                logs.take(json.loads(line))
        logs.close()
    os._exit(0)  # all is closed: Python would take another second to put away what tiled has imported
