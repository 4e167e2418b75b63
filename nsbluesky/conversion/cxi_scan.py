"""The raw scan in a CXI file: its frames are sorted into points and exposures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.news import numbered
from nsbluesky.conversion.frames import ConversionError, StoredFrames
from nsbluesky.conversion.scan import ONE_EXPOSURE, RawScan, check_exposures
from nsbluesky.cxi import CxiData, FrameStack, read_cxi

__all__ = ["scan_of_cxi"]


def scan_of_cxi(path: Path, exposures_s: Sequence[float] | None = None) -> RawScan:
    """Return the raw scan in a CXI file.

    Exposures of one point follow one another and share its translation.  Where they do not number what the file
    says, one was lost or came twice, nobody can tell which is which, and the point is left out.

    Parameters
    ----------
    path : path
    exposures_s : sequence of float, optional
        Exposure times of a point, for files that do not tell them in `exposure_order`.

    Raises
    ------
    CxiError
        For a file that cannot be read.
    ConversionError
        For one without raw frames or with exposures that cannot be told apart.
    """
    with read_cxi(path) as raw:
        if raw.raw_data is None:
            raise ConversionError(f"{path} has no raw_data: expected a raw CXI file; is it clean already?")
        times = _exposures_s(raw, exposures_s)
        count = len(times)
        translation_m = raw.translation_m
        if len(raw.raw_data) != len(translation_m):
            raise ConversionError(
                f"{path}: {len(raw.raw_data)} raw frames with {len(translation_m)} translations: expected as many"
            )
        points, numbers, left_out = _points(translation_m, count)
        if not len(points):
            raise ConversionError(f"{path}: no point has {count} frames: expected exposures that follow one another")
        warnings = []
        darks = raw.dark_data
        if darks is not None and len(darks) % count:
            told = f"{numbered(len(darks), 'dark frame')} for {count} exposures"
            warnings.append(f"{told}: the last {len(darks) % count} unused")
        return RawScan(
            source=str(path.resolve()),
            geometry=raw.geometry(),
            exposures_s=times,
            translation_m=translation_m[points[:, 0]],
            seq_nums=raw.seq_nums if count == 1 else numbers,
            frames=tuple(_stored(raw.raw_data, points[:, k]) for k in range(count)),
            darks=tuple(_darks(darks, k, count) for k in range(count)),
            left_out=left_out,
            warnings=tuple(warnings),
            start_time=raw.start_time,
        )


def _exposures_s(raw: CxiData, given: Sequence[float] | None) -> tuple[float, ...]:
    count = raw.number_exposures
    if count < 1:
        raise ConversionError(f"{raw.path}: number_exposures = {count}: expected at least 1")
    if given is not None:
        return check_exposures(given, count)
    try:
        times = [float(text) for text in raw.exposure_order.split(",")]
    except ValueError:
        if count == 1:
            return ONE_EXPOSURE
        raise ConversionError(
            f"{raw.path}: exposure_order = {raw.exposure_order!r}: expected the seconds of {count} exposures in "
            "their order, as in '0.01,0.001'; give them with --exposures-s"
        ) from None
    return check_exposures(times, count)


def _points(
    translation_m: npt.NDArray[np.float64], count: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64], dict[int, str]]:
    """Return the frames of each point (points, count), the numbers of these points, and why others are left out."""
    indices = np.arange(len(translation_m))
    if count == 1:
        return indices[:, np.newaxis], indices + 1, {}
    moved = (np.diff(translation_m, axis=0) != 0).any(axis=1)
    points: list[npt.NDArray[np.intp]] = []
    numbers: list[int] = []
    left_out: dict[int, str] = {}
    number = 1
    for group in np.split(indices, np.flatnonzero(moved) + 1):
        if len(group) % count:
            where = f"{numbered(len(group), 'frame')} at one place (from frame {group[0]} on)"
            left_out[number] = f"{where}: expected {count} exposures"
            number += 1
            continue
        for exposures in group.reshape(-1, count):
            points.append(exposures)
            numbers.append(number)
            number += 1
    return np.array(points, np.intp).reshape(-1, count), np.array(numbers, np.int64), left_out


def _stored(stack: FrameStack, index: npt.NDArray[np.intp]) -> StoredFrames:
    return StoredFrames.in_one(stack.path.resolve(), stack.dataset, stack.rows[index])


def _darks(darks: FrameStack | None, exposure: int, count: int) -> StoredFrames:
    if darks is None:
        return StoredFrames.in_one(Path(), "", [])
    return _stored(darks, np.arange(exposure, len(darks) - len(darks) % count, count))
