"""Processes that the package starts for itself: how they begin, and the line that one says to whoever started it.

``python -m nsbluesky.child_process NICE MODULE [ARGUMENT ...]`` calls ``MODULE.main(ARGUMENT, ...)``.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import os
import select
import sys
from typing import IO

from nsbluesky.heap import end_without_collection, no_collections

__all__ = ["command_of", "read_line", "take_output"]


def command_of(module: str, nice: int = 0) -> tuple[str, ...]:
    """Return the command that runs a module as a process of its own; `nice` comes before it imports anything."""
    return sys.executable, "-m", "nsbluesky.child_process", str(nice), module


def take_output(out: IO[str]) -> int:
    """Return a descriptor for what standard output was; what is printed from now on goes to standard error.

    Else what a plug-in prints would be taken for an answer, and then fill a pipe that nobody reads.  The descriptor
    is not inherited: where this process dies, whoever started it sees the end at once.
    """
    out.flush()
    answers = os.dup(out.fileno())
    os.dup2(sys.stderr.fileno(), out.fileno())
    return answers


def read_line(stream: IO[bytes], timeout_s: float) -> bytes:
    """Return one line, or nothing where the stream ends or the time is over."""
    if not select.select([stream], [], [], timeout_s)[0]:
        return b""
    return stream.readline()


def _defer(package: str, name: str) -> None:
    """Let a part of a package be imported when somebody looks into it: scipy takes over all the names of numpy."""
    spec = importlib.util.find_spec(f"{package}.{name}")
    if spec is None or spec.loader is None or spec.name in sys.modules:
        return
    spec.loader = importlib.util.LazyLoader(spec.loader)
    sys.modules[spec.name] = part = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(part)
    setattr(sys.modules[package], name, part)


def _main(nice: str, module: str, *arguments: str) -> None:
    """Import and run, without looking for garbage in what imports make: a quarter of the time that they take."""
    with contextlib.suppress(OSError):
        os.nice(int(nice))
    end_without_collection()
    with no_collections():
        _defer("numpy", "f2py")  # a compiler of Fortran: a fifteenth of what the processing imports
        main = importlib.import_module(module).main
    gc.freeze()  # all of that stays: no later look for garbage goes through it, as in the middle of a run
    main(*arguments)


if __name__ == "__main__":
    _main(*sys.argv[1:])
