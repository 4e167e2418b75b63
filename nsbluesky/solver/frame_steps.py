"""What one frame asks for: steps towards the least misfit, with the errors that counted photons leave them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nsbluesky.solver.light import PHOTON_NOISE, LightSums
from nsbluesky.solver.sensitivity import Sensitivity

__all__ = ["LONGEST_STEP_PX", "flux_steps_and_errors", "steps_and_errors"]

LONGEST_STEP_PX = 2.0


def steps_and_errors(found: Sensitivity) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the steps (n, 3) towards the least misfit and the covariance (n, 3, 3) of their errors.

    They are in rows and columns, pixels, and in ln flux; steps of a position are kept within `LONGEST_STEP_PX`.
    Where a frame fits worse than counted photons would, its errors are taken for so much larger.
    """
    diagonal = np.diagonal(found.curvature, axis1=1, axis2=2)
    floor = 1e-6 * diagonal + 1e-12
    inverse = np.linalg.inv(found.curvature + floor[:, :, None] * np.eye(3))
    steps = (inverse @ found.gradient[:, :, None])[:, :, 0]
    steps[:, :2] = np.clip(steps[:, :2], -LONGEST_STEP_PX, LONGEST_STEP_PX)
    noise = np.maximum(PHOTON_NOISE, found.misfit / np.maximum(found.pixels, 1))
    return steps, noise[:, None, None] * inverse


def flux_steps_and_errors(
    found: Sensitivity | LightSums, background: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the steps (n,) of ln flux towards the most likely one, and the variance (n,) of their errors.

    `background` (n,) is that of each frame, photons a pixel, which goes with its flux.

    The most likely flux of counted photons is their sum over that of the model.  The one that makes amplitudes fit
    best is not: the mean of √n lies below the root of the mean, the more the fewer photons there are, and frames
    where the sample is dense have fewer.
    """
    light = np.maximum(found.light + background * found.pixels, 1)
    return np.log(np.maximum(1 + found.excess / light, 0.5)), misfit_of(found) / light


def misfit_of(found: Sensitivity | LightSums) -> npt.NDArray[np.float64]:
    """Return by how much frames (n,) fit worse than counted photons would, at least 1: errors of what they tell."""
    return np.maximum(1, found.misfit / np.maximum(found.pixels, 1) / PHOTON_NOISE)
