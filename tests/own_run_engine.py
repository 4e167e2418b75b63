"""A RunEngine on its own event loop, which leaves nothing behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bluesky import RunEngine

THREAD_JOIN_S = 5.0


@contextmanager
def run_engine(**options: Any) -> Iterator[RunEngine]:
    """Make a RunEngine; what is left running is halted, and no thread of it stays."""
    before = set(threading.enumerate())
    loop = asyncio.new_event_loop()
    engine = RunEngine({}, loop=loop, **options)
    engine_threads = set(threading.enumerate()) - before
    try:
        yield engine
    finally:
        if engine.state not in ("idle", "panicked"):
            engine.halt()
        loop.call_soon_threadsafe(loop.stop)
        for thread in engine_threads:
            thread.join(THREAD_JOIN_S)
            assert not thread.is_alive(), f"{thread.name} outlived its RunEngine"
        loop.close()
