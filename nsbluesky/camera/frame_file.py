"""Frames to HDF5 as areaDetector's file plugin writes them: ``/entry/data/data``, one frame a chunk, with SWMR."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

__all__ = ["ATTRIBUTES", "DATASET", "EPICS_EPOCH_S", "TIMESTAMP", "FrameFile"]

DATASET = "/entry/data/data"
ATTRIBUTES = "/entry/instrument/NDAttributes"
TIMESTAMP = "NDArrayTimeStamp"
"""The attribute that tells when a frame was taken, in seconds since 1990 as areaDetector counts them."""
EPICS_EPOCH_S = 631152000.0
"""1990-01-01 in seconds since 1970."""
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
        self._data = _create_stack(self._file, shape)
        self._attributes = {
            name: self._file.create_dataset(
                f"{ATTRIBUTES}/{name}", shape=(0,), maxshape=(None,), chunks=(ROWS_PER_CHUNK,), dtype=dtype
            )
            for name, dtype in (attributes or {}).items()
        }
        self._one = h5py.h5s.create_simple((1,))
        self._file.swmr_mode = True
        self._descriptor = os.open(path, os.O_WRONLY)

    def append(self, frame: npt.NDArray[np.uint16], **attributes: float) -> int:
        """Write a frame, make it visible to readers, and return how many there are.

        Raises
        ------
        ValueError
            For a frame of another shape.
        OSError
            Where the disk is full.  The frames before are whole.
        """
        shape = self._data.shape[1:]
        if frame.shape != shape:
            raise ValueError(f"frame of {frame.shape} for a file of {shape}: expected the same")
        count = self.count + 1
        for name, dataset in self._attributes.items():  # before the frame: who sees it finds them
            self._append_value(dataset.id, np.array([attributes[name]], dataset.dtype))
        self._data.id.set_extent((count, *shape))
        try:
            self._write(np.ascontiguousarray(frame, "<u2"))
        except OSError:
            self._data.id.set_extent((self.count, *shape))
            raise
        self._data.id.flush()
        self.count = count
        return count

    def _write(self, frame: npt.NDArray[np.uint16]) -> None:
        """Write a frame to the place that HDF5 has kept for it.

        HDF5 lets no other thread of Python run while it waits for the disk, this does.
        """
        offset = self._data.id.get_chunk_info_by_coord((self.count, 0, 0)).byte_offset
        content = frame.data.cast("B")
        while content:
            written = os.pwrite(self._descriptor, content, offset)
            content, offset = content[written:], offset + written

    def _append_value(self, dataset: h5py.h5d.DatasetID, value: npt.NDArray[np.generic]) -> None:
        """Write one value by the low-level calls, which take a quarter of the time of `dataset[k] = value`."""
        dataset.set_extent((self.count + 1,))
        space = dataset.get_space()
        space.select_hyperslab((self.count,), (1,))
        dataset.write(self._one, space, value)
        dataset.flush()

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
        self._file.close()


def _create_stack(file: h5py.File, shape: tuple[int, int]) -> h5py.Dataset:
    """Make an empty stack whose chunks get their place in the file as soon as it grows."""
    options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    options.set_chunk((1, *shape))
    options.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    options.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple((0, *shape), (h5py.h5s.UNLIMITED, *shape))
    group, _, name = DATASET.rpartition("/")
    h5py.h5d.create(file.require_group(group).id, name.encode(), h5py.h5t.STD_U16LE, space, options)
    return file[DATASET]
