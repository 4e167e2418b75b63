"""Which way round is the detector against the stage?  Found from the first frames, as far as they tell.

A frame that is flipped or has its axes swapped, I(M·q), fits a window at r just as the frame itself fits one at
M·r.  So other orientations are tried at other places, with the frames as they are.  Both flips together are the
complex conjugate of probe and object at the same places: of the eight orientations, four pairs can be told apart, and
within a pair only the sign of the phase differs, with that of the defocus.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.coarse import Derived
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.mean_light import MeanLight
from nsbluesky.solver.sweep import DefocusSweep, Sweep

__all__ = ["LEAST_FRAMES", "MATRICES", "Orientation", "OrientationSearch", "judge"]

MATRICES = {
    0: ((1, 0), (0, 1)),
    1: ((-1, 0), (0, 1)),
    4: ((0, 1), (1, 0)),
    6: ((0, -1), (1, 0)),
}
"""M for one orientation of each pair, numbered as `nsbluesky.geometry.Geometry.orientation`: none, rows flipped, axes
swapped, axes swapped and then columns flipped.  The other of each pair has both flips in addition."""

BOTH_FLIPS = 3

CONFIRMED = 0.05
"""What is declared is confirmed where its residual lies this part below those of all others."""

CORRECTED = 0.1
"""Another orientation is taken where its residual lies this part below those of all others."""

PASSES = 3

MANY_CANDIDATES = 15
"""From so many on, every other one of the defocus values serves."""

FEW_CANDIDATES = 3
"""So many of the values of a sweep that was accepted come first."""

LEAST_FRAMES = 24
"""Fewer frames are not asked."""


@dataclass(frozen=True)
class Orientation:
    """What was found.

    Attributes
    ----------
    turn : int
        What is to be done to frames that are oriented as declared, as `Geometry.orientation`; 0 where that is right,
        or where it is not certain.
    confidence : float
        1 − least residual / next one.
    certain : bool
        Whether the confidence suffices; else what was declared is kept.
    """

    turn: int
    confidence: float
    certain: bool


class OrientationSearch:
    """Tries the four pairs, each with several defocus values; `run` yields after every batch, then `found` is there.

    Where the sweep, with frames as declared, stood out, its few best values come first: if they confirm what is
    declared, which is the usual case, that is all.  With another orientation the sweep may have been misled, so only
    all of its values tell which one it is.

    Parameters
    ----------
    frames : FrameStore
    slots : (n,) int
        The frames to use.
    sweep : Sweep
        Of the frames as declared.
    defocus_m : float
        What is known of the defocus; its sign decides within a pair.
    settings : SolverSettings
    backend : Backend
    light : MeanLight
        Of these frames.
    wavelength_m, pixel_m : float
        Wavelength and object pixel.
    """

    def __init__(
        self,
        frames: FrameStore,
        slots: npt.NDArray[np.intp],
        sweep: Sweep,
        defocus_m: float,
        settings: SolverSettings,
        backend: Backend,
        *,
        light: MeanLight,
        wavelength_m: float,
        pixel_m: float,
    ) -> None:
        self.found: Orientation | None = None
        self._defocus_m = defocus_m
        self._sweep = sweep
        self._tried: dict[int, dict[float, float]] = {turn: {} for turn in MATRICES}

        def try_all(matrix: npt.NDArray[np.int64], candidates_m: npt.NDArray[np.float64]) -> DefocusSweep:
            return DefocusSweep(
                seen_by(frames, matrix),
                slots,
                candidates_m,
                settings,
                backend,
                light=light,
                wavelength_m=wavelength_m,
                pixel_m=pixel_m,
            )

        self._try_all = try_all

    def run(self) -> Iterator[None]:
        """Give every candidate of every pair equally many passes."""
        all_m = self._sweep.candidates_m
        best_first = all_m[np.argsort(self._sweep.residual)]
        if self._sweep.accepted:
            yield from self._round(dict.fromkeys(MATRICES, best_first[:FEW_CANDIDATES]))
            if self._is_certain and self.found is not None and self.found.turn == 0:
                return
        yield from self._round(dict.fromkeys(MATRICES, all_m[:: 2 if len(all_m) >= MANY_CANDIDATES else 1]))
        if not self._is_certain:  # one between two that were tried may stand out
            yield from self._round({turn: self._beside_the_best(turn) for turn in MATRICES})

    def _round(self, candidates_m: dict[int, npt.NDArray[np.float64]]) -> Iterator[None]:
        """Try defocus values (k,) for each turn, but for those that were tried before, and judge all of them."""
        for turn, some_m in candidates_m.items():
            both_m = np.concatenate([some_m, -some_m]) if self._defocus_m else some_m
            new_m = np.array([z for z in dict.fromkeys(both_m.tolist()) if z not in self._tried[turn]])
            if len(new_m):
                trial = self._try_all(np.array(MATRICES[turn]), new_m)
                yield from trial.first_passes(PASSES)
                self._tried[turn].update(zip(new_m.tolist(), trial.residual.tolist(), strict=True))
        self.found = judge(self._tried, self._defocus_m)

    @property
    def _is_certain(self) -> bool:
        return self.found is not None and self.found.certain

    def _beside_the_best(self, turn: int) -> npt.NDArray[np.float64]:
        """Return the values of the sweep next to the one that fits best, of either sign."""
        all_m, tried = np.sort(self._sweep.candidates_m), self._tried[turn]
        best = min(tried, key=tried.__getitem__)
        nearest = np.argmin(np.abs(all_m - best)), np.argmin(np.abs(all_m + best))
        beside = np.unique(np.clip([k + step for k in nearest for step in (-1, 1)], 0, len(all_m) - 1))
        return np.asarray(all_m[beside])


def judge(tried: dict[int, dict[float, float]], defocus_m: float) -> Orientation:
    """Return the orientation with the least residual, where it stands out.

    Parameters
    ----------
    tried : dict of int to dict of float to float
        By turn, the residual for each defocus that was tried.
    defocus_m : float
        Where the best candidate has the other sign, the other orientation of the pair is taken, but for what is
        declared.
    """
    best_m = {turn: min(residuals, key=residuals.__getitem__) for turn, residuals in tried.items()}
    least = {turn: tried[turn][z] for turn, z in best_m.items()}
    best, second, *_ = sorted(least, key=least.__getitem__)
    confidence = 1 - least[best] / least[second]
    certain = confidence >= (CONFIRMED if best == 0 else CORRECTED)
    turn = best if certain else 0
    if turn and best_m[turn] * defocus_m < 0:
        turn ^= BOTH_FLIPS
    return Orientation(turn, confidence, certain)


def seen_by(frames: FrameStore, matrix: npt.NDArray[np.int64]) -> FrameStore:
    """Return the frames with windows at M·r, for reading."""
    half = frames.frame_px / 2

    def corners(index: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
        return np.asarray(np.rint((frames.places_px(index) + half) @ matrix.T - half), np.int64)

    seen = copy.copy(frames)
    seen.corners_px = Derived(corners, (frames.corners_px, frames.shifts_px))  # type: ignore[assignment]
    seen.shifts_px = Derived(lambda index: np.zeros((*np.shape(index), 2)), ())  # type: ignore[assignment]
    return seen
