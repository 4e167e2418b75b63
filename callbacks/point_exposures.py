"""Several exposures of each point: kept until the last one is there, then combined into one frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.exposures import combine_exposures

__all__ = ["CleanFrame", "PointExposures"]


@dataclass
class CleanFrame:
    """One exposure of a point, cleaned, or all of them together."""

    frame: npt.NDArray[np.float32]
    flags: int
    time: float
    x_m: float
    y_m: float


class PointExposures:
    """The exposures of one run.

    Parameters
    ----------
    exposures_s : sequence of float
        The exposure times of each point, in the order in which they are taken.
    """

    def __init__(self, exposures_s: Sequence[float]) -> None:
        self._exposures_s = exposures_s
        self._points: dict[int, dict[int, CleanFrame]] = {}
        self._whole: set[int] = set()

    def add(self, seq_num: int, exposure: CleanFrame) -> dict[int, CleanFrame]:
        """Take an exposure; return the point that it completes, combined, by its number from 1 on."""
        point, number = divmod(seq_num - 1, len(self._exposures_s))
        point += 1
        exposures = self._points.setdefault(point, {})
        exposures[number] = exposure
        if len(exposures) < len(self._exposures_s):
            return {}
        self._whole.add(point)
        return {point: self._combined(self._points.pop(point))}

    def rest(self) -> dict[int, CleanFrame]:
        """Combine points whose last exposure never came; of one that was being taken again the whole one stands."""
        return {
            point: self._combined(exposures) for point, exposures in self._points.items() if point not in self._whole
        }

    def _combined(self, exposures: dict[int, CleanFrame]) -> CleanFrame:
        times = [self._exposures_s[number] for number in exposures]
        frames = np.stack([exposure.frame for exposure in exposures.values()])
        flags = np.array([exposure.flags for exposure in exposures.values()], np.uint16)
        frame, together = combine_exposures(frames, flags, times)
        frame *= np.float32(max(self._exposures_s) / max(times))  # the longest one may be missing
        last = list(exposures.values())[-1]
        return CleanFrame(frame, together, last.time, last.x_m, last.y_m)
