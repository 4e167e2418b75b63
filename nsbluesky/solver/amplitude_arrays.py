"""The steps of `nsbluesky.solver.amplitude_loops` over arrays, for a GPU and as a reference."""

from __future__ import annotations

from typing import Any

import numpy as np

from nsbluesky.solver.light import NOT_MEASURED

__all__ = ["brightest_of", "roots_of", "sums_of"]


def roots_of(xp: Any, photons: Any) -> Any:
    """Return √photons (…, N, N) in FFT order of frames with zero frequency at N//2.

    Negative photons count as none; where they are no number, the root is `NOT_MEASURED`.
    """
    intensity = xp.fft.ifftshift(photons, axes=(-2, -1))
    return xp.where(xp.isfinite(intensity), xp.sqrt(xp.maximum(intensity, 0)), np.float32(NOT_MEASURED))


def brightest_of(xp: Any, amplitudes: Any, good: Any) -> tuple[Any, Any]:
    """Return the largest amplitude (n,) of frames (n, N, N) on good pixels (N, N), and how far they pile up (n,).

    As many more pixels have it as this says than have up to ½ less.
    """
    usable = xp.where(good > 0, amplitudes, np.float32(NOT_MEASURED))
    most = xp.maximum(usable.max(axis=(1, 2)), 0)
    top, near = usable == most[:, None, None], usable >= (most - np.float32(0.5))[:, None, None]
    return most, 2 * top.sum(axis=(1, 2)) - (near & (usable >= 0)).sum(axis=(1, 2))


def sums_of(xp: Any, amplitudes: Any, good: Any) -> Any:
    """Return Σ m·A, Σ m·A² and both of the central half (n, 4), of amplitudes (n, N, N) in FFT order.

    Pixels that are not good (N, N), or not measured, do not count.
    """
    side = amplitudes.shape[-1]
    usable = xp.fft.fftshift(xp.maximum(amplitudes, 0) * good, axes=(1, 2)).astype(np.float64)
    edge = (side - side // 2) // 2
    centre = usable[:, edge : edge + side // 2, edge : edge + side // 2]
    sums = [part.sum(axis=(1, 2)) for part in (usable, usable**2, centre, centre**2)]
    return xp.stack(sums, axis=1)
