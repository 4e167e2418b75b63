"""Is the probe of a reconstruction one that others should begin with?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nsbluesky.solver.further_modes import mean_deviation

if TYPE_CHECKING:
    from nsbluesky.solver.incremental import IncrementalSolver

__all__ = ["is_good", "r_of_photon_noise"]

LEAST_CONFIDENCE = 0.12
"""Confidence of the sweep.  A measured star and simulated scans of 1e4 … 1e7 photons a frame have 0.18 … 0.45 where
positions are right, at most 0.10 where half of them are wrong or all are by 3 pixels.  R alone does not tell: it is
0.35 for the right image at 1e4 photons, and 0.18 for a wrong one at 1e7."""

GOOD_R = 0.2
TIMES_NOISE = 2.0
"""R of the last image: below the first, or at most so many times what photon noise alone makes.  What the sweep had
right may have gone wrong since."""

MOST_LEFT_OUT = 0.25
"""Part of the frames that may be rejected, or rest because they do not fit."""


def is_good(solver: IncrementalSolver) -> bool:
    """Return whether a solver that is at its end has an image that is settled and right, as far as it can tell.

    It takes as many frames as the first sweep, and a sweep, which no known defocus replaces.
    """
    state, sweep, frames = solver.state, solver.sweep, solver.frames
    if state is None or sweep is None or not (solver.finished or solver.is_settled):
        return False
    used = frames.active
    left_out = len(solver.rejected) + int(frames.suspended[: len(frames)].sum())
    if len(used) < solver.settings.sweep_frames or left_out > MOST_LEFT_OUT * len(frames):
        return False
    most = max(GOOD_R, TIMES_NOISE * r_of_photon_noise(solver))
    return sweep.confidence >= LEAST_CONFIDENCE and state.r_factor <= most


def r_of_photon_noise(solver: IncrementalSolver) -> float:
    """Return the R factor of a perfect image of frames that all have the mean pattern: Σ E|√n − √λ| / Σ A."""
    frames = solver.frames
    used = frames.active
    mean = solver.frames.backend.to_numpy(frames.mean_intensity(used))
    return float(mean_deviation(mean).sum() * len(used) / np.sum(frames.amplitude_sums[used]))
