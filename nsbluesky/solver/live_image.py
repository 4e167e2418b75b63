"""One image of the frames that are here, and the passes of its engines: over their central halves, then the whole.

It knows what was found beside it of positions, modes and quality, and how far it has come.  Which frames there are,
and when it begins anew, is decided by `nsbluesky.solver.incremental`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.geometry import Geometry
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.beginning import Beginning
from nsbluesky.solver.canvas import bounding_box, grown_box
from nsbluesky.solver.checkpoint import CheckpointError
from nsbluesky.solver.coarse import CentralHalf, refined
from nsbluesky.solver.constraints import Constraints
from nsbluesky.solver.dose import dose_of
from nsbluesky.solver.engines import Engine, in_near_field, make_engine
from nsbluesky.solver.fit import unexplained
from nsbluesky.solver.frames import FOREVER, FrameStore
from nsbluesky.solver.further_modes import FurtherModes
from nsbluesky.solver.gauge import set_probe_power
from nsbluesky.solver.last_passes import LastPasses
from nsbluesky.solver.light import Told
from nsbluesky.solver.live_quality import LiveQuality
from nsbluesky.solver.misfits import LEAST_USES, rest_misfits
from nsbluesky.solver.odd_pixels import OddPixels
from nsbluesky.solver.ordering import Deck
from nsbluesky.solver.pace import LEAST_PASSES, RIPE_USES, SETTLING_PASSES, batch_frames
from nsbluesky.solver.probe_search import ProbeSearch
from nsbluesky.solver.refinement import Refinement
from nsbluesky.solver.shifts import steps_of
from nsbluesky.solver.start import blank_canvas, with_modes, with_states
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.variation import let_vary

__all__ = ["LiveImage"]

HURRY = 2 / 3
"""Where less of the time for the last passes is left, whole frames are used sooner …"""

REST = 1 / 4
"""… and momentum no more: with it, an image goes on to settle many times faster."""

LITTLE_GAIN = 0.1
"""Part by which a pass over the central half lowers R at least while the next one is worth its time."""

Slots = npt.NDArray[np.intp]


class LiveImage:
    """Makes passes over frames in small slices of time.

    Parameters
    ----------
    frames : FrameStore
    rejected : dict of int to str
        Sequence numbers of frames that cannot be used, and why; what does not fit the image is added.
    search : ProbeSearch
    settings : SolverSettings
    geometry : Geometry
    backend : Backend
    pixel_m : float
        Object pixel of the whole frames.

    Attributes
    ----------
    state : SolverState or None
        Object and probe, of half the pixels while `is_coarse`; None before it began.
    level : FrameStore
        The frames as they are used now: their central halves, or whole.
    r_factors : list of float
        R of each full pass since frames were last others, or since the end was told.
    is_last : bool
        Whether all frames are here: the passes that are wanted are made, and no more.
    is_warm : bool
        Whether it began with the probe of an earlier scan.
    time_left : float
        As `IncrementalSolver.time_left`.
    beginning : Beginning
    refinement : Refinement
    constraints : Constraints
    quality : LiveQuality
    """

    def __init__(
        self,
        frames: FrameStore,
        rejected: dict[int, str],
        search: ProbeSearch,
        settings: SolverSettings,
        geometry: Geometry,
        backend: Backend,
        pixel_m: float,
        leave_out: Callable[[npt.NDArray[np.bool_]], None],
    ) -> None:
        self.state: SolverState | None = None
        self.level = frames
        self.r_factors: list[float] = []
        self.is_last = False
        self.is_warm = False
        self.time_left = 1.0
        self.beginning = Beginning(frames, geometry, backend, pixel_m)
        self.refinement = Refinement(settings, backend)
        self.quality = LiveQuality(settings, backend, pixel_m)
        self._frames = frames
        self._rejected = rejected
        self._odd_pixels = OddPixels(frames, leave_out, settings)
        self._search = search
        self._settings = settings
        self._geometry = geometry
        self._backend = backend
        self._window_m = frames.frame_px * pixel_m
        self.constraints = self._make_constraints(settings)
        self._last = LastPasses(settings, backend)
        self._stage = 0
        self._engine = self._make_engine()
        self._deck = Deck(settings.seed, settings.newest_frames)
        self._further_modes = FurtherModes(settings, backend)
        self._dose: float | None = None
        self._pass_in_work: Iterator[None] | None = None
        self._told: tuple[FrameStore, Slots, Told] | None = None
        self._was_ripe = False
        self._rested = 0
        self._changes = 0
        self._coarse_r: float | None = None

    # Frames ---------------------------------------------------------------------------------------------------

    def forget_frames(self, slots: Iterable[int]) -> None:
        """Drop what the engine keeps of these frames, which are others now."""
        for slot in slots:
            self._engine.forget(slot)

    def use(self, slots: Iterable[int]) -> None:
        """Use these frames as new ones, and count full passes from here on."""
        self._deck.add(slots)
        self.unsettle()

    def drop_unused(self) -> None:
        """Deal no frame any more that has no weight, and make room for the others."""
        self._deck.remove(np.flatnonzero(self._frames.weights[: len(self._frames)] == 0).tolist())
        if self.state is not None:
            self._make_room(self.state)

    def unsettle(self) -> None:
        """Count full passes from here on: the frames are others, or the image began anew."""
        self.r_factors = []
        self._last.begin()
        self._coarse_r = None
        self._changes += 1

    # How far it is --------------------------------------------------------------------------------------------

    @property
    def is_coarse(self) -> bool:
        """Whether only the central half of the detector is used."""
        return self.level is not self._frames

    @property
    def passes_wanted(self) -> int:
        """Full passes after the last frame, of all engines of the schedule."""
        return self._last.wanted

    @property
    def _uses(self) -> float:
        """Uses of each frame, on average, on the central half included."""
        uses = self._frames.uses[self._frames.active]
        return float(np.mean(uses)) if len(uses) else 0.0

    @property
    def passes_done(self) -> int:
        """Full passes since frames were last others, or since the end was told."""
        return len(self.r_factors)

    @property
    def is_settled(self) -> bool:
        """Whether it had most of the passes that it should have on whole frames; of several engines all."""
        if self.state is None or self.is_coarse:
            return False
        if len(self._last.stages) > 1:
            return self.passes_done >= self.passes_wanted
        return 2 * self.state.passes > self._last.least

    @property
    def is_in_pass(self) -> bool:
        """Whether a pass has begun and not ended."""
        return self._pass_in_work is not None

    @property
    def wants_passes(self) -> bool:
        """Whether another pass would better it: until it is ripe, too, while no frames come, as in a pause."""
        waits = not (self.is_last or self._last.are_told or self._is_ripe) and self._uses > 0
        return self.is_coarse or waits or self._deck.fresh > 0 or self.passes_done < self.passes_wanted

    @property
    def _is_ripe(self) -> bool:
        """Whether whole frames had so many uses that momentum would bring no more than noise."""
        return not self.is_coarse and self._uses >= RIPE_USES

    # Beginnings -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin with the frames that are here: with the warm probe, where there is one, or with the optic's."""
        self._odd_pixels.leave_lonely_out()
        self.is_warm = self._search.begins_warm
        level = self.beginning.level(self._settings)
        if self.is_warm:
            probe = self._search.warm_probe(level, level.active)
            self._take(self.beginning.from_probe(level, probe), level)
        else:
            self._take(self.beginning.from_optic(level, self._settings), level)

    def begin_with(self, probe: npt.NDArray[np.complex64]) -> None:
        """Begin with a known probe (modes, N, N); what was done so far counts for nothing."""
        level = self.beginning.level(self._settings)
        self.restart(self.beginning.from_known(level, probe, self._settings), level)

    def restart(self, state: SolverState, level: FrameStore) -> None:
        """Go on from another state, for which no frame has been used."""
        self.forget()
        self.is_warm = False
        self._take(state, level)

    def restart_from_optic(self) -> None:
        """Go on from the optic's defocus, or the one that is told."""
        level = self.beginning.level(self._settings)
        self.restart(self.beginning.from_optic(level, self._settings), level)

    def forget(self) -> None:
        """Let all frames count as new, and drop the image and what was found beside it."""
        frames = self._frames
        self.state = self._pass_in_work = self._told = None
        for slot in np.flatnonzero(frames.resting[: len(frames)] == FOREVER).tolist():
            self._rejected.pop(int(frames.seq_nums[slot]), None)  # another image may have room for it
        frames.forget(slice(len(frames)))
        self.unsettle()
        self._deck.add(frames.active.tolist())
        self.refinement.reset(frames)
        self._odd_pixels.reset()
        self._further_modes.reset()
        self.quality.reset()

    def _take(self, state: SolverState, level: FrameStore) -> None:
        """Take this state, of this level, as the image."""
        self.level = level
        state.object = with_states(self._backend, state.object, self._settings.object_modes)
        self.state = state
        self._initialize(state)
        self._make_room(state)

    def _initialize(self, state: SolverState) -> None:
        if len(self.level.active):
            self._dose = dose_of(self._backend, self.level)
        if self._dose is not None:
            self._engine.adapt(self._dose)
        self._engine.initialize(state, self.level)

    def _make_engine(self) -> Engine:
        algorithm = self._last.stages[self._stage]
        settings = in_near_field(self._settings) if self._geometry.is_near else self._settings
        return make_engine(settings.replace(algorithm=algorithm), self._backend)

    def _make_constraints(self, settings: SolverSettings) -> Constraints:
        return Constraints(settings, self._geometry, self._backend, self._window_m)

    def _make_room(self, state: SolverState) -> None:
        """Grow the canvas where a window lies outside it."""
        level = self.level
        if len(level.wanted) == 0:
            return
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

    # Settings -------------------------------------------------------------------------------------------------

    def configure(self, settings: SolverSettings) -> None:
        """Make passes with other settings from now on; a pass that goes on begins anew.

        Call `adopt` when all else has the settings, too.

        Raises
        ------
        SettingsError
            For an unknown engine; nothing is changed then.
        """
        last, constraints = LastPasses(settings, self._backend), self._make_constraints(settings)
        before, self._settings = self._settings, settings
        self._last, self._stage, self.constraints = last, 0, constraints
        self.refinement.configure(settings)
        self._odd_pixels.configure(settings)
        self.quality.configure(settings)
        if (settings.modes, settings.most_modes) != (before.modes, before.most_modes):
            self._further_modes = FurtherModes(settings, self._backend)
        self._engine = self._make_engine()
        self._pass_in_work = None

    def adopt(self, before: SolverSettings) -> None:
        """Give the image the modes that are wanted now, or begin anew with another defocus than was told `before`."""
        settings, state = self._settings, self.state
        if state is not None and settings.defocus_m not in (None, before.defocus_m):
            self.restart_from_optic()
        elif state is not None:
            if settings.modes != before.modes:
                probe = self._backend.to_numpy(state.probe)
                photons = float(np.sum(np.abs(probe) ** 2, dtype=np.float64))
                state.probe = self._backend.from_numpy(with_modes(probe, settings.modes, photons))
            self._initialize(state)
        self.unsettle()

    # Passes ---------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Make the last passes from now on: all frames are here."""
        self.is_last = True
        self.unsettle()
        self._was_ripe = self.state is not None and self._is_ripe
        if self._was_ripe:
            self._last.settle(0, LEAST_PASSES)

    def one_batch(self) -> None:
        """Use one batch of frames."""
        assert self.state is not None
        if self._pass_in_work is None:
            self._pass_in_work = self._pass(self.state)
        if next(self._pass_in_work, self) is self:
            self._pass_in_work = None

    def end_pass(self) -> None:
        """Finish the pass that goes on."""
        for _ in self._pass_in_work or ():
            pass
        self._pass_in_work = None
        self.note_told()  # of a pass that was broken off

    def note_told(self) -> None:
        """Take note of what the latest batch told: once the next one is on its way, or before it counts."""
        if self._told is None:
            return
        (frames, slots, told), self._told = self._told, None
        whole = self._frames.amplitude_sums[slots] / np.maximum(frames.amplitude_sums[slots], 1e-12)
        frames.residuals[slots] = told.residual * whole
        if told.light is not None:
            frames.light_sums[slots] = told.light

    def _pass(self, state: SolverState) -> Iterator[None]:
        """One pass over all frames, in batches, new frames first."""
        changes = self._changes
        self._rested = self._rested + 1 if self._choose_engine(state) else 0
        if state.variation is not None or state.passes >= self._settings.refine_start:
            let_vary(self._backend, state, self._frames, self._settings.probe_variation)
        yield from self._updates(state)
        self._engine.end_pass(state, self.level)
        self._hold(state)
        if self._wants_refinement(state):
            yield from self._refine(state)
        self._rest_misfits(state)
        state.passes += 1
        if not self.is_coarse and self._odd_pixels.look(state) and self.is_last:
            self._last.begin(self.passes_done + 1)
        if self._wants_modes and self._further_modes.look(state, self._frames, self._passes_for_modes):
            self._initialize(state)
            self._settle_with_modes()
        self._count(state, with_all=changes == self._changes)

    def _updates(self, state: SolverState) -> Iterator[None]:
        """Let the engine have each frame once; the half-sets work beside it."""
        frames, active = self.level, self.level.active
        is_last = self.is_last and not self.is_coarse
        is_near, least = self._geometry.is_near, self._engine.least_batch
        batch = batch_frames(
            self._settings, len(active), is_last=is_last, resting=self._rested > 0, is_near=is_near, least=least
        )
        steps = steps_of(frames.shifts_px[active], self._settings.subpixel)
        self._deck.start_pass(active, frames.corners_px[active], batch, steps, live=not self.is_last)
        while not self._deck.pass_is_over:
            slots = self._deck.deal(batch)
            told = self._engine.begin_update(state, frames, slots)
            self.note_told()
            self._told = frames, slots, told
            frames.uses[slots] += 1
            yield
            if not self.is_coarse:
                yield from self.quality.work(state, self._frames, len(slots))
        self.note_told()

    def _hold(self, state: SolverState) -> None:
        """Hold object and probe to what is known of them, and note the R of the pass."""
        frames, active = self.level, self.level.active
        self.constraints.hold_probe(state)
        if len(active):
            set_probe_power(self._backend.xp, state, float(np.mean(frames.photons[active])))
        self.constraints.hold_object(state, frames)
        used = active[frames.uses[active] > 0]  # some have come during the pass
        if len(used):
            state.r_factor = float(np.sum(frames.residuals[used]) / np.sum(self._frames.amplitude_sums[used]))

    def _count(self, state: SolverState, with_all: bool) -> None:
        """Count a pass `with_all` frames that are here now; go on with whole frames when their centres had enough."""
        if not self.is_coarse:
            if with_all:
                self.r_factors.append(state.r_factor)
            return
        before, self._coarse_r = self._coarse_r, state.r_factor if with_all else None
        gained_little = before is not None and state.r_factor > (1 - LITTLE_GAIN) * before
        if self._coarse_is_ripe(gained_little):
            self._take(refined(self._backend, state), self._frames)

    def _coarse_is_ripe(self, gained_little: bool) -> bool:
        """Return whether frames had the uses they should have, and a sweep told which probe to go on with.

        A third of the uses suffices where no more frames will come and the latest pass `gained_little`.  A warm probe
        needs no word of a sweep: it is mostly right, and what the central half shows of an image is blurred.
        """
        if not (self._search.has_told or self.is_warm):
            return False
        wanted = self._settings.coarse_uses / (3 if gained_little and self.is_last else 1)
        if self.time_left < HURRY:
            wanted = min(wanted, self._settings.coarse_uses / 2)
        return len(self._frames.active) == 0 or self._uses >= wanted

    def _choose_engine(self, state: SolverState) -> bool:
        """Begin the next stage of the schedule when it is time; rest where frames had many uses, and at the end.

        Return whether it rests.
        """
        last = self.is_last and not self.is_coarse
        if last:
            self._last.look(self.passes_done, state, self._frames, self._uses, self.refinement.moves_on)
            stage = self._last.stage(self.passes_done)
            if stage != self._stage:
                self._stage = stage
                self._engine = self._make_engine()
                self._initialize(state)
        resting = self._rests_at_end(state) if last else self._is_ripe and not self._further_modes.grows(state.passes)
        self._engine.rest(resting)
        return resting

    def _rests_at_end(self, state: SolverState) -> bool:
        hurries = self.time_left < REST and 2 * state.passes > self._last.least
        if hurries or self._last.rest(self.passes_done):
            return True
        waits = self._was_ripe or (self._is_ripe and self._further_modes.is_open(len(state.probe)))
        return self._last.are_told and waits and not self._further_modes.grows(state.passes)

    @property
    def _wants_modes(self) -> bool:
        """Whether it is time for another mode, or to judge one: not while momentum adds to the misfit."""
        if not self._search.has_told or self._rested < SETTLING_PASSES:
            return False
        if self._further_modes.is_trying or self.time_left < REST:
            return self._further_modes.is_trying
        return self._is_ripe or (self.is_last and not self.is_coarse and not self._last.are_told)

    @property
    def _passes_for_modes(self) -> int | None:
        """Passes that a further mode could have; None where it gets as many as it takes."""
        if self.time_left < REST:
            return 0
        if not (self.is_last and self._last.are_told):
            return None
        return self.passes_wanted - self.passes_done - 1

    def _settle_with_modes(self) -> None:
        """Let the image settle with a mode that is tried, or without the one that was taken away."""
        if not self.is_last:
            return
        if self._further_modes.is_trying:
            self._last.begin(self.passes_done + 1)
        else:
            self._last.settle(self.passes_done + 1, SETTLING_PASSES)

    def _rest_misfits(self, state: SolverState) -> None:
        """Let frames rest that do not fit, or list them; not before their positions could be put right."""
        uses = LEAST_USES + (self._settings.refine_start if self._settings.refine_positions != "none" else 0)
        unexplained_by_state = functools.partial(unexplained, self._backend, state, self.level)
        self._rejected.update(rest_misfits(self._frames, uses, unexplained_by_state))
        self._deck.remove(np.flatnonzero(self._frames.resting[: len(self._frames)]).tolist())

    def _wants_refinement(self, state: SolverState) -> bool:
        """Return whether to refine now.

        Not while the defocus is in question, for with a wrong one all positions are; nor at the very end, for the
        image has to follow.
        """
        left = self.passes_wanted - self.passes_done - 1
        if self._search.is_open(len(self._frames.wanted), no_more=self.is_last):
            return False
        return self.refinement.due(state) and not (self.is_last and left < SETTLING_PASSES)

    def _refine(self, state: SolverState) -> Iterator[None]:
        """Put right what is not; engines that keep a frame's exit wave begin it anew where its window moved."""
        frames = self._frames
        if self.refinement.is_of_flux_alone(state.passes) and self._engine.sums_light:
            self.refinement.take_flux(frames, state)
            return
        corners = frames.corners_px[: len(frames)].copy()
        yield from self.refinement.round(state, self.level, frames)
        moved = (frames.corners_px[: len(corners)] != corners).any(axis=1)
        self.forget_frames(np.flatnonzero(moved).tolist())
        self._make_room(state)

    # Results and checkpoints ----------------------------------------------------------------------------------

    def shown(self, state: SolverState) -> SolverState:
        """Return a state of the image as it is shown: of engines that average passes, over as many uses as a pass."""
        return self.fine(self._engine.shown(state))

    def fine(self, state: SolverState) -> SolverState:
        """Return a state of the image on the grid of the whole frames."""
        return refined(self._backend, state) if self.is_coarse else state

    def contents(self) -> dict[str, dict[str, Any]]:
        """Return all of it but the frames, section by section, for a checkpoint; there must be a state."""
        assert self.state is not None
        return {
            "solver": {
                "is_coarse": self.is_coarse,
                "stage": self._stage,
                "dose": self._dose,
                "coarse_r": self._coarse_r,
                "finishing": self.is_last,
                "is_warm": self.is_warm,
                "was_ripe": self._was_ripe,
                "rested": self._rested,
                "r_factors": self.r_factors,
            },
            "state": self.state.contents(self._backend),
            "deck": self._deck.contents(),
            "engine": self._engine.contents(),
            "refinement": self.refinement.contents(),
            "constraints": self.constraints.contents(),
            "further_modes": self._further_modes.contents(),
            "odd_pixels": self._odd_pixels.contents(),
            "last_passes": self._last.contents(),
            "quality": self.quality.contents(),
        }

    def restore(self, contents: Mapping[str, Mapping[str, Any]], more_to_come: bool) -> None:
        """Take up what `contents` returned, of frames that are in the store again.

        Raises
        ------
        CheckpointError
            Where the image is not finite.
        """
        own = contents["solver"]
        self._pass_in_work = self._told = None
        self._stage, self._dose, self._coarse_r = own["stage"], own["dose"], own["coarse_r"]
        self.level = CentralHalf(self._frames) if own["is_coarse"] else self._frames
        self.state = state = SolverState.of_contents(contents["state"], self._backend)
        if not bool(self._backend.xp.isfinite(state.object).all() & self._backend.xp.isfinite(state.probe).all()):
            raise CheckpointError("the checkpoint holds an image that is not finite: begin anew")
        self._engine = self._make_engine()
        if self._dose is not None:
            self._engine.adapt(self._dose)
        self._engine.initialize(state, self.level)
        self._engine.restore(contents["engine"])
        self._deck.restore(contents["deck"])
        self._deck.remove(np.flatnonzero(self._frames.weights[: len(self._frames)] == 0).tolist())
        self.refinement.restore(contents["refinement"])
        self.constraints.restore(contents["constraints"])
        self._further_modes.restore(contents["further_modes"])
        self._odd_pixels.restore(contents["odd_pixels"])
        self._last.restore(contents["last_passes"])
        self.quality.restore(contents["quality"], self._frames)
        self._was_ripe, self.is_warm = own["was_ripe"], own["is_warm"]
        self._rested = own["rested"]
        self.is_last = own["finishing"] and not more_to_come  # what is still to come has to be used before the end
        self.r_factors = own["r_factors"]
