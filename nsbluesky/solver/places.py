"""Where frames lie: moved, round by round, to where they fit, if they lie elsewhere than the stage says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.frame_steps import LONGEST_STEP_PX, steps_and_errors
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.pauses import Pauses
from nsbluesky.solver.positions import NO_DISTORTION, Distortion, fit_distortion, shrunk
from nsbluesky.solver.scattering import ScatterLooks, scatter_of_halves, some_of
from nsbluesky.solver.sensitivity import Sensitivity, measure_halves
from nsbluesky.solver.shifts import ramps
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.variation import probe_of
from nsbluesky.solver.windows import gather

__all__ = ["LEAST_FRAMES", "Places", "blocks", "misfits_around"]

BLOCK_FRAMES = 32

LEAST_FRAMES = 12
"""Fewer frames do not tell the scatter of their positions."""

SETTLED_PX = 0.01
"""Positions that a round moves less (rms along an axis), and not in the way of the one before, have settled.  With
0.03, of 400 frames of gold spheres that were wrong by 2 pixels rms 5 to 10 were left wrong, in the place of 5 or 6:
rounds had become rare before the last ones were found."""

FAINT_PX = 1.0
"""Positions stay where a typical frame does not tell its own better than this."""

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


class Places:
    """Corrections of the frames' positions.

    Parameters
    ----------
    settings : SolverSettings
    backend : Backend

    Attributes
    ----------
    distortion : Distortion
        What the corrections have in common.
    scatter_px : float
        Standard deviation of the positions' true errors along one axis, as estimated; NaN before the first round.
    rounds : int
        Rounds since the image began.
    """

    def __init__(self, settings: SolverSettings, backend: Backend) -> None:
        self._looks = ScatterLooks()
        self._pauses = Pauses()
        self._settings = settings
        self._backend = backend
        self.begin()

    def begin(self) -> None:
        """Forget what was found, as the image was begun anew."""
        self.distortion: Distortion = NO_DISTORTION
        self.scatter_px = float("nan")
        self.rounds = 0
        self._told: list[npt.NDArray[np.float64]] = []
        self._overshoot, self._agreement = OVERSHOOT, 0.0
        self._moved, self._change = np.zeros(0, np.intp), np.zeros((0, 2))
        self._pauses.begin()
        self._looks.begin()

    def configure(self, settings: SolverSettings) -> None:
        """Go on with other settings; a round is due after the next pass."""
        self._settings = settings
        self._pauses.shorten()

    @property
    def are_corrected(self) -> bool:
        """Whether they are: as the settings say or, where these leave it open, the frames."""
        wanted = self._settings.refine_positions
        return self._looks.found if wanted == "auto" else wanted != "none"

    @property
    def move_on(self) -> bool:
        """Whether they are on their way: their latest steps point where those before did."""
        return self.are_corrected and self._agreement > MOVING

    @property
    def have_settled(self) -> bool:
        """Whether the latest round moved nothing that matters."""
        return not self._pauses.is_short

    def contents(self) -> dict[str, Any]:
        """Return what was found and when, for a checkpoint; corrections are with the frames."""
        return {
            "matrix": self.distortion.matrix,
            "centre_px": self.distortion.centre_px,
            "scatter_px": self.scatter_px,
            "rounds": self.rounds,
            "told": [matrix.tolist() for matrix in self._told],
            "overshoot": self._overshoot,
            "agreement": self._agreement,
            "moved": self._moved,
            "change": self._change,
            "last_round": self._pauses.last_pass,
            "pause_of_rounds": self._pauses.passes,
            "looks": self._looks.contents(),
        }

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned."""
        (a, b), (c, d) = contents["matrix"]
        found = Distortion(((a, b), (c, d)), tuple(contents["centre_px"]))
        self.distortion = NO_DISTORTION if found == NO_DISTORTION else found
        self.scatter_px, self.rounds = contents["scatter_px"], contents["rounds"]
        self._told = [np.array(matrix) for matrix in contents["told"]]
        self._overshoot, self._agreement = contents["overshoot"], contents["agreement"]
        self._moved, self._change = contents["moved"], contents["change"]
        self._pauses.last_pass, self._pauses.passes = contents["last_round"], contents["pause_of_rounds"]
        self._looks.restore(contents["looks"])

    def look_is_due(self, passes: int) -> bool:
        """Return whether to look now if frames lie elsewhere than told."""
        settings = self._settings
        return settings.refine_positions == "auto" and settings.object_modes == 1 and self._looks.due(passes)

    def look(self, state: SolverState, frames: FrameStore, slots: npt.NDArray[np.intp]) -> Iterator[None]:
        """Look at some of the frames in `slots`; yields after every block of them, and moves none."""
        slots, parts = some_of(slots), []
        if len(slots) < LEAST_FRAMES:
            return
        for block in blocks(slots):
            parts.append(measure_halves(self._backend, state, frames, block, self._settings.subpixel))
            yield
        first, second = (Sensitivity.joined(half) for half in zip(*parts, strict=True))
        self._looks.take(scatter_of_halves(frames.told_px[slots], (first, second)), state.passes)

    def are_due(self, passes: int) -> bool:
        """Return whether a round should follow the pass that was just done."""
        return self.are_corrected and self._pauses.is_over(passes)

    def round(self, level: FrameStore, frames: FrameStore, slots: Any, found: Sensitivity, passes: int) -> None:
        """Move the frames in `slots` to where they are likely to lie.

        Parameters
        ----------
        level : FrameStore
            What was looked at: the frames, or their central halves (`nsbluesky.solver.coarse`).
        frames : FrameStore
            What is corrected.
        slots : (n,) int
        found : Sensitivity
            Of the frames in `slots`, on this level.
        passes : int
            So many were done.
        """
        self.rounds += 1
        moved_px = self._move(level, frames, slots, found)
        settled = moved_px < SETTLED_PX and not self.move_on
        self._pauses.note(passes, told=not settled)

    def _move(self, level: FrameStore, frames: FrameStore, slots: Any, found: Sensitivity) -> float:
        """Put the windows of `slots` where they are likely to lie, if a typical frame tells that.

        Returns by how much they moved, pixels rms along an axis.
        """
        pixel = frames.frame_px / level.frame_px
        steps, errors = steps_and_errors(found)
        covariance = pixel**2 * errors[:, :2, :2]
        if np.median(np.trace(covariance, axis1=1, axis2=2)) >= 2 * FAINT_PX**2:
            self._agreement = 0.0
            return 0.0
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
        if self._settings.refine_positions != "global":
            wanted += shrunk(rest, covariance, scatter)
        change = np.clip(wanted - present, -LONGEST_STEP_PX, LONGEST_STEP_PX)
        frames.correct(slots, present + change)
        self._adapt_overshoot(slots, change)
        return float(np.sqrt(np.mean(change**2)))

    def _adapt_overshoot(self, slots: Any, change: npt.NDArray[np.float64]) -> None:
        """Go less far with the next steps where these point back and forth, and further where they do not."""
        _, before, now = np.intersect1d(self._moved, slots, assume_unique=True, return_indices=True)
        self._agreement = correlation_of(self._change[before], change[now])
        self._overshoot = float(np.clip(self._overshoot * (1 + self._agreement / 2), LEAST_OVERSHOOT, OVERSHOOT))
        self._moved, self._change = slots, change

    @property
    def want_search(self) -> bool:
        """Whether to look further for frames that fit badly, after the latest round."""
        wide = self._settings.refine_positions != "global" and self.scatter_px > SEARCHED_FROM_PX
        return wide and self.rounds % SEARCH_EVERY == 0

    def search(self, state: SolverState, frames: FrameStore, slots: Any, found: Sensitivity) -> Iterator[None]:
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


def misfits_around(
    backend: Backend, state: SolverState, frames: FrameStore, slot: int, moves_px: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return Σ m·|A − G| (k,) of a frame if it lay whole pixels `moves_px` (k, 2) elsewhere; inf off the canvas."""
    xp, side = backend.xp, frames.frame_px
    corners = frames.corners_px[slot] - np.array(state.origin_px) + moves_px
    inside = ((corners >= 0) & (corners + side <= np.array(state.shape))).all(axis=1)
    result = np.full(len(moves_px), np.inf)
    shift_px = frames.shifts_px[slot][None]
    light = backend.ifft2(backend.fft2(probe_of(backend, state, frames, slot)) * ramps(xp, shift_px, side))
    measured = frames.amplitudes(np.array([slot]), xp.empty((1, side, side), np.float32))
    usable = frames.good * (measured >= 0)

    def measure(row: int) -> None:
        seen = gather(backend, state.image, corners[row][None], xp.empty((1, side, side), np.complex64))
        far = frames.propagator.forward(seen[:, None] * light[None], shift_px)
        model = xp.sqrt((xp.abs(far) ** 2).sum(axis=1) + np.float32(state.background))
        result[row] = float((usable * xp.abs(measured - model)).sum())

    backend.map(measure, np.flatnonzero(inside).tolist())
    return result


def blocks(slots: npt.NDArray[np.intp]) -> Iterator[npt.NDArray[np.intp]]:
    """Cut frames into blocks, none of which keeps the solver busy for long."""
    for first in range(0, len(slots), BLOCK_FRAMES):
        yield slots[first : first + BLOCK_FRAMES]


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
