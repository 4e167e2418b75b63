"""Put the frames of several scans of one sample into one file: those of a scan, and those that were taken again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nsbluesky.cxi.export import append_frames, copied_frames
from nsbluesky.cxi.layout import GOOD_MASK_BITS, CxiError
from nsbluesky.cxi.read import CxiData, read_cxi

__all__ = ["join_scans"]

TOLERANCE = 1e-3
"""By how much energy, distance and pixels may differ."""


def join_scans(path: str | Path, first: str | Path, others: Sequence[str | Path]) -> int:
    """Write the clean frames of several files into a new one; their numbers go on after those of the first.

    A pixel that is bad in one of them is bad in all.

    Parameters
    ----------
    path, first : path
    others : sequence of path

    Returns
    -------
    int
        Frames in the new file.

    Raises
    ------
    CxiError
        Where a file cannot be read, has no clean frames, or was measured with another energy, distance or pixel.
    OSError
        If the file cannot be written.
    """
    with read_cxi(first) as data, copied_frames(path, data) as cxi:
        mask, next_number = data.mask.copy(), int(data.seq_nums.max(initial=0)) + 1
        for other in others:
            with read_cxi(other) as more:
                _check_alike(data, more)
                count = len(more.clean_frames)
                append_frames(cxi, more, next_number + np.arange(count))
                next_number += count
                bad = (more.mask & ~np.uint32(GOOD_MASK_BITS)) != 0
                mask = np.where(bad, more.mask, mask)
        cxi.set_mask(mask)
        return cxi.num_frames


def _check_alike(first: CxiData, other: CxiData) -> None:
    shape, other_shape = (data.clean_frames.shape[1:] for data in (first, other))
    if other_shape != shape:
        raise CxiError(f"{other.path} has frames of {other_shape}: expected {shape}, as in {first.path}")
    for name, here, there in (
        ("energy (eV)", first.energy_eV, other.energy_eV),
        ("detector distance (m)", first.detector_distance_m, other.detector_distance_m),
        ("pixel (m)", first.pixel_size_m[0], other.pixel_size_m[0]),
    ):
        if abs(there / here - 1) > TOLERANCE:
            raise CxiError(f"{other.path}: {name} is {there:g}: expected {here:g}, as in {first.path}")
    apart_m = abs(first.source_distance_m - other.source_distance_m)
    if first.propagation != other.propagation or apart_m > TOLERANCE * abs(first.source_distance_m):
        found, expected = ((data.propagation, data.source_distance_m) for data in (other, first))
        raise CxiError(f"{other.path}: propagation and source distance (m) are {found}: expected {expected}")
