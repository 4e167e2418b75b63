"""The publications: small copies of derived documents for any number of viewers, and the heartbeat."""

from __future__ import annotations

import logging
import threading
from typing import Any

import zmq

from nsbluesky.service.snapshot import Document, Previews, Snapshot
from nsbluesky.service.wire import DOCUMENT, HEARTBEAT, WireError, pack

__all__ = ["Publisher"]

log = logging.getLogger(__name__)

MAX_WAITING = 32
"""Publications that wait for a viewer; one that is slower misses some, notices, and asks for the state."""


class Publisher:
    """A callback of derived runs; any thread.

    Each message is a topic and ``(instance, number, name, content)``.  The number counts documents; a heartbeat
    carries the number of the last document, so that viewers notice every loss.

    Parameters
    ----------
    socket : zmq.Socket
        Of type PUB.
    instance : str
        Which life of the service this is.
    """

    def __init__(self, socket: zmq.Socket[bytes], instance: str) -> None:
        socket.sndhwm = MAX_WAITING
        self._socket = socket
        self._instance = instance
        self._lock = threading.Lock()
        self._previews = Previews()
        self._snapshot = Snapshot()
        self._number = 0
        self.num_bytes = 0
        """Published so far."""

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Publish a document of a derived run."""
        with self._lock:
            document = self._previews(name, document)
            try:
                message = pack((self._instance, self._number + 1, name, document))
            except WireError as error:  # nor would a late viewer get it
                log.error("a %s document cannot be published: %s", name, error)
                return
            self._number += 1
            self._snapshot(name, document)
            self._socket.send_multipart([DOCUMENT, message])
            self.num_bytes += len(message)

    def beat(self, content: dict[str, Any]) -> None:
        """Publish a heartbeat."""
        with self._lock:
            message = pack((self._instance, self._number, HEARTBEAT.decode(), content))
            self._socket.send_multipart([HEARTBEAT, message])

    def snapshot(self) -> tuple[int, list[Document]]:
        """Return the number of the last document, and the documents that make up the state so far."""
        with self._lock:
            return self._number, self._snapshot.documents()

    def shows(self, derived_uid: str) -> bool:
        """Return whether a late viewer is told of a run."""
        return self._snapshot.has(derived_uid)

    def clear(self) -> None:
        """Forget the runs that have stopped."""
        self._snapshot.clear()

    def drop_open(self) -> None:
        """Forget the runs that have not stopped, as nothing more comes of them."""
        self._snapshot.drop_open()

    def close(self) -> None:
        """Send nothing any more."""
        with self._lock:
            self._socket.close(linger=500)
