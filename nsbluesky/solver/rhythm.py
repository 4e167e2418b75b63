"""The rhythm of an image's passes: when whole frames are used, when there is momentum, when modes are tried.

An image begins on the central halves of its frames and goes on with whole ones once each had its uses.  It is ripe
when whole frames had so many that momentum would bring no more than noise: from there on its passes rest.  After the
last frame it has the passes that `nsbluesky.solver.last_passes` plans.  Modes are tried while it rests, and a new one
has momentum again, as it is weak at first.

All of this follows from how far the image has come: nothing here looks at frames, object or probe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nsbluesky.settings import SolverSettings
from nsbluesky.solver.further_modes import FurtherModes
from nsbluesky.solver.last_passes import LastPasses
from nsbluesky.solver.pace import LEAST_PASSES, RIPE_USES, SETTLING_PASSES

__all__ = ["ImageProgress", "Rhythm"]

HURRY = 2 / 3
"""Where less of the time for the last passes is left, whole frames are used sooner …"""

REST = 1 / 4
"""… and momentum no more: with it, an image goes on to settle many times faster."""

LITTLE_GAIN = 0.1
"""Part by which a pass over the central half lowers R at least while the next one is worth its time."""


@dataclass(frozen=True)
class ImageProgress:
    """How far an image has come.

    Attributes
    ----------
    is_coarse : bool
        Whether it is of the frames' central halves.
    is_warm : bool
        Whether it began with the probe of an earlier scan.
    probe_is_told : bool
        Whether a sweep told which probe to go on with, or none will.
    frames : int
        Frames in use.
    uses : float
        Uses of each frame, on average, on the central half included.
    passes : int
        Passes on this level: over whole frames or over their central halves.
    modes : int
        Of the probe.
    """

    is_coarse: bool
    is_warm: bool
    probe_is_told: bool
    frames: int
    uses: float
    passes: int
    modes: int

    @property
    def is_ripe(self) -> bool:
        """Whether whole frames had so many uses that momentum would bring no more than noise."""
        return not self.is_coarse and self.uses >= RIPE_USES


class Rhythm:
    """Decides before and after each pass how an image goes on.

    Call `begin_pass` and `end_pass` for each one.  Before, where it `is_at_end`, let `last_passes` look at the image,
    and after it `further_modes`, where it `wants_modes`.

    Parameters
    ----------
    settings : SolverSettings
    last_passes : LastPasses
    further_modes : FurtherModes

    Attributes
    ----------
    r_factors : list of float
        R of each full pass since frames were last others, or since the end was told.
    is_last : bool
        Whether all frames are here: the passes that are wanted are made, and no more.
    time_left : float
        As `IncrementalSolver.time_left`.
    stage : int
        The number of the engine, of those that the schedule names.
    last_passes : LastPasses
    """

    def __init__(self, settings: SolverSettings, last_passes: LastPasses, further_modes: FurtherModes) -> None:
        self.r_factors: list[float] = []
        self.is_last = False
        self.time_left = 1.0
        self._further_modes = further_modes
        self.configure(settings, last_passes)
        self._was_ripe = False
        self._rested = 0
        self._has_all_frames = False
        self._coarse_r: float | None = None

    def configure(self, settings: SolverSettings, last_passes: LastPasses) -> None:
        """Go on with other settings, from the first stage of their schedule."""
        self._coarse_uses = settings.coarse_uses
        self.last_passes = last_passes
        self.stage = 0

    def begin_anew(self) -> None:
        """Begin with another image, which has all passes before it."""
        self._was_ripe = False
        self._rested = 0
        self.restart()

    def restart(self) -> None:
        """Count full passes from here on: the frames are others."""
        self.r_factors = []
        self.last_passes.begin()
        self._coarse_r = None
        self._has_all_frames = False

    def finish(self, is_ripe: bool) -> None:
        """Begin the last passes: all frames are here, and the image `is_ripe` or has to settle."""
        self.is_last = True
        self.restart()
        self._was_ripe = is_ripe
        if is_ripe:
            self.last_passes.settle(0, LEAST_PASSES)

    # How far it is --------------------------------------------------------------------------------------------

    @property
    def algorithm(self) -> str:
        """The engine whose turn it is."""
        return self.last_passes.stages[self.stage]

    @property
    def passes_wanted(self) -> int:
        """Full passes after the last frame, of all engines of the schedule."""
        return self.last_passes.wanted

    @property
    def passes_done(self) -> int:
        """Full passes since frames were last others, or since the end was told."""
        return len(self.r_factors)

    @property
    def rests(self) -> bool:
        """Whether the latest pass has no momentum."""
        return self._rested > 0

    @property
    def _passes_to_come(self) -> int:
        """Full passes that follow the one that goes on."""
        return self.passes_wanted - self.passes_done - 1

    def is_at_end(self, progress: ImageProgress) -> bool:
        """Return whether passes are those over whole frames after the last one."""
        return self.is_last and not progress.is_coarse

    def is_settled(self, progress: ImageProgress) -> bool:
        """Return whether it had most of the passes that it should have on whole frames; of several engines all."""
        if progress.is_coarse:
            return False
        if len(self.last_passes.stages) > 1:
            return self.passes_done >= self.passes_wanted
        return self._had_half(progress)

    def wants_passes(self, progress: ImageProgress) -> bool:
        """Return whether another pass would better it: until it is ripe, too, while no frames come, as in a pause."""
        waits = not (self.is_last or self.last_passes.are_told or progress.is_ripe) and progress.uses > 0
        return progress.is_coarse or waits or self.passes_done < self.passes_wanted

    def _had_half(self, progress: ImageProgress) -> bool:
        """Return whether it had more than half of the least passes, those while the scan ran included."""
        return 2 * progress.passes > self.last_passes.least

    # Before a pass --------------------------------------------------------------------------------------------

    def begin_pass(self, progress: ImageProgress) -> None:
        """Begin the next stage of the schedule when it is time; rest where frames had many uses, and at the end."""
        if self.is_at_end(progress):
            self.stage = self.last_passes.stage(self.passes_done)
            resting = self._rests_at_end(progress)
        else:
            resting = progress.is_ripe and not self._further_modes.grows(progress.passes)
        self._rested = self._rested + 1 if resting else 0
        self._has_all_frames = True

    def _rests_at_end(self, progress: ImageProgress) -> bool:
        hurries = self.time_left < REST and self._had_half(progress)
        if hurries or self.last_passes.rest(self.passes_done):
            return True
        waits = self._was_ripe or (progress.is_ripe and self._further_modes.is_open(progress.modes))
        return self.last_passes.are_told and waits and not self._further_modes.grows(progress.passes)

    # After a pass ---------------------------------------------------------------------------------------------

    @property
    def lets_settle(self) -> bool:
        """Whether, as far as is known, enough passes follow for the image to settle when something was put right."""
        return not (self.is_last and self._passes_to_come < SETTLING_PASSES)

    def settle_anew(self) -> None:
        """Let the image settle anew where all frames are here: it was changed, not only by its updates."""
        if self.is_last:
            self.last_passes.begin(self.passes_done + 1)

    def wants_modes(self, progress: ImageProgress) -> bool:
        """Return whether it is time for another mode, or to judge one: not while momentum adds to the misfit."""
        if not progress.probe_is_told or self._rested < SETTLING_PASSES:
            return False
        if self._further_modes.is_trying or self.time_left < REST:
            return self._further_modes.is_trying
        return progress.is_ripe or (self.is_at_end(progress) and not self.last_passes.are_told)

    @property
    def passes_for_modes(self) -> int | None:
        """Passes that a further mode could have; None where it gets as many as it takes."""
        if self.time_left < REST:
            return 0
        return self._passes_to_come if self.is_last and self.last_passes.are_told else None

    def settle_with_modes(self) -> None:
        """Let the image settle with a mode that is tried, or without the one that was taken away."""
        if self._further_modes.is_trying:
            self.settle_anew()
        elif self.is_last:
            self.last_passes.settle(self.passes_done + 1, SETTLING_PASSES)

    def end_pass(self, progress: ImageProgress, r_factor: float) -> bool:
        """Count a pass that left this R; return whether to go on with whole frames, for their centres had enough.

        A pass during which frames came, or changed, is none that counts.
        """
        if not progress.is_coarse:
            if self._has_all_frames:
                self.r_factors.append(r_factor)
            return False
        before, self._coarse_r = self._coarse_r, r_factor if self._has_all_frames else None
        gained_little = before is not None and r_factor > (1 - LITTLE_GAIN) * before
        return self._centre_had_enough(progress, gained_little)

    def _centre_had_enough(self, progress: ImageProgress, gained_little: bool) -> bool:
        """Return whether frames had the uses they should have, and a sweep told which probe to go on with.

        A third of the uses suffices where no more frames will come and the latest pass `gained_little`.  A warm probe
        needs no word of a sweep: it is mostly right, and what the central half shows of an image is blurred.
        """
        if not (progress.probe_is_told or progress.is_warm):
            return False
        wanted = self._coarse_uses / (3 if gained_little and self.is_last else 1)
        if self.time_left < HURRY:
            wanted = min(wanted, self._coarse_uses / 2)
        return progress.frames == 0 or progress.uses >= wanted

    # Checkpoints ----------------------------------------------------------------------------------------------

    def contents(self) -> dict[str, Any]:
        """Return all of it but the last passes, for a checkpoint; between two passes."""
        return {
            "stage": self.stage,
            "coarse_r": self._coarse_r,
            "finishing": self.is_last,
            "was_ripe": self._was_ripe,
            "rested": self._rested,
            "r_factors": self.r_factors,
        }

    def restore(self, contents: Mapping[str, Any], more_to_come: bool) -> None:
        """Take up what `contents` returned; what is still to come has to be used before the end."""
        self.stage, self._coarse_r = contents["stage"], contents["coarse_r"]
        self._was_ripe, self._rested = contents["was_ripe"], contents["rested"]
        self.is_last = contents["finishing"] and not more_to_come
        self.r_factors = contents["r_factors"]
