"""Scan patterns: points (n, 2: x, y) in µm relative to the centre, in the order in which they are measured."""

from __future__ import annotations

import math
import typing
from numbers import Real

import numpy as np
import numpy.typing as npt

__all__ = ["PATTERNS", "Pattern", "is_number", "make_trajectory"]

Pattern = typing.Literal["raster", "jittered_raster", "spiral", "fermat"]
PATTERNS: tuple[str, ...] = typing.get_args(Pattern)

MOST_POINTS = 1_000_000

Points = npt.NDArray[np.float64]

JITTER = 0.25
"""Points of a jittered raster leave the grid by up to this part of a step, in x and in y."""


def make_trajectory(pattern: str, shape: tuple[int, int], step_um: float, seed: int = 0) -> Points:
    """Return the points of a scan.

    Parameters
    ----------
    pattern : {"raster", "jittered_raster", "spiral", "fermat"}
        Rasters have rows × columns points, x fast, every second row backwards.  The spirals fill the same area with
        the same density, so that their number of points is close to rows × columns.
    shape : (int, int)
        Rows (y) and columns (x).
    step_um : float
        From point to point.
    seed : int
        Of the jitter, which breaks the grid's period: a regular raster lets the probe's own period hide in it.

    Returns
    -------
    ndarray, (n, 2), float64
        x and y in µm.

    Raises
    ------
    ValueError
        For an unknown pattern, a shape or step that is not positive, a seed below 0, more points than a scan can
        have, or an area too small for a spiral.
    """
    rows, columns = _checked_shape(shape)
    if not (is_number(step_um) and step_um > 0):
        raise ValueError(f"step_um = {step_um!r}: expected a positive length in µm")
    if not (is_number(seed) and int(seed) == seed and seed >= 0):
        raise ValueError(f"seed = {seed!r}: expected a whole number from 0 on")
    if pattern == "raster":
        return _raster(rows, columns, step_um)
    if pattern == "jittered_raster":
        random = np.random.default_rng(int(seed))
        return _raster(rows, columns, step_um) + random.uniform(-JITTER, JITTER, (rows * columns, 2)) * step_um
    from bluesky.plan_patterns import spiral, spiral_fermat  # not above: an eighth of the start of a service

    size = (0.0, 0.0, columns * step_um, rows * step_um)
    try:
        if pattern == "spiral":
            # rings one step apart with 2π·i points: one step along the ring, too
            points = spiral("x", "y", *size, dr=step_um, nth=2 * math.pi)
        elif pattern == "fermat":
            # radius √i·dr/factor holds i points, so factor √π gives each the area of one step squared
            points = spiral_fermat("x", "y", *size, dr=step_um, factor=math.sqrt(math.pi))
        else:
            raise ValueError(f"pattern {pattern!r}: expected one of {', '.join(PATTERNS)}")
    except StopIteration:  # what cycler raises where no point lies in the area
        raise ValueError(f"a {pattern} of shape {shape} has no point: take a larger shape") from None
    return _as_array(points)


def is_number(value: object) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, Real) and math.isfinite(value)


def _checked_shape(shape: tuple[int, int]) -> tuple[int, int]:
    try:
        rows, columns = (int(n) for n in shape)
        whole = [rows, columns] == list(shape)
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ValueError(f"shape = {shape!r}: expected two whole numbers, rows and columns")
    if rows < 1 or columns < 1:
        raise ValueError(f"shape = {shape!r}: expected at least one row and one column")
    if rows * columns > MOST_POINTS:
        raise ValueError(f"shape = {shape!r}: expected at most {MOST_POINTS} points")
    return rows, columns


def _raster(rows: int, columns: int, step_um: float) -> Points:
    y, x = ((np.arange(n) - (n - 1) / 2) * step_um for n in (rows, columns))
    points = np.stack(np.broadcast_arrays(x, y[:, None]), axis=-1)
    points[1::2] = points[1::2, ::-1]
    return points.reshape(-1, 2)


def _as_array(points: typing.Any) -> Points:
    columns = points.by_key()
    return np.column_stack([np.asarray(columns[axis], dtype=np.float64) for axis in ("x", "y")])
