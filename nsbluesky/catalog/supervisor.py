"""The session's end of the process that writes the catalog: starts it, tells it of logs, and replaces it."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import queue
import subprocess
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from nsbluesky.catalog.waiting import WaitingLogs
from nsbluesky.child_process import command_of

__all__ = ["WriterProcess"]

logger = logging.getLogger(__name__)

NICE = 5
"""Of the process: the scan comes first; but behind the last passes of the processing, which has 10, look-ups would
wait for long."""
CLOSE_S = 1.0
"""For a process that is behind to be told that nothing more comes."""
MAX_DEATHS = 3
"""Processes that may die one after the other without having written a run; then the oldest one is given up."""

Told = Callable[[str, str, str], None]
"""Takes the uid of a run that is not in the catalog, why, and the traceback where there is one."""


@dataclass
class _Log:
    """A run that is not known to be in the catalog."""

    told: Told
    ended: bool = False
    begun: bool = False
    given_up: bool = False


class WriterProcess:
    """The process that writes a catalog (see `nsbluesky.catalog.process`), started by `start` or the first run.

    One that dies is replaced, and takes the runs that were not in the catalog from their logs again.  It ends with
    `close`, and by itself if this process dies.  All methods return at once, but for `flush` and `close`.

    Parameters
    ----------
    directory : path
        Of the catalog.
    readable : sequence of str
        Folders that frames may be read from.

    Attributes
    ----------
    waiting : WaitingLogs
        For logs that are only kept until their runs are in the catalog.
    """

    command: ClassVar[Sequence[str]] = command_of("nsbluesky.catalog.process", NICE)

    def __init__(self, directory: Path, readable: Sequence[str] = ("/",)) -> None:
        name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"  # each session has its own
        self.waiting = WaitingLogs(directory / "waiting" / name, directory / "failed")
        self._arguments = [str(directory), str(self.waiting.directory), *readable]
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._has_news = threading.Event()
        # what follows belongs to the thread alone
        self._child: subprocess.Popen[bytes] | None = None
        self._logs: dict[Path, _Log] = {}
        self._flushes: dict[int, threading.Event] = {}
        self._flush_count = 0
        self._deaths = 0
        self._closing = self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id, None where none runs."""
        child = self._child
        return None if child is None else child.pid

    def start(self) -> None:
        """Start the process: what it has to import takes seconds, which the first look-up would wait for."""
        self._do(self._start_unless_there)

    def begin(self, path: Path, told: Told) -> None:
        """Let a run be written from its log, which may be growing."""
        self._do(partial(self._begin, path, told))

    def tell_news(self) -> None:
        """Say that logs have grown."""
        if not self._has_news.is_set():  # else it will be said, and does not have to wait here twice
            self._has_news.set()
            self._do(self._tell_news)

    def end(self, path: Path) -> None:
        """Say that a log is complete."""
        self._do(partial(self._end, path))

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that logs hold is written; False if that took longer than `timeout` seconds."""
        if self._thread is None:
            return True
        written = threading.Event()
        self._do(partial(self._flush, written))
        return written.wait(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Let what waits be written, and end the process; after `timeout` seconds it goes on alone and then ends."""
        if self._thread is not None:
            atexit.unregister(self.close)
            is_written = self.flush(timeout)
            self._do(self._close)
            self._thread.join(None if timeout is None else CLOSE_S)
            child = self._child
            if self._thread.is_alive() and is_written and child is not None:
                child.kill()  # it imports, or writes what others have left, which the next one can do
                self._thread.join()
            elif self._thread.is_alive():
                logger.warning("process %s goes on writing the catalog, and ends then", self.pid)
            self._thread = None
        self.waiting.close()

    # ---- all that follows happens on one thread

    def _do(self, action: Callable[[], None]) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="nsbluesky-catalog", daemon=True)
                self._thread.start()
                atexit.register(self.close)
        self._inbox.put(action)

    def _work(self) -> None:
        while not self._closed:
            try:
                self._inbox.get()()
            except Exception:  # of `told`: nobody's trouble may keep others waiting
                logger.exception("writing the catalog")

    def _begin(self, path: Path, told: Told) -> None:
        if path not in self._logs:
            self._logs[path] = _Log(told, begun=self._child is not None)
            self._tell(log=str(path), again=False)

    def _tell_news(self) -> None:
        self._has_news.clear()
        self._tell(news=True)

    def _end(self, path: Path) -> None:
        log = self._logs.get(path)
        if log is None or log.ended:
            return
        log.ended = True
        if log.given_up:
            self._set_aside(path)
        else:
            self._tell(end=str(path))

    def _flush(self, written: threading.Event) -> None:
        self._flush_count += 1
        self._flushes[self._flush_count] = written
        if self._waits():
            self._tell(flush=self._flush_count)
        else:
            self._answer_flushes()

    def _close(self) -> None:
        self._closing = True
        if self._child is None:
            self._leave()
        else:
            self._close_input(self._child)

    def _waits(self) -> bool:
        return any(not log.given_up for log in self._logs.values())

    def _tell(self, **message: Any) -> None:
        """Send a message; a process that has to be started learns of everything that waits instead."""
        if self._child is not None:
            self._send(self._child, message)
        elif self._waits():
            self._start()

    def _send(self, child: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
        assert child.stdin is not None
        with contextlib.suppress(OSError):  # it has died, which `_listen` notices as well
            child.stdin.write(json.dumps(message).encode() + b"\n")
            child.stdin.flush()

    def _close_input(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin is not None
        with contextlib.suppress(OSError):
            child.stdin.close()

    def _start_unless_there(self) -> None:
        with contextlib.suppress(OSError):  # else it is tried again with the first run
            self._child = self._child or self._make_child()

    def _make_child(self) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [*self.command, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C in the session pauses a scan, and must not end this
        )
        threading.Thread(target=self._listen, args=(child,), name="nsbluesky-catalog-told", daemon=True).start()
        return child

    def _start(self, why: str = "") -> None:
        """Start a process, and tell it of all runs that wait; `why` the last one could not write them."""
        while self._waits():
            if self._deaths == MAX_DEATHS:
                self._give_up(next(path for path, log in self._logs.items() if not log.given_up), why)
                continue
            try:
                self._child = child = self._make_child()
            except OSError as error:
                self._deaths += 1
                why = f"could not be started: {error}"
                continue
            for path, log in self._logs.items():
                if not log.given_up:
                    self._send(child, {"log": str(path), "again": log.begun})
                    log.begun = True
                    if log.ended:
                        self._send(child, {"end": str(path)})
            for number in self._flushes:
                self._send(child, {"flush": number})
            return
        self._answer_flushes()

    def _give_up(self, path: Path, why: str) -> None:
        self._deaths = 0
        log = self._logs[path]
        log.given_up = True
        log.told(path.stem, f"{MAX_DEATHS} processes could not write it; the last one {why}", "")
        if log.ended:
            self._set_aside(path)

    def _answer_flushes(self) -> None:
        for written in self._flushes.values():
            written.set()
        self._flushes.clear()

    def _set_aside(self, path: Path) -> None:
        del self._logs[path]
        try:
            self.waiting.set_aside(path)
        except OSError as error:
            logger.error("the document log %s stays where it is: %s", path, error)

    # ---- what the process says

    def _listen(self, child: subprocess.Popen[bytes]) -> None:
        """Pass on what a process says, on a thread of its own."""
        assert child.stdout is not None
        for line in child.stdout:
            if not line.endswith(b"\n"):
                break  # killed while it spoke
            message = json.loads(line)
            if "level" in message:
                logging.getLogger(message["logger"]).log(message["level"], "%s", message["text"])
            else:
                self._inbox.put(partial(self._hear, message))
        self._inbox.put(partial(self._replace, child))

    def _hear(self, message: dict[str, Any]) -> None:
        match message:
            case {"error": error, "traceback": traceback, "log": path}:
                if (log := self._logs.get(Path(path))) is not None:
                    log.told(Path(path).stem, error, traceback)
                else:
                    logger.error("run %s of an earlier session is not in the catalog: %s", Path(path).stem, traceback)
            case {"done": path}:
                self._deaths = 0
                self._logs.pop(Path(path), None)
            case {"flushed": number}:
                if (written := self._flushes.pop(number, None)) is not None:
                    written.set()

    def _replace(self, child: subprocess.Popen[bytes]) -> None:
        """A process has ended: start another one where there is something left to do."""
        self._close_input(child)
        assert child.stdout is not None
        child.stdout.close()
        status = child.wait()
        self._child = None
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        if self._closing:
            self._leave(how)
        elif self._waits():
            logger.error("the process that writes the catalog %s: another one is started", how)
            self._deaths += 1
            self._start(how)

    def _leave(self, why: str = "") -> None:
        """Let nothing wait any more."""
        for path, log in list(self._logs.items()):
            if not log.given_up:
                log.told(path.stem, f"the process that writes it {why}", "")
            self._set_aside(path)
        self._closed = True
