"""Open the HDF5 files that documents, and links in other files, name: their paths are checked before that."""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import h5py
import hdf5plugin  # noqa: F401 - with it, HDF5 reads frames that were compressed by LZ4, bitshuffle or Blosc

from nsbluesky.callbacks.stage import DocumentError
from nsbluesky.file_uris import named_paths

__all__ = ["LinkedFiles", "NotYetWritten", "checked_path", "local_path", "source_path"]

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
SUPERBLOCK = struct.Struct("<8sBB18xQ")
"""Of HDF5 files that can be read while they grow: signature, version, bytes of an offset, end of the file."""

MAX_LINKS = 16
"""How many links may lie on the way to a dataset: those that lead in a circle end here."""


class NotYetWritten(DocumentError):
    """The frames are announced but not in the file yet; asking later may help."""


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
    return checked_path(Path(unquote(parts.path)), roots)


def checked_path(path: Path, roots: Sequence[Path]) -> Path:
    """Return a path without links in it, which lies within the roots."""
    if not path.is_absolute():
        raise DocumentError(f"'{path}': expected an absolute path")
    path = path.resolve()
    if not _may_be_read(path, roots):
        raise DocumentError(f"{path} lies outside {_listed(roots)}: add its folder to the readable roots")
    return path


def source_path(name: str, named_by: Path, roots: Sequence[Path]) -> Path:
    """Return where a file is that another one names, in an external link or as a source of a virtual dataset.

    Raises
    ------
    DocumentError
        For a path outside the roots, once links in it are resolved.
    """
    paths = named_paths(name, named_by)
    for path in paths:
        if _may_be_read(path, roots) and path.exists():
            return path
    if not _may_be_read(paths[0], roots):
        raise DocumentError(
            f"{named_by} takes frames from {paths[0]}, which lies outside {_listed(roots)}: expected a file beside "
            "it or below a readable root; move it there or add its folder to the readable roots"
        )
    return paths[0]


def _may_be_read(path: Path, roots: Sequence[Path]) -> bool:
    return not roots or any(path.is_relative_to(root.resolve()) for root in roots)


def _listed(roots: Sequence[Path]) -> str:
    return ", ".join(map(str, roots))


class LinkedFiles:
    """A file and those that its links lead to, each opened once and checked before.

    Parameters
    ----------
    path : Path
        The file, which was checked.
    roots : sequence of Path
        Folders that may be read; empty allows any.
    """

    def __init__(self, path: Path, roots: Sequence[Path]) -> None:
        self.path = path
        self._roots = roots
        self._files: dict[Path, h5py.File] = {}

    def find(self, dataset: str) -> tuple[Path, Any]:
        """Return the file that a dataset or group lies in, and that; HDF5 itself would follow links to any file.

        Raises
        ------
        NotYetWritten
            If a file or the dataset is not there yet.
        DocumentError
            If a link leads outside the roots or in a circle.
        """
        path, item = self.path, self._open(self.path)
        names, links = deque(_parts(dataset)), 0
        try:
            while names:
                name = os.fsencode(names.popleft())
                if not isinstance(item, h5py.Group):
                    raise KeyError(f"{item.name} is no group")
                kind = item.id.links.get_info(name).type
                if kind == h5py.h5l.TYPE_HARD:
                    item = item[name]
                    continue
                links += 1
                if links > MAX_LINKS or kind not in (h5py.h5l.TYPE_SOFT, h5py.h5l.TYPE_EXTERNAL):
                    raise DocumentError(
                        f"{self.path}: {dataset!r} leads through links without end, or of unknown kind"
                    )
                target = item.id.links.get_val(name)
                if kind == h5py.h5l.TYPE_EXTERNAL:
                    file, target = target
                    path = source_path(os.fsdecode(file), path, self._roots)
                    item = self._open(path)
                elif target.startswith(b"/"):
                    item = item.file
                names.extendleft(reversed(_parts(os.fsdecode(target))))
        except (KeyError, OSError, RuntimeError) as error:
            raise NotYetWritten(f"{path}: no dataset {dataset!r} can be read ({error})") from None
        return path, item

    def close(self) -> None:
        """Close all of them."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _open(self, path: Path) -> h5py.File:
        if path not in self._files:
            try:
                _refuse_cut_off(path)
                self._files[path] = h5py.File(path, "r", libver="latest", swmr=True)
            except FileNotFoundError:
                missing = f"{path}" if path == self.path else f"{self.path} leads to {path}, which"
                raise NotYetWritten(f"{missing} is not there (yet): is the detector's disk mounted here?") from None
            except OSError as error:
                raise NotYetWritten(f"{path}: nothing can be read ({error})") from None
        return self._files[path]


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


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
