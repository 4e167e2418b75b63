"""Loops compiled by numba, which several threads may call for the first time at once.

Numba guards its compiler by a lock, but not what it does with a first call's arguments before it takes it: where two
threads called for the first time at once, in a process that had compiled nothing yet, one of them failed in every
second run (numba 0.68, ``KeyError: (bool,)``).  Here the lock is taken for all of it.

And numba imports every library that extends it before it compiles or loads anything: awkward and sparse, which tiled
brings, are a second of each process that cleans one frame.  No loop here has arrays of theirs, so they are left to
the first function of somebody else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numba
from numba.core import entrypoints
from numba.core.compiler_lock import global_compiler_lock

__all__ = ["FAST", "njit"]

FAST = {"nsz", "contract", "reassoc", "arcp"}
"""What compilers may do to sums and quotients of floats; NaN and ∞ stay what they are."""


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return `numba.njit` with these options, as a decorator."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher: Any = numba.njit(**options)(function)
        compile_for = dispatcher._compile_for_args

        def compile_alone(*arguments: Any) -> Any:
            with global_compiler_lock, _without_extensions():
                return compile_for(*arguments)

        dispatcher._compile_for_args = compile_alone
        return dispatcher

    return decorate


@contextlib.contextmanager
def _without_extensions() -> Iterator[None]:
    """Let numba think in the block that its extensions are there."""
    are_there = getattr(entrypoints, "_already_initialized", True)  # another numba may know it by another name
    entrypoints._already_initialized = True
    try:
        yield
    finally:
        entrypoints._already_initialized = are_there
