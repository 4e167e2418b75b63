"""From detector pixels to the pixels of clean frames: sums of square bins, or band-limited resampling."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

__all__ = [
    "Filling",
    "FourierResampling",
    "bins_before_fourier",
    "filling",
    "fourier_resampling",
    "rebin",
    "resample",
    "share_of_area",
]

# Lags beyond this part of the target's Nyquist lag are let go smoothly, so that single photons do not ring.
SOFT_FROM = 0.85
# Of the Gaussian, in units of the target's Nyquist lag.  It damps the autocorrelation from its start: contrast is
# lost for the sake of values that ring less.
GAUSSIAN_SIGMA = 0.3125
# Bins before the Fourier transform are at most as large as leaves the target's Nyquist lag well below their own.
LEAST_OVERSAMPLING = 1.5


def rebin(windows: Any, side: int) -> Any:
    """Return the sums of square bins, (n, side, side), of windows (n, crop, crop) whose side is a multiple of it."""
    ratio = windows.shape[-1] // side
    if ratio == 1:
        return windows.copy()
    rows = windows.reshape(len(windows), side, ratio, -1).sum(axis=2)
    return rows.reshape(len(windows), side, side, ratio).sum(axis=3)


def share_of_area(good: npt.NDArray[Any], side: int) -> npt.NDArray[np.float64]:
    """Return which share of every pixel of a coarser grid (side, side) a map (crop, crop) of 0 and 1 covers."""
    crop = len(good)
    edges = np.arange(side + 1) * crop / side
    pixels = np.arange(crop)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.clip(overlap, 0, None) * side / crop
    shares: npt.NDArray[np.float64] = weights @ good @ weights.T
    return shares


def bins_before_fourier(crop_px: int, frame_px: int) -> int:
    """Return the side of the bins that are summed before a Fourier transform, which is then so much smaller.

    The bins' own transfer function is known and undone afterwards.
    """
    largest = int(crop_px / (LEAST_OVERSAMPLING * frame_px))
    return next((size for size in range(largest, 1, -1) if crop_px % size == 0), 1)


@dataclass(frozen=True, eq=False)
class FourierResampling:
    """What `resample` needs: the same for every frame of a scan.

    Attributes
    ----------
    frame_px : int
        Side of a clean frame.
    filter : (frame_px, frame_px // 2 + 1) complex64
        Ramp that brings the centre to pixel N//2, soft edge and the bins' inverse transfer function, by lag.
    xp : module
    """

    frame_px: int
    filter: Any
    xp: ModuleType


def fourier_resampling(
    crop_px: int,
    frame_px: int,
    center_px: tuple[float, float],
    bin_px: int = 1,
    xp: ModuleType = np,
    lag_filter: str = "soft_disk",
) -> FourierResampling:
    """Prepare `resample`.

    Parameters
    ----------
    crop_px, frame_px : int
    center_px : (float, float)
        Row and column of the zero order in the window, in detector pixels; it need not be a whole pixel.
    bin_px : int
        Side of the bins that were summed before.
    xp : module
        NumPy or CuPy.
    lag_filter : {"soft_disk", "gaussian"}
        As `CleaningSettings.lag_filter`.

    Notes
    -----
    A diffraction pattern is band-limited: its Fourier transform is the exit wave's autocorrelation, which ends at
    twice the field of view.  Up to there the lags are kept as they are; what lies beyond is noise.
    """
    lags = scipy.fft.fftfreq(frame_px, 1 / frame_px)
    half = np.abs(lags[: frame_px // 2 + 1])
    radius = np.hypot(lags[:, np.newaxis], half) / (frame_px / 2)
    edge = np.clip((1 - radius) / (1 - SOFT_FROM), 0, 1)
    soft = 0.5 - 0.5 * np.cos(np.pi * edge)
    if lag_filter == "gaussian":
        soft = np.exp(-0.5 * (radius / GAUSSIAN_SIGMA) ** 2)
    ratio = crop_px / frame_px
    # In a window of bins, pixel k of the detector lies at (k − (b − 1)/2)/b; lags count cycles per window either way.
    shifts = [c - (bin_px - 1) / 2 - (frame_px // 2) * ratio for c in center_px]
    ramp = np.exp(2j * np.pi / crop_px * (shifts[0] * lags[:, np.newaxis] + shifts[1] * half))
    transfer = _transfer(lags, bin_px, crop_px)[:, np.newaxis] * _transfer(half, bin_px, crop_px)
    return FourierResampling(frame_px, xp.asarray((ramp * soft / transfer).astype(np.complex64)), xp)


def _transfer(lags: npt.NDArray[np.float64], bin_px: int, crop_px: int) -> npt.NDArray[np.float64]:
    """Return the Fourier transform of a bin at lags in cycles per window, 1 at zero."""
    phase = np.pi * lags / crop_px
    safe = np.where(phase == 0, 1, phase)
    return np.where(phase == 0, 1, np.sin(bin_px * safe) / (bin_px * np.sin(safe)))


def resample(windows: Any, plan: FourierResampling) -> Any:
    """Return windows (n, bins, bins) float32 as frames (n, side, side) float32 with the same sums.

    Values around single photons ring by a few per cent of a photon, to both sides of zero; sums are exact.
    """
    n, side = len(windows), plan.frame_px
    fft = scipy.fft if plan.xp is np else plan.xp.fft
    kept = side // 2
    columns = fft.rfft(windows, axis=-1)[..., : kept + 1]
    spectrum = fft.fft(columns, axis=-2)
    small = plan.xp.empty((n, side, kept + 1), np.complex64)
    positive = side - kept
    small[:, :positive] = spectrum[:, :positive]
    small[:, positive:] = spectrum[:, spectrum.shape[1] - kept :]
    small *= plan.filter
    rows = fft.ifft(small, axis=-2)
    return fft.irfft(rows, n=side, axis=-1).astype(np.float32, copy=False)


@dataclass(frozen=True, eq=False)
class Filling:
    """How pixels without a measurement are filled from their neighbours, so that nothing rings.

    Attributes
    ----------
    passes : tuple of (pixels, first, second, weights)
        Flat indices (k,) of the pixels to fill and of the nearest good ones to either side, weights (k,) float32 of
        the first ones; the second ones have the rest.  Along rows, then along columns what rows do not reach.
    """

    passes: tuple[tuple[Any, Any, Any, Any], ...]

    def fill(self, windows: Any) -> None:
        """Fill windows (n, side, side) in place."""
        flat = windows.reshape(len(windows), -1)
        for pixels, first, second, weights in self.passes:
            if len(pixels):
                one, other = flat[:, first], flat[:, second]
                flat[:, pixels] = other + (one - other) * weights


def filling(good: npt.NDArray[np.bool_], fillable: npt.NDArray[np.bool_], xp: ModuleType = np) -> Filling:
    """Prepare the filling of pixels that are not `good`, (side, side) bool, where they are `fillable`."""
    places = np.arange(good.size).reshape(good.shape)
    rows = _between(good, fillable, places)
    filled = good | (fillable & good.any(axis=1, keepdims=True))
    columns = _between(filled.T, fillable.T, places.T)
    return Filling(tuple((*map(xp.asarray, one),) for one in (rows, columns)))


def _between(
    good: npt.NDArray[np.bool_], fillable: npt.NDArray[np.bool_], places: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Return one pass along the second axis; `places` are the flat indices."""
    columns = good.shape[1]
    index = np.arange(columns)
    left = np.maximum.accumulate(np.where(good, index, -1), axis=1)
    right = np.minimum.accumulate(np.where(good, index, columns)[:, ::-1], axis=1)[:, ::-1]
    row, column = np.nonzero(~good & fillable & good.any(axis=1, keepdims=True))
    before, after = left[row, column], right[row, column]
    before, after = np.where(before < 0, after, before), np.where(after == columns, before, after)
    weights = np.where(after == before, 1.0, (after - column) / np.maximum(after - before, 1)).astype(np.float32)
    return places[row, column], places[row, before], places[row, after], weights
