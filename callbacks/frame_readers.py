"""Read the frames that documents refer to: HDF5 files that may still grow (SWMR), and nothing else.

Paths come from documents, so they are checked before anything is opened.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import h5py
import hdf5plugin  # noqa: F401 - with it, HDF5 reads frames that were compressed by LZ4, bitshuffle or Blosc
import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.stage import DocumentError
from nsbluesky.camera.frame_file import ATTRIBUTES, EPICS_EPOCH_S, TIMESTAMP
from nsbluesky.file_uris import HDF5_MIMETYPE

__all__ = [
    "FrameRange",
    "HDF5Frames",
    "NotYetWritten",
    "frames_of_resource",
    "frames_of_stream_resource",
    "local_path",
]

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
SUPERBLOCK = struct.Struct("<8sBB18xQ")
"""Of HDF5 files that can be read while they grow: signature, version, bytes of an offset, end of the file."""


class NotYetWritten(DocumentError):
    """The frames are announced but not in the file yet; asking later may help."""


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
        source = HDF5Frames(self.path, self.dataset, self.roots)
        try:
            return source.read(self.start, self.stop).reshape(self.shape)
        finally:
            source.close()


class HDF5Frames:
    """A dataset whose first axis counts frames (or points), in a file that may be growing.

    Parameters
    ----------
    path : Path
        The HDF5 file.  It is opened at the first read.
    dataset : str
        Path of the dataset inside it.
    roots : sequence of Path
        Folders that may be read; empty allows any.
    """

    def __init__(self, path: Path, dataset: str, roots: Sequence[Path] = ()) -> None:
        self.path = path
        self.dataset = dataset
        self._roots = roots
        self._file: h5py.File | None = None
        self._data: Any = None
        self._lock = threading.Lock()

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
            data = self._holding(stop)
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
            self._open()
            assert self._file is not None
            try:
                times = self._file[f"{ATTRIBUTES}/{TIMESTAMP}"]
                times.refresh()
                taken = np.asarray(times[start:stop], np.float64) + EPICS_EPOCH_S
            except (LookupError, OSError, RuntimeError, TypeError, ValueError):
                return None
            return taken if taken.shape == (stop - start,) else None

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
            data = self._holding(stop)
            sides = data.shape[2:] if data.ndim == 4 and data.shape[1] == 1 else data.shape[1:]
            if len(sides) != 2:
                raise DocumentError(f"{self.path}: frames of shape {data.shape[1:]}: expected (rows, columns)")
            return FrameRange(
                self.path, self.dataset, tuple(self._roots), start, stop, (sides[0], sides[1]), data.dtype
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._data = None

    def _holding(self, stop: int) -> Any:
        """Return the dataset, which has at least `stop` rows."""
        data = self._open()
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
                _refuse_cut_off(self.path)
                self._file = h5py.File(self.path, "r", libver="latest", swmr=True)
                self._data = self._file[self.dataset]
            except FileNotFoundError:
                raise NotYetWritten(f"{self.path} is not there (yet): is the detector's disk mounted here?") from None
            except (OSError, KeyError) as error:
                self._forget()
                raise NotYetWritten(f"{self.path}: no dataset {self.dataset!r} can be read ({error})") from None
            self._check_place()
        return self._data

    def _check_place(self) -> None:
        """Refuse what HDF5 would fetch from elsewhere: only the path of the file itself was checked."""
        if not self._roots or Path("/") in self._roots:
            return
        linked = Path(self._data.file.filename).resolve() != self.path.resolve()
        if linked or self._data.is_virtual or self._data.external:
            self._forget()
            raise DocumentError(
                f"{self.path}: dataset {self.dataset!r} lies outside the file, by an external link, as a virtual "
                "dataset or in external storage: expected one in the file itself"
            )


def _refuse_cut_off(path: Path) -> None:
    """Raise where a file is shorter than it says of itself: HDF5's SWMR mode would wait for the rest for ever."""
    with path.open("rb") as file:
        head = file.read(SUPERBLOCK.size)
        size = os.fstat(file.fileno()).st_size
    signature, version, offset_bytes, end = SUPERBLOCK.unpack(head.ljust(SUPERBLOCK.size, b"\0"))
    if signature != HDF5_SIGNATURE or (len(head) == SUPERBLOCK.size and (version not in (2, 3) or offset_bytes != 8)):
        return
    if size < max(end, SUPERBLOCK.size):
        raise NotYetWritten(f"{path} is cut off: it ends after {size} bytes")


def local_path(uri: str, roots: Sequence[Path] = ()) -> Path:
    """Return the local path of a ``file:`` URI or a plain path.

    Parameters
    ----------
    uri : str
        As in a stream resource: ``file://localhost/data/x.h5``.
    roots : sequence of Path
        Folders that may be read; empty allows any.

    Raises
    ------
    DocumentError
        For another scheme, another host, a relative path or a path outside the roots.
    """
    parts = urlparse(uri)
    if parts.scheme not in ("", "file") or parts.netloc not in ("", "localhost"):
        raise DocumentError(f"{uri!r}: expected a file on this machine, as in file://localhost/data/x.h5")
    return _checked(Path(unquote(parts.path)), roots)


def _checked(path: Path, roots: Sequence[Path]) -> Path:
    """Return a path without links in it, which lies within the roots."""
    if not path.is_absolute():
        raise DocumentError(f"'{path}': expected an absolute path")
    path = path.resolve()
    if roots and not any(path.is_relative_to(root.resolve()) for root in roots):
        raise DocumentError(f"{path} lies outside {', '.join(map(str, roots))}: add its folder to the readable roots")
    return path


def frames_of_stream_resource(document: Mapping[str, Any], roots: Sequence[Path] = ()) -> HDF5Frames:
    """Return a reader for a stream resource of an HDF5 file."""
    if document["mimetype"] != HDF5_MIMETYPE:
        raise DocumentError(f"stream resource of type {document['mimetype']!r}: expected {HDF5_MIMETYPE}")
    return HDF5Frames(local_path(document["uri"], roots), str(document["parameters"]["dataset"]), roots)


def frames_of_resource(document: Mapping[str, Any], roots: Sequence[Path] = ()) -> HDF5Frames:
    """Return a reader for a resource document of areaDetector's HDF5 plugin (AD_HDF5 and its kin)."""
    if "HDF5" not in document["spec"]:
        raise DocumentError(f"resource of spec {document['spec']!r}: expected one of areaDetector's HDF5 specs")
    path = Path(document["resource_path"])
    if document.get("root"):
        path = Path(document["root"]) / str(path).lstrip("/")
    dataset = document["resource_kwargs"].get("dataset", "/entry/data/data")
    return HDF5Frames(_checked(path, roots), str(dataset), roots)
