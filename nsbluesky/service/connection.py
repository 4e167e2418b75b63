"""The session's end: ``RE.subscribe(nsbluesky.connect())`` sends documents to the service and never blocks.

The document log is the memory.  Each document has its place in the log of its run; the service tells how far it is,
and whatever it lacks, because it was away, began anew or lost something, is sent again from there.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import zmq

from nsbluesky import heap
from nsbluesky.callbacks.document_queue import SWITCH_INTERVAL_S
from nsbluesky.document_log import DocumentLog, aborted
from nsbluesky.latest import Latest
from nsbluesky.run_index import RunIndex
from nsbluesky.service.access import AccessError, Credentials, local_credentials
from nsbluesky.service.backlog import Backlog, DocumentLost, RunBacklog
from nsbluesky.service.control import Endpoints, ServiceAway, ask, find_endpoints
from nsbluesky.service.finished import FinishedRun
from nsbluesky.service.messages import ControlError
from nsbluesky.service.settings import DEFAULT_ADDRESS
from nsbluesky.service.stored import read_last_picture
from nsbluesky.service.subscriber import DerivedRuns
from nsbluesky.service.wire import ACK, DOCUMENT, HELLO, MAX_BYTES, REFUSED, WireError, pack, pack_document, unpack

__all__ = ["Connection", "connect"]

log = logging.getLogger(__name__)

MAX_MEMORY_BYTES = 64 * 2**20
WINDOW = 500
"""Documents that may be on their way; the service tells when it has them."""
TICK_MS = 50
"""Documents of this time travel together: the fewer turns this thread takes, the less the RunEngine waits."""
GREETING_S = 0.5
"""Time between two greetings: each brings to light what was lost on the way."""
SILENCE_S = 3.0
"""After this time without an answer the service is looked for again."""
RETRY_S = 0.3
POLL_S = 0.5
MAX_TROUBLES = 4
"""How often another's service may refuse or be silent while nothing goes on."""


class Connection(DerivedRuns):
    """Callback of the RunEngine: gives the documents to the processing service, however often that is away.

    Calling it only puts a document in a list: microseconds, never an exception.  It has what a session uses of
    `PtychoPipeline`: `live`, `results`, `subscribe`, `wait`, `abort` and `close`.

    Parameters
    ----------
    address : str
        Of the service's control socket.
    log : DocumentLog
        It must get each document before this does.
    credentials : Credentials, optional
        By default those of this user on this machine.

    Attributes
    ----------
    finished : dict
        `FinishedRun` by the uid of the raw run: where its files are.  Of the latest runs: those before are in the
        service's record.
    errors : dict
        What went wrong, by the uid of the run; "" for the connection itself.
    """

    def __init__(self, address: str, log: DocumentLog | str | Path, credentials: Credentials | None = None) -> None:
        super().__init__(address, credentials)
        directory = log.directory if isinstance(log, DocumentLog) else Path(log)
        self.finished: dict[str, FinishedRun] = Latest()
        self.errors: dict[str, str] = Latest()
        self._index = RunIndex()
        self._backlog = Backlog(directory, MAX_MEMORY_BYTES)
        self._changed = threading.Condition()
        self._finished_callbacks: list[Callable[[FinishedRun], Any]] = []
        self._closing = threading.Event()
        self._greeting = 0
        self._shown = ""
        self._sent_at_greeting: dict[str, int] = {}
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
        self._sender = threading.Thread(target=self._run, name="nsbluesky-connection", daemon=True)
        self._sender.start()

    # ---- for the user

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Take a document; returns at once."""
        for uid in self._index.runs_of(name, document):
            if name == "start":
                self._backlog.begin(uid)
            self._backlog.add(uid, name, document)

    @property
    def queued(self) -> int:
        """How many documents the service does not have yet."""
        return sum(run.count - run.taken for run in self._backlog.runs())

    def on_finished(self, callback: Callable[[FinishedRun], Any]) -> None:
        """Call `callback` when the processing of a run is over, on the thread of this connection."""
        self._finished_callbacks.append(callback)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the service has finished all runs that have ended; False when time ran out."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            if not self._changed.wait_for(lambda: not self._ended_runs(), timeout):
                return False
        left = None if end is None else max(0.0, end - time.monotonic())
        return not self._shown or self.wait_for_stop(self._shown, left)

    @property
    def unfinished(self) -> list[str]:
        """The uids of the runs that have ended and are not processed yet; none once this is closed."""
        return [] if self._closing.is_set() else [run.uid for run in self._ended_runs()]

    def wait_while_served(self, has_ended: Callable[[], bool] | None = None) -> str:
        """Wait until the service has finished all runs that have ended; return why that is in vain, else "".

        Parameters
        ----------
        has_ended : callable, optional
            Tells whether the service has ended for good.  Without, that is taken from one that refuses or is silent
            again and again while nothing goes on.
        """
        troubles, queued = 0, self.queued
        while not self.wait(POLL_S):
            trouble = self.errors.pop("", "")
            if has_ended is not None:
                if has_ended():
                    return "the processing ended before the run did"
                continue
            if self.queued < queued:
                troubles, queued = 0, self.queued
            troubles += bool(trouble)
            if troubles > MAX_TROUBLES:
                return trouble
        return ""

    def abort(self) -> None:
        """End the processing of all ended runs with what there is; runs that go on are not touched."""
        try:
            ask(self.address, "abort", self.credentials)
        except (ServiceAway, AccessError, ControlError) as error:
            log.error("the processing cannot be aborted: %s", error)

    def cxi_path(self, raw_uid: str) -> Path | None:
        """Return the CXI file of a finished run."""
        run = self.finished.get(raw_uid)
        return Path(run.cxi) if run is not None and run.cxi else None

    def close(self, timeout: float | None = 60.0) -> bool:
        """Wait for what the service still has to do, within `timeout` seconds, and end; True if nothing is left."""
        complete = self.wait(timeout)
        self._closing.set()
        self._sender.join(SILENCE_S)
        super().close()
        return complete

    def __enter__(self) -> Self:
        """Connect."""
        return self

    def __exit__(self, *_: object) -> None:
        """End without waiting."""
        self.close(timeout=0)

    def _ended_runs(self) -> list[RunBacklog]:
        open_runs = self._index.open_runs
        return [run for run in self._backlog.runs() if run.uid not in open_runs]

    # ---- the sender's thread

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                credentials = self.credentials or local_credentials(self.address)
                endpoints = find_endpoints(self.address, credentials, timeout_s=1.0)
            except (ServiceAway, AccessError, ControlError) as error:
                self._note_error("", str(error))
            else:
                try:
                    self._talk(endpoints, credentials)
                except Exception as error:  # whatever happens here must not end what can be repaired
                    log.exception("the connection to the service begins anew")
                    self._note_error("", str(error))
            self._closing.wait(RETRY_S)

    def _talk(self, endpoints: Endpoints, credentials: Credentials) -> None:
        """Send documents until the service is away, has begun anew, or refuses."""
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.sndhwm = 2 * WINDOW
            socket.maxmsgsize = MAX_BYTES
            credentials.apply(socket)
            socket.connect(endpoints.documents)
            token = credentials.token.encode()
            heard, next_greeting, greeted = time.monotonic(), 0.0, False
            while not self._closing.is_set():
                now = time.monotonic()
                if now >= next_greeting:
                    self._greet(socket, token)
                    next_greeting = now + GREETING_S
                if greeted:
                    self._send_documents(socket, token)
                if socket.poll(TICK_MS):
                    heard = time.monotonic()
                    while socket.poll(0):
                        kind, content = socket.recv_multipart()
                        if kind == REFUSED:
                            self._note_error("", content.decode(errors="replace"))
                            return
                        instance, greeting, runs = unpack(content) if kind == ACK else ("", None, {})
                        if instance != endpoints.instance:
                            return
                        greeted = greeted or greeting is not None
                        self._note_progress(greeting, runs)
                elif time.monotonic() - heard > SILENCE_S:
                    self._note_error("", f"no answer from {endpoints.documents} for {SILENCE_S:g} s")
                    return

    def _greet(self, socket: zmq.Socket[bytes], token: bytes) -> None:
        """Ask how far the service is; what it lacks of what was sent before this is lost."""
        self._greeting += 1
        runs = self._backlog.runs()
        self._sent_at_greeting = {run.uid: run.sent for run in runs}
        socket.send_multipart([token, HELLO, pack((self._greeting, [run.uid for run in runs]))])

    def _note_progress(self, greeting: int | None, told: dict[str, Any]) -> None:
        for run in self._backlog.runs():
            if run.uid not in told:
                continue
            count, finished, shown = told[run.uid]
            self._backlog.taken(run, count)
            run.sent = max(run.sent, count)
            if greeting == self._greeting and count < self._sent_at_greeting.get(run.uid, 0):
                level = logging.INFO if count else logging.DEBUG  # one that waits for its turn comes again and again
                log.log(level, "run %s: the service has %d documents of %d: sent again", run.uid, count, run.sent)
                run.sent = count
            if finished is not None:
                self._note_finished(FinishedRun(**finished), shown)

    def _note_finished(self, run: FinishedRun, shown: bool) -> None:
        if run.documents and not shown:  # an earlier life of the service has finished it
            self._take_stored_result(run)
        for callback in self._finished_callbacks:
            try:
                callback(run)
            except Exception as error:  # a catalog that cannot be written must not stop the documents
                log.exception("%r failed on run %s", callback, run.raw_uid)
                self._note_error(run.raw_uid, str(error))
        with self._changed:
            self.finished[run.raw_uid] = run
            self._shown = run.derived_uid if shown else ""
            self._backlog.finish(run.raw_uid)
            self._changed.notify_all()
        heap.trim()

    def _take_stored_result(self, run: FinishedRun) -> None:
        try:
            picture = read_last_picture(run.documents)
        except (OSError, LookupError, ValueError) as error:  # as where a file is shorter than its documents tell
            self._note_error(run.raw_uid, f"its image cannot be read here: {error}")
        else:
            if picture is not None:
                self._results.keep(run.raw_uid, picture)

    def _send_documents(self, socket: zmq.Socket[bytes], token: bytes) -> None:
        runs = self._backlog.runs()
        free = WINDOW - sum(run.sent - run.taken for run in runs)
        for run in runs:
            while run.sent < run.count and free > 0:
                socket.send_multipart([token, DOCUMENT, self._packed(run, run.sent)])
                run.sent += 1
                free -= 1

    def _packed(self, run: RunBacklog, index: int) -> bytes:
        """Return a document; where it cannot be had any more, the end of the run in its place.

        A run cannot begin with its end: a start document is sent with what can be had of it.
        """
        document: Mapping[str, Any] = {}
        try:
            name, document = self._backlog.document(run, index)
            return pack_document(run.uid, index, name, document)
        except (DocumentLost, WireError) as error:
            self._note_error(run.uid, str(error))
            if index == 0:
                start = {"uid": run.uid, "time": time.time()} | dict(filter(_can_be_sent, document.items()))
                return pack_document(run.uid, index, "start", start)
            return pack_document(run.uid, index, "stop", aborted(run.uid, f"a document was lost: {error}"))

    def _note_error(self, uid: str, reason: str) -> None:
        if self.errors.get(uid) != reason:
            log.warning("%s", reason)
        self.errors[uid] = reason


def _can_be_sent(item: tuple[str, Any]) -> bool:
    try:
        pack_document("", 0, "start", dict([item]))
    except WireError:
        return False
    return True


def connect(
    address: str = DEFAULT_ADDRESS,
    log: DocumentLog | str | Path | None = None,
    credentials: Credentials | None = None,
) -> Connection:
    """Connect a RunEngine to the processing service: ``RE.subscribe(nsbluesky.connect())``.

    Parameters
    ----------
    address : str
        Of the service's control socket.
    log : DocumentLog or path, optional
        The document log, subscribed before this.  By default the connection keeps one in the user's data folder.
    credentials : Credentials, optional
        Keys beyond loopback; by default the token of this user's service on this machine.
    """
    if log is None:
        return LoggingConnection(address, credentials)
    return Connection(address, log, credentials)


class LoggingConnection(Connection):
    """A connection that keeps the document log itself."""

    def __init__(self, address: str, credentials: Credentials | None = None) -> None:
        from nsbluesky.folders import data_directory

        self.log = DocumentLog(data_directory() / "documents")
        super().__init__(address, self.log, credentials)

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Write a document to the log and take it."""
        self.log(name, document)
        super().__call__(name, document)

    def close(self, timeout: float | None = 60.0) -> bool:
        """Close the log too."""
        complete = super().close(timeout)
        self.log.close()
        return complete
