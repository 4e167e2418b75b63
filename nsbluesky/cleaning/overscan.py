"""The offset of every ADC and row, from the overscan columns that never see light."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["MEDIAN_ROWS", "quadratic_basis", "quadratic_fit", "running_median"]

MEDIAN_ROWS = 21


def quadratic_basis(num_rows: int) -> npt.NDArray[np.float32]:
    """Return [1, u, u²] at every row, (num_rows, 3), with u falling from 1 to 0 along the readout."""
    u = np.linspace(1.0, 0.0, num_rows)
    return np.stack([np.ones_like(u), u, u * u], axis=1).astype(np.float32)


def quadratic_fit(num_rows: int, start_row: int) -> npt.NDArray[np.float32]:
    """Return the constant half of the hat matrix, (3, num_rows): least-squares coefficients from overscan values.

    `quadratic_basis(num_rows) @ quadratic_fit(num_rows, start_row) @ overscan` is the fitted offset of every row of
    `overscan` (num_rows, ADCs), rows in the order of readout.  Rows before `start_row`, where the readout's
    exponential start may not be gone, get no weight.

    Raises
    ------
    ValueError
        Where fewer than three rows are left.
    """
    if num_rows - start_row < 3:
        raise ValueError(
            f"overscan_start_row = {start_row}: expected at most {num_rows - 3}, so that a quadratic can be fitted"
        )
    fit = np.zeros((3, num_rows), np.float32)
    fit[:, start_row:] = np.linalg.pinv(quadratic_basis(num_rows)[start_row:].astype(np.float64))
    return fit


def running_median(overscan: Any, xp: ModuleType = np) -> Any:
    """Return the median over 21 rows around each row of `overscan` (…, rows, ADCs); a mean would bleed."""
    half = MEDIAN_ROWS // 2
    padding = [(0, 0)] * (overscan.ndim - 2) + [(half, half), (0, 0)]
    padded = xp.pad(overscan, padding, mode="edge")
    windows = xp.lib.stride_tricks.sliding_window_view(padded, MEDIAN_ROWS, axis=-2)
    return xp.median(windows, axis=-1)
