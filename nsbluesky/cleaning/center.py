"""The zero order's place on the sensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.ndimage

__all__ = ["find_center"]

SMOOTHING_PX = 9
LEVEL = 0.05  # of the brightest smoothed pixel: below it is background and scattering
# In units of the smoothed noise, which the values below zero show: what counts as bright, and what must be there.
CLEAR_OF_NOISE = 5.0
LEAST_CONTRAST = 10.0
TOLERANCE_PX = 1e-3
MAX_ITERATIONS = 100


def find_center(image: npt.NDArray[Any], good: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return row and column of the centre of mass of the bright part of a mean image.

    A bad pixel hides light on one side only and would pull the centre to the other.  So a pixel counts only where
    its mirror image about the centre is good as well, and the centre is found by iteration.

    Parameters
    ----------
    image : (rows, columns) float
        Mean clean image, any unit.
    good : (rows, columns) bool
        False for pixels that must not be used.

    Raises
    ------
    ValueError
        Where there is no light.
    """
    values = np.where(good, image, 0).astype(np.float32)
    cover = scipy.ndimage.uniform_filter(good.astype(np.float32), SMOOTHING_PX)
    smooth = scipy.ndimage.uniform_filter(values, SMOOTHING_PX) / np.maximum(cover, 0.25)
    below = smooth[good & (smooth < 0)]
    noise = float(np.sqrt(np.mean(below**2))) if below.size else 0.0
    if not smooth.max() > LEAST_CONTRAST * noise:
        raise ValueError("the mean frame shows no light: open the shutter, or set cleaning.center_px")
    bright = good & (smooth > max(LEVEL * smooth.max(), CLEAR_OF_NOISE * noise))
    rows, columns = np.nonzero(bright)
    weights = np.maximum(values[bright], 0).astype(np.float64)
    points = np.stack([rows, columns])
    center = points @ weights / weights.sum()
    for _ in range(MAX_ITERATIONS):
        counted = weights * _lookup(good, 2 * center[:, None] - points)
        if not counted.sum() > 0:
            break  # nothing has a good mirror image: the plain centre of mass is all there is
        before, center = center, points @ counted / counted.sum()
        if np.abs(center - before).max() < TOLERANCE_PX:
            break
    return float(center[0]), float(center[1])


def _lookup(good: npt.NDArray[np.bool_], points: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return `good` at the pixels nearest to `points` (2, n); False off the sensor."""
    row, column = np.rint(points).astype(np.intp)
    inside = (row >= 0) & (row < good.shape[0]) & (column >= 0) & (column < good.shape[1])
    result = np.zeros(row.shape, bool)
    result[inside] = good[row[inside], column[inside]]
    return result
