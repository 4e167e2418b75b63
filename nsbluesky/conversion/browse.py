"""Single raw frames of a scan, for somebody who looks at them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.conversion.scan import RawScan

__all__ = ["ScanBrowser"]


class ScanBrowser:
    """Raw frames and darks of a scan, of its longest exposure.

    Parameters
    ----------
    scan : RawScan
    """

    def __init__(self, scan: RawScan) -> None:
        longest = int(np.argmax(scan.exposures_s))
        self._frames, self._darks = scan.frames[longest], scan.darks[longest]
        self._place = {int(number): place for place, number in enumerate(scan.seq_nums)}

    def frame(self, seq_num: int) -> npt.NDArray[Any] | None:
        """Return the frame (rows, columns) of a point; None where it was not recorded.

        Raises
        ------
        ConversionError
            Where its file cannot be read.
        """
        place = self._place.get(seq_num)
        if place is None or not self._frames.recorded[place]:
            return None
        return np.asarray(self._frames[place : place + 1].read()[0])

    def darks(self, count: int) -> npt.NDArray[Any]:
        """Return at most so many dark frames (n, rows, columns), evenly spaced; (0, 0, 0) where there are none.

        Raises
        ------
        ConversionError
            Where their file cannot be read.
        """
        recorded = np.flatnonzero(self._darks.recorded)
        if not len(recorded):
            return np.empty((0, 0, 0), np.uint16)
        chosen = recorded[np.unique(np.linspace(0, len(recorded) - 1, min(count, len(recorded))).astype(np.intp))]
        return self._darks[chosen].read()
