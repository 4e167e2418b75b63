"""Several exposures of one point as one frame: the long one where it is not saturated, the short ones elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.flags import FrameFlag

__all__ = ["combine_exposures"]


def combine_exposures(
    frames: npt.NDArray[np.float32], flags: npt.NDArray[np.uint16], exposures_s: Sequence[float]
) -> tuple[npt.NDArray[np.float32], int]:
    """Return one frame, in photons of the longest exposure, and its flags.

    Parameters
    ----------
    frames : (exposures, rows, columns) float32
        Clean frames of the same point in photons, NaN where one did not measure.
    flags : (exposures,) uint16
        `FrameFlag` of each.
    exposures_s : sequence of float
        How long each took, in the same order.

    Returns
    -------
    frame : (rows, columns) float32
        NaN where no exposure measured.
    flags : int
        Saturation that another exposure makes up for is none; corrupt is what is so in all of them.

    Raises
    ------
    ValueError
        For another number of exposure times, or one that is not positive.

    Notes
    -----
    Photons obey Poisson statistics, so the estimate of least variance of a rate is the sum of counts by the sum of
    times, over the exposures that measured: each is weighted by its time.
    """
    if len(exposures_s) != len(frames) or not all(time > 0 for time in exposures_s):
        raise ValueError(f"exposures_s = {list(exposures_s)} for {len(frames)} exposures: expected as many times > 0")
    times = np.asarray(exposures_s, np.float64)[:, np.newaxis, np.newaxis]
    measured = np.isfinite(frames)
    seconds = (measured * times).sum(axis=0)
    counts = np.where(measured, frames, 0).sum(axis=0, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 · (1/0) is the NaN of a pixel that none measured
        combined = (counts * (times.max() / seconds)).astype(np.float32)
    together = int(np.bitwise_or.reduce(flags))
    if not (np.asarray(flags) & int(FrameFlag.CORRUPT)).all():  # one measured enough of it
        together &= ~int(FrameFlag.CORRUPT)
    made_up = FrameFlag.SATURATED | FrameFlag.LOST_PACKETS | FrameFlag.CORRUPT
    if np.isfinite(combined).all():
        together &= ~int(made_up)
    return combined, together
