"""Frames that do not fit where most others do: they are suspended, tried once more, and then left out.

A frame that is not what it is said to be, taken elsewhere or with another flux, draws the object under it to values
that no sample has, from which neighbours that are right do not always bring it back: a few such frames can spoil an
image, or let its steps grow without bound.  Such a place also forms now and then where all frames are right.  In
both cases it heals when the frame with the worst misfit is not used for some passes.

Where the sample is a small object on a clear field, all frames over it fit worse than most do, and are the ones that
matter: an odd frame is one that fits worse than its neighbours, too.  And one that comes back stays, however badly it
fits, where the object explains much more of it than a clear field would.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from nsbluesky.solver.frames import FOREVER, FrameStore

__all__ = ["left_out", "suspend_misfits"]

LEAST_FRAMES = 16
"""With fewer frames none can be told to be the odd one."""

LEAST_USES = 6
"""Uses of a frame before it is judged: until then many fit badly that will fit well."""

WORSE = 3.0
"""A frame may be odd whose R is this many times the median of all."""

FAR_OUT = 6.0
"""A frame may be odd, too, whose log R is this many standard deviations from the median; right ones stay within 4."""

NEIGHBOURS = 12
"""Frames nearby that an odd one is compared with: where all of them fit badly, the object is hard there."""

WORSE_THAN_NEIGHBOURS = 2.0
"""An odd frame has this many times the median R of its neighbours."""

EXPLAINED = 0.5
"""A frame that was suspended is needed where its R is at most this part of what it would be with a clear field in the
object's place: the image there ripens.  Simulated frames that were not what they were said to be had 0.5 to 1.6,
right ones over small objects 0.2 to 0.45."""

LEAST_R = 1e-6
"""Below it R is taken for as much: no frame is odd because the others fit exactly."""

SUSPENDED_PASSES = 5
"""Passes without the frame, in which its place heals."""

MOST_NEARBY = 3
"""Of its neighbours no more are left out before a frame that does not fit is; it is suspended once more instead.
Else one after another goes where the object is hard, until nothing of it is left."""

MOST = 0.1
"""Of all frames no more than this part is suspended: where many do not fit, it is the image that is wrong."""


def suspend_misfits(
    frames: FrameStore, least_uses: int = LEAST_USES, unexplained: Callable[[int], float] = lambda slot: 1.0
) -> dict[int, str]:
    """Suspend frames that do not fit, and let others come back; call it after each pass.

    Parameters
    ----------
    frames : FrameStore
        Its `residuals` are of the latest use of each frame.
    least_uses : int
        Uses of a frame before it is judged.
    unexplained : callable
        Returns the R of the frame in a slot, as part of its R with a clear field in the object's place.

    Returns
    -------
    dict of int to str
        Sequence numbers of the frames that had their second chance and are left out from now on, and why.
    """
    suspended, weights = frames.suspended[: len(frames)], frames.weights[: len(frames)]
    judged = frames.active
    judged = judged[(frames.uses[judged] >= least_uses) & (frames.amplitude_sums[judged] > 0)]
    suspended[(suspended > 0) & (suspended < FOREVER)] -= 1  # who comes back now is judged after the next pass
    if len(judged) < LEAST_FRAMES:
        return {}
    r_factors = frames.residuals[judged] / frames.amplitude_sums[judged]
    usual = float(np.median(np.nan_to_num(r_factors, nan=np.inf)))
    places_px = frames.places_px(slice(len(frames)))
    fits = _fits(r_factors, places_px[judged])
    frames.misfits[judged[fits]] = 0
    worst_first = np.argsort(-np.nan_to_num(r_factors, nan=np.inf))
    odd = worst_first[~fits[worst_first]]
    there = np.flatnonzero(weights > 0)
    neighbours = there[_nearest(places_px[there], places_px[judged[odd]])]
    room = int(MOST * np.count_nonzero(weights > 0)) - int(np.count_nonzero(suspended[weights > 0]))
    gone: dict[int, str] = {}
    for k, nearby in list(zip(odd, neighbours, strict=True))[: max(room, 0)]:
        slot = judged[k]
        if frames.misfits[slot] and unexplained(int(slot)) <= EXPLAINED:
            continue
        if frames.misfits[slot] and np.count_nonzero(suspended[nearby] == FOREVER) <= MOST_NEARBY:
            frames.suspended[slot] = FOREVER
            gone[int(frames.seq_nums[slot])] = (
                f"does not fit the others: R {r_factors[k]:.2f}, theirs {usual:.2f}; is it where it was said to be?"
            )
        else:
            frames.suspended[slot] = SUSPENDED_PASSES
            frames.misfits[slot] = 1
    return gone


def left_out(frames: FrameStore, slots: npt.NDArray[np.intp]) -> dict[int, str]:
    """Return the sequence numbers of frames that a checkpoint tells to be left out, and why."""
    gone = slots[frames.suspended[slots] == FOREVER]
    r_factors = frames.residuals[gone] / np.maximum(frames.amplitude_sums[gone], 1e-12)
    reasons = (f"does not fit the others: R {r:.2f}; is it where it was said to be?" for r in r_factors.tolist())
    return dict(zip(frames.seq_nums[gone].tolist(), reasons, strict=True))


def _fits(r_factors: npt.NDArray[np.float64], places_px: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which frames fit: as well as most of the scan, or not much worse than those nearby.

    What R is usual depends on photons and sample, and so does its spread; 1.48 times the median deviation is the
    standard deviation of a normal distribution.  A frame without a finite R does not fit.
    """
    finite = np.isfinite(r_factors)
    logs = np.log(np.maximum(r_factors, LEAST_R), where=finite, out=np.full(len(r_factors), np.inf))
    worse = logs - np.median(logs[finite]) if finite.any() else logs
    spread = 1.48 * np.median(np.abs(worse))
    fits = worse <= min(math.log(WORSE), FAR_OUT * spread)
    odd = np.flatnonzero(~fits & finite)
    if len(odd):
        nearby = logs[_nearest(places_px, places_px[odd])]
        fits[odd] = logs[odd] < np.median(nearby, axis=1) + math.log(WORSE_THAN_NEIGHBOURS)
    return np.asarray(fits)


def _nearest(places_px: npt.NDArray[np.float64], of_px: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Return which places lie nearest to each of some of them, (n, NEIGHBOURS)."""
    # the very nearest is the place itself, or another one at the same place
    return np.asarray(cKDTree(places_px).query(of_px, NEIGHBOURS + 1)[1])[:, 1:]
