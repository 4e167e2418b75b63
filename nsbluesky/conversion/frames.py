"""Raw frames by reference: where they lie is handed on, and whoever works on them reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.frame_readers import HDF5Frames
from nsbluesky.callbacks.stage import DocumentError
from nsbluesky.cxi.recover import open_file

__all__ = ["MISSING", "ConversionError", "StoredFrames"]

MISSING = -1
"""Row of a frame that was never recorded."""


class ConversionError(ValueError):
    """A conversion that cannot be done; the message says what, what was expected and what to do."""


@dataclass(frozen=True, eq=False)
class StoredFrames:
    """Raw frames that lie in HDF5 files; a few bytes each, and small enough to be sent to another process.

    Attributes
    ----------
    datasets : tuple of (Path, str)
        Files, and the dataset in each.
    of : (n,) int
        Which of them each frame lies in.
    rows : (n,) int
        Its row there; `MISSING` for one that was never recorded.
    """

    datasets: tuple[tuple[Path, str], ...]
    of: npt.NDArray[np.intp]
    rows: npt.NDArray[np.intp]

    @classmethod
    def in_one(cls, path: Path, dataset: str, rows: npt.ArrayLike) -> StoredFrames:
        """Return frames that lie in these rows of one dataset."""
        where = np.asarray(rows, np.intp)
        return cls(((path, dataset),), np.zeros(len(where), np.intp), where)

    def __len__(self) -> int:
        """Return how many frames these are, the missing ones among them."""
        return len(self.rows)

    def __getitem__(self, index: slice | npt.NDArray[Any]) -> StoredFrames:
        """Return some of them."""
        return replace(self, of=self.of[index], rows=self.rows[index])

    @property
    def recorded(self) -> npt.NDArray[np.bool_]:
        """Which of them can be read."""
        return np.asarray(self.rows != MISSING)

    def read(self) -> npt.NDArray[Any]:
        """Return the frames, (n, rows, columns) of unsigned integers.

        Raises
        ------
        ConversionError
            Where a file is missing or damaged, or holds something else than raw frames.
        """
        frames: npt.NDArray[Any] | None = None
        for number in np.unique(self.of).tolist():
            path, name = self.datasets[number]
            with open_file(path) as file:
                dataset = _raw_dataset(file, path, name)
                shape = dataset.shape[-2:]
                if frames is None:
                    frames = np.empty((len(self), *shape), dataset.dtype.newbyteorder("="))
                if frames.shape[1:] != shape:
                    raise ConversionError(f"{path}: frames of {shape} beside frames of {frames.shape[1:]}")
                places, virtual = np.flatnonzero(self.of == number).tolist(), dataset.is_virtual
                for place in () if virtual else places:
                    _read_row(dataset, int(self.rows[place]), frames[place], path)
            if virtual:
                _read_virtual(path, name, self.rows[places], frames, places)
        if frames is None:
            raise ConversionError("no frames: expected at least one")
        return frames


def _raw_dataset(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    """Return a dataset (n, rows, columns), or (n, 1, rows, columns) as areaDetector writes single frames."""
    try:
        dataset = file[name]
    except (KeyError, OSError, RuntimeError) as error:
        raise ConversionError(
            f"{path}: {name} cannot be read ({error}): copy the file again from where it was recorded"
        ) from error
    shape: tuple[int, ...] = getattr(dataset, "shape", ())
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[1] != 1):
        raise ConversionError(f"{path}: {name} has shape {shape}: expected raw frames (n, rows, columns)")
    if dataset.dtype.kind != "u":
        raise ConversionError(f"{path}: {name} is {dataset.dtype}: expected raw words, uint16")
    return dataset


def _read_row(dataset: h5py.Dataset, row: int, out: npt.NDArray[Any], path: Path) -> None:
    try:
        if row >= dataset.shape[0]:
            raise OSError(f"there are {dataset.shape[0]}")
        dataset.read_direct(out.reshape(dataset.shape[1:]), np.s_[row])
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConversionError(
            f"{path}, frame {row}: cannot be read ({reason}): copy the file again from where it was recorded"
        ) from error


def _read_virtual(
    path: Path, name: str, rows: npt.NDArray[np.intp], frames: npt.NDArray[Any], places: list[int]
) -> None:
    """Read rows of a virtual dataset to their places: HDF5 itself gives fill values where a source is missing."""
    source = HDF5Frames.at(path, name)
    try:
        for place, row in zip(places, rows.tolist(), strict=True):
            frames[place] = source.read(row, row + 1).reshape(frames.shape[1:])
    except DocumentError as error:
        raise ConversionError(str(error)) from error
