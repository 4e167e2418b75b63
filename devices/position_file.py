"""The positions of fly scans, in a file beside the frames."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

__all__ = ["AXES", "ROWS_PER_CHUNK", "PositionFile", "Positions"]

ROWS_PER_CHUNK = 1024
AXES = ("x", "y")

Positions = npt.NDArray[np.float64]


class PositionFile:
    """The positions of one fly scan in an HDF5 file that others may read while it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = h5py.File(path, "w", libver="latest")
        self._axes = [
            self._file.create_dataset(self.dataset(axis), (0,), "<f8", maxshape=(None,), chunks=(ROWS_PER_CHUNK,))
            for axis in AXES
        ]
        self._file.swmr_mode = True

    @staticmethod
    def dataset(axis: str) -> str:
        """Return where an axis lies in the file."""
        return f"/entry/data/{axis}"

    def append(self, *columns: Positions) -> None:
        """Add rows and make them visible to readers."""
        for data, values in zip(self._axes, columns, strict=True):
            start = data.shape[0]
            data.resize(start + len(values), axis=0)
            data[start:] = values
            data.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
