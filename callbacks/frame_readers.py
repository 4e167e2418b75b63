"""Read the frames that documents refer to: HDF5 files that may still grow (SWMR), and nothing else.

Frames may lie in other files than the one that is named, by links or in a virtual dataset.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import h5py
import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.hdf5_files import LinkedFiles, NotYetWritten, checked_path, local_path, source_path
from nsbluesky.callbacks.stage import DocumentError
from nsbluesky.callbacks.virtual_frames import FramesElsewhere, SeriesFrames, VirtualFrames
from nsbluesky.camera.frame_file import ATTRIBUTES, EPICS_EPOCH_S, TIMESTAMP
from nsbluesky.file_uris import HDF5_MIMETYPE

__all__ = [
    "FrameRange",
    "HDF5Frames",
    "NotYetWritten",
    "ResourceFrames",
    "frames_of_resource",
    "frames_of_stream_resource",
    "local_path",
]

SERIES = "data_{:06d}"
"""Name of the datasets of an Eiger's master file, counted from 1."""

HDF5_SPECS = ("AD_HDF5", "AD_HDF5_SWMR", "AD_HDF5_SWMR_STREAM", "AD_HDF5_SWMR_SLICE")
EIGER_SPECS = ("AD_EIGER", "AD_EIGER2", "AD_EIGER_SLICE")
"""Specs of resource documents: files of areaDetector's HDF5 plugin, and those that an Eiger writes itself."""

MAX_DEPTH = 4
"""How many virtual datasets may lie on the way to frames: those that name each other in a circle end here."""


@dataclass(frozen=True)
class FrameRange:
    """Frames of a file that nobody has read yet: looks like an array (n, rows, columns), and is read when it is used.

    Attributes
    ----------
    path : Path
    dataset : str
    roots : tuple of Path
        As in `HDF5Frames`.
    start, stop : int
        Rows of the dataset.
    frame_shape : (int, int)
    dtype : numpy.dtype
    """

    path: Path
    dataset: str
    roots: tuple[Path, ...]
    start: int
    stop: int
    frame_shape: tuple[int, int]
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        """As of an array."""
        return len(self), *self.frame_shape

    @property
    def ndim(self) -> int:
        """As of an array."""
        return 3

    def __len__(self) -> int:
        """Return how many frames it stands for."""
        return self.stop - self.start

    def __getitem__(self, key: Any) -> Any:
        """Return another range for a slice of frames side by side, else the array that is asked for."""
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return replace(self, start=self.start + start, stop=self.start + max(start, stop))
        if isinstance(key, int):
            return self[range(len(self))[key] :][:1].read()[0]
        return self.read()[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the frames."""
        return np.asarray(self.read(), dtype=dtype)

    def read(self) -> npt.NDArray[Any]:
        """Return the frames (n, rows, columns).

        Raises
        ------
        DocumentError
            As `HDF5Frames.read`.
        """
        return HDF5Frames.at(self.path, self.dataset, self.roots).read(self.start, self.stop).reshape(self.shape)


class HDF5Frames:
    """A dataset whose first axis counts frames (or points), in a file that may be growing.

    Parameters
    ----------
    path : Path
        The HDF5 file.  It is opened at the first read.
    dataset : str
        Path of the dataset inside it, or of a group with datasets ``data_000001`` and so on.
    roots : sequence of Path
        Folders that may be read; empty allows any.
    depth : int
        How many virtual datasets name this one.
    """

    def __init__(self, path: Path, dataset: str, roots: Sequence[Path] = (), depth: int = 0) -> None:
        self.path = path
        self.dataset = dataset
        self._roots = roots
        self._depth = depth
        self._files = LinkedFiles(path, roots)
        self._data: Any = None
        self._lock = threading.Lock()

    @classmethod
    def at(cls, path: Path, dataset: str, roots: Sequence[Path] = (), depth: int = 0) -> HDF5Frames:
        """Return the reader of a dataset: the one that this process has, else a new one; the parameters are its own.

        HDF5 cannot read a dataset any more that is looked at again (refreshed) while it is open twice.
        """
        key = path, dataset, tuple(roots), depth
        with _READERS_LOCK:
            reader = _READERS.get(key)
            if reader is None:
                reader = _READERS[key] = cls(path, dataset, roots, depth)
            return reader

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows start…stop − 1.

        Raises
        ------
        NotYetWritten
            If the file or the rows are not there yet.
        DocumentError
            If they cannot be read.
        """
        with self._lock:
            data = self._holding(start, stop)
            if isinstance(data, FramesElsewhere):
                return data.read(start, stop)
            try:
                return np.asarray(data[start:stop])
            except OSError as error:
                reason = str(error).splitlines()[0]
                raise DocumentError(
                    f"{self.path}, frames {start} to {stop - 1}: cannot be read ({reason})"
                ) from error

    def times_s(self, start: int, stop: int) -> npt.NDArray[np.float64] | None:
        """Return when frames were taken by the detector's clock, in seconds since 1970; None where no file tells."""
        with self._lock:
            try:
                times = self._files.find(f"{ATTRIBUTES}/{TIMESTAMP}")[1]
                if not isinstance(times, h5py.Dataset) or times.is_virtual or times.external:
                    return None
                times.refresh()
                taken = np.asarray(times[start:stop], np.float64) + EPICS_EPOCH_S
            except (LookupError, OSError, RuntimeError, TypeError, ValueError):
                return None
            return taken if taken.shape == (stop - start,) else None

    def require(self, start: int, stop: int) -> tuple[int, ...]:
        """Return the shape of what holds rows start…stop − 1, which are in the file, without reading them.

        Raises
        ------
        NotYetWritten
            If the file or the rows are not there yet.
        """
        with self._lock:
            return tuple(self._holding(start, stop).shape)

    def refer(self, start: int, stop: int) -> FrameRange:
        """Return rows start…stop − 1, which are in the file, without reading them.

        Raises
        ------
        NotYetWritten
            If the file or the rows are not there yet.
        DocumentError
            If they are no frames.
        """
        with self._lock:
            data = self._holding(start, stop)
            shape = data.shape[1:]
            sides = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
            if len(sides) != 2:
                raise DocumentError(f"{self.path}: frames of shape {shape}: expected (rows, columns)")
            return FrameRange(
                self.path, self.dataset, tuple(self._roots), start, stop, (sides[0], sides[1]), data.dtype
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        if isinstance(self._data, FramesElsewhere):
            self._data.close()
        self._files.close()
        self._data = None

    def _holding(self, start: int, stop: int) -> Any:
        """Return the dataset, which holds these rows."""
        data = self._open()
        if isinstance(data, FramesElsewhere):
            try:
                data.require(start, stop)
            except NotYetWritten:
                self._forget()  # the file may be written anew, with other sources
                raise
            return data
        if data.shape[0] < stop:
            try:
                data.refresh()
            except (OSError, RuntimeError) as error:  # as HDF5 tells where the writer is just at work on it
                self._forget()
                raise NotYetWritten(f"{self.path} cannot be looked at again ({error})") from None
        if data.shape[0] < stop:
            raise NotYetWritten(f"{self.path} holds {data.shape[0]} frames, {stop} were announced")
        return data

    def _open(self) -> Any:
        if self._data is None:
            try:
                place, data = self._files.find(self.dataset)
                if isinstance(data, h5py.Group):
                    if not data.id.links.exists(SERIES.format(1).encode()):
                        raise DocumentError(f"{place}: {self.dataset!r} is a group: expected a dataset")
                    data = SeriesFrames(partial(_in_series, self.path, self.dataset, self._roots, self._depth))
                elif data.is_virtual:
                    data = VirtualFrames(data, partial(self._source, place))
                elif data.external and self._roots and Path("/") not in self._roots:
                    raise DocumentError(
                        f"{place}: dataset {self.dataset!r} lies outside the file, in external storage: expected one "
                        "in an HDF5 file"
                    )
            except DocumentError:
                self._forget()
                raise
            self._data = data
        return self._data

    def _source(self, named_by: Path, name: str, dataset: str) -> HDF5Frames:
        """Return a reader for a source of a virtual dataset, which lies in the file `named_by`."""
        if self._depth == MAX_DEPTH:
            raise DocumentError(f"{named_by}: virtual datasets of virtual datasets, {MAX_DEPTH} deep: expected fewer")
        if "%b" in name + dataset:
            raise DocumentError(f"{named_by}: a source {name!r}, {dataset!r}: expected names without %b")
        name, dataset = name.replace("%%", "%"), dataset.replace("%%", "%")
        return HDF5Frames.at(source_path(name, named_by, self._roots), dataset, self._roots, self._depth + 1)


_READERS: WeakValueDictionary[tuple[Path, str, tuple[Path, ...], int], HDF5Frames] = WeakValueDictionary()
_READERS_LOCK = threading.Lock()


def _in_series(path: Path, group: str, roots: Sequence[Path], depth: int, number: int) -> HDF5Frames:
    """Return a reader for one of the datasets of a group."""
    return HDF5Frames.at(path, f"{group}/{SERIES.format(number + 1)}", roots, depth + 1)


def frames_of_stream_resource(document: Mapping[str, Any], roots: Sequence[Path] = ()) -> HDF5Frames:
    """Return a reader for a stream resource of an HDF5 file."""
    if document["mimetype"] != HDF5_MIMETYPE:
        raise DocumentError(f"stream resource of type {document['mimetype']!r}: expected {HDF5_MIMETYPE}")
    return HDF5Frames.at(local_path(document["uri"], roots), str(document["parameters"]["dataset"]), roots)


@dataclass(frozen=True)
class ResourceFrames:
    """What a resource document tells of frames; its datum documents say where each point's are.

    Attributes
    ----------
    path : Path
        The file; of an Eiger the beginning of its files' names.
    dataset : str
    roots : tuple of Path
        As in `HDF5Frames`.
    per_point : int
        Frames of each point.
    is_eiger : bool
        Whether there is a master file for each sequence.
    """

    path: Path
    dataset: str
    roots: tuple[Path, ...]
    per_point: int
    is_eiger: bool

    def at(self, datum: Mapping[str, Any], num_frames: int) -> tuple[HDF5Frames, int, int]:
        """Return the reader, the first row and the number of rows of a point.

        Parameters
        ----------
        datum : dict
            The ``datum_kwargs``.
        num_frames : int
            Frames of a point as its descriptor tells, for an Eiger's whole sequences.

        Raises
        ------
        DocumentError
            Where they tell no row, or a file that may not be read.
        """
        if not self.is_eiger:
            point = datum.get("point_number", datum.get("index"))
            if point is None:
                raise DocumentError(f"datum_kwargs {dict(datum)}: expected the row of the frame as 'point_number'")
            return HDF5Frames.at(self.path, self.dataset, self.roots), int(point) * self.per_point, self.per_point
        if "seq_id" not in datum:
            raise DocumentError(f"datum_kwargs {dict(datum)}: expected the Eiger's sequence as 'seq_id'")
        path = checked_path(self.path.with_name(f"{self.path.name}_{datum['seq_id']}_master.h5"), self.roots)
        source = HDF5Frames.at(path, self.dataset, self.roots)
        row = datum.get("image_slice", datum.get("frame_num"))
        return (source, 0, num_frames) if row is None else (source, int(row), 1)


def frames_of_resource(document: Mapping[str, Any], roots: Sequence[Path] = ()) -> ResourceFrames:
    """Return what a resource document tells, of areaDetector's HDF5 plugin or of an Eiger's own files."""
    spec, kwargs = document["spec"], document["resource_kwargs"]
    if spec not in (*HDF5_SPECS, *EIGER_SPECS):
        raise DocumentError(f"resource of spec {spec!r}: expected one of {', '.join((*HDF5_SPECS, *EIGER_SPECS))}")
    path = Path(document["resource_path"])
    if document.get("root"):
        path = Path(document["root"]) / str(path).lstrip("/")
    is_eiger = spec in EIGER_SPECS
    dataset = kwargs.get("dataset", "/entry/data" if is_eiger else "/entry/data/data")
    per_point = int(kwargs.get("frame_per_point", 1)) or 1
    return ResourceFrames(checked_path(path, roots), str(dataset), tuple(roots), per_point, is_eiger)
