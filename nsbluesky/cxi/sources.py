"""Whether the sources of a virtual dataset are there: HDF5 gives fill values where they are not."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path, PurePath, PurePosixPath

import h5py

from nsbluesky.cxi.layout import CxiError
from nsbluesky.cxi.recover import open_file
from nsbluesky.file_uris import named_paths

__all__ = ["refuse_missing_sources"]

UNLIMITED = h5py.h5s.UNLIMITED
COUNT = "%b"


def refuse_missing_sources(dataset: h5py.Dataset) -> None:
    """Raise `CxiError` where a source of a virtual dataset is missing, or holds less than is taken of it.

    Of sources whose names count blocks (``%b``) each one up to the dataset's end must be there; HDF5 takes the first
    that is missing for the end, so none may be there after it.
    """
    for part in dataset.virtual_sources() if dataset.is_virtual else ():
        axis = _axis_of_blocks(part)
        number, end = 0, 1
        while number < end:
            name, place = _of_block(part.file_name, number), _of_block(part.dset_name, number)
            with open_file(_path_of(name, dataset)) as file:
                if not _holds(file.get(place), part):
                    raise CxiError(
                        f"{dataset.name} is a virtual dataset, and {file.filename} holds no {place!r}, or less than "
                        "is taken of it: copy it again from where it was recorded"
                    )
                if axis is not None and number == 0:
                    end = max(end, _num_blocks(dataset, part, axis), _num_named(part, file))
            number += 1


def _path_of(name: str, dataset: h5py.Dataset) -> Path:
    paths = named_paths(name, Path(dataset.file.filename))
    return next((path for path in paths if path.is_file()), paths[0])


def _axis_of_blocks(part: h5py.VDSmap) -> int | None:
    """Return the axis along which blocks follow without end, each from a source of its own; None for one source."""
    if _has_no_end(part.src_space) or not _has_no_end(part.vspace):
        return None
    count = part.vspace.get_regular_hyperslab()[2]
    return count.index(UNLIMITED) if UNLIMITED in count else None


def _num_blocks(dataset: h5py.Dataset, part: h5py.VDSmap, axis: int) -> int:
    """Return how many blocks of this part reach into the dataset as it is now."""
    start, stride, _, _ = (int(n[axis]) for n in part.vspace.get_regular_hyperslab())
    return math.ceil((int(dataset.shape[axis]) - start) / stride)


def _num_named(part: h5py.VDSmap, first: h5py.File) -> int:
    """Return the number of blocks up to the last one that is there, by the names in the folder or the first file."""
    file, place = PurePath(part.file_name), PurePosixPath(part.dset_name)
    if COUNT in _pieces(file.name):
        return _most(file.name, (path.name for path in Path(first.filename).parent.iterdir()))
    if COUNT in _pieces(place.name):
        return _most(place.name, first[_of_block(str(place.parent), 0)])
    return 0


def _most(pattern: str, names: Iterable[str]) -> int:
    """Return the number after the highest one that a name has in the place of ``%b``."""
    counts = {True: "([0-9]+)", False: r"\1"}  # all of a name's are the same
    pieces = _pieces(pattern)
    texts = [
        counts[k == pieces.index(COUNT)] if piece == COUNT else re.escape(_of_block(piece, 0))
        for k, piece in enumerate(pieces)
    ]
    matches = (re.fullmatch("".join(texts), name) for name in names)
    return max((int(match[1]) + 1 for match in matches if match), default=0)


def _of_block(pattern: str, number: int) -> str:
    """Return the name of a block's file or dataset; as in HDF5, ``%b`` is its number and ``%%`` is ``%``."""
    signs = {COUNT: str(number), "%%": "%"}
    return "".join(signs.get(piece, piece) for piece in _pieces(pattern))


def _pieces(pattern: str) -> list[str]:
    return re.findall("%[%b]|[^%]+|%", pattern)


def _holds(source: object, part: h5py.VDSmap) -> bool:
    """Return whether a source is as large as what is taken of it, once or for each block."""
    if not isinstance(source, h5py.Dataset):
        return False
    if part.src_space.get_select_type() == h5py.h5s.SEL_ALL:
        return bool(source.size >= _num_points(part.vspace))
    if _has_no_end(part.src_space):
        return True
    return all(last < size for last, size in zip(part.src_space.get_select_bounds()[1], source.shape, strict=False))


def _num_points(space: h5py.h5s.SpaceID) -> int:
    """Return how many elements a selection has, or one block of it where that has no end."""
    if not _has_no_end(space):
        return int(space.get_select_npoints())
    _, _, count, block = space.get_regular_hyperslab()
    return math.prod(b if n == UNLIMITED else n * b for n, b in zip(count, block, strict=True))


def _has_no_end(space: h5py.h5s.SpaceID) -> bool:
    """Return whether a selection takes all that comes, which HDF5 refuses to count."""
    is_one = space.get_select_type() == h5py.h5s.SEL_HYPERSLABS and space.is_regular_hyperslab()
    return is_one and any(UNLIMITED in n for n in space.get_regular_hyperslab()[2:])
