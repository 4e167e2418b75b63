"""Frames of one dataset that lie in others: of a virtual dataset, and of an Eiger's master file.

They are read from those.  HDF5 is not asked for virtual datasets: it opens whatever file is named, and gives fill
values, without a word, for what is not there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.hdf5_files import NotYetWritten
from nsbluesky.callbacks.stage import DocumentError

__all__ = ["FramesElsewhere", "SeriesFrames", "Source", "VirtualFrames"]

Region = tuple[tuple[int, int], ...]
"""Start and stop along each axis of a frame."""

UNLIMITED = 2**62
"""In the place of HDF5's own number, which fits into no signed one."""


class Source(Protocol):
    """A dataset that frames are taken from."""

    def require(self, start: int, stop: int) -> tuple[int, ...]:
        """Return the shape of its rows; raise where these are not there yet."""

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows."""

    def close(self) -> None:
        """Close it; it opens itself again."""


@dataclass(frozen=True)
class Rows:
    """Rows at regular places: blocks of `block` rows, whose first ones are `stride` apart."""

    start: int
    stride: int
    count: int
    block: int

    def numbers(self, rows: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
        """Return which of some rows are among these, and which ones of these they are, counted from 0."""
        blocks, rest = np.divmod(rows - self.start, self.stride)
        among = (blocks >= 0) & (blocks < self.count) & (rest < self.block)
        return among, (blocks * self.block + rest)[among]

    def at(self, numbers: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Return the rows of these numbers."""
        return self.start + numbers // self.block * self.stride + numbers % self.block

    @property
    def size(self) -> int:
        """How many they are."""
        return self.count * self.block


@dataclass(frozen=True)
class Piece:
    """What one source gives: rows of the virtual dataset, and rows and a region of the source; None for all of it."""

    rows: Rows
    source: Source
    taken: tuple[Rows, Region] | None

    def read(self, numbers: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Return these of the rows."""
        return np.concatenate([self.source.read(start, stop)[where] for start, stop, where in self._runs(numbers)])

    def require(self, numbers: npt.NDArray[np.intp]) -> None:
        """Raise where they are not there yet."""
        for start, stop, _ in self._runs(numbers):
            self.source.require(start, stop)

    def _runs(self, numbers: npt.NDArray[np.intp]) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
        """Yield start and stop of rows of the source that lie side by side, and what is taken of them."""
        if self.rows.size == 1:  # all that is taken is one frame, whether it has an axis of frames or not
            numbers = np.arange(self.source.require(0, 0)[0] if self.taken is None else self.taken[0].size)
        rows, region = (numbers, ()) if self.taken is None else (self.taken[0].at(numbers), self.taken[1])
        where = (slice(None), *(slice(*span) for span in region))
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
            yield int(run[0]), int(run[-1]) + 1, where


class FramesElsewhere:
    """Frames that lie in sources: those of the last look stay open, as there may be more than can be open at once.

    Attributes
    ----------
    shape : tuple of int
        As of an array, but the number of frames may be another one than is there.
    dtype : numpy.dtype
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __init__(self) -> None:
        self._open: set[Source] = set()

    def require(self, start: int, stop: int) -> None:
        """Raise `NotYetWritten` where a part of these rows is in no source (yet)."""
        raise NotImplementedError

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows.

        Raises
        ------
        NotYetWritten
            As in `require`.
        DocumentError
            If a source cannot be read, or holds something else.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close all sources."""
        self._keep(set())

    def _keep(self, used: set[Source]) -> None:
        for source in self._open - used:
            source.close()
        self._open = used


class SeriesFrames(FramesElsewhere):
    """The datasets of a group one after the other, as in an Eiger's master file.

    One that is followed by another is complete: the files are written one after the other.

    Parameters
    ----------
    source : callable
        Returns what reads a dataset, by its number from 0 on.
    """

    def __init__(self, source: Callable[[int], Source]) -> None:
        super().__init__()
        self._source = source
        self._sources: list[Source] = []
        self._lengths: list[int] = []
        self.shape = self._at(0).require(0, 0)
        self.dtype = self._at(0).read(0, 0).dtype

    def require(self, start: int, stop: int) -> None:
        """As `FramesElsewhere.require`."""
        for _ in self._spans(start, stop):
            pass

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """As `FramesElsewhere.read`."""
        return np.concatenate([source.read(first, last) for source, first, last in self._spans(start, stop)])

    def _at(self, number: int) -> Source:
        if number == len(self._sources):
            self._sources.append(self._source(number))
        self._open.add(self._sources[number])
        return self._sources[number]

    def _spans(self, start: int, stop: int) -> Iterator[tuple[Source, int, int]]:
        """Yield the sources of rows, and start and stop there."""
        used: set[Source] = set()
        begin = number = 0
        while begin < stop:
            length = self._length(number, stop - begin)
            if start < begin + length:
                source = self._at(number)
                used.add(source)
                yield source, max(0, start - begin), min(length, stop - begin)
            begin += length
            number += 1
        self._keep(used)

    def _length(self, number: int, wanted: int) -> int:
        """Return how many rows a source has, or `wanted` where it has at least as many."""
        if number < len(self._lengths):
            return self._lengths[number]
        source = self._at(number)
        try:
            source.require(0, wanted)
        except NotYetWritten:
            self._at(number + 1).require(0, 0)
            try:  # again: it may have grown before the next one came
                source.require(0, wanted)
            except NotYetWritten:
                self._lengths.append(source.require(0, 0)[0])
                return self._lengths[number]
        return wanted


class VirtualFrames(FramesElsewhere):
    """A virtual dataset whose sources hold whole frames, or the same parts of frames.

    Parameters
    ----------
    data : h5py.Dataset
        Its size is never asked for: HDF5 would open the sources.
    source : callable
        Returns what reads a source: from the file's name, as `data` has it, and the path of the dataset there.

    Raises
    ------
    DocumentError
        If it is put together in another way, or `source` refuses a file.
    """

    def __init__(self, data: h5py.Dataset, source: Callable[[str, str], Source]) -> None:
        super().__init__()
        self.dtype = data.dtype
        self._name = f"{data.file.filename}: virtual dataset {data.name!r}"
        self._fill = data.fillvalue
        self._parts: defaultdict[Region, list[Piece]] = defaultdict(list)
        sources: dict[tuple[str, str], Source] = {}
        for part in data.virtual_sources():
            whole = self._selected(part.vspace)
            if whole is None:
                raise self._unknown
            key = part.file_name, part.dset_name
            if key not in sources:
                sources[key] = source(*key)
            rows, region = whole
            self.shape = part.vspace.shape
            self._parts[region].append(Piece(rows, sources[key], self._selected(part.src_space)))
        if not sources:
            raise DocumentError(f"{self._name} has no sources: expected the files that hold its frames")

    @property
    def _unknown(self) -> DocumentError:
        return DocumentError(
            f"{self._name} is put together in a way that is not known here: expected sources with whole frames, or "
            "with the same rectangle of each, at regular places; name the files that hold the frames"
        )

    def _selected(self, space: h5py.h5s.SpaceID) -> tuple[Rows, Region] | None:
        """Return rows and region of a selection; None for all of a dataset whose size is not known."""
        kind = space.get_select_type()
        if kind == h5py.h5s.SEL_ALL:
            shape = space.shape
            return (Rows(0, shape[0], 1, shape[0]), tuple((0, n) for n in shape[1:])) if shape else None
        if kind != h5py.h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab():
            raise self._unknown
        axes = [
            (start, max(stride, block) if count == 1 else stride, min(count, UNLIMITED), min(block, UNLIMITED))
            for start, stride, count, block in zip(*space.get_regular_hyperslab(), strict=True)
        ]
        if any(count > 1 and stride != block for _, stride, count, block in axes[1:]):
            raise self._unknown
        return Rows(*axes[0]), tuple((start, start + count * block) for start, _, count, block in axes[1:])

    def require(self, start: int, stop: int) -> None:
        """As `FramesElsewhere.require`."""
        for _, _, piece, numbers in self._wanted(start, stop):
            try:
                piece.require(numbers)
            except NotYetWritten as error:
                raise NotYetWritten(f"{error}; frames of {self._name} lie there") from None

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows; fill values are only where no source gives anything in any row, as between modules."""
        frames = np.full((stop - start, *self.shape[1:]), self._fill, self.dtype)
        for region, among, piece, numbers in self._wanted(start, stop):
            part = piece.read(numbers)
            where: tuple[Any, ...] = (among, *(slice(*span) for span in region))
            place = frames[where]
            if part.size != place.size or not np.can_cast(part.dtype, self.dtype):
                raise DocumentError(
                    f"{self._name} takes {part.dtype} {part.shape} for {self.dtype} {place.shape}: expected the same"
                )
            frames[where] = part.reshape(place.shape)
        return frames

    def _wanted(
        self, start: int, stop: int
    ) -> Iterator[tuple[Region, npt.NDArray[np.bool_], Piece, npt.NDArray[np.intp]]]:
        """Yield where which rows of a source belong, and close the sources that give none of them."""
        rows = np.arange(start, stop)
        used: set[Source] = set()
        for region, pieces in self._parts.items():
            missing = np.ones(len(rows), bool)
            for piece in pieces:
                among, numbers = piece.rows.numbers(rows)
                if len(numbers):
                    missing &= ~among
                    used.add(piece.source)
                    self._open.add(piece.source)
                    yield region, among, piece, numbers
            if missing.any():
                row = rows[missing][0]
                raise NotYetWritten(f"{self._name} names no file that holds frame {row}, and {stop} were announced")
        self._keep(used)
