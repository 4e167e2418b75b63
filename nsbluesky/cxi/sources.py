"""Whether the sources of a virtual dataset are there: HDF5 gives fill values where they are not."""

from __future__ import annotations

from pathlib import Path

import h5py

from nsbluesky.cxi.layout import CxiError
from nsbluesky.cxi.recover import open_file
from nsbluesky.file_uris import named_paths

__all__ = ["refuse_missing_sources"]


def refuse_missing_sources(dataset: h5py.Dataset) -> None:
    """Raise `CxiError` where a source of a virtual dataset is missing, or holds less than is taken of it."""
    for part in dataset.virtual_sources() if dataset.is_virtual else ():
        name, place = part.file_name.replace("%%", "%"), part.dset_name.replace("%%", "%")
        paths = named_paths(name, Path(dataset.file.filename))
        with open_file(next((path for path in paths if path.is_file()), paths[0])) as file:
            if not _holds(file.get(place), part):
                raise CxiError(
                    f"{dataset.name} is a virtual dataset, and {file.filename} holds no {place!r}, or less than is "
                    "taken of it: copy it again from where it was recorded"
                )


def _holds(source: object, part: h5py.VDSmap) -> bool:
    if not isinstance(source, h5py.Dataset):
        return False
    if part.src_space.get_select_type() == h5py.h5s.SEL_ALL:
        return bool(source.size >= part.vspace.get_select_npoints())
    if _has_no_end(part.src_space):
        return True
    return all(last < size for last, size in zip(part.src_space.get_select_bounds()[1], source.shape, strict=False))


def _has_no_end(space: h5py.h5s.SpaceID) -> bool:
    """Return whether a selection takes all that comes, which HDF5 refuses to count."""
    return space.is_regular_hyperslab() and any(h5py.h5s.UNLIMITED in n for n in space.get_regular_hyperslab()[2:])
