"""Pixels of which no frame has a measurement, though no mask says so: their number is a mark.

Detectors that count photons write −1, −2 or the largest number of their type where there is no pixel that works.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nsbluesky.cxi.read import FrameStack

__all__ = ["never_measured"]

BLOCK_FRAMES = 64

LARGEST = np.array([2**31, 2**32, 2**63, 2**64], np.float32)
"""The largest integers, as float32 has them: frames may have been converted.  65535 may be a saturated pixel."""


def never_measured(frames: FrameStack) -> npt.NDArray[np.bool_]:
    """Return where all frames (n, ny, nx) hold the same number and it is a mark: (ny, nx) bool.

    What is negative in some frames only is noise around zero.
    """
    first = frames[:1]
    marked = (first < 0) | np.isin(first.astype(np.float32), LARGEST)
    for start in range(0, len(frames), BLOCK_FRAMES):
        if not marked.any():
            break
        marked &= (frames[start : start + BLOCK_FRAMES] == first).all(axis=0)
    return np.asarray(marked.any(axis=0))
