"""Where frames really lie: from noisy estimates of each to corrections that do no harm where there is nothing to do.

An estimate has an error that its curvature tells.  What all frames have in common (scale, rotation and shear of the
stage's axes) is fitted first, with the weight of all of them; what is left of each frame is drawn towards zero the
more, the less the scatter of all exceeds what their errors explain (empirical Bayes: Efron & Morris, J. Am. Stat.
Assoc. 68, 117 (1973)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["NO_DISTORTION", "Distortion", "fit_distortion", "scatter_of", "shrunk"]

Pairs = npt.NDArray[np.float64]

ROUNDS = 3


@dataclass(frozen=True)
class Distortion:
    """A correction that is linear in the position: Δ = matrix·(r − centre), pixels (row, column).

    Attributes
    ----------
    matrix : (2, 2) tuple of float
        ∂Δ/∂r.
    centre_px : (float, float)
    """

    matrix: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))
    centre_px: tuple[float, float] = (0.0, 0.0)

    def at(self, places_px: Pairs) -> Pairs:
        """Return the corrections (n, 2) at `places_px` (n, 2)."""
        return np.asarray((places_px - np.array(self.centre_px)) @ np.array(self.matrix).T)

    @property
    def scale(self) -> tuple[float, float]:
        """Factors by which rows and columns are longer than the stage says."""
        return 1 + self.matrix[0][0], 1 + self.matrix[1][1]

    @property
    def rotation_rad(self) -> float:
        """Angle from rows to columns by which the scan is turned."""
        return (self.matrix[1][0] - self.matrix[0][1]) / 2

    @property
    def shear_rad(self) -> float:
        """Angle by which the axes miss the right one."""
        return (self.matrix[1][0] + self.matrix[0][1]) / 2


NO_DISTORTION = Distortion()


def fit_distortion(
    places_px: Pairs, corrections_px: Pairs, covariance: npt.NDArray[np.float64]
) -> tuple[Distortion, Pairs, float]:
    """Fit what all corrections have in common.

    Parameters
    ----------
    places_px : (n, 2) float64
        Where the stage says that the frames lie.
    corrections_px : (n, 2) float64
    covariance : (n, 2, 2) float64
        Of each correction's error.

    Returns
    -------
    distortion : Distortion
    rest_px : (n, 2) float64
        What is left of the corrections; their common translation, which no data tell, is taken out as well.
    scatter : float
        Variance along one axis, in pixels², of the true corrections around the distortion.
    """
    centre = places_px.mean(axis=0)
    offsets = places_px - centre
    basis = np.concatenate([np.ones((len(offsets), 1)), offsets], axis=1)
    variance = np.trace(covariance, axis1=1, axis2=2) / 2
    scatter = 0.0
    for _ in range(ROUNDS):
        weight = 1 / (variance + scatter)
        weight /= weight.sum()
        root = np.sqrt(weight)[:, None]
        solution, *_ = np.linalg.lstsq(basis * root, corrections_px * root, rcond=1e-9)
        rest = corrections_px - basis @ solution
        scatter = scatter_of(rest, np.stack([variance, variance], axis=1))
    (a, b), (c, d) = solution[1:].T.tolist()
    row, column = centre.tolist()
    return Distortion(((a, b), (c, d)), (row, column)), np.asarray(rest), scatter


def scatter_of(estimates: npt.NDArray[np.float64], variance: npt.NDArray[np.float64]) -> float:
    """Return the variance of the true values behind estimates of mean 0 with errors of known variance; at least 0."""
    scatter = 0.0
    for _ in range(ROUNDS):
        weight = 1 / (variance + scatter) ** 2
        scatter = max(0.0, float((weight * (estimates**2 - variance)).sum() / weight.sum()))
    return scatter


def shrunk(rest_px: Pairs, covariance: npt.NDArray[np.float64], scatter: float) -> Pairs:
    """Return the corrections (n, 2) that are likely where true ones have the variance `scatter` along each axis."""
    if scatter <= 0:
        return np.zeros_like(rest_px)
    total = covariance + scatter * np.eye(2)
    return np.asarray(scatter * np.linalg.solve(total, rest_px[:, :, None])[:, :, 0])
