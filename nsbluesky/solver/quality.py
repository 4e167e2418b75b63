"""How good is a picture?  R factor, Fourier ring correlation, and comparison with a truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from nsbluesky.solver.registration import Aligned, align

__all__ = ["FRC", "Aligned", "Quality", "align", "contrast_correlation", "frc", "nrmse", "r_factor"]

ComplexImage = npt.NDArray[np.complexfloating[Any, Any]]


def r_factor(model: npt.ArrayLike, amplitude: npt.ArrayLike, good: npt.ArrayLike = True) -> float:
    """Return R = Σ |G − A| / Σ A over the good pixels of model amplitudes G and measured amplitudes A."""
    use = np.broadcast_to(np.asarray(good, bool), np.shape(amplitude))
    measured = np.asarray(amplitude, np.float64)[use]
    return float(np.abs(np.asarray(model, np.float64)[use] - measured).sum() / measured.sum())


@dataclass(frozen=True)
class FRC:
    """A Fourier ring correlation.

    Attributes
    ----------
    frequency_1_m : (k,) float64
        Mean spatial frequency of each ring in 1/m.
    correlation : (k,) float64
        Real part of the normalised correlation.
    half_bit : (k,) float64
        The ½-bit threshold (van Heel & Schatz, J. Struct. Biol. 151, 250 (2005), eq. 17).
    one_seventh : float
        The fixed threshold 1/7 (Rosenthal & Henderson, J. Mol. Biol. 333, 721 (2003)).
    resolution_m : float
        Half period at which the correlation first falls below ½ bit; one pixel where it never does, infinite where
        it is below from the start.
    one_seventh_resolution_m : float
        The same for 1/7.
    """

    frequency_1_m: npt.NDArray[np.float64]
    correlation: npt.NDArray[np.float64]
    half_bit: npt.NDArray[np.float64]
    one_seventh: float
    resolution_m: float
    one_seventh_resolution_m: float


@dataclass(frozen=True)
class Quality:
    """How good an image is, judged by itself.

    Attributes
    ----------
    r_factor : float
        Σ|G − A| / ΣA on the pixels that the solver uses.
    r_held_out : float
        The same on pixels that it does not use; NaN where there are none.
    half_bit_m, one_seventh_m : float
        Half-period resolution by the Fourier ring correlation of two half-sets; NaN until they can be compared.
    frc : FRC or None
        That correlation.
    """

    r_factor: float
    r_held_out: float
    half_bit_m: float
    one_seventh_m: float
    frc: FRC | None


def frc(a: ComplexImage, b: ComplexImage, pixel_m: float, taper: float = 0.5) -> FRC:
    """Correlate two images ring by ring in Fourier space.

    The means are removed and the rims tapered, so that neither a constant nor the common edge correlates.  NaN counts
    as the mean.

    Parameters
    ----------
    a, b : (H, W) complex or float
        Two images of the same pixels, from independent data; `align` them first.
    pixel_m : float
    taper : float
        Part of each side over which the window falls off (0: none, 1: Hann).

    Raises
    ------
    ValueError
        If the shapes differ, or an image is too small for a ring.
    """
    if a.shape != b.shape or a.ndim != 2 or min(a.shape) < 8:
        raise ValueError(
            f"images of shapes {a.shape} and {b.shape}: expected two equal ones of at least 8 × 8 pixels"
        )
    from scipy.signal.windows import tukey  # not above: the import takes a third of the start of every process

    window = np.outer(tukey(a.shape[0], taper), tukey(a.shape[1], taper))
    both = np.isfinite(a) & np.isfinite(b)
    first, second = (scipy.fft.fft2(np.where(both, image - image[both].mean(), 0) * window) for image in (a, b))
    rows, columns = (scipy.fft.fftfreq(side) for side in a.shape)
    radius = np.hypot(rows[:, None], columns[None, :])
    ring = np.rint(radius * min(a.shape)).astype(int)
    length = min(a.shape) // 2 + 1
    inside = (ring > 0) & (ring < length) & (radius <= 0.5)  # of an odd side, a few corners would be one ring more
    index = ring[inside]

    def per_ring(values: Any) -> npt.NDArray[np.float64]:
        return np.bincount(index, values[inside], length)[1:].astype(np.float64)

    cross = per_ring((first * second.conj()).real)
    norm = np.sqrt(per_ring(np.abs(first) ** 2) * per_ring(np.abs(second) ** 2))
    count = per_ring(np.ones_like(radius))
    correlation = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)
    frequency = per_ring(radius) / np.maximum(count, 1) / pixel_m
    root = 1 / np.sqrt(np.maximum(count, 1))
    half_bit = (0.2071 + 1.9102 * root) / (1.2071 + 0.9102 * root)
    resolutions = (_resolution_m(frequency, correlation - line, pixel_m) for line in (half_bit, 1 / 7))
    return FRC(frequency, correlation, half_bit, 1 / 7, *resolutions)


def _resolution_m(frequency: npt.NDArray[np.float64], excess: npt.NDArray[np.float64], pixel_m: float) -> float:
    """Return the half period where `excess` first falls below 0, between rings by interpolation."""
    below = np.flatnonzero(excess < 0)
    if not len(below):
        return pixel_m
    ring = int(below[0])
    if ring == 0:
        return float("inf")
    part = excess[ring - 1] / (excess[ring - 1] - excess[ring])
    return float(0.5 / (frequency[ring - 1] + part * (frequency[ring] - frequency[ring - 1])))


def contrast_correlation(image: ComplexImage, truth: ComplexImage, margin_px: int = 0) -> float:
    """Return |correlation| of the mean-removed images after `align`; near 0 for a blank image, 1 for a perfect one.

    Parameters
    ----------
    image : (h, w) complex
        NaN where it is not known.
    truth : (H, W) complex
    margin_px : int
        Pixels at the rim of the image that are left out.
    """
    aligned = align(image, truth, margin_px)
    both = np.isfinite(aligned.image)
    a = aligned.image[both] - aligned.image[both].mean()
    b = aligned.truth[both] - aligned.truth[both].mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(abs(np.vdot(a, b)) / norm) if norm > 0 else 0.0


def nrmse(image: ComplexImage, truth: ComplexImage, tile_px: int | None = None) -> float:
    """Return ‖s·image − truth‖ / ‖truth‖ of *aligned* images, NaN left out.

    With `tile_px`, the complex scale s is fitted for each tile of that side, so that slow drift of phase and scale,
    which dominates the global figure, is left out; else one scale for all.

    Parameters
    ----------
    image, truth : (H, W) complex
        As `align` returns them.
    tile_px : int, optional
    """
    side_rows, side_columns = (tile_px, tile_px) if tile_px else image.shape
    error = total = 0.0
    for row in range(0, image.shape[0], side_rows):
        for column in range(0, image.shape[1], side_columns):
            part = (slice(row, row + side_rows), slice(column, column + side_columns))
            both = np.isfinite(image[part]) & np.isfinite(truth[part])
            a, b = image[part][both], truth[part][both]
            power = float(np.vdot(a, a).real)
            scale = np.vdot(a, b) / power if power > 0 else 0.0
            error += float((np.abs(scale * a - b) ** 2).sum())
            total += float((np.abs(b) ** 2).sum())
    return float(np.sqrt(error / total))
