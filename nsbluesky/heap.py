"""Memory that was freed goes back to the system.

The C library of Linux keeps what is freed in heaps of its threads, in pieces: a process that works on one run after
the other seems to grow by a megabyte with each of them, although nothing is kept.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

__all__ = ["trim"]


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
