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
    difference : (H, W) complex
        First minus second, NaN where one of them is not known.
    """

    frc: FRC
    contrast_correlation: float
    difference: npt.NDArray[np.complexfloating]


def compare_images(first: CxiImage, second: CxiImage) -> Comparison:
    """Compare two reconstructions.

    Raises
    ------
    CxiError
        If their pixels differ.
    """
    if not abs(first.pixel_m / second.pixel_m - 1) <= PIXEL_TOLERANCE:
        raise CxiError(
            f"pixels of {first.pixel_m * 1e9:.4g} and {second.pixel_m * 1e9:.4g} nm: expected the same; "
            "reconstruct both with the same crop"
        )
    image, reference = _unmeasured_as(first, np.nan), _unmeasured_as(second, second.object[second.mask == 0].mean())
    aligned = align(image, reference, RIM_PX)
    return Comparison(
        frc=frc(aligned.image, aligned.truth, first.pixel_m),
        contrast_correlation=contrast_correlation(image, reference, RIM_PX),
        difference=aligned.image - aligned.truth,
    )


def _unmeasured_as(image: CxiImage, value: complex) -> npt.NDArray[np.complex64]:
    return np.where(image.mask == 0, image.object, np.complex64(value))
