"""Compare two reconstructions of the same sample: correlation, FRC and difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nsbluesky.cxi.layout import CxiError
from nsbluesky.cxi.read import CxiImage
from nsbluesky.solver.quality import FRC, align, contrast_correlation, frc

__all__ = ["Comparison", "compare_images"]

RIM_PX = 10
"""Pixels at the rim that are not compared: few frames saw them."""
PIXEL_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two reconstructions, the second brought to the place, phase and scale of the first.

    Attributes
    ----------
    frc : FRC
        Fourier ring correlation.
    contrast_correlation : float
        |Correlation| of the images without their means.
    first, second : (H, W) complex
        The two on the pixels that both have, NaN where one of them is not known.
    extent_m : (float, float, float, float)
        Their outer edges x0, x1, y0, y1, where the first one lies on the stage.
    """

    frc: FRC
    contrast_correlation: float
    first: npt.NDArray[np.complexfloating]
    second: npt.NDArray[np.complexfloating]
    extent_m: tuple[float, float, float, float]

    @property
    def difference(self) -> npt.NDArray[np.complexfloating]:
        """First minus second."""
        return self.first - self.second

    @property
    def phases(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Phases (n,) of the pixels that both know, relative to their common mean, in rad."""
        known = np.isfinite(self.first) & np.isfinite(self.second)
        mean = complex(np.sum(self.first[known] + self.second[known]))
        first, second = (np.angle(image[known] * np.conj(mean)) for image in (self.first, self.second))
        return first, second

    @property
    def amplitudes(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Amplitudes (n,) of the pixels that both know."""
        known = np.isfinite(self.first) & np.isfinite(self.second)
        return np.abs(self.first[known]), np.abs(self.second[known])


def compare_images(first: CxiImage, second: CxiImage) -> Comparison:
    """Compare two reconstructions.

    Raises
    ------
    CxiError
        If their pixels differ, or they have too little in common.
    """
    if not (np.isfinite(first.pixel_m) and np.isfinite(second.pixel_m)):
        raise CxiError("the pixel of one of them is unknown: expected image_size in both files")
    if not abs(first.pixel_m / second.pixel_m - 1) <= PIXEL_TOLERANCE:
        raise CxiError(
            f"pixels of {first.pixel_m * 1e9:.4g} and {second.pixel_m * 1e9:.4g} nm: expected the same; "
            "reconstruct both with the same crop"
        )
    image, reference = _unmeasured_as(first, np.nan), _unmeasured_as(second, second.object[second.mask == 0].mean())
    try:
        aligned = align(image, reference, RIM_PX)
        known = np.isfinite(aligned.image) & np.isfinite(aligned.truth)
        if not known.any():
            raise ValueError("they have no pixel in common")
        rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
        common = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        both = aligned.image[common], aligned.truth[common]
        correlation = frc(*both, first.pixel_m)
    except ValueError as error:
        raise CxiError(f"the two cannot be compared: {error}") from error
    left, bottom = (
        middle - 0.5 * side * first.pixel_m + begin.start * first.pixel_m
        for middle, side, begin in zip(first.center_m, aligned.image.shape[::-1], common[::-1], strict=True)
    )
    height, width = (side * first.pixel_m for side in both[0].shape)
    return Comparison(
        frc=correlation,
        contrast_correlation=contrast_correlation(image, reference, RIM_PX),
        first=both[0],
        second=both[1],
        extent_m=(left, left + width, bottom, bottom + height),
    )


def _unmeasured_as(image: CxiImage, value: complex) -> npt.NDArray[np.complex64]:
    return np.where(image.mask == 0, image.object, np.complex64(value))
