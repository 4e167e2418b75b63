"""The offset of every ADC and row, from the overscan columns that never see light."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

__all__ = ["MEDIAN_ROWS", "drift_basis", "drift_fit", "running_median", "smallest"]

MEDIAN_ROWS = 21


def drift_basis(num_rows: int, decay: npt.NDArray[Any] | None = None) -> npt.NDArray[np.float32]:
    """Return what an offset may consist of at every row, (num_rows, 3 or 4), rows in the order of readout.

    Parameters
    ----------
    num_rows : int
    decay : (num_rows,) float, optional
        Shape of the readout's exponential start; its amplitude changes from frame to frame.

    Returns
    -------
    (num_rows, 3 or 4) float32
        [1, u, u²] with u falling from 1 to 0 along the readout, and the decay, normalised to 1.
    """
    u = np.linspace(1.0, 0.0, num_rows)
    basis = [np.ones_like(u), u, u * u]
    if decay is not None and np.abs(decay).max() > 0:
        basis.append(decay / np.abs(decay).max())
    return np.stack(basis, axis=1).astype(np.float32)


def drift_fit(basis: npt.NDArray[np.float32], start_row: int) -> npt.NDArray[np.float32]:
    """Return the constant half of the hat matrix, (terms, num_rows): least-squares coefficients from overscan values.

    `basis @ drift_fit(basis, …) @ overscan` is the fitted offset of every row of `overscan` (num_rows, ADCs), rows in
    the order of readout.  Rows before `start_row`, where the readout's exponential start may not be gone, get no
    weight.

    Raises
    ------
    ValueError
        Where too few rows are left.
    """
    num_rows, terms = basis.shape
    if num_rows - start_row < terms:
        raise ValueError(
            f"overscan_start_row = {start_row}: expected at most {num_rows - terms}, so that there is enough to fit"
        )
    fit = np.zeros((terms, num_rows), np.float32)
    fit[:, start_row:] = np.linalg.pinv(basis[start_row:].astype(np.float64))
    return fit


def running_median(overscan: Any, xp: ModuleType = np) -> Any:
    """Return the median over 21 rows around each row of `overscan` (…, rows, ADCs); a mean would bleed."""
    half = MEDIAN_ROWS // 2
    padding = [(0, 0)] * (overscan.ndim - 2) + [(half, half), (0, 0)]
    padded = xp.pad(overscan, padding, mode="edge")
    windows = xp.lib.stride_tricks.sliding_window_view(padded, MEDIAN_ROWS, axis=-2)
    return xp.median(windows, axis=-1)


def smallest(columns: Any, xp: ModuleType = np) -> Any:
    """Return the smallest of overscan columns (k, n, rows, ADCs), without what read noise makes their median too low.

    The median of the smallest of k normally distributed values is Φ⁻¹(1 − 2^(−1/k)) standard deviations from their
    mean.  Those are of what neighbours differ by: the offset, and its drift since the darks, is the same in all.
    """
    apart = xp.median(xp.abs(xp.diff(columns, axis=0)), axis=(0, 2, 3))
    sigmas = ndtri(1 - 2 ** (-1 / len(columns))) / (np.sqrt(2) * ndtri(0.75))
    return columns.min(axis=0) - float(sigmas) * apart[:, None, None]
