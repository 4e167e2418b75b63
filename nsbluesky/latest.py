"""What is kept of the latest runs only, in processes that live for months."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["MAX_KNOWN_RUNS", "Latest"]

MAX_KNOWN_RUNS = 1000
"""Runs that are over and still known: more than come between the end of one and the last question about it."""

_K = TypeVar("_K")
_V = TypeVar("_V")


class Latest(dict[_K, _V]):
    """A dict of the entries that were set last; the one that was set the longest ago makes room for a new one.

    Parameters
    ----------
    most : int
        Entries that are kept.
    """

    def __init__(self, most: int = MAX_KNOWN_RUNS) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: _K, value: _V) -> None:
        """Set an entry, the latest one now."""
        self.pop(key, None)
        super().__setitem__(key, value)
        while len(self) > self._most:
            del self[next(iter(self))]
