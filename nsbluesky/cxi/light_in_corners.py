"""Whether frames have the direct beam in their corners, as FFTs leave it, and not in the middle, where CXI has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.cxi.read import FrameStack

__all__ = ["light_in_corners"]

MOST_FRAMES = 32

LIT = 0.995
"""Part of the pixels; what the others have more is cut off, for a few hot ones outshine all light."""


def light_in_corners(frames: FrameStack | npt.NDArray[Any], good: npt.NDArray[np.bool_]) -> float:
    """Return the part of the light that falls into the outer quarters of rows and columns, both at once.

    Light that is even has 0.25 there, and a bright ring around the middle, as wide as the frame, less than 0.4.

    Parameters
    ----------
    frames : FrameStack
        (n, ny, nx); some of them are read.
    good : array of bool
        (ny, nx); other pixels do not count.
    """
    mean = np.zeros((frames.shape[1], frames.shape[2]))
    for index in np.unique(np.linspace(0, len(frames) - 1, MOST_FRAMES).astype(int)).tolist():
        frame = frames[index : index + 1][0].astype(np.float64)
        mean += np.where(good & np.isfinite(frame), np.maximum(frame, 0.0), 0.0)
    rows, columns = (np.abs(np.arange(n) - n // 2) > n / 4 for n in good.shape)
    mean = np.minimum(mean, np.quantile(mean, LIT))
    return float(mean[np.ix_(rows, columns)].sum() / max(mean.sum(), np.finfo(float).tiny))
