"""Fourier transforms in place by FFTW: the library that pyFFTW brings along, called without pyFFTW.

Its plans are shared by all threads and can be used by compiled loops as well, within which Python has no part.
pyFFTW itself would be imported with its interfaces, and dask.array with them, which takes half of a service's start.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import math
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["CompiledTransforms", "PlannedTransforms"]

FORWARD, BACKWARD = -1, 1
DESTROYS_INPUT, UNALIGNED = 1 << 0, 1 << 1
"""Flags of plans, from FFTW's manual.  Plans are measured, which takes 0.1 s once for each; by estimate 256² took
eight times as long."""

ALIGNMENT = 16
"""Bytes; what NumPy's allocations have, and plans are made for where all waves in a row have it."""

MOST_AT_ONCE = 8
"""Transforms of one plan: 2-D ones of any number are done by plans for 8, 4, 2 and 1, so that there are few plans."""

PREFIXES = {np.dtype(np.complex64): "fftwf", np.dtype(np.complex128): "fftw"}


class CompiledTransforms(NamedTuple):
    """Where compiled loops find the transforms of one wave in place, with no factor: addresses of C's.

    Attributes
    ----------
    execute : int
        The function, which takes a plan, and the waves twice.
    forward, backward : int
        The plans.
    """

    execute: int
    forward: int
    backward: int


class PlannedTransforms:
    """2-D transforms over the last two axes in SciPy's form, in place where that can be, in the calling thread alone.

    Raises
    ------
    ImportError
        Where pyFFTW is not installed, or brings no library that can be called.
    """

    def __init__(self) -> None:
        self._library = _library()
        self._plans: dict[tuple[Any, ...], int] = {}
        self._planning = threading.Lock()

    def fft2(self, x: Any, *, norm: str, overwrite_x: bool) -> Any:
        """Return the transform of `x` (…, N, M), unitary for the norm "ortho", else with no factor."""
        return self._transform(x, FORWARD, norm == "ortho", overwrite_x)

    def ifft2(self, x: Any, *, norm: str, overwrite_x: bool) -> Any:
        """Return the inverse transform of `x` (…, N, M), unitary for the norm "ortho", else with no factor."""
        return self._transform(x, BACKWARD, norm == "ortho", overwrite_x)

    def compiled(self, side: int, dtype: npt.DTypeLike) -> CompiledTransforms:
        """Return the transforms of waves of side², which lie in memory as NumPy aligns it."""
        kind = np.dtype(dtype)
        execute = ctypes.cast(self._function("execute_dft", kind), ctypes.c_void_p).value
        plans = [self._plan((1, side, side), kind, direction) for direction in (FORWARD, BACKWARD)]
        return CompiledTransforms(execute or 0, *plans)

    def _transform(self, x: Any, direction: int, unitary: bool, overwrites: bool) -> Any:
        in_place = overwrites and _can_be_overwritten(x)
        waves = x if in_place else np.array(x, np.result_type(x.dtype, np.complex64), order="C")
        rows, columns = waves.shape[-2:]
        scale = waves.real.dtype.type(1 / math.sqrt(rows * columns))
        execute = self._function("execute_dft", waves.dtype)
        for part in _parts(waves.reshape(-1, rows, columns)):
            address = part.ctypes.data
            execute(self._plan(part.shape, part.dtype, direction), address, address)
            if unitary:
                part *= scale
        return waves

    def _plan(self, shape: tuple[int, ...], dtype: np.dtype[Any], direction: int) -> int:
        """Return the plan for waves (n, N, M)."""
        key = shape, dtype, direction
        plan = self._plans.get(key)
        if plan is None:
            with self._planning:
                plan = self._plans.get(key) or self._planned(*key)
                self._plans[key] = plan
        return plan

    def _planned(self, shape: tuple[int, ...], dtype: np.dtype[Any], direction: int) -> int:
        count, rows, columns = shape
        scratch = np.empty(shape, dtype)
        size = rows * columns
        flags = DESTROYS_INPUT | (UNALIGNED if size * dtype.itemsize % ALIGNMENT else 0)
        layout = scratch.ctypes.data, None, 1, size  # address, the array that it is part of, strides
        sides = (ctypes.c_int * 2)(rows, columns)
        plan = self._function("plan_many_dft", dtype)(2, sides, count, *layout, *layout, direction, flags)
        if not plan:
            raise RuntimeError(f"FFTW has no plan for {count} transforms of {rows} × {columns} {dtype} numbers")
        return int(plan)

    def _function(self, name: str, dtype: np.dtype[Any]) -> Any:
        return getattr(self._library, f"{PREFIXES[dtype]}_{name}")


def _library() -> ctypes.CDLL:
    """Return FFTW's library: a look-up in pyFFTW's extension finds what that is linked to."""
    package = importlib.util.find_spec("pyfftw")
    if package is None:
        raise ImportError("pyFFTW is not installed: pip install 'nsbluesky[fftw]'")
    extension = importlib.machinery.PathFinder.find_spec("pyfftw.pyfftw", package.submodule_search_locations)
    if extension is None or extension.origin is None:
        raise ImportError("pyFFTW has no extension module: install it anew")
    try:
        library = ctypes.CDLL(extension.origin)
        pointer, number = ctypes.c_void_p, ctypes.c_int
        layout = [pointer, pointer, number, number]
        for prefix in PREFIXES.values():
            plan = getattr(library, f"{prefix}_plan_many_dft")
            plan.argtypes, plan.restype = [number, pointer, number, *layout, *layout, number, ctypes.c_uint], pointer
            execute = getattr(library, f"{prefix}_execute_dft")
            execute.argtypes, execute.restype = [pointer, pointer, pointer], None
            getattr(library, f"{prefix}_make_planner_thread_safe")()  # others may make plans too
    except (OSError, AttributeError) as error:
        raise ImportError(f"pyFFTW's library cannot be called: {error}") from None
    return library


def _can_be_overwritten(a: Any) -> bool:
    return a.dtype in PREFIXES and a.flags.c_contiguous and a.flags.writeable and a.ctypes.data % ALIGNMENT == 0


def _parts(waves: Any) -> Iterator[Any]:
    """Yield runs of 8, 4, 2 and 1 of `waves` (n, N, M)."""
    first, count = 0, MOST_AT_ONCE
    while first < len(waves):
        while count > len(waves) - first:
            count //= 2
        yield waves[first : first + count]
        first += count
