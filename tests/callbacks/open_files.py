"""Which HDF5 files this process has open."""

from __future__ import annotations

from pathlib import Path

import h5py

__all__ = ["is_open"]


def is_open(path: Path) -> bool:
    """Return whether this process has a file open."""
    return any(h5py.h5f.get_name(file) == bytes(path) for file in h5py.h5f.get_obj_ids(types=h5py.h5f.OBJ_FILE))
