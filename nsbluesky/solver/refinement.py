"""What is put right beside object and probe while they form: positions, and flux and background of each frame.

A round looks at every frame once, between two passes, with half the transforms of a pass, or one and a half times as
many where positions are corrected; for the flux alone, what the pass has seen is enough.  It changes frame store and
state only: every engine gains, and none knows of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.light import LightSums
from nsbluesky.solver.positions import NO_DISTORTION, Distortion, fit_distortion, scatter_of, shrunk
from nsbluesky.solver.sensitivity import Sensitivity, measure_sensitivity, misfits_around
from nsbluesky.solver.state import SolverState

__all__ = ["Refinement"]

BLOCK_FRAMES = 32

LONGEST_PAUSE = 8
"""Passes between rounds that find nothing."""

UNSETTLED_FLUX = 0.1
"""The same as `UNSETTLED_PX` for ln flux; twice as much where it was told during a pass, which changes the model."""

LARGEST_CHANGE = 0.3
"""Longest step of ln flux."""

UNSETTLED_BACKGROUND = 0.2
"""The same as `UNSETTLED_PX` for a frame's background, relative to the mean one."""

SETTLED_BACKGROUND = 0.01
"""A mean background that changes by a smaller part of itself from round to round has settled."""

LEAST_BACKGROUND = 0.01
"""A background that is a smaller part of the light is left out: a model that has not settled mimics it."""

PLACES_FIRST = 12
"""Rounds in which frames that scatter have no background.  At wrong places they make a model without dark speckles,
which takes a background for what it lacks, and with that they stay there: 400 simulated frames, wrong by 1 pixel rms,
were left with an error of 0.29 and a background of 7 % that was none, in the place of 0.06."""

MOST_BACKGROUND = 0.5
"""No larger part of the light is taken for background, so that something is left to reconstruct."""

FAINT_PX = 1.0
"""Positions stay where a typical frame does not tell its own better than this."""

MIN_FRAMES = 12
"""Fewer frames do not tell the scatter of their positions."""

PHOTON_NOISE = 0.25
"""Variance of √photons where photons are counted."""

UNSETTLED_PX = 1.0
"""After n uses of a frame, what an unsettled object adds to the error of its place is taken for this / n."""

OVERSHOOT = 2.0
LEAST_OVERSHOOT = 1.0
"""A step of a position goes so much further than its frame asks for: the object has grown into the wrong place and
asks it to stay there.  Twice as far at first; less, down to what is asked for, where two steps in a row point back
and forth, for then the object followed.  With 2 throughout, 400 simulated frames that were wrong by 1 pixel rms were
left wrong by 0.14 and swung by 0.26 each round; now by 0.010.  A least of 0.5 lets slow warps of the whole stay.  Of
ln flux it would be wrong: the object's own scale, which data leave open from one end of a scan to the other, grows
instead."""

MOVING = 0.5
"""Correlation of two steps in a row above which positions are on their way."""

LONGEST_STEP_PX = 2.0

DISTORTED_FROM = 0.001
"""Smaller entries of a distortion are not applied: over the width of a probe they move nothing by more than a tenth
of a pixel, and while the probe's defocus is not right yet it mimics them."""

CONFIRMED_BY = 3
"""A distortion is applied where so many rounds in a row have told it, …"""

SHRINKING, TURNING = 0.95, 0.9
"""… none of them as less than this part of what the one before told, nor with a lower cosine to it.  A probe that has
not settled mimics a distortion that shrinks from round to round; applied, it stays, as the probe grows into it."""

SEARCHED_FROM_PX = 0.5
"""Where positions scatter more than this, frames that fit badly are searched for over a wide area."""

SEARCH_SPACING_PX = 2
SEARCH_DEVIATIONS = 3.0
SEARCH_EVERY = 2
BAD_FIT = 2.0
"""A frame fits badly where its misfit exceeds the median by this many robust standard deviations."""

BETTER = 0.97
"""A place that was found by search is taken where the misfit falls below this part of the present one."""


class Refinement:
    """Rounds of refinement over the frames of one solver.

    Parameters
    ----------
    settings : SolverSettings
    backend : Backend

    Attributes
    ----------
    distortion : Distortion
        What the corrections of the positions have in common.
    scatter_px : float
        Standard deviation of the positions' true errors along one axis, as estimated; NaN before the first round.
    flux_scatter : float
        Standard deviation of the frames' true flux, relative to its mean, as estimated; NaN before the first round.
    rounds : int
        Rounds so far in which positions were looked at.
    """

    def __init__(self, settings: SolverSettings, backend: Backend) -> None:
        self.distortion: Distortion = NO_DISTORTION
        self.scatter_px = float("nan")
        self.flux_scatter = float("nan")
        self.rounds = 0
        self._told: list[npt.NDArray[np.float64]] = []
        self._start_steps()
        self._last_pass = self._last_look = 0
        self._pause = self._pause_of_looks = 1
        self._settings = settings
        self._backend = backend

    @property
    def moves_on(self) -> bool:
        """Whether positions are on their way: their latest steps point where those before did."""
        return self._settings.refine_positions != "none" and self._agreement > MOVING

    def _start_steps(self) -> None:
        self._overshoot, self._agreement = OVERSHOOT, 0.0
        self._moved, self._change = np.zeros(0, np.intp), np.zeros((0, 2))

    def configure(self, settings: SolverSettings) -> None:
        """Go on with other settings; a round is due after the next pass."""
        self._settings = settings
        self._pause = self._pause_of_looks = 1

    def reset(self, frames: FrameStore) -> None:
        """Forget all corrections, as the image was begun anew."""
        slots = np.arange(len(frames))
        frames.correct(slots, np.zeros((len(slots), 2)))
        frames.flux[slots], frames.backgrounds[slots] = 1.0, 0.0
        self.distortion = NO_DISTORTION
        self.scatter_px = self.flux_scatter = float("nan")
        self._told = []
        self._start_steps()
        self._last_pass = self._last_look = 0
        self._pause = self._pause_of_looks = 1

    def contents(self) -> dict[str, Any]:
        """Return what was found and when, for a checkpoint; corrections are with the frames."""
        return {
            "matrix": self.distortion.matrix,
            "centre_px": self.distortion.centre_px,
            "scatter_px": self.scatter_px,
            "flux_scatter": self.flux_scatter,
            "rounds": self.rounds,
            "told": [matrix.tolist() for matrix in self._told],
            "overshoot": self._overshoot,
            "agreement": self._agreement,
            "moved": self._moved,
            "change": self._change,
            "last_pass": self._last_pass,
            "pause": self._pause,
            "last_look": self._last_look,
            "pause_of_looks": self._pause_of_looks,
        }

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned."""
        (a, b), (c, d) = contents["matrix"]
        found = Distortion(((a, b), (c, d)), tuple(contents["centre_px"]))
        self.distortion = NO_DISTORTION if found == NO_DISTORTION else found
        self._told = [np.array(matrix) for matrix in contents["told"]]
        self._overshoot, self._agreement = contents["overshoot"], contents["agreement"]
        self._moved, self._change = contents["moved"], contents["change"]
        self.scatter_px, self.flux_scatter = contents["scatter_px"], contents["flux_scatter"]
        self.rounds, self._last_pass, self._pause = contents["rounds"], contents["last_pass"], contents["pause"]
        self._last_look, self._pause_of_looks = contents["last_look"], contents["pause_of_looks"]

    def due(self, state: SolverState) -> bool:
        """Return whether a round should follow the pass that was just done.

        Where a round found nothing to correct, the next one waits for twice as many passes.
        """
        settings = self._settings
        wanted = settings.refine_positions != "none" or settings.refine_flux or settings.refine_background
        waited = abs(state.passes - self._last_pass) >= self._pause  # a finer grid counts its passes from 0
        return wanted and waited

    def round(self, state: SolverState, level: FrameStore, frames: FrameStore) -> Iterator[None]:
        """Do a round; yields after every block of frames, and changes the frames and the state at the end.

        Parameters
        ----------
        state : SolverState
        level : FrameStore
            What the state is of: the frames, or their central halves (`nsbluesky.solver.coarse`).
        frames : FrameStore
            What is corrected.
        """
        slots = frames.active
        slots = slots[frames.uses[slots] >= self._settings.refine_start]
        if len(slots) < MIN_FRAMES:
            return
        parts = []
        moves = self._settings.refine_positions != "none"
        for first in range(0, len(slots), BLOCK_FRAMES):
            block = slots[first : first + BLOCK_FRAMES]
            subpixel = self._settings.subpixel
            parts.append(measure_sensitivity(self._backend, state, level, block, subpixel, positions=moves))
            yield
        found = Sensitivity.joined(parts)
        known = (frames.uses[slots] >= self._settings.refine_start) & (frames.weights[slots] > 0)
        if np.count_nonzero(known) < MIN_FRAMES:  # frames were measured again or withdrawn meanwhile
            return
        slots, found = slots[known], found.of(known)
        if moves:
            self.rounds += 1
            self._move(frames, level, slots, found)
        mean, before = state.background, state.background + frames.backgrounds[slots]
        if self._settings.refine_background:
            places_first = self.scatter_px > 0 and self.rounds <= PLACES_FIRST
            photons_a_pixel = float(np.mean(frames.photons[slots])) / frames.frame_px**2
            state.background = 0.0 if places_first else self._background(found, photons_a_pixel)
            self._spread_background(frames, slots, found, state.background)
            moves_on = abs(state.background - mean) > SETTLED_BACKGROUND * mean
            self._last_look = state.passes
            self._pause_of_looks = 1 if moves_on else min(2 * self._pause_of_looks, LONGEST_PAUSE)
        if self._settings.refine_flux:  # by what the background leaves: both at once would take it twice
            background = state.background + frames.backgrounds[slots]
            told = dataclasses.replace(found, excess=found.excess - (background - before) * found.pixels)
            self._scale(frames, slots, *flux_steps_and_errors(told, background), UNSETTLED_FLUX)
        frames.light_sums[slots] = 0.0  # they were of the flux and background that frames had
        self._rest(state.passes)
        wide = self._settings.refine_positions == "frames" and self.scatter_px > SEARCHED_FROM_PX
        if wide and level is frames and self.rounds % SEARCH_EVERY == 0:
            yield from self._search(state, frames, slots, found)

    def is_of_flux_alone(self, passes: int) -> bool:
        """Return whether a round is for nothing but the flux, which `take_flux` does as well.

        The background is looked for less often where a look did not change it.
        """
        settings = self._settings
        looks = settings.refine_background and abs(passes - self._last_look) >= self._pause_of_looks
        return settings.refine_flux and settings.refine_positions == "none" and not looks

    def take_flux(self, frames: FrameStore, state: SolverState) -> None:
        """Do a round for the flux alone, with what the passes since the last one have told of the frames."""
        slots = frames.active
        told = LightSums.of(frames.light_sums[slots])
        known = (frames.uses[slots] >= self._settings.refine_start) & (told.pixels > 0)
        if np.count_nonzero(known) >= MIN_FRAMES:
            background = state.background + frames.backgrounds[slots]
            steps, variance = (values[known] for values in flux_steps_and_errors(told, background))
            self._scale(frames, slots[known], steps, variance, 2 * UNSETTLED_FLUX)
            self._rest(state.passes)
        frames.light_sums[slots] = 0.0  # they were of the flux that frames had

    def _rest(self, passes: int) -> None:
        """Note a round."""
        found = self.scatter_px > 0 or self.flux_scatter > 0 or self.distortion is not NO_DISTORTION
        looks_on = self._settings.refine_background and self._pause_of_looks == 1
        self._pause = 1 if found or looks_on else min(2 * self._pause, LONGEST_PAUSE)
        self._last_pass = passes

    def _move(self, frames: FrameStore, level: FrameStore, slots: Any, found: Sensitivity) -> None:
        """Put the windows of `slots` where they are likely to lie, if a typical frame tells that."""
        pixel = frames.frame_px / level.frame_px
        steps, errors = steps_and_errors(found)
        covariance = pixel**2 * errors[:, :2, :2]
        if np.median(np.trace(covariance, axis1=1, axis2=2)) >= 2 * FAINT_PX**2:
            self._agreement = 0.0
            return
        steps_px = pixel * (found.steps_px - level.shifts_px[slots] + self._overshoot * steps[:, :2])
        rounding = pixel**2 / (12 * self._settings.subpixel**2)
        unsettled = (pixel * UNSETTLED_PX / frames.uses[slots]) ** 2
        covariance = covariance + self._overshoot**2 * (unsettled + rounding)[:, None, None] * np.eye(2)
        told, present = frames.told_px[slots], frames.corrections_px(slots)
        estimate = present + steps_px
        distortion, rest, scatter = fit_distortion(told, estimate, covariance)
        self.scatter_px = float(np.sqrt(scatter))
        self._told = [*self._told, np.array(distortion.matrix)][-CONFIRMED_BY:]
        counts = self.distortion is not NO_DISTORTION or is_confirmed(self._told)
        large = np.abs(distortion.matrix).max() > DISTORTED_FROM
        self.distortion = distortion if large and counts else NO_DISTORTION
        wanted = self.distortion.at(told)
        if self._settings.refine_positions == "frames":
            wanted += shrunk(rest, covariance, scatter)
        change = np.clip(wanted - present, -LONGEST_STEP_PX, LONGEST_STEP_PX)
        frames.correct(slots, present + change)
        self._adapt_overshoot(slots, change)

    def _adapt_overshoot(self, slots: Any, change: npt.NDArray[np.float64]) -> None:
        """Go less far with the next steps where these point back and forth, and further where they do not."""
        _, before, now = np.intersect1d(self._moved, slots, assume_unique=True, return_indices=True)
        self._agreement = correlation_of(self._change[before], change[now])
        self._overshoot = float(np.clip(self._overshoot * (1 + self._agreement / 2), LEAST_OVERSHOOT, OVERSHOOT))
        self._moved, self._change = slots, change

    def _scale(
        self,
        frames: FrameStore,
        slots: Any,
        steps: npt.NDArray[np.float64],
        variance: npt.NDArray[np.float64],
        unsettled: float,
    ) -> None:
        """Give the frames of `slots` the flux that they are likely to have had; its mean over frames stays 1."""
        estimate = np.log(frames.flux[slots]) + np.clip(steps, -LARGEST_CHANGE, LARGEST_CHANGE)
        estimate -= estimate.mean()
        variance = variance + (unsettled / frames.uses[slots]) ** 2
        scatter = scatter_of(estimate, variance)
        self.flux_scatter = float(np.sqrt(scatter))
        likely = scatter / (scatter + variance) * estimate
        frames.flux[slots] = np.exp(likely) / np.mean(np.exp(likely))

    def _background(self, found: Sensitivity, photons_a_pixel: float) -> float:
        """Return the background, photons a pixel, that fits best; 0 where it is too weak to matter."""
        numerator, denominator, _ = found.background.sum(axis=0)
        background = float(numerator / denominator) if denominator > 0 else 0.0
        background = min(background, MOST_BACKGROUND * photons_a_pixel)
        return background if background > LEAST_BACKGROUND * photons_a_pixel else 0.0

    def _spread_background(self, frames: FrameStore, slots: Any, found: Sensitivity, mean: float) -> None:
        """Give the frames of `slots` the background beyond the `mean` that they are likely to have had."""
        if mean == 0:
            frames.backgrounds[slots] = 0.0
            return
        numerator, denominator, squares = np.maximum(found.background, 1e-12).T
        estimate = frames.backgrounds[slots] + numerator / denominator - mean
        estimate -= estimate.mean()
        variance = squares / denominator**2 + (UNSETTLED_BACKGROUND * mean / frames.uses[slots]) ** 2
        scatter = scatter_of(estimate, variance)
        frames.backgrounds[slots] = np.maximum(scatter / (scatter + variance) * estimate, -mean)

    def _search(self, state: SolverState, frames: FrameStore, slots: Any, found: Sensitivity) -> Iterator[None]:
        """Look for frames that fit badly on a coarse grid around where the stage says they are."""
        reach = int(np.ceil(SEARCH_DEVIATIONS * self.scatter_px / SEARCH_SPACING_PX)) * SEARCH_SPACING_PX
        line = np.arange(-reach, reach + 1, SEARCH_SPACING_PX)
        grid = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
        for slot in slots[bad_fits(found.misfit / found.light)]:
            one = np.array([slot])
            offset = np.rint(self.distortion.at(frames.told_px[one]) - frames.corrections_px(one)).astype(np.int64)
            moves = np.concatenate([np.zeros((1, 2), np.int64), grid + offset])
            misfits = misfits_around(self._backend, state, frames, int(slot), moves)
            best = int(np.argmin(misfits))
            if misfits[best] < BETTER * misfits[0]:
                frames.correct(one, frames.corrections_px(one) + moves[best])
            yield


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


def correlation_of(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Return the correlation of two fields of steps (n, 2), 1 where they agree; 0 where one of them is none."""
    power = float((first**2).sum() * (second**2).sum())
    return float((first * second).sum()) / power**0.5 if power > 0 else 0.0


def is_confirmed(told: Sequence[npt.NDArray[np.float64]]) -> bool:
    """Return whether the matrices (2, 2) of successive rounds tell of one distortion; see `CONFIRMED_BY`."""
    if len(told) < CONFIRMED_BY:
        return False
    pairs = [(before, after, float(np.linalg.norm(before))) for before, after in pairwise(told)]
    return all(
        np.linalg.norm(after) >= SHRINKING * size
        and float((before * after).sum()) >= TURNING * size * float(np.linalg.norm(after))
        for before, after, size in pairs
    )


def bad_fits(misfit: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Return the indices of frames whose misfit stands out."""
    median = np.median(misfit)
    deviation = 1.4826 * np.median(np.abs(misfit - median))
    return np.flatnonzero(misfit > median + BAD_FIT * deviation)
