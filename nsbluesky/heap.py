"""Memory that was freed goes back to the system, and nothing looks for garbage where there is none.

The C library of Linux keeps what is freed in heaps of its threads, in pieces: a process that works on one run after
the other seems to grow by a megabyte with each of them, although nothing is kept.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
from collections.abc import Callable, Iterator

__all__ = ["end_without_collection", "no_collections", "trim"]


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Let nothing look for garbage in the block, as where large libraries are imported: all that they make stays.

    The collector stays enabled: dask, imported while it is not, leaves it off for good after its first slice.  After
    the block all counts as old, for a look at so many young objects takes half a second.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(0)
    try:
        yield
    finally:
        if gc.get_freeze_count() == 0:  # what somebody froze stays so
            gc.freeze()
            gc.unfreeze()  # into the oldest generation
        gc.set_threshold(*thresholds)


def end_without_collection() -> None:
    """Let this process end at once: else Python looks for garbage among all that was imported, for up to 2 s."""
    atexit.register(gc.freeze)


def trim() -> None:
    """Give back what is free; some milliseconds.  Without effect where the C library is not glibc."""
    function = _malloc_trim()
    if function is not None:
        function(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        function: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return None
    return function
