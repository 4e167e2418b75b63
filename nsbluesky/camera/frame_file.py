"""Frames to HDF5 as areaDetector's file plugin writes them: ``/entry/data/data``, one frame a chunk, with SWMR."""

from __future__ import annotations

import errno
import math
import mmap
import os
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

__all__ = ["ATTRIBUTES", "DATASET", "EPICS_EPOCH_S", "TIMESTAMP", "FrameFile", "room_for_frame"]

DATASET = "/entry/data/data"
ATTRIBUTES = "/entry/instrument/NDAttributes"
TIMESTAMP = "NDArrayTimeStamp"
"""The attribute that tells when a frame was taken, in seconds since 1990 as areaDetector counts them."""
EPICS_EPOCH_S = 631152000.0
"""1990-01-01 in seconds since 1970."""
ROWS_PER_CHUNK = 1024
PAGE_BYTES = 4096
"""What is written directly to a disk begins at a multiple of it, in memory and in the file, and is one long."""


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
        frame_bytes = 2 * math.prod(shape)
        self._file = h5py.File(
            path, "w", libver="latest", alignment_threshold=frame_bytes, alignment_interval=PAGE_BYTES
        )
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
        self._direct = _open_direct(path) if frame_bytes % PAGE_BYTES == 0 else None

    def append(self, frame: npt.NDArray[np.uint16], *, direct: bool = False, **attributes: float) -> int:
        """Write a frame, make it visible to readers, and return how many there are.

        Parameters
        ----------
        frame : (rows, columns) uint16
        direct : bool
            Write to the disk itself and not to the kernel's cache, where the frame lies in `room_for_frame` and the
            file system lets it be.  It takes a tenth of the processor's time, but waits for the disk.
        **attributes : float
            What is kept beside it.

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
            self._write(np.ascontiguousarray(frame, "<u2"), direct)
        except OSError:
            self._data.id.set_extent((self.count, *shape))
            raise
        self._data.id.flush()
        self.count = count
        return count

    def _write(self, frame: npt.NDArray[np.uint16], direct: bool) -> None:
        """Write a frame to the place that HDF5 has kept for it.

        HDF5 lets no other thread of Python run while it waits for the disk, this does.
        """
        offset = self._data.id.get_chunk_info_by_coord((self.count, 0, 0)).byte_offset
        content = frame.data.cast("B")
        if direct and self._direct is not None and not (offset % PAGE_BYTES or frame.ctypes.data % PAGE_BYTES):
            try:
                written = os.pwrite(self._direct, content, offset)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._close_direct()  # this file system wants other places
            else:
                content, offset = content[written:], offset + written
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
        self._close_direct()
        os.close(self._descriptor)
        self._file.close()

    def _close_direct(self) -> None:
        descriptor, self._direct = self._direct, None
        if descriptor is not None:
            os.close(descriptor)


def room_for_frame(shape: tuple[int, int]) -> npt.NDArray[np.uint16]:
    """Return an array (rows, columns) uint16 that can be written directly to a disk."""
    return np.frombuffer(mmap.mmap(-1, 2 * math.prod(shape)), np.uint16).reshape(shape)


def _open_direct(path: Path) -> int | None:
    """Return a descriptor that writes past the kernel's cache; None where there is no such thing."""
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT)
    except (AttributeError, OSError):  # another system than Linux, or a folder in memory
        return None


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
