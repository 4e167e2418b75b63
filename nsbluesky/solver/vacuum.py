"""The empty beam in a picture: amplitude, phase and phase ramp of the places where there is no sample.

They fix what the data leave open (`nsbluesky.solver.gauge`).  Empty places are alike, so their values crowd at one
place, and no others lie beyond it: nothing lets through more, or has a phase still further to that side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Vacuum", "find_vacuum"]

LEAST_PART = 0.05
"""Part of the picture that has to be empty."""

HALF_NORMAL = (0.6745, 1.645)
"""Median and upper tenth of the amount of a normally distributed number, in standard deviations."""

SMALLEST_NOISE = 0.02
"""Values of a crowd differ by so much, relative to their amplitude: also without photon noise nothing is exact."""

LARGEST_NOISE = 0.2
"""With more noise empty places cannot be told from others."""

MOST_PIXELS = 40_000
"""Of larger pictures every so manyth row and column is looked at."""

ROUNDS = 4
PLACES = 60


@dataclass(frozen=True)
class Vacuum:
    """The empty beam: amplitude·exp(i·(phase + row·row_step + column·column_step)) on the canvas.

    Attributes
    ----------
    amplitude : float
    phase, row_step, column_step : float
        In radians; 0 where the phase was not asked for.
    part : float
        Part of the picture that is empty.
    noise : float
        Standard deviation of its pixels, relative to the amplitude.
    """

    amplitude: float
    phase: float
    row_step: float
    column_step: float
    part: float
    noise: float

    def wave(self, xp: Any, shape: tuple[int, int]) -> Any:
        """Return it (H, W) complex64."""
        rows, columns = xp.arange(shape[0])[:, None], xp.arange(shape[1])[None, :]
        turn = self.phase + self.row_step * rows + self.column_step * columns
        return (self.amplitude * xp.exp(1j * turn)).astype(np.complex64)


def find_vacuum(image: npt.NDArray[np.complex64], covered: npt.NDArray[np.bool_], sign: int = 0) -> Vacuum | None:
    """Return the empty beam in an image, or None where there is no clear one.

    Parameters
    ----------
    image : (H, W) complex64
    covered : (H, W) bool
        Where it is known.
    sign : {-1, 0, 1}
        On which side of the empty beam the phase of the sample lies; 0 does not look at phases.
    """
    if np.count_nonzero(covered) < 1 / LEAST_PART**2:
        return None
    amplitude = np.abs(image)
    thin = max(1, int(np.sqrt(np.count_nonzero(covered) / MOST_PIXELS)))
    rows, columns = np.nonzero(covered[::thin, ::thin])
    values = amplitude[::thin, ::thin][rows, columns]
    crowd = _crowd(values, float(np.median(values)))
    if crowd is None or crowd[1] > LARGEST_NOISE * crowd[0]:
        return None
    level, noise, part = crowd
    if sign == 0:
        return Vacuum(level, 0.0, 0.0, 0.0, part, noise / level)
    empty = covered & (np.abs(amplitude - level) < 3 * noise)
    chosen = empty[::thin, ::thin][rows, columns]
    waves = (image[::thin, ::thin][rows, columns] / level)[chosen]
    basis = np.stack([np.ones(len(rows)), thin * rows, thin * columns], axis=1)[chosen]
    plane = _first_plane(image, empty)
    for _ in range(ROUNDS):
        phases = np.angle(waves * np.exp(-1j * (basis @ plane)))
        crowd = _crowd(-sign * phases, 1.0)
        if crowd is None or crowd[1] > LARGEST_NOISE:
            return None
        place, width, part = crowd
        near = np.abs(phases + sign * place) < 3 * width
        plane += np.linalg.lstsq(basis[near], phases[near], rcond=None)[0]
    phases = np.angle(waves * np.exp(-1j * (basis @ plane)))
    crowd = _crowd(-sign * phases, 1.0)
    if crowd is None or crowd[2] * len(waves) < LEAST_PART * len(values):
        return None
    plane[0] -= sign * crowd[0]
    noise = max(noise / level, crowd[1])
    return Vacuum(
        level, float(plane[0]), float(plane[1]), float(plane[2]), crowd[2] * len(waves) / len(values), noise
    )


def _first_plane(image: npt.NDArray[np.complex64], empty: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return phase, step by row and step by column, from the mean steps between neighbours."""
    held = np.where(empty, image, 0)
    down = np.angle(np.sum(held[1:] * held[:-1].conj(), dtype=np.complex128))
    right = np.angle(np.sum(held[:, 1:] * held[:, :-1].conj(), dtype=np.complex128))
    rows, columns = np.arange(image.shape[0])[:, None], np.arange(image.shape[1])[None, :]
    phase = np.angle(np.sum(held * np.exp(-1j * (down * rows + right * columns))))
    return np.array([phase, down, right])


def _crowd(values: npt.NDArray[Any], scale: float) -> tuple[float, float, float] | None:
    """Return where values crowd at their upper end, their standard deviation, and the part of them in the crowd.

    Only the upper half of the crowd is looked at, for thin matter is not far below.  What lies above a place falls
    off as a normal distribution from its mean where the median tells the same standard deviation as the upper tenth;
    it falls off faster from a place further up, and slower from one further down.
    """
    ordered = np.sort(values)
    found = None
    for part in np.geomspace(LEAST_PART, 1.0, PLACES):
        above = ordered[-max(2, int(part / 2 * len(ordered))) :]
        middle, tenth = np.quantile(above, (0.5, 0.9)) - above[0]
        by_middle, by_tenth = middle / HALF_NORMAL[0], tenth / HALF_NORMAL[1]
        if by_middle >= by_tenth and by_tenth > SMALLEST_NOISE * scale:
            return found
        found = float(above[0]), max(float(by_tenth), SMALLEST_NOISE * scale), float(part)
    return found
