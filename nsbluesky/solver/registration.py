"""Bring a reconstruction onto a truth: what ptychography leaves open is removed before anything is compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from nsbluesky.solver.gauge import phase_ramp, ramp

__all__ = ["Aligned", "align"]

ComplexImage = npt.NDArray[np.complexfloating[Any, Any]]

UPSAMPLING = 100
"""The shift is found to 1/100 pixel."""

ROUNDS = 3
"""Rounds of ramp and shift, each of which sharpens the other."""


@dataclass(frozen=True)
class Aligned:
    """An image and a truth on the same pixels.

    Attributes
    ----------
    image, truth : (H, W) complex128
        The image with its scale and ramp removed; the truth shifted onto its pixels; NaN where either is unknown.
    shift_px : (float, float)
        Row and column of the image's first pixel in the truth.
    ramp_rad : (float, float)
        Phase steps a row and a column that the image had beyond the truth.
    scale : complex
        The image was multiplied by it.
    """

    image: npt.NDArray[np.complex128]
    truth: npt.NDArray[np.complex128]
    shift_px: tuple[float, float]
    ramp_rad: tuple[float, float]
    scale: complex


def align(image: ComplexImage, truth: ComplexImage, margin_px: int = 0) -> Aligned:
    """Remove complex scale, phase ramp and sub-pixel shift between an image and a truth.

    Parameters
    ----------
    image : (h, w) complex
        NaN where it is not known.
    truth : (H, W) complex
        Of the same pixel size; it may be larger or smaller than the image.
    margin_px : int
        Pixels at the rim of the image that are left out.

    Raises
    ------
    ValueError
        If the image has no known pixel.
    """
    inner = (slice(margin_px, -margin_px or None),) * 2
    return _align(np.asarray(image).astype(np.complex128)[inner], np.asarray(truth).astype(np.complex128))


def _align(image: npt.NDArray[np.complex128], truth: npt.NDArray[np.complex128]) -> Aligned:
    known = np.isfinite(image)
    if not known.any():
        raise ValueError("the image has no known pixel: expected at least some that are not NaN")
    flat = np.where(known, image, 0)
    flat = _straightened(flat, phase_ramp(flat, known))
    start = _coarse_offset(flat, known, truth)

    ramp_rad, shift = (0.0, 0.0), (float(start[0]), float(start[1]))
    seen, there = _window(truth, shift, image.shape)
    for _ in range(ROUNDS):
        both = known & there
        product = np.where(both, np.where(known, image, 0) * seen.conj(), 0)
        ramp_rad = phase_ramp(product, both)
        straight = _straightened(np.where(known, image, 0), ramp_rad)
        down, right = _fine_shift(straight, seen, both)
        shift = (shift[0] - down, shift[1] - right)
        seen, there = _window(truth, shift, image.shape)
    both = known & there
    straight = _straightened(np.where(both, image, 0), ramp_rad)
    scale = complex(np.vdot(straight[both], seen[both]) / np.vdot(straight[both], straight[both]))
    unknown = complex("nan+nanj")
    return Aligned(
        image=np.where(both, straight * scale, unknown),
        truth=np.where(both, seen, unknown),
        shift_px=shift,
        ramp_rad=ramp_rad,
        scale=scale,
    )


def _straightened(image: npt.NDArray[np.complex128], ramp_rad: tuple[float, float]) -> npt.NDArray[np.complex128]:
    """Return the image (H, W) without a phase ramp of these steps a row and a column."""
    return np.asarray(image * ramp(np, image.shape, -ramp_rad[0], -ramp_rad[1], np.complex128))


def _contrast(image: npt.NDArray[np.complex128], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.complex128]:
    """Return the image less its mean, 0 where it is not known."""
    return np.where(known, image - image[known].mean(), 0)


def _coarse_offset(
    image: npt.NDArray[np.complex128], known: npt.NDArray[np.bool_], truth: npt.NDArray[np.complex128]
) -> tuple[int, int]:
    """Return where the image lies in the truth, in whole pixels, by normalised cross-correlation."""
    height, width = (scipy.fft.next_fast_len(a + b) for a, b in zip(image.shape, truth.shape, strict=True))
    everywhere = np.ones(truth.shape, bool)
    level = _straightened(truth, phase_ramp(truth, everywhere))
    contrast = _contrast(level, everywhere)

    def correlate(a: Any, b: Any) -> Any:
        shape = (height, width)
        return scipy.fft.ifft2(scipy.fft.fft2(a, shape) * scipy.fft.fft2(b, shape).conj())

    overlap = correlate(contrast, _contrast(image, known))
    energy = correlate(np.abs(contrast) ** 2, known).real
    score = np.abs(overlap) / np.sqrt(np.maximum(energy, 0.2 * energy.max()))
    row, column = np.unravel_index(int(np.argmax(score)), score.shape)
    return (
        int(row) if row < truth.shape[0] else int(row) - height,
        int(column) if column < truth.shape[1] else int(column) - width,
    )


def _window(
    truth: npt.NDArray[np.complex128], shift: tuple[float, float], shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.complex128], npt.NDArray[np.bool_]]:
    """Return the truth from `shift` on, on `shape` pixels, and where it is known there."""
    whole = (int(np.floor(shift[0])), int(np.floor(shift[1])))
    fraction = (shift[0] - whole[0], shift[1] - whole[1])
    spectrum = scipy.fft.fft2(truth)
    rows, columns = scipy.fft.fftfreq(truth.shape[0])[:, None], scipy.fft.fftfreq(truth.shape[1])[None, :]
    moved = scipy.fft.ifft2(spectrum * np.exp(2j * np.pi * (rows * fraction[0] + columns * fraction[1])))
    seen = np.zeros(shape, np.complex128)
    there = np.zeros(shape, bool)
    row, column = max(0, -whole[0]), max(0, -whole[1])
    part = moved[max(0, whole[0]) : whole[0] + shape[0], max(0, whole[1]) : whole[1] + shape[1]]
    seen[row : row + part.shape[0], column : column + part.shape[1]] = part
    there[row : row + part.shape[0], column : column + part.shape[1]] = True
    return seen, there


def _fine_shift(
    image: npt.NDArray[np.complex128], truth: npt.NDArray[np.complex128], both: npt.NDArray[np.bool_]
) -> tuple[float, float]:
    """Return how far the image lies from the truth, within ± 2 pixels.

    The cross-correlation is evaluated on a fine grid around zero by two matrix products (Guizar-Sicairos, Thurman &
    Fienup, Opt. Lett. 33, 156 (2008)), coarse then fine.
    """
    height, width = both.shape
    taper = np.hanning(height)[:, None] * np.hanning(width)[None, :]
    cross = scipy.fft.fft2(_contrast(image, both) * taper) * scipy.fft.fft2(_contrast(truth, both) * taper).conj()
    rows, columns = scipy.fft.fftfreq(height), scipy.fft.fftfreq(width)
    down = right = 0.0
    for reach, step in ((2.0, 0.1), (0.1, 1 / UPSAMPLING)):
        grid = np.arange(-round(reach / step), round(reach / step) + 1) * step
        left = np.exp(2j * np.pi * np.outer(down + grid, rows))
        above = np.exp(2j * np.pi * np.outer(columns, right + grid))
        at = np.unravel_index(int(np.argmax(np.abs(left @ cross @ above))), (len(grid), len(grid)))
        down, right = down + float(grid[at[0]]), right + float(grid[at[1]])
    return down, right
