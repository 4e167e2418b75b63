"""ProcessingService: the process of the service as a child that is started again whenever it dies or hangs."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import zmq

from nsbluesky.child_process import command_of, read_line
from nsbluesky.service.access import Credentials, forget_service, tell_service
from nsbluesky.service.configured import ConfiguredSettings
from nsbluesky.service.crashes import CrashRecord
from nsbluesky.service.keys import KeyFolder
from nsbluesky.service.listening import AddressInUse, check_free
from nsbluesky.service.order import RECORDING, Order, Ready, log_directory
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.service.wire import HEARTBEAT, WireError, unpack

__all__ = ["ProcessingService", "ServiceError"]

log = logging.getLogger(__name__)

LOG_NAME = "process.err"
KILLED = f"killed by signal {signal.SIGKILL:d}"
POLL_MS = 100
LONGEST_LOOK_S = 1.0
"""What the time between two looks counts at most: where it is longer, this process was suspended, and with it the
child, as where a batch system stops a job for a while."""
MAX_SUSPENSIONS = 1000
MAX_FAILURES = 5
"""Starts that may fail one after the other before it is given up."""
MAX_TOLD = 20
"""Restarts, the latest ones, that the next process tells of."""


class ServiceError(RuntimeError):
    """The service does not start or is not running."""


class ProcessingService:
    """The processing in a child process, as a context manager.

    Entering starts the child and waits till clients may connect.  A child that dies, whose heartbeat stops, or that
    works on one block for longer than its limit, is replaced by another one at the same address; sessions that are
    connected send their unfinished runs again.  The child ends with the ``with`` block, and by itself if this process
    dies.

    Parameters
    ----------
    settings : ServiceSettings
    start_timeout_s : float
        How long the child may take to be ready.
    heartbeat_timeout_s : float
        How long it may be silent.
    block_timeout_s : float
        How long a stage may work on one block of frames.
    """

    command: ClassVar[Sequence[str]] = command_of("nsbluesky.service.process")

    def __init__(
        self,
        settings: ServiceSettings,
        *,
        start_timeout_s: float = 60.0,
        heartbeat_timeout_s: float = 10.0,
        block_timeout_s: float = 120.0,
    ) -> None:
        self.settings = settings
        self.credentials = Credentials.make(KeyFolder(settings.keys).make_server() if settings.keys else "")
        self.restarts: list[str] = []
        """Why the child was replaced, oldest first."""
        self._start_timeout_s = start_timeout_s
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._block_timeout_s = block_timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._ready: Ready | None = None
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._watcher: threading.Thread | None = None
        self._is_watched = False
        """Whether a child that dies is replaced: from `start` until `stop`, or until the service is given up."""
        self._failed = ""
        self._beginning: Future[None] | None = None

    @property
    def address(self) -> str:
        """Address of the control socket, as this machine reaches it."""
        return _from_here(self._state().address)

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._state().pid

    @property
    def instance(self) -> str:
        """Which life of the service this is."""
        return self._state().instance

    def wait_for_restart(self, count: int, timeout: float | None = None) -> bool:
        """Wait until the child was replaced `count` times and is ready again; False when time ran out."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.restarts) >= count and self._ready is not None, timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the service has ended, by ``shutdown`` or because it was given up; False when time ran out.

        Raises
        ------
        ServiceError
            If it was given up.
        """
        with self._changed:
            has_ended = self._changed.wait_for(lambda: not self._is_watched, timeout)
        if has_ended and self._failed:
            raise ServiceError(self._failed)
        return has_ended

    def __enter__(self) -> Self:
        """Start the child and wait till clients may connect."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the child."""
        self.stop()

    def start(self) -> None:
        """Start the child and wait till clients may connect.

        Raises
        ------
        ServiceError
            If it does not start.
        """
        self._stopping.clear()
        self._failed = ""
        try:
            check_free(self.settings.address, self.settings.ports, self._state_directory)
        except AddressInUse as error:
            raise ServiceError(f"the service does not start: {error}") from error
        (Path(self.settings.directory) / RECORDING).unlink(missing_ok=True)  # nobody asked for it this time
        ready = self._start_child(self.settings)
        # the next child takes the same ports, so that clients find it where they lost this one
        self.settings = replace(self.settings, address=ready.address, ports=ready.ports)
        try:
            tell_service(_from_here(ready.address), self.credentials, self._state_directory)
        except OSError as error:  # as on a full disk
            self._end_child(0.0)
            raise ServiceError(f"the service does not start: its token cannot be written: {error}") from error
        with self._changed:
            self._ready, self._is_watched = ready, True
        self._watcher = threading.Thread(target=self._watch_and_forget, name="nsbluesky-service-watcher", daemon=True)
        self._watcher.start()

    def begin(self) -> None:
        """Do what `start` does on a thread, and return at once: it takes seconds, in which others may get ready.

        Whoever asks for `address`, `pid` or `instance` waits for it, and gets its ServiceError.
        """
        beginning: Future[None] = Future()
        self._beginning = beginning

        def start() -> None:
            try:
                self.start()
            except BaseException as error:
                beginning.set_exception(error)
            else:
                beginning.set_result(None)

        threading.Thread(target=start, name="nsbluesky-service-start", daemon=True).start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop the child: ask, wait, then kill."""
        if self._beginning is not None:
            self._beginning.exception()  # waits; what went wrong was for those who asked for the service
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None
        self._end_child(timeout_s)
        self._set_ready(None)
        ConfiguredSettings(Path(self.settings.directory)).forget()

    @property
    def _state_directory(self) -> Path | None:
        return Path(self.settings.state) if self.settings.state else None

    def _state(self) -> Ready:
        if self._beginning is not None:
            self._beginning.result()
        with self._changed:
            self._changed.wait_for(lambda: self._ready is not None or not self._is_watched, self._start_timeout_s)
            if self._ready is not None:
                return self._ready
            why = "is being started again" if self._is_watched else "is not running: enter it with 'with'"
            raise ServiceError(self._failed or f"the service {why}")

    def _set_ready(self, ready: Ready | None) -> None:
        with self._changed:
            self._ready = ready
            self._changed.notify_all()

    # ---- the child

    def _start_child(self, settings: ServiceSettings) -> Ready:
        logs = log_directory(settings)
        try:
            logs.mkdir(parents=True, exist_ok=True)
            with (logs / LOG_NAME).open("ab") as errors:
                told_before = errors.tell()
                self._child = child = subprocess.Popen(
                    self.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    # a group of its own: Ctrl-C in the session pauses a scan, and must not end the service.  But no
                    # session of its own: Linux shares processors among these first, priorities count within one
                    process_group=0,
                )
        except OSError as error:  # as where no memory is left for a process
            raise ServiceError(f"the service does not start: {error}") from error
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(Order(settings, self.credentials, tuple(self.restarts[-MAX_TOLD:])).to_line())
            child.stdin.flush()
        except OSError:  # it is dead already: told below
            pass
        try:
            return Ready.from_line(read_line(child.stdout, self._start_timeout_s))
        except (ValueError, LookupError, TypeError):  # nothing, or what something else has printed
            self._end_child(0.0)
            lines = (logs / LOG_NAME).read_bytes()[told_before:].decode(errors="replace").strip().splitlines()
            why = lines[-1] if lines else f"it ended, or gave no answer in {self._start_timeout_s:g} s"
            raise ServiceError(f"the service does not start: {why} (log: {logs / LOG_NAME})") from None

    def _end_child(self, timeout_s: float) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        assert child.stdout is not None
        if timeout_s > 0:
            child.terminate()
            try:
                child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                log.warning("the service does not end: it is killed")
        child.kill()
        child.wait()
        with contextlib.suppress(OSError):  # of an order that it died before
            child.stdin.close()
        child.stdout.close()

    # ---- watching

    def _watch_and_forget(self) -> None:
        try:
            self._watch()
        finally:  # also where it was given up: clients would try a dead one
            forget_service(_from_here(self.settings.address), self._state_directory)
            with self._changed:
                self._is_watched = False
                self._changed.notify_all()

    def _watch(self) -> None:
        """Replace the child whenever that is needed, until `stop`."""
        while not self._stopping.is_set():
            assert self._ready is not None
            reason = self._watch_child(self._ready)
            if not reason:
                break
            log.error("the service is started again: %s", reason)
            self._set_ready(None)
            self._end_child(0.0)
            at_work = self._note_crash(reason)
            if reason != KILLED:  # by somebody, or for want of memory: at which frame does not matter
                reason = f"{reason} {at_work}".strip()
            self.restarts.append(reason)
            ready = self._start_again()
            if ready is None:
                break
            self._set_ready(ready)

    def _note_crash(self, reason: str) -> str:
        try:
            record = CrashRecord(Path(self.settings.directory), supervisor=os.getpid())
            return record.note_crash(reason, of_frames=reason != KILLED)
        except OSError as error:
            log.error("a crash cannot be counted: %s", error)
            return ""

    def _start_again(self) -> Ready | None:
        for failures in range(1, MAX_FAILURES + 1):
            try:
                ready = self._start_child(self.settings)
            except ServiceError as error:
                self._failed = str(error)
                log.error("%s", error)
                if self._stopping.wait(min(2.0**failures, 30.0)):
                    break
            else:
                self._failed = ""
                return ready
        return None

    def _watch_child(self, ready: Ready) -> str:
        """Watch one child; return why it must be replaced, "" where it ended as it was asked to."""
        child = self._child
        assert child is not None
        assert child.stdout is not None
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.linger = 0
            socket.subscribe(HEARTBEAT)
            self.credentials.apply(socket)
            socket.connect(f"{_from_here(ready.address).rpartition(':')[0]}:{ready.ports[1]}")
            poller = zmq.Poller()
            poller.register(socket, zmq.POLLIN)
            poller.register(child.stdout, zmq.POLLIN)  # its end tells at once that the child has died
            silence_s, suspensions = 0.0, _Suspensions()
            while not self._stopping.is_set():
                poller.poll(POLL_MS)
                silence_s += suspensions.look()
                status = child.poll()
                if status is not None:
                    return "" if status == 0 else _describe_exit(status)
                while socket.poll(0):
                    silence_s = 0.0
                    stuck = self._stuck(socket.recv_multipart()[-1], suspensions)
                    if stuck:
                        return stuck
                if silence_s > self._heartbeat_timeout_s:
                    return f"no heartbeat for {self._heartbeat_timeout_s:g} s"
        return ""

    def _stuck(self, beat: bytes, suspensions: _Suspensions) -> str:
        """Return which stage works for too long on one block, "" where none does."""
        try:
            content = unpack(beat)[3]
        except (WireError, IndexError, TypeError):
            return ""
        for run in content["runs"]:
            for stage in run["stages"]:
                if stage["block_s"] - suspensions.within(stage["block_s"]) > self._block_timeout_s:
                    return f"{stage['stage']} works on one block for more than {self._block_timeout_s:g} s"
        return ""


class _Suspensions:
    """Times in which this process, and so its child, was suspended: they are no silence and no work."""

    def __init__(self) -> None:
        self._looked = time.monotonic()
        self._past: deque[tuple[float, float]] = deque(maxlen=MAX_SUSPENSIONS)

    def look(self) -> float:
        """Return the seconds since the last look in which this process could run."""
        before, self._looked = self._looked, time.monotonic()
        suspended_s = self._looked - before - LONGEST_LOOK_S
        if suspended_s <= 0:
            return self._looked - before
        self._past.append((self._looked, suspended_s))
        return LONGEST_LOOK_S

    def within(self, last_s: float) -> float:
        """Return in how many of the last seconds it was suspended."""
        return sum(suspended_s for end, suspended_s in self._past if end > self._looked - last_s)


def _from_here(address: str) -> str:
    """Return how this machine reaches an address that stands for all of its networks."""
    for everywhere in ("//*:", "//0.0.0.0:"):
        address = address.replace(everywhere, "//127.0.0.1:")
    return address


def _describe_exit(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
