"""How documents name files: the URIs and the type of stream resources."""

from __future__ import annotations

from pathlib import PurePath
from urllib.parse import quote

__all__ = ["HDF5_MIMETYPE", "file_uri"]

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
