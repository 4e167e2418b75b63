"""Where arrays live: NumPy and SciPy on any machine, CuPy where a CUDA device is; one code over ``xp``.

On a host, the transforms are those of FFTW where pyFFTW is installed (``nsbluesky[fftw]``), else SciPy's.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import scipy.fft

from nsbluesky import helpers
from nsbluesky.fftw import CompiledTransforms, PlannedTransforms

__all__ = ["Backend", "BackendError", "Launch", "address_of", "cuda_launch", "get_backend", "pinned"]

Launch = Callable[..., None]
"""Called with a kernel's name, the number of its results, and its arguments: arrays, whole numbers and floats."""

KERNEL_THREADS = 256
"""Threads of a block of a kernel."""


class BackendError(RuntimeError):
    """The wanted backend cannot be used on this machine."""


class Transforms(Protocol):
    """2-D Fourier transforms in SciPy's form."""

    def fft2(self, x: Any, *, norm: str, overwrite_x: bool) -> Any:
        """Return the transform over the last two axes."""

    def ifft2(self, x: Any, *, norm: str, overwrite_x: bool) -> Any:
        """Return its inverse."""


@dataclass(eq=False)
class Backend:
    """An array module with the transforms and transfers that go with it.

    Attributes
    ----------
    name : str
        "numpy" or "cupy".
    xp : module
        The array module.
    threads : int
        Parts that a batch is cut in, for as many Python threads; 1 on a GPU.
    idle_threads : int
        Threads that leave their processor to others for now.  Results are the same, for what is cut in parts is not
        cut otherwise.
    """

    name: str
    xp: ModuleType
    threads: int
    _fft: Transforms
    idle_threads: int = 0

    @property
    def on_device(self) -> bool:
        """True where arrays live in the memory of a GPU."""
        return self.name == "cupy"

    @property
    def working(self) -> int:
        """Threads that work at once: at least one."""
        return max(1, self.threads - self.idle_threads)

    def fft2(self, a: Any, *, unitary: bool = True) -> Any:
        """2-D Fourier transform over the last two axes, zero frequency at [0, 0]; `a` may be overwritten.

        Unitary, or with no factor at all.
        """
        return self._fft.fft2(a, norm="ortho" if unitary else "backward", overwrite_x=True)

    def ifft2(self, a: Any, *, unitary: bool = True) -> Any:
        """Inverse of `fft2`, unitary or with no factor at all; `a` may be overwritten."""
        return self._fft.ifft2(a, norm="ortho" if unitary else "forward", overwrite_x=True)

    def transform(self, a: Any, out: Any = None, *, inverse: bool = False) -> Any:
        """Transform contiguous waves (…, N, N) complex64 into `out`, by default in place, with no factor.

        On a device nothing is allocated once it was done for as many waves, so that a graph may hold it; the plan is
        returned, which has to live as long as such a graph.
        """
        out = a if out is None else out
        if self.on_device:
            cufft = self.xp.cuda.cufft
            plan = _cufft_plan(self.xp, a.size // a.shape[-1] ** 2, a.shape[-1])
            plan.fft(a, out, cufft.CUFFT_INVERSE if inverse else cufft.CUFFT_FORWARD)
            return plan
        waves = a.copy()
        out[...] = self.ifft2(waves, unitary=False) if inverse else self.fft2(waves, unitary=False)
        return None

    def compiled_transforms(self, side: int, dtype: npt.DTypeLike) -> CompiledTransforms | None:
        """Return the transforms of one wave of side² for loops compiled for a CPU, where there are any to call."""
        return self._fft.compiled(side, dtype) if isinstance(self._fft, PlannedTransforms) else None

    def to_numpy(self, a: Any) -> Any:
        """Return `a` as a NumPy array in host memory (no copy where it is one)."""
        return a.get() if hasattr(a, "get") else np.asarray(a)

    def from_numpy(self, a: Any) -> Any:
        """Return `a` on this backend's device (no copy where it is there)."""
        return self.xp.asarray(a)

    def map(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call `function` over the zipped sequences, on as many Python threads as work, this one among them."""
        calls = list(zip(*arguments, strict=True))
        working = min(self.working, len(calls))
        if working <= 1:
            return [function(*call) for call in calls]
        results: list[Any] = [None] * len(calls)
        indices = iter(range(len(calls)))

        def work() -> None:
            for index in indices:
                results[index] = function(*calls[index])

        helpers.share(work, working)
        return results


def _cupy_backend() -> Backend:
    try:
        import cupy
        import cupyx.scipy.fft as cufft
    except ImportError:
        raise BackendError("CuPy is not installed: pip install 'nsbluesky[gpu]', or choose backend numpy") from None
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendError(f"CuPy finds no CUDA device ({error}): choose backend numpy") from None
    if devices == 0:
        raise BackendError("CuPy finds no CUDA device: choose backend numpy")
    return Backend("cupy", cupy, 1, cufft)


def _host_transforms() -> Transforms:
    """Return those of FFTW, or without pyFFTW SciPy's."""
    try:
        return PlannedTransforms()
    except ImportError:
        return cast(Transforms, scipy.fft)


def get_backend(name: str = "auto", threads: int | None = None) -> Backend:
    """Return the backend of that name; "auto" takes CuPy where it works, else NumPy.

    Parameters
    ----------
    name : {"auto", "numpy", "cupy"}
    threads : int, optional
        Threads of the NumPy backend; the processors this process may use (at most 8) by default.

    Raises
    ------
    BackendError
        If CuPy is asked for and cannot be used.
    """
    if name == "cupy":
        return _cupy_backend()
    if name == "auto":
        try:
            return _cupy_backend()
        except BackendError:
            pass
    elif name != "numpy":
        raise BackendError(f"backend {name!r}: expected auto, numpy or cupy")
    return Backend("numpy", np, threads or min(len(os.sched_getaffinity(0)), 8), _host_transforms())


@functools.lru_cache(maxsize=64)
def _cufft_plan(xp: ModuleType, count: int, side: int) -> Any:
    """Return the plan of transforms of so many waves of side² that lie one after the other."""
    shape, size = (side, side), side**2
    return xp.cuda.cufft.PlanNd(shape, shape, 1, size, shape, 1, size, xp.cuda.cufft.CUFFT_C2C, count, "C", 1, None)


def address_of(a: Any) -> int:
    """Return where the memory of an array begins, on its device or in the host's memory."""
    return int(a.ctypes.data if isinstance(a, np.ndarray) else a.data.ptr)


def pinned(xp: ModuleType, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array of the host (not cleared) that a device reaches by itself."""
    if xp is np:
        return np.zeros(shape, dtype)
    count = math.prod(shape)
    memory = xp.cuda.alloc_pinned_memory(count * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype, count).reshape(shape)


def cuda_launch(xp: ModuleType, source: str) -> Launch:
    """Return what starts one of the kernels of `source` on the device, on the current stream.

    The source is compiled at the first call.  Arrays have to be contiguous, of the type that the kernel declares.
    """
    function = functools.cache(xp.RawModule(code=source).get_function)

    def launch(name: str, size: int, *arguments: Any) -> None:
        typed = [_c_type(a) for a in arguments]
        blocks = max(-(-size // KERNEL_THREADS), 1)
        function(name)((blocks,), (KERNEL_THREADS,), tuple(typed))

    return launch


def _c_type(argument: Any) -> Any:
    """Return numbers with the width that kernels declare."""
    if isinstance(argument, int):
        return np.int32(argument)
    return np.float32(argument) if isinstance(argument, float) else argument
