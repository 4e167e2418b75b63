"""Frames that do not fit where most others do: they rest, are tried once more, and are then left out.

A frame that is not what it is said to be, taken elsewhere or with another flux, draws the object under it to values
that no sample has, from which neighbours that are right do not always bring it back: a few such frames can spoil an
image, or let its steps grow without bound.  Such a place also forms now and then where all frames are right.  In
both cases it heals when the frame with the worst misfit is not used for some passes.
"""

from __future__ import annotations

import numpy as np

from nsbluesky.solver.frames import FOREVER, FrameStore

__all__ = ["rest_misfits"]

LEAST_FRAMES = 16
"""With fewer frames none can be told to be the odd one."""

LEAST_USES = 6
"""Uses of a frame before it is judged: until then many fit badly that will fit well."""

WORSE = 3.0
"""A frame does not fit whose R is this many times the median of all; the right ones of a scan spread by half."""

RESTING_PASSES = 5
"""Passes without the frame, in which its place heals."""

MOST = 0.1
"""Of all frames no more than this part rests: where many do not fit, it is the image that is wrong."""


def rest_misfits(frames: FrameStore, least_uses: int = LEAST_USES) -> dict[int, str]:
    """Let frames rest that do not fit, and others come back; call it after each pass.

    Parameters
    ----------
    frames : FrameStore
        Its `residuals` are of the latest use of each frame.
    least_uses : int
        Uses of a frame before it is judged.

    Returns
    -------
    dict of int to str
        Sequence numbers of the frames that had their second chance and are left out from now on, and why.
    """
    resting, weights = frames.resting[: len(frames)], frames.weights[: len(frames)]
    judged = frames.active
    judged = judged[(frames.uses[judged] >= least_uses) & (frames.amplitude_sums[judged] > 0)]
    resting[(resting > 0) & (resting < FOREVER)] -= 1  # who comes back now is judged after the next pass
    if len(judged) < LEAST_FRAMES:
        return {}
    r_factors = frames.residuals[judged] / frames.amplitude_sums[judged]
    usual = float(np.median(r_factors))
    # no number is a misfit, too
    fits = r_factors <= WORSE * usual
    frames.misfits[judged[fits]] = 0
    worst_first = np.argsort(-np.nan_to_num(r_factors, nan=np.inf))
    odd = worst_first[~fits[worst_first]]
    room = int(MOST * np.count_nonzero(weights > 0)) - int(np.count_nonzero(resting[weights > 0]))
    left_out: dict[int, str] = {}
    for k in odd[: max(room, 0)]:
        slot = judged[k]
        if frames.misfits[slot]:
            frames.resting[slot] = FOREVER
            left_out[int(frames.seq_nums[slot])] = (
                f"does not fit the others: R {r_factors[k]:.2f}, theirs {usual:.2f}; is it where it was said to be?"
            )
        else:
            frames.resting[slot] = RESTING_PASSES
            frames.misfits[slot] = 1
    return left_out
