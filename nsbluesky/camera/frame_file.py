"""Frames to HDF5 as areaDetector's file plugin writes them: ``/entry/data/data``, one frame a chunk, with SWMR."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

__all__ = ["ATTRIBUTES", "DATASET", "FrameFile"]

DATASET = "/entry/data/data"
ATTRIBUTES = "/entry/instrument/NDAttributes"
ROWS_PER_CHUNK = 1024


class FrameFile:
    """One HDF5 file of frames that others may read while it grows.

    Parameters
    ----------
    path : Path
    shape : (int, int)
        Of a frame.
    attributes : mapping of str to dtype
        Values kept beside each frame, in `ATTRIBUTES`.
    """

    def __init__(self, path: Path, shape: tuple[int, int], attributes: dict[str, str] | None = None) -> None:
        self.path = path
        self.count = 0
        self._file = h5py.File(path, "w", libver="latest")
        self._data = self._file.create_dataset(
            DATASET, shape=(0, *shape), maxshape=(None, *shape), chunks=(1, *shape), dtype="<u2"
        )
        self._attributes = {
            name: self._file.create_dataset(
                f"{ATTRIBUTES}/{name}", shape=(0,), maxshape=(None,), chunks=(ROWS_PER_CHUNK,), dtype=dtype
            )
            for name, dtype in (attributes or {}).items()
        }
        self._file.swmr_mode = True

    def append(self, frame: npt.NDArray[np.uint16], **attributes: float) -> int:
        """Write a frame, make it visible to readers, and return how many there are."""
        count = self.count + 1
        for name, dataset in self._attributes.items():  # before the frame: who sees it finds them
            dataset.resize(count, axis=0)
            dataset[self.count] = attributes[name]
            dataset.flush()
        self._data.resize(count, axis=0)
        self._data.id.write_direct_chunk((self.count, 0, 0), np.ascontiguousarray(frame, "<u2"))
        self._data.flush()
        self.count = count
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
