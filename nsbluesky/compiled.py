"""Loops compiled by numba, which several threads and processes may call for the first time at once.

Numba guards its compiler by a lock, but not what it does with a first call's arguments before it takes it: where two
threads called for the first time at once, in a process that had compiled nothing yet, one of them failed in every
second run (numba 0.68, ``KeyError: (bool,)``).  Here the lock is taken for all of it.

And numba imports every library that extends it before it compiles or loads anything: awkward and sparse, which tiled
brings, are a second of each process that cleans one frame.  No loop here has arrays of theirs, so they are left to
the first function of somebody else.

In a fresh installation a session, its processing and its workers would each compile the same loops, twelve seconds of
a processor for one of them.  And numba's files have no lock: where two processes compile a loop for different types
at once, both write the same file, and the index may then name the machine code of the one for the types of the other.
So whoever finds no machine code compiles it for all, and the others wait for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba.core import entrypoints
from numba.core.compiler_lock import global_compiler_lock

__all__ = ["FAST", "njit"]

FAST = {"nsz", "contract", "reassoc", "arcp"}
"""What compilers may do to sums and quotients of floats; NaN and ∞ stay what they are."""

PATIENCE_S = 60.0
"""After that a process compiles for itself: whoever compiles may be stopped, or have the least of the processor."""
LOOK_S = 0.02


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return `numba.njit` with these options, as a decorator."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher: Any = numba.njit(**options)(function)
        compile_for = dispatcher._compile_for_args

        def compile_alone(*arguments: Any) -> Any:
            with global_compiler_lock, _without_extensions():
                return compile_for(*arguments)

        dispatcher._compile_for_args = compile_alone
        if options.get("cache"):
            _compile_for_all(dispatcher)
        return dispatcher

    return decorate


def _compile_for_all(dispatcher: Any) -> None:
    """Let one process at a time compile a function; those that wait look for its machine code again."""
    compile_one, function, cache = dispatcher.compile, dispatcher.py_func, dispatcher._cache
    load, locks = cache.load_overload, contextlib.ExitStack()
    file = f"{function.__module__}.{function.__qualname__}.lock"

    def load_or_lock(signature: Any, target: Any) -> Any:
        found = load(signature, target)
        if found is None:
            locks.enter_context(_locked(Path(cache.cache_path) / file))
            found = load(signature, target)
        return found

    def compile_locked(signature: Any) -> Any:
        with global_compiler_lock:  # for `locks`, of which there is one
            try:
                return compile_one(signature)
            finally:
                locks.close()

    cache.load_overload = load_or_lock
    dispatcher.compile = compile_locked


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file in the block, as far as one can: some disks know no locks."""
    file = None
    try:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            latest = time.monotonic() + PATIENCE_S
            while not _takes(file) and time.monotonic() < latest:
                time.sleep(LOOK_S)
        yield
    finally:
        if file is not None:
            os.close(file)


def _takes(file: int) -> bool:
    """Return whether this process, and none that it forks, has the lock now; it ends with the process."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _without_extensions() -> Iterator[None]:
    """Let numba think in the block that its extensions are there."""
    are_there = getattr(entrypoints, "_already_initialized", True)  # another numba may know it by another name
    entrypoints._already_initialized = True
    try:
        yield
    finally:
        entrypoints._already_initialized = are_there
