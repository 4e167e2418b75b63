"""WriteGate: a processing that was closed writes nothing more, however long its thread goes on with what it is at."""

from __future__ import annotations

import threading

__all__ = ["GivenUp", "WriteGate"]


class GivenUp(BaseException):
    """The processing was closed, and its thread ends here; no `Exception`: it is no fault of a stage."""


class WriteGate:
    """Entered by whoever writes files, or tells others of documents; nobody enters once it is shut."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_shut = False

    def shut(self) -> None:
        """Let nobody enter from now on; returns at once."""
        self._is_shut = True

    def wait(self) -> None:
        """Wait until who is inside has left."""
        with self._lock:
            pass

    def __enter__(self) -> None:
        """Enter.

        Raises
        ------
        GivenUp
            If it is shut.
        """
        self._lock.acquire()
        if self._is_shut:
            self._lock.release()
            raise GivenUp

    def __exit__(self, *_: object) -> None:
        """Leave."""
        self._lock.release()
