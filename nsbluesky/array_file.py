"""Arrays that grow in number and in size, in one HDF5 file that others read while it is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

__all__ = ["ArrayFile"]

MAX_CHUNK = 256


class ArrayFile:
    """An HDF5 file in SWMR mode with one dataset (n, …) for each key; every row has an array of each.

    An array that is larger than those before makes the dataset larger; where an array does not reach, the dataset is
    NaN, or 0 for integers.

    Parameters
    ----------
    path : path
        Its folder is made where missing.
    first : mapping of str to array
        What the first row will be; only its types and shapes are used.
    about : mapping of str to str, optional
        Attributes of the file.

    Attributes
    ----------
    path : Path
    """

    def __init__(
        self, path: str | Path, first: Mapping[str, npt.NDArray[Any]], about: Mapping[str, str] | None = None
    ) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = h5py.File(self.path, "w", libver="latest")
        self._file.attrs.update(about or {})
        for key, array in first.items():
            chunk = tuple(min(max(side, 1), MAX_CHUNK) for side in array.shape)
            self._file.create_dataset(
                key,
                (0, *array.shape),
                array.dtype,
                maxshape=(None,) * (array.ndim + 1),
                chunks=(1 if array.ndim else 1024, *chunk),
                fillvalue=array.dtype.type(np.nan if array.dtype.kind in "fc" else 0),
            )
        self._file.swmr_mode = True

    def append(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Add one row."""
        self.extend({key: array[None] for key, array in arrays.items()})

    def extend(self, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Add rows, each column an array (n, …) of as many; one column is on disk before the next one is begun."""
        for key, column in columns.items():
            dataset = self._file[key]
            row, cell = dataset.shape[0], column.shape[1:]
            dataset.resize((row + len(column), *np.maximum(dataset.shape[1:], cell).tolist()))
            dataset[(slice(row, None), *(slice(side) for side in cell))] = column
            dataset.flush()

    def write(self, key: str, values: npt.NDArray[Any]) -> None:
        """Write all rows of one dataset at once, whose cells keep their shape."""
        dataset = self._file[key]
        dataset.resize(len(values), axis=0)
        dataset[...] = values
        dataset.flush()

    def read(self, key: str) -> npt.NDArray[Any]:
        """Return all rows of one dataset."""
        return np.asarray(self._file[key][()])

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape (n, …) of a dataset."""
        return tuple(self._file[key].shape)

    def dtype(self, key: str) -> np.dtype[Any]:
        """Return the type of a dataset."""
        dtype: np.dtype[Any] = self._file[key].dtype
        return dtype

    def close(self) -> None:
        """Close the file; does nothing the second time."""
        self._file.close()
