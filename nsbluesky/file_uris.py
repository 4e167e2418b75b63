"""How documents name files, the URIs and the type of stream resources, and how HDF5 files name each other."""

from __future__ import annotations

from pathlib import Path, PurePath
from urllib.parse import quote

__all__ = ["HDF5_MIMETYPE", "file_uri", "named_paths"]

HDF5_MIMETYPE = "application/x-hdf5"


def file_uri(path: str | PurePath) -> str:
    """Return the ``file://localhost`` URI of an absolute path.

    Raises
    ------
    ValueError
        For a relative path: whoever reads the documents works in another folder.
    """
    if not PurePath(path).is_absolute():
        raise ValueError(f"{path}: expected an absolute path, documents are read elsewhere")
    return "file://localhost" + quote(str(path))


def named_paths(name: str, named_by: Path) -> list[Path]:
    """Return where a file may be that an HDF5 file names; the first that is there is meant.

    A relative name counts from the folder of the file that names it.  Of an absolute one that leads nowhere, as where
    files were moved, the last part is looked for there too, as HDF5 does.
    """
    if name == ".":
        return [named_by]
    paths = [named_by.parent / name]
    if PurePath(name).is_absolute():
        paths.append(named_by.parent / PurePath(name).name)
    return [path.resolve() for path in paths]
