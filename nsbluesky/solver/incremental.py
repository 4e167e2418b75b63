"""A reconstruction that lives while the scan runs: frames come, are replaced or withdrawn; nothing is reset.

It begins with the optic's defocus, or with the probe of an earlier scan, as soon as there are a few frames, and a
sweep beside it looks whether another defocus fits better.  Until each frame has had some uses, only the central half
of the detector is used.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.geometry import Geometry, orientation_after
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.canvas import bounding_box, grown_box
from nsbluesky.solver.checkpoint import CheckpointError, Sections, differences, read_checkpoint, write_checkpoint
from nsbluesky.solver.coarse import CentralHalf, can_be_halved, central_light, coarsened, refined
from nsbluesky.solver.constraints import Constraints
from nsbluesky.solver.dose import photons_on_lit_pixels
from nsbluesky.solver.engines import Engine, in_near_field, make_engine
from nsbluesky.solver.fit import DiffractionFit, diffraction_fit, unexplained
from nsbluesky.solver.frames import FOREVER, FrameStore
from nsbluesky.solver.further_modes import FurtherModes
from nsbluesky.solver.gauge import set_probe_power
from nsbluesky.solver.intake import Intake, valid_weights
from nsbluesky.solver.light import Told
from nsbluesky.solver.live_quality import LiveQuality
from nsbluesky.solver.misfits import LEAST_USES, left_out, rest_misfits
from nsbluesky.solver.ordering import Deck
from nsbluesky.solver.orientation import Orientation
from nsbluesky.solver.pace import LEAST_BATCH, RIPE_USES, batch_frames, rests
from nsbluesky.solver.picture import Picture, render
from nsbluesky.solver.probe_search import ProbeSearch
from nsbluesky.solver.propagation import propagator_of
from nsbluesky.solver.quality import Quality
from nsbluesky.solver.refinement import Refinement
from nsbluesky.solver.schedule import stage_of, stages_of
from nsbluesky.solver.shifts import steps_of
from nsbluesky.solver.start import blank_canvas, near_field_probe, starting_probe, with_modes, with_states
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.sweep import Sweep
from nsbluesky.solver.variation import let_vary

__all__ = ["IncrementalSolver"]

SWEEP_SHARE = 3
"""Batches of a sweep for each batch of the picture beside it."""

CENTRAL_LIGHT = 0.8
"""Part of the photons that must fall on the central half of the detector for it to be used alone."""

DOSE_FRAMES = 64
"""Frames whose mean pattern tells the dose."""

FREE_SETTINGS = ("passes_final", "final_s", "publish_hz", "live")
"""Settings that may be others when a checkpoint is gone on from."""

LITTLE_GAIN = 0.1
"""Part by which a pass over the central half lowers R at least while the next one is worth its time."""

SETTLING_PASSES = 3
"""Passes after the last refinement."""

R_OF_NOTHING = 1.0
"""R of an empty image: one that is worse is not gone on from once frames that spoilt it are withdrawn."""


class IncrementalSolver:
    """Turns frames into a picture in slices of time.

    Frames are keyed by their sequence number: one that comes again replaces the earlier.  `step` does work for
    about a given time; all else returns at once.  Not thread-safe: one thread owns a solver.

    Parameters
    ----------
    settings : SolverSettings
    frame_px : int
        Side N of a frame.
    pixel_m : float
        Object pixel dx = λ·z/(N·p), as `Geometry.object_pixel_m` returns it.
    geometry : Geometry
        Wavelength and optic are used; lengths of the detector are in `pixel_m` already.
    backend : Backend
    num_points : int, optional
        Frames that the scan plans; a picture's coverage refers to it.

    Attributes
    ----------
    state : SolverState or None
        Object and probe, of half the pixels while `is_coarse`; None before there were enough frames.
    is_coarse : bool
        True while only the central half of the detector is used.
    r_factors : list of float
        R of each full pass since the last frame came, or since the end was told.
    refinement : Refinement
        What was put right of the positions.
    constraints : Constraints
        What is held of object and probe.
    is_warm : bool
        Whether the image began with the probe that was offered, and did not begin anew since.
    in_haste : bool
        Set it where somebody waits: half of `SolverSettings.coarse_uses` is enough then, and an image that had half
        of its last passes has the others without momentum.
    """

    def __init__(
        self,
        settings: SolverSettings,
        *,
        frame_px: int,
        pixel_m: float,
        geometry: Geometry,
        backend: Backend,
        num_points: int | None = None,
    ) -> None:
        if not (math.isfinite(pixel_m) and pixel_m > 0):
            raise ValueError(f"pixel_m = {pixel_m!r}: expected a positive length in metres")
        self.settings = settings
        self.frame_px = frame_px
        self.pixel_m = pixel_m
        self.geometry = geometry
        self.num_points = num_points
        self.state: SolverState | None = None
        self.r_factors: list[float] = []
        propagator = propagator_of(backend, geometry, frame_px, pixel_m)
        self.frames = FrameStore(frame_px, backend, propagator, half=settings.half_precision_frames)
        self._intake = Intake(self.frames, pixel_m, settings)
        self._probe_search = ProbeSearch(settings, geometry, backend, frame_px * pixel_m)
        self._backend = backend
        self._stages = stages_of(settings)
        self._stage = 0
        self._engine = self._make_engine()
        self._deck = Deck(settings.seed, settings.newest_frames)
        self._level = self.frames
        self.refinement = Refinement(settings, backend)
        self.constraints = self._make_constraints(settings)
        self._further_modes = FurtherModes(settings, backend)
        self._quality = LiveQuality(settings, backend, pixel_m)
        self._dose: float | None = None
        self._work: Iterator[None] | None = None
        self._told: tuple[FrameStore, npt.NDArray[np.intp], Told] | None = None
        self._search: Iterator[None] | None = None
        self._turn = 0
        self.in_haste = False
        self.is_warm = False
        self._finishing = False
        self._was_ripe = False
        self._changes = 0
        self._coarse_r: float | None = None
        self._previous: Picture | None = None

    # Frames ---------------------------------------------------------------------------------------------------

    def set_mask(self, mask: npt.ArrayLike) -> None:
        """Say which pixels can be used: (N, N) CXI codes, 0 and 0x1000 good, zero frequency at N//2."""
        self._intake.set_mask(mask)

    def add_frames(
        self,
        seq_nums: npt.ArrayLike,
        frames: Any,
        translations_m: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
    ) -> None:
        """Take frames in; they are used from the next `step` on.

        A frame without photons, or at a position that cannot be, is listed in `rejected` and not used.  A warning is
        given, once, where steps are so wide that the translations cannot be metres.

        Parameters
        ----------
        seq_nums : (n,) int
        frames : (n, N, N) float32
            Photons, zero frequency at N//2.  Negative values count as 0, NaN as not measured.
        translations_m : (n, 2 or more) float
            x, y of the sample.
        weights : (n,) float, optional
            0…1; 1 by default.

        Raises
        ------
        ValueError
            If shapes do not fit.
        """
        self._note_told()
        before = set(self.frames.seq_nums[self.frames.wanted].tolist())
        taken = self._intake.take(seq_nums, frames, translations_m, weights)
        usable, known = [], []
        for number, slot in taken.items():
            if self.frames.uses[slot] > 0:  # known from a checkpoint
                known.append(slot)
                continue
            self._engine.forget(slot)
            if self.frames.weights[slot] > 0 and number not in self.rejected:
                usable.append(slot)
        if usable:
            self._deck.add(usable)
            self._unsettle()
        gone = before & {number for number, slot in taken.items() if self.frames.weights[slot] == 0}
        self.withdraw(sorted(gone | (self.rejected.keys() & set(np.atleast_1d(seq_nums).tolist()))))
        self.rejected.update(left_out(self.frames, np.array(known, np.intp)))

    def withdraw(self, seq_nums: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """Use these frames no more; unknown numbers are passed over."""
        self.set_weight(seq_nums, np.zeros(len(seq_nums)))

    def set_weight(self, seq_nums: Sequence[int] | npt.NDArray[np.int64], weights: npt.ArrayLike) -> None:
        """Change the weights (0…1) of frames; unknown numbers are passed over."""
        given = np.broadcast_to(np.asarray(weights, np.float64), (len(seq_nums),))
        for number, weight in zip(seq_nums, valid_weights(given).tolist(), strict=True):
            slot = self.frames.slots.get(int(number))
            if slot is None or self.frames.awaits(slot):
                continue
            usable = int(number) not in self.rejected
            if weight > 0 and self.frames.weights[slot] == 0:
                usable = self._intake.fits(int(number))
                self._deck.add([slot] if usable else [])
            self.frames.weights[slot] = weight if usable else 0
            self._unsettle()
        self._deck.remove(np.flatnonzero(self.frames.weights[: len(self.frames)] == 0).tolist())
        if self.state is not None and self.state.r_factor >= R_OF_NOTHING and not np.all(given):
            self._begin_anew()
        if self.state is not None:
            self._make_room(self.state)

    def _unsettle(self) -> None:
        """Count full passes from here on: the frames are others, or the reconstruction began anew."""
        self.r_factors = []
        self._coarse_r = None
        self._changes += 1

    @property
    def num_frames(self) -> int:
        """Frames that are here with a weight above 0 and fit the others."""
        return len(self.frames.wanted)

    def start_with(self, probe: npt.ArrayLike) -> None:
        """Begin with a known probe (N, N) or (modes, N, N), centred, in place of mean pattern and sweep.

        It is scaled to the frames' mean photons; modes that are missing are made as for any start.

        Raises
        ------
        ValueError
            If its shape does not fit, or there are no frames.
        """
        given = self._valid_probe(probe)
        if self.num_frames == 0:
            raise ValueError("there are no frames yet: add frames before start_with")
        photons = float(np.mean(self.frames.photons[self.frames.active]))
        self._work = self._search = None
        self.is_warm = False
        self._probe_search.skip()
        self._level = self._starting_level()
        complete = with_modes(given, self.settings.modes, photons)
        device = self._backend.from_numpy(complete)
        self._begin(self._blank(coarsened(self._backend, device) if self.is_coarse else device))

    def offer(self, probe: npt.ArrayLike) -> None:
        """Begin with the probe (N, N) or (modes, N, N) of an earlier scan, unless the sweep knows a better one.

        Its photons, modes and ramp are made to fit the frames.  It is one more candidate of the sweep: where another
        one fits better, the image begins anew with that.  Not used where there is no sweep: with a known defocus,
        without `sweep_frames`, and in the near field.

        Raises
        ------
        ValueError
            If its shape does not fit, or there are frames already.
        """
        given = self._valid_probe(probe)
        if self.frames.slots:
            raise ValueError("there are frames already: offer a probe before add_frames")
        self._probe_search.warm = given

    def take_over(self, first: IncrementalSolver) -> None:
        """Begin with the frames and the orientation that another solver has, and with its probe on a blank object.

        The frames are copied, and lie where they were told to.

        Raises
        ------
        ValueError
            If that has no image yet, or there are frames here.
        """
        if self.frames.slots:
            raise ValueError("there are frames already: take over before add_frames")
        if first.state is None:
            raise ValueError("the first solver has no image yet: wait until its state is not None")
        self._deck.add(self._intake.take_over(first._intake).tolist())
        self.start_with(first.picture().probe)

    def _valid_probe(self, probe: npt.ArrayLike) -> npt.NDArray[np.complex64]:
        given = np.asarray(probe, np.complex64)
        given = given[None] if given.ndim == 2 else given
        if given.ndim != 3 or given.shape[1:] != (self.frame_px, self.frame_px):
            raise ValueError(f"probe of shape {given.shape}: expected (modes, {self.frame_px}, {self.frame_px})")
        return given

    def configure(self, settings: SolverSettings) -> None:
        """Go on with other settings, of which those count that `SolverSettings.AT_ONCE` names.

        The image stays, with as many probe modes as are wanted now; with another `defocus_m` it begins anew.

        Raises
        ------
        SettingsError
            For an unknown engine; nothing is changed then.
        """
        stages = stages_of(settings)
        constraints = self._make_constraints(settings)
        before, self.settings = self.settings, settings
        self._stages, self._stage, self.constraints = stages, 0, constraints
        self.refinement.configure(settings)
        self._intake.configure(settings)
        self._probe_search.settings = settings
        self._quality.configure(settings)
        if (settings.modes, settings.most_modes) != (before.modes, before.most_modes):
            self._further_modes = FurtherModes(settings, self._backend)
        self._engine = self._make_engine()
        self._work = None  # a pass that was going on begins anew
        if self._search is not None and (settings.modes, settings.defocus_m) != (before.modes, before.defocus_m):
            self._search = None  # it would go on with other modes, or is not asked for any more
            self._probe_search.drop()
        state = self.state
        if state is not None and settings.defocus_m not in (None, before.defocus_m):
            self._restart(self._state_from_optic(), self._level)
        elif state is not None:
            if settings.modes != before.modes:
                probe = self._backend.to_numpy(state.probe)
                photons = float(np.sum(np.abs(probe) ** 2, dtype=np.float64))
                state.probe = self._backend.from_numpy(with_modes(probe, settings.modes, photons))
            self._initialize(state)
        self._unsettle()

    # Work -----------------------------------------------------------------------------------------------------

    @property
    def is_coarse(self) -> bool:
        """True while only the central half of the detector is used."""
        return self._level is not self.frames

    @property
    def r_is_coarse(self) -> bool:
        """True while R is that of the central half: until whole frames had a pass."""
        return self.is_coarse or (self.state is not None and self.state.passes == 0)

    @property
    def passes_wanted(self) -> int:
        """Full passes after the last frame, of all engines of the schedule."""
        return sum(stage.passes for stage in self._stages)

    @property
    def passes_done(self) -> int:
        """Full passes since the last frame came, or since the end was told."""
        return len(self.r_factors)

    @property
    def is_settled(self) -> bool:
        """True when every frame is used, and the image had most of the passes that it should have on whole frames.

        Not while defocus and orientation are looked for, after which the image may begin anew.
        One pass more than half of them, those while the scan ran included, so that the last is without momentum; of
        several engines all.
        """
        if self.state is None or self.is_coarse or self.is_searching or self.num_unused:
            return False
        if len(self._stages) > 1:
            return self.passes_done >= self.passes_wanted
        return 2 * self.state.passes > self.passes_wanted

    @property
    def has_work(self) -> bool:
        """True when a `step` would improve the picture."""
        if self._work is not None or self._search is not None:
            return True
        if self.num_frames == 0:
            return False
        if self._sweep_is_due:
            return True
        if self.state is None:
            return self._can_begin
        return self.is_coarse or self._deck.fresh > 0 or self.passes_done < self.passes_wanted

    @property
    def _can_begin(self) -> bool:
        """Whether there are frames enough for a first picture, and a defocus that is worth one."""
        if self._finishing:
            return True
        told = self.settings.defocus_m is not None or self.geometry.optic.outer_zone_m > 0
        known = told or self.geometry.is_near or self._probe_search.begins_warm
        waits_for_sweep = self.settings.sweep_frames > 0 and not known
        return not waits_for_sweep and self.num_frames >= min(self.settings.batch, LEAST_BATCH)

    @property
    def _sweep_is_due(self) -> bool:
        search = self._probe_search  # frames are counted where that matters: this is asked before each batch
        return search.sweeps_wanted and search.is_due(self.num_frames, no_more=self._finishing)

    @property
    def num_unused(self) -> int:
        """Frames that no update has used yet."""
        return int(np.sum(self.frames.uses[self.frames.active] == 0))

    @property
    def finished(self) -> bool:
        """True when no more frames will come and the last passes are done."""
        return self._finishing and not self.has_work

    def finish(self) -> None:
        """Say that no more frames will come; `step` then does the last passes."""
        if not self._finishing:
            self._finishing = True
            self._unsettle()
            state = self.state
            self._was_ripe = state is not None and self._is_ripe

    def step(self, budget_s: float) -> None:
        """Work for about `budget_s` seconds, at least one batch; return at once where there is nothing to do."""
        end = time.monotonic() + budget_s
        while self.has_work:
            self._one_batch()
            if time.monotonic() >= end:
                return

    def _one_batch(self) -> None:
        """Use one batch: of the sweep, or of the picture beside it, which waits for the sweep once frames are all."""
        if self._search is None and self._sweep_is_due:
            self._search = self._find_probe()
        self._turn = (self._turn + 1) % (SWEEP_SHARE + 1)
        shows = not self._finishing and (self.state is not None or self._can_begin)
        if self._search is not None and not (shows and self._turn == 0):
            if next(self._search, self) is self:
                self._search = None
            return
        if self._work is None:
            if self.state is None:
                self._begin(self._first_state())
            self._work = self._pass(self._known_state())
        if next(self._work, self) is self:
            self._work = None

    def _known_state(self) -> SolverState:
        assert self.state is not None
        return self.state

    def _starting_level(self) -> FrameStore:
        """Return the frames' central halves, where they are wanted and most of the light is there, or the frames.

        In the near field the centre of the detector is a part of the sample, and no coarser image of it.
        """
        if self.settings.coarse_uses and not self.geometry.is_near and can_be_halved(self.frame_px):
            mean = self.frames.mean_intensity(self.frames.active[:DOSE_FRAMES])
            if central_light(self._backend.to_numpy(mean)) >= CENTRAL_LIGHT:
                return CentralHalf(self.frames)
        return self.frames

    def _find_probe(self) -> Iterator[None]:
        """Sweep over the frames that are here; begin anew with another defocus or orientation if that is better."""
        search, level = self._probe_search, self._starting_level()
        slots = search.frames_for_sweep(self.frames.active)
        yield from search.find_defocus(level, slots)
        assert search.sweep is not None and search.best is not None
        nothing_better = self.geometry.optic.outer_zone_m == 0 and (self.state is None or self.is_warm)
        if search.sweep.warm_fits:
            if not self.is_warm:
                self._restart(search.best, level)
            self.is_warm = True
        elif search.sweep.accepted or nothing_better:
            self._restart(search.best, level)
        elif self.is_warm:
            self._restart(self._state_from_optic(), self._level)
        yield from search.find_orientation(level, slots)
        if search.turn:
            self._intake.turn(search.turn)
            self._begin_anew()

    @property
    def sweep(self) -> Sweep | None:
        """The latest defocus sweep."""
        return self._probe_search.sweep

    @property
    def knows_probe(self) -> bool:
        """Whether a sweep told which probe to go on with, or none will."""
        return self._probe_search.has_told

    @property
    def orientation(self) -> Orientation | None:
        """What was found of the detector's orientation, relative to what was declared."""
        return self._probe_search.orientation

    @property
    def rejected(self) -> dict[int, str]:
        """Sequence numbers of frames that cannot be used, and why."""
        return self._intake.rejected

    @property
    def frame_orientation(self) -> int:
        """How frames come to lie as the stage does, as `Geometry.orientation`: what is declared, or was found."""
        return orientation_after(self.geometry.orientation, self._intake.turned)

    @property
    def is_searching(self) -> bool:
        """Whether defocus and orientation are still looked for."""
        return self._search is not None

    def _begin_anew(self) -> None:
        """Begin with the frames that are here as if they had just come."""
        self._search = None
        self._probe_search.begin_anew()
        self._forget()
        self.state = None

    def _restart(self, state: SolverState, level: FrameStore) -> None:
        """Go on from another state, for which no frame has been used."""
        self._level, self.is_warm = level, False
        self._forget()
        self._begin(state)

    def _forget(self) -> None:
        """Let all frames count as new, and drop what was found beside the image."""
        self._work = self._told = None
        self._unsettle()
        for slot in np.flatnonzero(self.frames.resting[: len(self.frames)] == FOREVER).tolist():
            self.rejected.pop(int(self.frames.seq_nums[slot]), None)  # another image may have room for it
        self.frames.forget(slice(len(self.frames)))
        self._deck.add(self.frames.active.tolist())
        self.refinement.reset(self.frames)
        self._further_modes.reset()
        self._quality.reset()

    def _first_state(self) -> SolverState:
        """Return the state to begin with, on the starting level: with the warm probe, where there is one."""
        self.is_warm = self._probe_search.begins_warm
        if not self.is_warm:
            return self._state_from_optic()
        level = self._level = self._starting_level()
        return self._blank(self._backend.from_numpy(self._probe_search.warm_probe(level, level.active)))

    def _state_from_optic(self) -> SolverState:
        """Return a state with the mean pattern's amplitude and the defocus that is told, on the starting level."""
        self._level = self._starting_level()
        slots = self._level.active
        mean = self._backend.to_numpy(self._level.mean_intensity(slots))
        photons = float(np.mean(self._level.photons[slots]))
        pixel_m = self.pixel_m * self.frame_px / self._level.frame_px
        geometry, settings = self.geometry, self.settings
        defocus_m = geometry.optic.defocus_m if settings.defocus_m is None else settings.defocus_m
        if geometry.is_near:
            probe = near_field_probe(self._backend, self.frames.propagator, mean, settings.modes, photons)
        else:
            probe = starting_probe(mean, defocus_m, geometry.wavelength_m, pixel_m, settings.modes, photons)
        return self._blank(self._backend.from_numpy(probe))

    def _blank(self, probe: Any) -> SolverState:
        row0, column0, row1, column1 = bounding_box(self._level.corners_px[self._level.wanted], self._level.frame_px)
        canvas = self._backend.xp.ones((row1 - row0, column1 - column0), np.complex64)
        return SolverState(canvas, probe, (row0, column0))

    def _begin(self, state: SolverState) -> None:
        """Take this state, of the present level, as the reconstruction."""
        state.object = with_states(self._backend, state.object, self.settings.object_modes)
        self.state = state
        self._initialize(state)
        self._make_room(state)

    def _make_engine(self) -> Engine:
        stage = self._stages[self._stage]
        settings = in_near_field(self.settings) if self.geometry.is_near else self.settings
        return make_engine(settings.replace(algorithm=stage.algorithm), self._backend)

    def _make_constraints(self, settings: SolverSettings) -> Constraints:
        return Constraints(settings, self.geometry, self._backend, self.frame_px * self.pixel_m)

    def _initialize(self, state: SolverState) -> None:
        slots = self._level.active
        if len(slots):
            mean = self._backend.to_numpy(self._level.mean_intensity(slots[:DOSE_FRAMES]))
            self._dose = photons_on_lit_pixels(mean)
        if self._dose is not None:
            self._engine.adapt(self._dose)
        self._engine.initialize(state, self._level)

    def _make_room(self, state: SolverState) -> None:
        """Grow the canvas where a window lies outside it."""
        if self.num_frames == 0:
            return
        level = self._level
        row0, column0 = state.origin_px
        box = (row0, column0, row0 + state.shape[0], column0 + state.shape[1])
        grown = grown_box(box, bounding_box(level.corners_px[level.wanted], level.frame_px))
        if grown == box:
            return
        before = (box[0] - grown[0], box[1] - grown[1])
        after = (grown[2] - box[2], grown[3] - box[3])
        shape = (grown[2] - grown[0], grown[3] - grown[1])
        canvas = blank_canvas(self._backend, shape, len(state.objects))
        rows, columns = slice(before[0], shape[0] - after[0]), slice(before[1], shape[1] - after[1])
        canvas[..., rows, columns] = state.object
        state.object = canvas
        state.origin_px = (grown[0], grown[1])
        self._engine.pad(before, after)

    def _pass(self, state: SolverState) -> Iterator[None]:
        """One pass over all frames, in batches, new frames first."""
        frames, active, changes = self._level, self._level.active, self._changes
        resting = self._choose_engine(state)
        if state.variation is not None or state.passes >= self.settings.refine_start:
            let_vary(self._backend, state, self.frames, self.settings.probe_variation)
        is_last = self._finishing and not self.is_coarse
        is_near, least = self.geometry.is_near, self._engine.least_batch
        batch = batch_frames(
            self.settings, len(active), is_last=is_last, resting=resting, is_near=is_near, least=least
        )
        steps = steps_of(frames.shifts_px[active], self.settings.subpixel)
        self._deck.start_pass(active, frames.corners_px[active], batch, steps, live=not self._finishing)
        while not self._deck.pass_is_over:
            slots = self._deck.deal(batch)
            told = self._engine.begin_update(state, frames, slots)
            self._note_told()
            self._told = frames, slots, told
            frames.uses[slots] += 1
            yield
            if not self.is_coarse:
                yield from self._quality.work(state, self.frames, len(slots))
        self._note_told()
        self._engine.end_pass(state, frames)
        self.constraints.hold_probe(state)
        active = frames.active
        if len(active):
            set_probe_power(self._backend.xp, state, float(np.mean(frames.photons[active])))
        self.constraints.hold_object(state, frames)
        used = active[frames.uses[active] > 0]  # some have come during the pass
        if len(used):
            state.r_factor = float(np.sum(frames.residuals[used]) / np.sum(self.frames.amplitude_sums[used]))
        if self._wants_refinement(state):
            yield from self._refine(state)
        self._rest_misfits(state)
        state.passes += 1
        left = self.passes_wanted - self.passes_done - 1 if self._finishing else None
        if self._is_ripe and self.knows_probe and self._further_modes.look(state, self.frames, left):
            self._initialize(state)
        if not self.is_coarse and changes == self._changes:
            self.r_factors.append(state.r_factor)
        if self.is_coarse:
            before, self._coarse_r = self._coarse_r, state.r_factor if changes == self._changes else None
            gained_little = before is not None and state.r_factor > (1 - LITTLE_GAIN) * before
            if self._coarse_is_ripe(gained_little):
                self._level = self.frames
                self._begin(refined(self._backend, state))

    def _note_told(self) -> None:
        """Take note of what the latest batch told: once the next one is on its way, or before it counts."""
        if self._told is None:
            return
        (frames, slots, told), self._told = self._told, None
        whole = self.frames.amplitude_sums[slots] / np.maximum(frames.amplitude_sums[slots], 1e-12)
        frames.residuals[slots] = told.residual * whole
        if told.light is not None:
            frames.light_sums[slots] = told.light

    def _rest_misfits(self, state: SolverState) -> None:
        """Let frames rest that do not fit, or list them; not before their positions could be put right."""
        uses = LEAST_USES + (self.settings.refine_start if self.settings.refine_positions != "none" else 0)
        unexplained_by_state = functools.partial(unexplained, self._backend, state, self._level)
        self.rejected.update(rest_misfits(self.frames, uses, unexplained_by_state))
        self._deck.remove(np.flatnonzero(self.frames.resting[: len(self.frames)]).tolist())

    def _coarse_is_ripe(self, gained_little: bool) -> bool:
        """Return whether frames had the uses they should have, and a sweep told which probe to go on with.

        A third of the uses suffices where no more frames will come and the latest pass `gained_little`.  A warm probe
        needs no word of a sweep: it is mostly right, and what the central half shows of an image is blurred.
        """
        if not (self._probe_search.has_told or self.is_warm):
            return False
        wanted = self.settings.coarse_uses / (3 if gained_little and self._finishing else 1)
        if self.in_haste:
            wanted = min(wanted, self.settings.coarse_uses / 2)
        active = self.frames.active
        return len(active) == 0 or float(np.mean(self.frames.uses[active])) >= wanted

    @property
    def _is_ripe(self) -> bool:
        """Whether whole frames had so many uses that momentum would bring no more than noise."""
        uses = self.frames.uses[self.frames.active]
        return not self.is_coarse and len(uses) > 0 and float(np.mean(uses)) >= RIPE_USES

    def _choose_engine(self, state: SolverState) -> bool:
        """Begin the next stage of the schedule when it is time; rest where frames had many uses, and at the end.

        Return whether it rests.
        """
        if not self._finishing or self.is_coarse:
            self._engine.rest(self._is_ripe)
            return self._is_ripe
        stage, left = stage_of(self._stages, self.passes_done)
        if stage != self._stage:
            self._stage = stage
            self._engine = self._make_engine()
            self._initialize(state)
        hurries = self.in_haste and 2 * state.passes > self.passes_wanted
        resting = rests(self._stages[stage].passes, left) or self._was_ripe or hurries
        self._engine.rest(resting)
        return resting

    def _wants_refinement(self, state: SolverState) -> bool:
        """Return whether to refine now.

        Not while the defocus is in question, for with a wrong one all positions are; nor at the very end, for the
        image has to follow.
        """
        left = self.passes_wanted - self.passes_done - 1
        if self._search is not None or self._sweep_is_due or not self._probe_search.has_begun:
            return False
        return self.refinement.due(state) and not (self._finishing and left < SETTLING_PASSES)

    def _refine(self, state: SolverState) -> Iterator[None]:
        """Put right what is not; engines that keep a frame's exit wave begin it anew where its window moved."""
        if self.refinement.is_of_flux_alone and self._engine.sums_light:
            self.refinement.take_flux(self.frames, state.passes)
            return
        corners = self.frames.corners_px[: len(self.frames)].copy()
        yield from self.refinement.round(state, self._level, self.frames)
        for slot in np.flatnonzero((self.frames.corners_px[: len(corners)] != corners).any(axis=1)).tolist():
            self._engine.forget(slot)
        self._make_room(state)

    # Results --------------------------------------------------------------------------------------------------

    def picture(self) -> Picture:
        """Return the present picture: with engines that average passes, over as many uses of frames as a pass has.

        Raises
        ------
        RuntimeError
            Before there is a reconstruction (`state` is None).
        """
        if self.state is None:
            raise RuntimeError("there is no picture yet: add frames and call step until `state` is not None")
        self._note_told()
        self._previous = render(
            self._backend,
            self._fine_state(self._engine.shown(self.state)),
            self.frames,
            pixel_m=self.pixel_m,
            num_points=self.num_points,
            previous=self._previous,
        )
        return self._previous

    def _fine_state(self, state: SolverState) -> SolverState:
        return refined(self._backend, state) if self.is_coarse else state

    def fit(self, seq_num: int | None = None) -> DiffractionFit | None:
        """Return how a frame is modelled, the newest one in use by default; None where it is not in use."""
        frames = self.frames
        used = frames.wanted[frames.uses[frames.wanted] > 0]
        if self.state is None or not len(used):
            return None
        slot = int(used[np.argmax(frames.seq_nums[used])]) if seq_num is None else frames.slots.get(seq_num, -1)
        return diffraction_fit(self._backend, self._fine_state(self.state), frames, slot) if slot in used else None

    def quality(self) -> Quality:
        """Return how good the image is by itself."""
        return self._quality.judge(self.state, self.frames, is_coarse=self.is_coarse)

    def frames_for(self, resolution_m: float) -> int | None:
        """Return how many frames a resolution (½ bit) is expected to take; None until that can be told."""
        return self._quality.frames_for(resolution_m)

    def positions(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return the numbers (n,) of the frames in use, in order, and where they lie (n, 2: x, y) in metres."""
        slots = self.frames.wanted
        order = np.argsort(self.frames.seq_nums[slots])
        slots = slots[order]
        places = self.frames.corners_px[slots] + self.frames.shifts_px[slots] + self.frame_px / 2
        return np.asarray(self.frames.seq_nums[slots]), places[:, ::-1] * self.pixel_m

    # Checkpoints ----------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Finish the pass that goes on and write a checkpoint: all but the frames themselves, and a sweep's work.

        Raises
        ------
        RuntimeError
            Before there is a reconstruction.
        """
        if self.state is None:
            raise RuntimeError("there is nothing to save yet: add frames and call step until `state` is not None")
        for _ in self._work or ():
            pass
        self._work = None
        self._note_told()  # of a pass that was broken off
        write_checkpoint(
            path,
            {
                "identity": self._identity(),
                "solver": {
                    "is_coarse": self.is_coarse,
                    "stage": self._stage,
                    "dose": self._dose,
                    "coarse_r": self._coarse_r,
                    "finishing": self._finishing,
                    "is_warm": self.is_warm,
                    "was_ripe": self._was_ripe,
                    "r_factors": self.r_factors,
                    "turned": self._intake.turned,
                },
                "search": self._probe_search.contents(goes_on=self._search is not None),
                "state": self.state.contents(self._backend),
                "frames": self.frames.contents(),
                "deck": self._deck.contents(),
                "engine": self._engine.contents(),
                "refinement": self.refinement.contents(),
                "constraints": self.constraints.contents(),
                "further_modes": self._further_modes.contents(),
                "quality": self._quality.contents(),
            },
        )

    def load(self, path: str | Path) -> None:
        """Go on from a checkpoint, with the frames that it was made from, or before any frame is here.

        Frames that come afterwards and are those of the checkpoint are known: they have their uses and corrections.
        A solver whose `load` failed is of no use any more.

        Raises
        ------
        CheckpointError
            If the file is no checkpoint, or one of other frames, another geometry or other settings; those that say
            when to end and what to show may differ.
        """
        found = read_checkpoint(path)
        try:
            others = list(differences(found["identity"], self._identity()))
            if others:
                raise CheckpointError(f"{path} is not of this reconstruction: {'; '.join(others)}; begin anew")
            self._restore(found)
        except (KeyError, TypeError, IndexError) as error:
            raise CheckpointError(f"{path} is damaged ({error!r}): begin anew") from None

    def _identity(self) -> dict[str, Any]:
        """Return what must be the same for a checkpoint to be gone on from."""
        settings = {name: value for name, value in self.settings.to_dict().items() if name not in FREE_SETTINGS}
        return {
            "frame_px": self.frame_px,
            "pixel_m": self.pixel_m,
            "geometry": self.geometry.to_dict(),
            "settings": settings,
        }

    def _restore(self, found: Sections) -> None:
        own = found["solver"]
        expected = not self.frames.slots
        self._intake.turn(own["turned"])
        self._probe_search.restore(found["search"])
        self.frames.restore(found["frames"])
        if not expected:
            self.rejected.update(left_out(self.frames, np.arange(len(self.frames))))
        self._work = self._search = self._told = None
        self._stage, self._dose, self._coarse_r = own["stage"], own["dose"], own["coarse_r"]
        self._level = CentralHalf(self.frames) if own["is_coarse"] else self.frames
        self.state = state = SolverState.of_contents(found["state"], self._backend)
        if not bool(self._backend.xp.isfinite(state.object).all() & self._backend.xp.isfinite(state.probe).all()):
            raise CheckpointError("the checkpoint holds an image that is not finite: begin anew")
        self._engine = self._make_engine()
        if self._dose is not None:
            self._engine.adapt(self._dose)
        self._engine.initialize(state, self._level)
        self._engine.restore(found["engine"])
        self._deck.restore(found["deck"])
        self._deck.remove(np.flatnonzero(self.frames.weights[: len(self.frames)] == 0).tolist())
        self.refinement.restore(found["refinement"])
        self.constraints.restore(found["constraints"])
        self._further_modes.restore(found["further_modes"])
        self._quality.restore(found["quality"], self.frames)
        self._was_ripe, self.is_warm = own["was_ripe"], own["is_warm"]
        self._finishing = own["finishing"] and not expected  # what is still to come has to be used before the end
        self.r_factors = own["r_factors"]
