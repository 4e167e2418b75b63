"""Work beside a window that ends with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["Background"]


class Background:
    """Work on a thread of its own that can be told to stop.

    Parameters
    ----------
    work : callable
        Is given a callable that tells whether to stop.
    done : callable
        Is given the future, on that thread.
    """

    def __init__(
        self, work: Callable[[Callable[[], bool]], object], done: Callable[[Future[object]], object]
    ) -> None:
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1, "nsbluesky-file")
        self._thread.submit(work, self._stop.is_set).add_done_callback(done)

    def close(self) -> None:
        """Stop, and wait until it has."""
        self._stop.set()
        self._thread.shutdown(wait=True)
