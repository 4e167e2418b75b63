"""A raw scan as the conversion needs it, whether it lies in a raw CXI file or is a recorded Bluesky run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nsbluesky.conversion.frames import ConversionError, StoredFrames
from nsbluesky.geometry import Geometry
from nsbluesky.settings import SettingsError
from nsbluesky.settings.units import require_exposure_s

__all__ = ["ONE_EXPOSURE", "RawScan", "check_exposures"]

ONE_EXPOSURE = (1.0,)
"""Exposure times of a scan with one exposure a point, whose length makes no difference."""


@dataclass(frozen=True, eq=False)
class RawScan:
    """Points of a scan, with references to the frames of each and to the darks.

    Attributes
    ----------
    source : str
        Path of the file, or uid of the run.
    geometry : Geometry
        With the detector's own pixel.
    exposures_s : tuple of float
        Exposure times of a point, in the order in which they were taken.
    translation_m : (points, 2 or 3) float64
        x, y, z of the sample.
    seq_nums : (points,) int64
        Numbers of the points.
    frames : tuple of StoredFrames
        For each exposure, its frame of every point; single ones may be missing.
    darks : tuple of StoredFrames
        For each exposure its dark frames; there may be none.
    left_out : dict of int to str
        Points, by number, that cannot be used, and why.
    warnings : tuple of str
        What a scientist should know.
    start_time : float or str or None
        When the scan began: seconds since 1970, or ISO-8601 text.
    """

    source: str
    geometry: Geometry
    exposures_s: tuple[float, ...]
    translation_m: npt.NDArray[np.float64]
    seq_nums: npt.NDArray[np.int64]
    frames: tuple[StoredFrames, ...]
    darks: tuple[StoredFrames, ...]
    left_out: dict[int, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    start_time: float | str | None = None

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.seq_nums)


def check_exposures(exposures_s: Iterable[float], count: int) -> tuple[float, ...]:
    """Return `count` exposure times.

    Raises
    ------
    ConversionError
        For another number of them, or one that is not positive.
    """
    times = tuple(float(one) for one in exposures_s)
    for one in times:
        try:
            require_exposure_s(one)
        except SettingsError as error:
            raise ConversionError(str(error)) from None
    if len(times) != count:
        raise ConversionError(f"{len(times)} exposure times for {count} exposures a point: expected one for each")
    return times
