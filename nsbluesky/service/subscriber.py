"""The viewer's end: the derived runs of a service, for windows and plans; a late viewer gets the state so far."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import zmq

from nsbluesky.callbacks.live_plots import LivePlots
from nsbluesky.callbacks.results import NewestResults
from nsbluesky.callbacks.subscribers import DocumentCallback, Subscribers
from nsbluesky.document_log import aborted
from nsbluesky.latest import Latest
from nsbluesky.service.access import AccessError, Credentials, check_address, local_credentials
from nsbluesky.service.control import Endpoints, ServiceAway, ask_snapshot, find_endpoints
from nsbluesky.service.messages import ControlError
from nsbluesky.service.wire import DOCUMENT, HEARTBEAT, MAX_BYTES, WireError, unpack

__all__ = ["DerivedRuns"]

log = logging.getLogger(__name__)

POLL_MS = 100
SILENCE_S = 3.0
"""Three heartbeats that do not come."""
RETRY_S = 0.3
MAX_WAITING = 64


class DerivedRuns:
    """What a service publishes, given to callbacks on a thread of its own.

    Documents are small copies (see `nsbluesky.service.snapshot`), newest wins: where some were missed, the state as
    it is now follows.  A run whose service has died ends with a stop document that tells it.

    Parameters
    ----------
    address : str
        Of the service's control socket.
    credentials : Credentials, optional
        By default those of this user on this machine.

    Raises
    ------
    AccessError
        For an address that is none.

    Attributes
    ----------
    heartbeat : dict
        The newest heartbeat; see docs/reference/control-messages.md.  ``"heard"`` is when it came, by
        `time.monotonic`.
    """

    max_results = 4

    def __init__(self, address: str, credentials: Credentials | None = None) -> None:
        check_address(address)
        self.address = address
        self.credentials = credentials
        self.live = LivePlots()
        self.heartbeat: dict[str, Any] = {}
        self._results = NewestResults(self.max_results)
        self._subscribers = Subscribers()
        for callback in (self.live, self._results):
            self._subscribers.add(callback)
        self._runs = _SeenRuns()
        self._stops = threading.Condition()
        self._stopped: Latest[str, None] = Latest()
        self._has_state = threading.Event()
        self._closing_listener = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="nsbluesky-subscriber", daemon=True)
        self._listener.start()

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The last ``reconstruction`` event's data by the uid of the raw run."""
        return self._results.results

    def subscribe(self, callback: DocumentCallback) -> int:
        """Call `callback` with each derived document; returns a token."""
        return self._subscribers.add(callback)

    def unsubscribe(self, token: int) -> None:
        """Stop calling the callback of that token."""
        self._subscribers.remove(token)

    def wait_for_stop(self, uid: str, timeout: float | None = None) -> bool:
        """Wait until the stop document of a derived run came; False when time ran out."""
        with self._stops:
            return self._stops.wait_for(lambda: uid in self._stopped, timeout)

    def wait_for_state(self, timeout: float | None = None) -> bool:
        """Wait until the state so far came, even if it is empty; False when time ran out."""
        return self._has_state.wait(timeout)

    def close(self) -> Any:
        """End the listener's thread."""
        self._closing_listener.set()
        self._listener.join(SILENCE_S)

    # ---- the listener's thread

    def _listen(self) -> None:
        while not self._closing_listener.is_set():
            try:
                endpoints = find_endpoints(self.address, self.credentials, timeout_s=1.0)
                self._follow(endpoints)
            except (ServiceAway, AccessError, ControlError, WireError) as error:
                log.info("%s", error)
                self._deliver(self._runs.away())
            except Exception:  # a message that nobody thought of must not end what a window shows
                log.exception("the publications of the service cannot be followed")
            self._closing_listener.wait(RETRY_S)

    def _follow(self, endpoints: Endpoints) -> None:
        """Follow one life of the service."""
        self._deliver(self._runs.begin(endpoints))
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.linger = 0
            socket.rcvhwm = MAX_WAITING
            socket.maxmsgsize = 2 * MAX_BYTES
            for topic in (DOCUMENT, HEARTBEAT):
                socket.subscribe(topic)
            (self.credentials or local_credentials(self.address)).apply(socket)
            socket.connect(endpoints.publications)
            newest: int | None = None
            heard = time.monotonic()
            while not self._closing_listener.is_set():
                if not socket.poll(POLL_MS):
                    if time.monotonic() - heard > SILENCE_S:
                        raise ServiceAway(f"no heartbeat from {self.address} for {SILENCE_S:g} s")
                    continue
                heard = time.monotonic()
                topic, content = socket.recv_multipart()
                instance, number, name, document = unpack(content)
                if instance != endpoints.instance:
                    return
                if topic == HEARTBEAT:
                    self.heartbeat = document | {"heard": heard}
                    complete = number == newest
                else:
                    complete = newest is not None and number <= newest + 1
                    if complete and number == newest + 1:  # type: ignore[operator]
                        newest = number
                        self._deliver(self._runs.new([(name, document)]))
                if not complete:  # it has just begun to listen, or missed something
                    newest, documents = ask_snapshot(self.address, self.credentials)
                    self._deliver(self._runs.new(documents))
                    self._has_state.set()

    def _deliver(self, documents: Iterable[tuple[str, dict[str, Any]]]) -> None:
        for name, document in documents:
            for callback, error in self._subscribers.tell(name, document):
                log.error("%r failed on a %s document", callback, name, exc_info=error)
            if name == "stop":
                with self._stops:
                    self._stopped[document["run_start"]] = None
                    self._stops.notify_all()


@dataclass
class _SeenStream:
    """A stream of a run that goes on: `newest` is the number of the last event that was delivered."""

    run: str
    is_health: bool
    newest: int = 0


class _SeenRuns:
    """What was delivered, so that a snapshot adds only what is new, and runs that were cut off are ended."""

    def __init__(self) -> None:
        self._instance = ""
        self._open: dict[str, None] = {}
        self._closed: Latest[str, None] = Latest()
        self._streams: dict[str, _SeenStream] = {}
        self._health: tuple[str, dict[str, Any]] | None = None
        self._told_away = False

    def begin(self, endpoints: Endpoints) -> list[tuple[str, dict[str, Any]]]:
        """Return what ends the runs of the former life, where this is another one."""
        self._told_away = False
        if endpoints.instance == self._instance:
            return []
        self._instance = endpoints.instance
        why = f" ({endpoints.restarts[-1]})" if endpoints.restarts else ""
        return [("stop", self._cut_off(uid, why)) for uid in list(self._open)]

    def away(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what tells, once, that the service is away."""
        if self._told_away or self._health is None or not self._open:
            return []
        self._told_away = True
        name, event = self._health
        message = "no heartbeat from the processing service: its runs begin anew when it is back"
        data = {**event["data"], "stage": "service", "state": "error", "message": message}
        return [(name, {**event, "uid": str(uuid.uuid4()), "time": time.time(), "data": data})]

    def new(self, documents: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
        """Return those of the documents that were not delivered yet."""
        return [(name, document) for name, document in documents if self._is_new(name, document)]

    def _is_new(self, name: str, document: dict[str, Any]) -> bool:
        if name == "start":
            uid = document["uid"]
            known = uid in self._open or uid in self._closed
            if not known:
                self._open[uid] = None
            return not known
        if name == "stop":
            known = document["run_start"] not in self._open
            if not known:
                self._close(document["run_start"])
            return not known
        if name == "descriptor":
            known = document["uid"] in self._streams or document["run_start"] not in self._open
            if not known:
                self._streams[document["uid"]] = _SeenStream(document["run_start"], document["name"] == "health")
            return not known
        if name == "event":
            stream = self._streams.get(document["descriptor"])
            if stream is None:  # of a run that is over
                return False
            if stream.is_health:
                self._health = name, document
                return True
            known = stream.newest >= document["seq_num"]
            stream.newest = max(stream.newest, document["seq_num"])
            return not known
        return True  # pages: what comes again replaces itself

    def _close(self, uid: str) -> None:
        del self._open[uid]
        self._closed[uid] = None
        self._streams = {descriptor: stream for descriptor, stream in self._streams.items() if stream.run != uid}
        if not self._open:
            self._health = None

    def _cut_off(self, uid: str, why: str) -> dict[str, Any]:
        self._close(uid)
        return aborted(uid, f"the processing service was started again{why}; the run is processed anew")
