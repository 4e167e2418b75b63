"""How many frames a batch has, and when an image rests: takes no more momentum, so that passes average noise."""

from __future__ import annotations

from nsbluesky.settings import SolverSettings

__all__ = [
    "LEAST_BATCH",
    "LEAST_PASSES",
    "RESTING_PASSES",
    "RIPE_USES",
    "SETTLING_PASSES",
    "batch_frames",
    "most_passes",
    "rests",
]

LEAST_BATCH = 16
"""Frames that a first image takes, and a batch where there are few frames."""

BATCHES = 16
"""Batches of a pass at least, as long as there are frames for that."""

LEAST_LAST_BATCH = 4
LAST_BATCHES = 24
"""The same in the last passes until they rest: few frames are used in few steps otherwise.  Ten passes over simulated
frames of 64² with 1e6 photons each left an error of 0.064 over 144 frames in the place of 0.105 in batches of 32, of
0.042 over 256, not 0.064, and of 0.038 over 400, not 0.054.  Small batches to the very end left 5 % more noise."""

NEAR_FIELD_BATCH = 4
"""Frames of a batch at most in the near field, where all see the same part of the sample: 40 passes over 81 frames
left an error of 0.012 with 4, of 0.018 with 8, and of 0.051 with 32."""

SETTLING_PASSES = 3
"""Passes after the last refinement."""

LEAST_PASSES = 10
"""Full passes after the last frame, where no number is told: all that an image takes that had its uses before."""

MOST_PASSES = 100
MOST_STEPS = 1000
"""Passes, or steps of `LEAST_LAST_BATCH` frames where there are few, after which the last ones end though an image
has not settled."""

RIPE_USES = 50
"""Uses of each frame, on average, from which on there is no momentum, neither while frames arrive nor in the last
passes.  With 25, simulated scans of 10 to 200 frames/s and 1e3 to 1e7 photons a frame ended worse."""

RESTING_PART = 5
RESTING_PASSES = 5
"""The last full passes, a fifth of all and no more than these, are without momentum, so that they average photon
noise.  With five of ten, 400 frames of 64² were left with an error of 0.027, with two, of 0.013; streamed gold balls
with 0.0144 and 0.0124.  Of twenty and more, two to ten are all the same."""


def batch_frames(
    settings: SolverSettings, frames: int, *, is_last: bool, resting: bool, is_near: bool, least: int
) -> int:
    """Return how many of so many frames a batch has.

    Parameters
    ----------
    settings : SolverSettings
    frames : int
    is_last : bool
        Whether all frames are there, and more than their central halves is used.
    resting : bool
        Whether these are passes without momentum.
    is_near : bool
        Whether frames are of the near field.
    least : int
        What the engine wants at least; not minded in the far field while more frames arrive.
    """
    if is_last:
        few = settings.batch_final if resting else max(LEAST_LAST_BATCH, frames // LAST_BATCHES)
        batch = min(few, settings.batch_final)
    else:
        batch = min(settings.batch, max(LEAST_BATCH, frames // BATCHES))
    if is_near:
        batch = min(batch, NEAR_FIELD_BATCH)
    return max(batch, least) if is_last or is_near else batch


def most_passes(frames: int, states: int = 1) -> int:
    """Return after how many of the last passes over so many frames they end, though the image has not settled.

    An object of several states may take as many times longer.
    """
    return states * max(MOST_PASSES, MOST_STEPS * LEAST_LAST_BATCH // max(frames, LEAST_BATCH))


def rests(passes: int, left: int) -> bool:
    """Return whether a stage of so many passes, of which so many are left, is at its last ones."""
    return left <= min(RESTING_PASSES, max(1, passes // RESTING_PART))
