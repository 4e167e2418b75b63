"""Whether frames lie elsewhere than the stage says: what two halves of each frame's pixels tell must agree.

Photon noise is another in each half of a detector's rows, and a frame that lies elsewhere does so for both.  So the
mean product of what the halves tell is the scatter of the places alone, however large the errors of each: right
places, whose object has grown around them, give 0, or less.  And a frame moved to where one half has it fits the
other half better, if it does lie there.  Where most of the light went through nothing, frames tell little of their
places, and what is wrong with the image still looks like wrong places of a few; so most frames have to gain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.solver.frame_steps import steps_and_errors
from nsbluesky.solver.pauses import Pauses
from nsbluesky.solver.positions import ROUNDS, fit_distortion
from nsbluesky.solver.sensitivity import Sensitivity

__all__ = ["Scatter", "ScatterLooks", "scatter_of_halves", "some_of"]

LOOKED_AT = 200
"""Frames of a look, spread over the scan: as many tell a scatter to a tenth of it."""

LEAST_SCATTER_PX = 0.1
"""Places that scatter less, along each axis, are left as they are: 0.05 was found of simulated gold spheres at the
right places, whose probe ripens slowly, 0.19 in the Siemens star of the Advanced Photon Source, 0.20 in that of
PETRA III."""

LEAST_PART = 0.75
"""Part of the frames that fit better there, at least.  It was 0.86 to 1 in scans with errors of 0.2 to 1.5 pixels, of
1e4 to 1e7 photons a frame; 0.5 to 0.68 over small objects on a clear field."""

FIRST_PAUSE, LONGEST_PAUSE = 3, 24
"""Passes between looks: so many at first, and twice as many each time that one told nothing."""


@dataclass(frozen=True)
class Scatter:
    """What a look tells.

    Attributes
    ----------
    px : float
        Standard deviation of the places along one axis; 0 where the halves agree on none.
    part : float
        Part of the frames that fit better where the other half of their pixels has them.
    """

    px: float
    part: float

    @property
    def matters(self) -> bool:
        """Whether frames lie elsewhere, so far that it is worth to move them."""
        return self.px >= LEAST_SCATTER_PX and self.part >= LEAST_PART


class ScatterLooks:
    """Looks at some of the frames now and then, until two in a row have told that they lie elsewhere.

    Attributes
    ----------
    found : bool
        Whether they do.
    """

    def __init__(self) -> None:
        self._pauses = Pauses(FIRST_PAUSE, LONGEST_PAUSE)
        self.begin()

    def begin(self) -> None:
        """Begin anew, with another image."""
        self.found = self._told = False
        self._pauses.begin()

    def due(self, passes: int) -> bool:
        """Return whether a look should follow the pass that was just done."""
        return not self.found and self._pauses.is_over(passes)

    def take(self, scatter: Scatter, passes: int) -> None:
        """Take note of a look."""
        self.found = self._told and scatter.matters
        self._told = scatter.matters
        self._pauses.note(passes, told=self._told)

    def contents(self) -> dict[str, Any]:
        """Return what was found and when, for a checkpoint."""
        pauses = self._pauses
        return {"found": self.found, "told": self._told, "last_pass": pauses.last_pass, "pause": pauses.passes}

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned."""
        self.found, self._told = contents["found"], contents["told"]
        self._pauses.last_pass, self._pauses.passes = contents["last_pass"], contents["pause"]


def some_of(slots: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the frames of a look, out of all of them."""
    count = min(LOOKED_AT, len(slots))
    return slots[np.arange(count) * len(slots) // max(count, 1)]


def scatter_of_halves(places_px: npt.NDArray[np.float64], halves: tuple[Sensitivity, Sensitivity]) -> Scatter:
    """Return how far frames lie from where they are taken to lie, by two halves of their pixels.

    Parameters
    ----------
    places_px : (n, 2) float64
        Where they are taken to lie: what is linear in it, which a probe that ripens mimics, is left out.
    halves : two Sensitivity
        Of the same frames.
    """
    steps, errors = [], []
    for half in halves:
        step, covariance = steps_and_errors(half)
        steps.append(fit_distortion(places_px, step[:, :2], covariance[:, :2, :2])[1])
        errors.append(np.trace(covariance[:, :2, :2], axis1=1, axis2=2) / 2)
    product = (steps[0] * steps[1]).mean(axis=1)
    variance = 0.0
    for _ in range(ROUNDS):
        weight = 1 / (np.mean(errors, axis=0) + variance) ** 2
        variance = max(0.0, float((weight * product).sum() / weight.sum()))
    if variance == 0:
        return Scatter(0.0, 0.0)
    gains = [
        gain(other, (variance / (variance + error))[:, None] * step)
        for other, step, error in zip(halves[::-1], steps, errors, strict=True)
    ]
    return Scatter(math.sqrt(variance), float(np.mean(gains[0] + gains[1] > 0)))


def gain(of: Sensitivity, steps_px: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return by how much Σ m·d² (n,) of each frame would fall with these steps (n, 2) of their places."""
    curvature = np.einsum("ni,nij,nj->n", steps_px, of.curvature[:, :2, :2], steps_px)
    fall: npt.NDArray[np.float64] = 2 * (of.gradient[:, :2] * steps_px).sum(axis=1) - curvature
    return fall
