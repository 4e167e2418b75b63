"""Fourier transforms in place by FFTW's plans, without the copies and look-ups of pyFFTW's SciPy interface."""

from __future__ import annotations

import importlib
import math
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["PlannedTransforms"]

PLAN_EFFORT = "FFTW_MEASURE"
"""0.1 s once for each plan; by estimate 256² took eight times as long."""

ALIGNMENT = 16
"""Bytes; what NumPy's allocations have, and plans are made for."""

MOST_AT_ONCE = 8
"""Transforms of one plan: 2-D ones of any number are done by plans for 8, 4, 2 and 1, so that there are few of them.

Each new plan is measured, and one for 8 × 128² is 13 % faster than one for a single transform.
"""


def _import_pyfftw() -> Any:
    """Import pyFFTW without its interfaces: these import dask.array, which takes half of a service's start."""
    interfaces = "pyfftw.interfaces"
    if "pyfftw" in sys.modules:
        return importlib.import_module("pyfftw")
    sys.modules[interfaces] = ModuleType(interfaces)
    try:
        module = importlib.import_module("pyfftw")
    finally:
        del sys.modules[interfaces]
    vars(module).pop("interfaces", None)  # whoever imports them later gets the real ones
    return module


pyfftw = _import_pyfftw()


class PlannedTransforms:
    """2-D transforms over the last two axes in SciPy's form, in place where that can be, in the calling thread alone.

    Every thread has plans of its own, as a plan is pointed at the array that it works on.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def fft2(self, x: Any, *, norm: str, overwrite_x: bool) -> Any:
        """Return the transform of `x` (…, N, M), unitary for the norm "ortho", else with no factor."""
        return self._transform(x, "FFTW_FORWARD", norm == "ortho", overwrite_x)

    def ifft2(self, x: Any, *, norm: str, overwrite_x: bool) -> Any:
        """Return the inverse transform of `x` (…, N, M), unitary for the norm "ortho", else with no factor."""
        return self._transform(x, "FFTW_BACKWARD", norm == "ortho", overwrite_x)

    def _transform(self, x: Any, direction: str, unitary: bool, overwrites: bool) -> Any:
        in_place = overwrites and _can_be_overwritten(x)
        waves = x if in_place else np.array(x, np.result_type(x.dtype, np.complex64), order="C")
        rows, columns = waves.shape[-2:]
        scale = waves.real.dtype.type(1 / math.sqrt(rows * columns))
        for part in _parts(waves.reshape(-1, rows, columns)):
            plan = self._plan(part.shape, part.dtype, direction)
            plan.update_arrays(part, part)
            plan.execute()
            if unitary:
                part *= scale
        return waves

    def _plan(self, shape: tuple[int, ...], dtype: np.dtype[Any], direction: str) -> Any:
        plans = self._of_thread.__dict__.setdefault("plans", {})
        key = shape, dtype, direction
        if key not in plans:
            scratch = pyfftw.empty_aligned(shape, dtype, n=ALIGNMENT)
            flags = (PLAN_EFFORT, "FFTW_DESTROY_INPUT")
            plans[key] = pyfftw.FFTW(scratch, scratch, (-2, -1), direction, flags, threads=1)
        return plans[key]


def _can_be_overwritten(a: Any) -> bool:
    complex_numbers = a.dtype in (np.complex64, np.complex128)
    return complex_numbers and a.flags.c_contiguous and a.flags.writeable and pyfftw.is_byte_aligned(a, ALIGNMENT)


def _parts(waves: Any) -> Iterator[Any]:
    """Yield runs of 8, 4, 2 and 1 of `waves` (n, N, M)."""
    first, count = 0, MOST_AT_ONCE
    while first < len(waves):
        while count > len(waves) - first:
            count //= 2
        yield waves[first : first + count]
        first += count
