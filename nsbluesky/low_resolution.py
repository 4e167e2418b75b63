"""Low-resolution images from sums of clean frames: transmission, differential phase contrast and dark field.

The sum of a frame is the transmission under the probe; its centre of mass moves with the gradient of the phase; what
falls outside of the optic's own light was scattered by fine structure.
No reconstruction is needed, so these are the first pictures of a scan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation
from scipy.spatial import ConvexHull, cKDTree

__all__ = ["LowResolution", "LowResolutionAccumulator", "bright_field", "grid_image", "grid_pitch", "moments"]

# A cell whose centre is farther than this from all points, in pitches, was not measured.  Jittered points and Fermat
# spirals leave no hole that wide.
REACH = 1.0
THIN = 1e-3  # points whose extents are less alike than this lie on a line
BRIGHT = 0.02  # of the brightest pixel of the first frames' mean: from here on a pixel is in the optic's own light
ONE_PLACE_M = 1e-6  # width of a pixel while all frames lie at one place
MAX_CELLS = 2048  # per side: a scan of few, far points must not ask for all memory


def moments(
    frames: npt.NDArray[np.float32], mask: npt.NDArray[np.uint32] | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return sum and centre of mass (row, column, relative to the zero order at N//2) of each frame.

    Parameters
    ----------
    frames : (n, ny, nx) float32
        Clean frames.
    mask : (ny, nx) uint32, optional
        CXI codes; what is not 0 is left out.

    Returns
    -------
    total, com_row, com_column : (n,) float64
        The centre of mass is NaN where there is no light.
    """
    _, ny, nx = frames.shape
    good = np.ones((ny, nx), np.float32) if mask is None else (mask == 0).astype(np.float32)
    rows, columns = np.arange(ny, dtype=np.float32) - ny // 2, np.arange(nx, dtype=np.float32) - nx // 2
    weights = np.stack([good, good * rows[:, None], good * columns]).reshape(3, -1)
    total, row, column = (frames.reshape(len(frames), -1) @ weights.T).astype(np.float64).T
    with np.errstate(divide="ignore", invalid="ignore"):
        lit = np.where(total > 0, total, np.nan)
        return total, row / lit, column / lit


def bright_field(mean: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
    """Return where a mean frame (ny, nx) is lit by the optic itself, with a rim of one pixel."""
    lit = mean > BRIGHT * float(mean.max(initial=0.0))
    return np.asarray(binary_dilation(lit, structure=np.ones((3, 3), np.bool_)), dtype=np.bool_)


def grid_pitch(positions: npt.NDArray[np.float64]) -> float:
    """Return the pitch of a square grid with one cell per point, 0 where all points are in one place.

    Points that each own a cell of side s cover their convex hull (area A, perimeter P) and half a cell around it:
    n·s² = A + P·s/2 + s².  The positive root is exact for rasters and lines, and right for jittered rasters, spirals
    and Fermat spirals.

    Parameters
    ----------
    positions : (n, 2) float64
    """
    first = _pitch(positions)
    if first == 0:
        return 0.0
    # places that were visited again count once
    _, index = np.unique(np.rint(positions / (first / 4)), axis=0, return_index=True)
    return _pitch(positions[index])


def _pitch(positions: npt.NDArray[np.float64]) -> float:
    n = len(positions)
    if n < 2:
        return 0.0
    centered = positions - positions.mean(axis=0)
    axes = np.linalg.svd(centered, full_matrices=False)[2]
    along, across = np.ptp(centered @ axes.T, axis=0) if n > 2 else (np.hypot(*np.ptp(positions, axis=0)), 0.0)
    if across <= THIN * along:
        area, perimeter = 0.0, 2 * float(along)
    else:
        hull = ConvexHull(centered / along)  # Qhull's tolerances are absolute
        area, perimeter = hull.volume * along**2, hull.area * along  # in two dimensions: area and perimeter
    return float((perimeter / 2 + np.sqrt(perimeter**2 / 4 + 4 * (n - 1) * area)) / (2 * (n - 1)))


def grid_image(
    positions: npt.NDArray[np.float64], values: npt.NDArray[np.float64], pitch: float | None = None
) -> tuple[npt.NDArray[np.float32], tuple[float, float, float, float]]:
    """Put values at scattered points onto a regular grid.

    Several points in one cell average; a cell without a point takes the nearest one's value; NaN where none is near.

    Parameters
    ----------
    positions : (n, 2) float64
        x and y in any unit of length.
    values : (n,) or (n, k) float64
        k pictures at once.
    pitch : float, optional
        Side of a cell; `grid_pitch` of the positions by default.

    Returns
    -------
    image : (rows, columns) or (rows, columns, k) float32
        Row 0 at the smallest y, column 0 at the smallest x.
    extent : (float, float, float, float)
        x0, x1, y0, y1: outer edges, in the unit of the positions.

    Raises
    ------
    ValueError
        Where there are no points, or not one position per value.
    """
    if positions.ndim != 2 or positions.shape[1] != 2 or len(positions) != len(values) or len(values) == 0:
        raise ValueError(
            f"positions {positions.shape} and values {values.shape}: expected (n, 2) and (n,) of at least one point"
        )
    low, high = positions.min(axis=0), positions.max(axis=0)
    pitch = pitch or grid_pitch(positions) or 1.0
    pitch = max(pitch, float((high - low).max()) / (MAX_CELLS - 1))
    columns, rows = (int(np.rint(length / pitch)) + 1 for length in high - low)
    origin = (low + high) / 2 - (np.array([columns, rows]) - 1) / 2 * pitch  # centre of cell [0, 0]

    table = values.reshape(len(values), -1)
    nearest_cell = np.rint((positions - origin) / pitch).astype(np.intp)
    column, row = np.clip(nearest_cell, 0, np.array([columns - 1, rows - 1])).T
    cell = row * columns + column
    counts = np.bincount(cell, minlength=rows * columns)
    sums = np.stack([np.bincount(cell, weights=v, minlength=rows * columns) for v in table.T], axis=1)
    image = sums / np.maximum(counts, 1)[:, None]
    empty = np.flatnonzero(counts == 0)
    centers = origin + pitch * np.stack([empty % columns, empty // columns], axis=1)
    distance, nearest = cKDTree(positions).query(centers, distance_upper_bound=REACH * pitch)
    near = np.isfinite(distance)
    image[empty] = np.nan
    image[empty[near]] = table[np.asarray(nearest)[near]]
    x0, y0 = origin - pitch / 2
    extent = (float(x0), float(x0 + columns * pitch), float(y0), float(y0 + rows * pitch))
    return image.reshape(rows, columns, *values.shape[1:]).astype(np.float32), extent


@dataclass(frozen=True, eq=False)
class LowResolution:
    """First pictures of a scan.

    Attributes
    ----------
    transmission, dpc_x, dpc_y : (rows, columns) float32
        Photons under the probe; centre of mass of the frame along x (columns) and y (rows) in clean pixels, relative
        to the zero order.  NaN where nothing was measured; row 0 at the smallest y.
    dark_field : (rows, columns) float32
        Photons outside of the optic's own light (`bright_field` of the first frames).
    extent_m : (float, float, float, float)
        x0, x1, y0, y1: outer edges.
    illumination : (ny, nx) float32
        Mean frame; NaN where none measured.
    num_frames : int
        Different frames in the pictures.
    """

    transmission: npt.NDArray[np.float32]
    dpc_x: npt.NDArray[np.float32]
    dpc_y: npt.NDArray[np.float32]
    dark_field: npt.NDArray[np.float32]
    extent_m: tuple[float, float, float, float]
    illumination: npt.NDArray[np.float32]
    num_frames: int


class LowResolutionAccumulator:
    """Collects frames by their seq_num, in any order; a later frame of the same seq_num replaces the earlier one.

    Only the moments are kept, and the sum of all frames: in the illumination a replaced frame stays.  Pixels that a
    frame did not measure (NaN) count neither there nor for where the optic's own light is; frames at a position that
    is no number are not in the pictures.

    Parameters
    ----------
    mask : (ny, nx) uint32, optional
        CXI codes of the clean frames' pixels.
    """

    def __init__(self, mask: npt.NDArray[np.uint32] | None = None) -> None:
        self._mask = mask
        self._rows: dict[int, tuple[float, float, float, float, float, float]] = {}
        self._dark: npt.NDArray[np.float32] | None = None
        self._sum: npt.NDArray[np.float64] | None = None
        self._measured: npt.NDArray[np.int64] | None = None

    @property
    def num_frames(self) -> int:
        """Different frames in the pictures."""
        return len(self._rows)

    def add(
        self,
        seq_num: npt.NDArray[Any],
        frames: npt.NDArray[np.float32],
        x_m: npt.NDArray[np.float64],
        y_m: npt.NDArray[np.float64],
    ) -> None:
        """Add clean frames (n, ny, nx) at sample positions x_m, y_m (n,)."""
        if len(frames) == 0:
            return
        total, com_row, com_column = moments(frames, self._mask)
        frame_sum = np.asarray(np.nansum(frames, axis=0, dtype=np.float64))
        measured = np.isfinite(frames).sum(axis=0)
        if self._dark is None:
            good = measured > 0 if self._mask is None else (measured > 0) & (self._mask == 0)
            mean = np.where(good, frame_sum / np.maximum(measured, 1), 0)
            self._dark = (good & ~bright_field(mean)).astype(np.float32)
        scattered = frames.reshape(len(frames), -1) @ self._dark.ravel()
        for seq, *row in zip(seq_num, x_m, y_m, total, com_column, com_row, scattered, strict=True):
            x, y, photons, dpc_x, dpc_y, dark = map(float, row)
            self._rows.pop(int(seq), None)
            if math.isfinite(x) and math.isfinite(y):
                self._rows[int(seq)] = (x, y, photons, dpc_x, dpc_y, dark)
        self._sum = frame_sum if self._sum is None else self._sum + frame_sum
        self._measured = measured if self._measured is None else self._measured + measured

    def result(self) -> LowResolution:
        """Return the pictures of what came so far.

        Raises
        ------
        ValueError
            Where nothing came yet.
        """
        if self._sum is None or self._measured is None or not self._rows:
            raise ValueError("no frames yet: expected at least one, at a position that is a number")
        table = np.array(list(self._rows.values()))
        places_m = table[:, :2]
        image, extent = grid_image(places_m, table[:, 2:], grid_pitch(places_m) or ONE_PLACE_M)
        return LowResolution(
            transmission=image[..., 0],
            dpc_x=image[..., 1],
            dpc_y=image[..., 2],
            dark_field=image[..., 3],
            extent_m=extent,
            illumination=np.where(self._measured, self._sum / np.maximum(self._measured, 1), np.nan).astype(
                np.float32
            ),
            num_frames=len(self._rows),
        )
