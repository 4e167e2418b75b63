"""Object windows of frames: read from the canvas, add to the canvas, and the sums that an update needs.

On a host, several threads share a canvas by rows: each takes one band and clips every window to it, so that no two
threads write one pixel and the sums do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend

__all__ = ["Divisor", "ObjectSums", "add_power", "bands", "divisor_for", "gather", "pad_canvas", "stacked"]

BAND_PIXELS = 80_000
"""Pixels of a canvas for which a further thread is worth being woken."""

Corners = npt.NDArray[np.int64]


def _device_index(backend: Backend, corners: Corners, side: int) -> tuple[Any, Any]:
    xp = backend.xp
    line = xp.arange(side)
    at = xp.asarray(corners)
    return at[:, 0, None, None] + line[None, :, None], at[:, 1, None, None] + line[None, None, :]


def gather(backend: Backend, canvas: Any, corners: Corners, out: Any) -> Any:
    """Copy the windows at `corners` (n, 2) of `canvas` into the first rows of `out` (n, N, N) and return those."""
    windows = out[: len(corners)]
    side = out.shape[-1]
    if backend.on_device:
        windows[...] = canvas[_device_index(backend, corners, side)]
        return windows
    for window, (row, column) in zip(windows, corners, strict=True):
        window[...] = canvas[row : row + side, column : column + side]
    return windows


def bands(backend: Backend, shape: tuple[int, int]) -> list[slice]:
    """Cut the rows of a canvas (H, W) into one band for each thread that is worth it; one band on a device."""
    height, width = shape
    count = 1 if backend.on_device else max(1, min(backend.threads, height * width // BAND_PIXELS))
    edges = [height * part // count for part in range(count + 1)]
    return [slice(low, high) for low, high in pairwise(edges)]


def stacked(canvas: Any) -> Any:
    """Return (states, H, W) of a canvas (H, W) or of such."""
    return canvas[None] if canvas.ndim == 2 else canvas


def pad_canvas(backend: Backend, canvas: Any, before: tuple[int, int], after: tuple[int, int], fill: complex) -> Any:
    """Return `canvas` (…, H, W) with rows and columns of `fill` put before and after."""
    width = [(0, 0)] * (canvas.ndim - 2) + list(zip(before, after, strict=True))
    return backend.xp.pad(canvas, width, constant_values=fill)


@dataclass(frozen=True)
class Divisor:
    """What sums over a batch are divided by where their light is D: f + m·mean(x) + s·D + g·max(D, max(x)).

    Of an object, D is Σ w·|P|² on the canvas and x the light of a probe; of a probe, both are Σ w·|O|².

    Attributes
    ----------
    floor, per_mean, slope, share : float
        f, m, s and g.
    """

    floor: float = 0.0
    per_mean: float = 0.0
    slope: float = 0.0
    share: float = 0.0

    def numbers(self, light: Any) -> npt.NDArray[np.float32]:
        """Return f + m·mean(x), s, g and max(x) for light x (N, N), as `nsbluesky.solver.kernels.add_and_step`."""
        floor = self.floor + (self.per_mean * float(light.sum()) / light.size if self.per_mean else 0.0)
        return np.array([floor, self.slope, self.share, float(light.max()) if self.share else 0.0], np.float32)


def divisor_for(xp: Any, numbers: npt.NDArray[np.float32], light: Any) -> Any:
    """Return the divisor, never 0, by what `Divisor.numbers` returned, where the light is `light`."""
    floor, slope, share, bound = numbers
    divisor = slope * light + floor
    if share:
        divisor += share * xp.maximum(light, bound)
    return xp.maximum(divisor, np.float32(1e-30))


@dataclass
class ObjectSums:
    """Σ w·conj(P)·wave and Σ w·|P|² over frames, on the canvas.

    Attributes
    ----------
    numerator : (H, W) or (states, H, W) complex64
    denominator : float32
        Of the same shape.
    """

    numerator: Any
    denominator: Any

    @classmethod
    def zeros(cls, backend: Backend, shape: tuple[int, ...]) -> ObjectSums:
        """Return empty sums for a canvas of that shape."""
        return cls(backend.xp.zeros(shape, np.complex64), backend.xp.zeros(shape, np.float32))

    def of(self, state: int) -> ObjectSums:
        """Return those of one state."""
        return ObjectSums(stacked(self.numerator)[state], stacked(self.denominator)[state])

    def clear(self) -> None:
        """Set the sums to zero."""
        self.numerator[...] = 0
        self.denominator[...] = 0

    def pad(self, backend: Backend, before: tuple[int, int], after: tuple[int, int]) -> None:
        """Follow a canvas that grew."""
        self.numerator = pad_canvas(backend, self.numerator, before, after, 0)
        self.denominator = pad_canvas(backend, self.denominator, before, after, 0)

    def add(
        self,
        backend: Backend,
        band: slice,
        corners: Corners,
        terms: Any,
        power: Any,
        weights: npt.NDArray[np.float32],
    ) -> None:
        """Add `terms` (n, N, N), weighted already, and `weights`·`power` (N, N), in the rows of `band`."""
        if backend.on_device:
            backend.xp.add.at(self.numerator, _device_index(backend, corners, terms.shape[-1]), terms)
        else:
            for term, (part, rows) in zip(terms, clipped(band, corners, terms.shape[-1]), strict=True):
                self.numerator[part] += term[rows]
        add_power(backend, self.denominator, band, corners, power, weights)


def add_power(
    backend: Backend, canvas: Any, band: slice, corners: Corners, power: Any, weights: npt.NDArray[np.float32]
) -> None:
    """Add `weights`·`power` (N, N) at `corners` (n, 2) to the rows `band` of a real canvas."""
    if backend.on_device:
        weighted = backend.xp.asarray(weights)[:, None, None] * power
        backend.xp.add.at(canvas, _device_index(backend, corners, power.shape[-1]), weighted)
        return
    for weight, (part, rows) in zip(weights, clipped(band, corners, power.shape[-1]), strict=True):
        canvas[part] += power[rows] if weight == 1 else weight * power[rows]


def clipped(band: slice, corners: Corners, side: int) -> Iterator[tuple[tuple[slice, slice], slice]]:
    """Yield for each window the part of the canvas inside `band`, and the rows of the window that fall there."""
    for row, column in corners.tolist():
        low = min(max(row, band.start), row + side)
        high = max(min(row + side, band.stop), low)
        yield (slice(low, high), slice(column, column + side)), slice(low - row, high - row)
