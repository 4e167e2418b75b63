"""Worker processes that die of some blocks, as of a bug in a compiled library."""

from __future__ import annotations

import os
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

from nsbluesky.conversion.frames import StoredFrames
from nsbluesky.conversion.workers import forking_server

DEADLY_ROW = 4


def processes_that_die_of_a_frame() -> Executor:
    return ProcessPoolExecutor(2, forking_server(), initializer=die_of_a_frame)


def processes_that_die_at_once() -> Executor:
    return ProcessPoolExecutor(2, forking_server(), initializer=_die)


def _die() -> None:
    os._exit(9)


def die_of_a_frame() -> None:
    """Let this process die when it reads a frame."""
    read = StoredFrames.read

    def deadly(self: StoredFrames) -> Any:
        if DEADLY_ROW in self.rows:
            _die()
        return read(self)

    StoredFrames.read = deadly  # type: ignore[method-assign]
