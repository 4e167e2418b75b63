"""What makes a picture that of a Siemens star: on circles about its centre, every spoke like every other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates
from scipy.optimize import minimize

Circle = tuple[float, float]

ANGLES = 1680
"""Points of a circle: 60 for each of 28 spokes."""
SLOW = 8
"""Harmonics below belong to slow phases, which are no matter of spokes."""
SEARCH_PX = 12
"""How far the centre may lie from the middle of the picture."""
TO_STEP = np.pi / 2
"""From the amplitude of a square wave's first harmonic to the wave's step."""


@dataclass(frozen=True)
class Spokes:
    """A ring of a star.

    Attributes
    ----------
    number : int
        Spokes on most of the circles.
    share : float
        Part of the power above slow phases that repeats from spoke to spoke, in the worst circle; 1 in a star.
    straightness : float
        1 where spokes lie at the same angles on all circles.
    step : float
        From spoke to gap, mean of all circles, in the unit of the picture.
    scatter : float
        Standard deviation of the steps at single spokes, relative to their mean.
    angle : float
        Where in a period the picture is highest, in radians: pictures of one star agree in it, or differ by π.
    """

    number: int
    share: float
    straightness: float
    step: float
    scatter: float
    angle: float


def find_centre(image: npt.NDArray[Any], number: int, radii_px: npt.NDArray[Any]) -> Circle:
    """Return row and column about which a picture repeats best `number` times a turn, near the picture's middle."""

    def power(centre: Any) -> float:
        return float(abs(_harmonics(image, centre, radii_px)[:, number].sum()))

    middle = (np.array(image.shape) - 1) / 2
    offsets = np.arange(-SEARCH_PX, SEARCH_PX + 1, 2)
    best = max(((middle[0] + y, middle[1] + x) for y in offsets for x in offsets), key=power)
    start = [float(best[0]), float(best[1])]
    row, column = minimize(lambda centre: -power(centre), start, method="Nelder-Mead", tol=1e-3).x
    return float(row), float(column)


def spokes_of(image: npt.NDArray[Any], centre: Circle, number: int, radii_px: npt.NDArray[Any]) -> Spokes:
    """Measure a real picture on circles about a centre, for `number` spokes."""
    harmonics = _harmonics(image, centre, radii_px)
    power = np.abs(harmonics) ** 2
    first = harmonics[:, number]
    angle = float(np.angle(first.sum()))
    strongest = SLOW + power[:, SLOW:].argmax(axis=1)
    return Spokes(
        number=int(np.bincount(strongest).argmax()),
        share=float((power[:, number::number].sum(axis=1) / power[:, SLOW:].sum(axis=1)).min()),
        straightness=float(abs(first.sum()) / np.abs(first).sum()),
        step=float(TO_STEP * np.abs(first).mean()),
        scatter=_scatter(image, centre, number, radii_px, angle),
        angle=angle,
    )


def _harmonics(image: npt.NDArray[Any], centre: Any, radii_px: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return (circles, harmonics) amplitudes."""
    angles = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    return np.fft.rfft(_on_circles(image, centre, radii_px, angles), axis=1) * (2 / ANGLES)


def _scatter(image: Any, centre: Any, number: int, radii_px: npt.NDArray[Any], angle: float) -> float:
    """Compare each spoke with the two gaps beside it, in the mean of all circles."""
    peaks = (np.arange(number) * 2 * np.pi - angle) / number
    spokes, gaps = (_on_circles(image, centre, radii_px, peaks + off).mean(axis=0) for off in (0, np.pi / number))
    steps = spokes - (gaps + np.roll(gaps, 1)) / 2
    return float(steps.std() / abs(steps.mean()))


def _on_circles(image: Any, centre: Any, radii_px: npt.NDArray[Any], angles: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return (circles, angles); rows go up, as in our pictures."""
    radii = np.asarray(radii_px)[:, None]
    rows, columns = centre[0] + radii * np.sin(angles), centre[1] + radii * np.cos(angles)
    return np.asarray(map_coordinates(image, [rows, columns], order=1, mode="nearest"))
