"""How do shadows move with the sample?  That tells the orientation of near-field frames, and the pixel of the object.

A shadow moves as the sample does, M times as far.  Where frames are divided by their mean, what stands still is gone,
and frames of neighbouring places correlate when the one is moved against the other by what lies between them on the
stage: in one of eight orientations, and by one scale.  Both are found from a few frames, without an image.

200 shadows of a measured star correlate by 0.56 so and in no other orientation by more than 0.08; the first 16 of
them by 0.42 and 0.03, and move 1.003 times as far as declared.  Weak scatterers behind a diffuser, whose shadows
correlate by 0.014 at 1e6 photons a frame, take 80 frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from nsbluesky.geometry import Geometry
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.orientation import BOTH_FLIPS, MATRICES, Orientation

__all__ = ["ShadowMotion", "ShadowMotionSearch", "complaint_about_motion"]

LEAST_FRAMES = 16
"""Fewer frames are not asked."""

CONFIRMED = 0.15
CORRECTED = 0.3
"""Confidence from which on what is declared is confirmed, and from which on another orientation is taken."""

STANDS_OUT = 5.0
"""Standard deviations of noise that a correlation has to have before there is any confidence."""

NEIGHBOURS = 8
"""Each place is compared with so many next to it: on a raster those along both diagonals, too."""

MOST_PX = 256
"""Larger frames are binned: movements over a good part of the frame tell the scale."""

LEAST_MOVE_PX = 2.0
MOST_MOVE = 1 / 3
"""Pairs count that move by so many pixels at least, and by this part of the frame at most."""

SCALES = np.geomspace(1 / 8, 8, 211)
"""Movements that are tried, in those that the geometry says: steps of 2 %."""

NEAR = 3
"""So many steps up or down the scale is looked for more closely."""

LEAST_PART = 1 / 4
"""Of all pairs, that has to count for a scale."""

LIT = 0.05
"""Part of the light that 1 % of all pixels exceed, from which on a pixel shows the shadow."""

SLOW_PERIODS = 4
"""What has fewer periods over the frame is left out: light that drifts has them, and they do not tell a place."""

WRONG_BY = 0.1
"""Part by which movements have to differ from what is declared to be told of: less hardly matters in the end, and
places that are wrong by a seventh of a step look like 6 %."""

PAIRS_AT_ONCE = 16

ORIENTATIONS = {
    turn ^ flips: sign * np.array(matrix)
    for turn, matrix in MATRICES.items()
    for flips, sign in ((0, 1), (BOTH_FLIPS, -1))
}
"""All eight matrices; both flips are the negative of none."""


@dataclass(frozen=True)
class ShadowMotion:
    """What was found.

    Attributes
    ----------
    turn : int
        What is to be done to frames, as `nsbluesky.geometry.Geometry.orientation`, whether it is certain or not.
    confidence : float
        1 − significance of the next orientation, or five standard deviations, / that of this one; 0…1.
    scale : float
        How far shadows move, in what the geometry says.
    correlation : float
        Of pairs of frames that are moved so.
    """

    turn: int
    confidence: float
    scale: float
    correlation: float

    @property
    def certain(self) -> bool:
        """Whether it stands out."""
        return self.confidence >= (CORRECTED if self.turn else CONFIRMED)

    @property
    def orientation(self) -> Orientation:
        """What it says of the orientation; as declared where that is not certain."""
        return Orientation(self.turn if self.certain else 0, self.confidence, self.certain)


class ShadowMotionSearch:
    """Tries eight orientations and many scales on pairs of frames; `run` yields now and then, then `found` is there.

    Parameters
    ----------
    photons : (n, N, N) float32
        As a picture lies; NaN where nothing was measured.
    places_px : (n, 2) float64
        Row and column of the windows, in pixels of the object as declared.

    Attributes
    ----------
    found : ShadowMotion or None
        None where there are too few frames, or no two of them that move by enough.
    """

    def __init__(self, photons: npt.NDArray[np.float32], places_px: npt.NDArray[np.float64]) -> None:
        self.found: ShadowMotion | None = None
        self._photons = photons
        self._places_px = places_px

    @classmethod
    def of(cls, frames: FrameStore, slots: npt.NDArray[np.intp]) -> ShadowMotionSearch:
        """Return a search over some frames, as they were told to lie."""
        bins = math.ceil(frames.frame_px / MOST_PX)
        side = frames.frame_px // bins
        photons = np.empty((len(slots), side, side), np.float32)
        good = frames.backend.to_numpy(frames.good) > 0
        for number, slot in enumerate(slots):
            amplitude = frames.backend.to_numpy(frames.amplitude(int(slot)))
            measured = np.where(good & (amplitude >= 0), amplitude**2, np.float32(np.nan))
            photons[number] = _binned(np.fft.fftshift(measured), bins)
        return cls(photons, frames.told_px[slots] / bins)

    def run(self) -> Iterator[None]:
        """Correlate pairs of frames."""
        if len(self._photons) < LEAST_FRAMES:
            return
        side = self._photons.shape[-1]
        first, second = _pairs(self._places_px)
        apart = self._places_px[first] - self._places_px[second]
        far = np.abs(apart).max(axis=1)[:, None] * SCALES
        counts = (far >= LEAST_MOVE_PX) & (far <= MOST_MOVE * side)
        enough = counts.sum(axis=0) >= max(1, LEAST_PART * len(first))
        if not enough.any():
            return
        spectra, overlap = _spectra(self._photons)
        power = (np.abs(spectra) ** 2).sum(axis=(1, 2))
        products, squares = np.zeros((2, len(ORIENTATIONS), len(SCALES)))
        matrices = np.array(list(ORIENTATIONS.values()))
        for pair in np.flatnonzero(counts.any(axis=1) & (power[first] * power[second] > 0)):
            one, other, some = first[pair], second[pair], counts[pair]
            correlation = np.fft.ifft2(spectra[one] * spectra[other].conj()).real
            correlation *= side * side / math.sqrt(power[one] * power[other])
            moves = -(matrices @ apart[pair])[:, None, :] * SCALES[some, None]
            expected = np.interp(np.abs(moves), np.arange(side), overlap).prod(axis=-1)
            found = map_coordinates(correlation, np.moveaxis(moves, -1, 0), order=1, mode="grid-wrap")
            products[:, some] += expected * found
            squares[:, some] += expected**2
            if pair % PAIRS_AT_ONCE == 0:
                yield
        self.found = _judged(products[:, enough], squares[:, enough], SCALES[enough])


def complaint_about_motion(motion: ShadowMotion | None, geometry: Geometry) -> str | None:
    """Return what the geometry tells wrongly of how far shadows move, and what would fit; or None."""
    if motion is None or not motion.certain or abs(math.log(motion.scale)) <= WRONG_BY:
        return None
    magnification = geometry.magnification * motion.scale
    if magnification > 1 + WRONG_BY:
        fits = f"a source distance of about {geometry.detector_distance_m / (magnification - 1):.2g} m would fit"
    else:
        fits = "another pixel of the detector, or light that converges, would fit"
    return (
        f"shadows move {motion.scale:.3g} times as far as the geometry says, with its source distance of "
        f"{geometry.source_distance_m:g} m: {fits}, if the translations are right"
    )


def _judged(products: Any, squares: Any, scales: Any) -> ShadowMotion | None:
    """Return what stands out of sums (8, k) of correlation times what would be expected of it, and of its squares."""
    # in standard deviations, which are the same for all of them
    curves = products / np.sqrt(np.where(squares > 0, squares, np.inf))
    order = np.argsort(-curves.max(axis=1))
    best, next_best = curves[order[:2]]
    top = int(np.argmax(best))
    if best[top] <= 0:
        return None
    noise = STANDS_OUT * float(np.sqrt(np.mean(curves[order[1:]] ** 2)))
    confidence = max(1 - max(float(next_best.max()), noise) / float(best[top]), 0.0)
    # windows overlap less where frames move farther, which significance minds: the correlation itself tells how far
    correlations = products[order[0]] / np.where(squares[order[0]] > 0, squares[order[0]], np.inf)
    near = slice(max(top - NEAR, 0), top + NEAR + 1)
    top = near.start + int(np.argmax(correlations[near]))
    turn = list(ORIENTATIONS)[order[0]]
    return ShadowMotion(turn, confidence, _peak(correlations, top, scales), float(correlations[top]))


def _peak(curve: Any, top: int, scales: Any) -> float:
    """Return where a curve is highest, which it is near number `top` of `scales`."""
    if not 0 < top < len(curve) - 1:
        return float(scales[top])
    before, here, after = curve[top - 1 : top + 2]
    bend = before - 2 * here + after
    step = np.clip(0.5 * (before - after) / bend, -0.5, 0.5) if bend < 0 else 0.0
    return float(scales[top] * (scales[1] / scales[0]) ** step)


def _binned(image: Any, bins: int) -> Any:
    side = len(image) // bins
    return image[: side * bins, : side * bins].reshape(side, bins, side, bins).mean(axis=(1, 3))


def _spectra(photons: npt.NDArray[np.float32]) -> tuple[Any, Any]:
    """Return spectra (n, N, N) of what moves, windowed, and along a line (N,) the overlap of windows so far apart."""
    side = photons.shape[-1]
    measured = np.isfinite(photons)
    values = np.where(measured, photons, 0)
    mean = values.sum(axis=0) / np.maximum(measured.sum(axis=0), 1)
    shows = measured & (mean > LIT * np.percentile(mean, 99))
    line = np.hanning(side + 2)[1:-1]
    weight = np.float32(np.outer(line, line)) * shows
    shadow = np.where(shows, values / np.where(mean > 0, mean, 1) - 1, 0)
    shadow -= ((shadow * weight).sum(axis=(1, 2)) / np.maximum(weight.sum(axis=(1, 2)), 1))[:, None, None]
    frequencies = np.fft.fftfreq(side) * side / SLOW_PERIODS
    sharp = 1 - np.exp(-(frequencies[:, None] ** 2 + frequencies[None, :] ** 2))
    spectra = np.fft.fft2(shadow * weight).astype(np.complex64) * np.float32(sharp)
    overlap = np.correlate(line, line, "full")[side - 1 :]
    return spectra, overlap / overlap[0]


def _pairs(places_px: npt.NDArray[np.float64]) -> tuple[Any, Any]:
    """Return pairs of neighbouring places, each once, as two (m,) int."""
    near = cKDTree(places_px).query(places_px, k=min(NEIGHBOURS + 1, len(places_px)))[1]
    own = np.arange(len(places_px))[:, None]
    both = np.stack([np.minimum(own, near), np.maximum(own, near)], axis=-1).reshape(-1, 2)
    pairs = np.unique(both[both[:, 0] != both[:, 1]], axis=0)
    return pairs[:, 0], pairs[:, 1]
