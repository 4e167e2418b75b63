"""One image of the frames that are here, and the passes of its engines: over their central halves, then the whole.

It knows what was found beside it of positions, modes and quality, and how far it has come.  Which frames there are,
and when it begins anew, is decided by `nsbluesky.solver.incremental`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.geometry import Geometry
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.beginning import Beginning
from nsbluesky.solver.constraints import Constraints
from nsbluesky.solver.fit import unexplained_part
from nsbluesky.solver.frames import FOREVER, FrameStore
from nsbluesky.solver.further_modes import FurtherModes
from nsbluesky.solver.gauge import set_probe_power
from nsbluesky.solver.intake import Intake
from nsbluesky.solver.last_passes import LastPasses
from nsbluesky.solver.light import UpdateReport
from nsbluesky.solver.live_quality import LiveQuality
from nsbluesky.solver.mean_light import photons_through
from nsbluesky.solver.misfits import LEAST_USES, suspend_misfits
from nsbluesky.solver.odd_pixels import OddPixels
from nsbluesky.solver.ordering import FrameQueue
from nsbluesky.solver.pace import batch_frames
from nsbluesky.solver.probe_search import ProbeSearch
from nsbluesky.solver.refinement import Refinement
from nsbluesky.solver.rhythm import ImageProgress, Rhythm
from nsbluesky.solver.shifts import steps_of
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.variation import let_vary
from nsbluesky.solver.working_image import WorkingImage

__all__ = ["LiveImage"]

Slots = npt.NDArray[np.intp]


class LiveImage:
    """Makes passes over frames in small slices of time.

    Parameters
    ----------
    intake : Intake
        Its frames are used; of those that do not fit the image and of odd pixels it is told.
    search : ProbeSearch
    settings : SolverSettings
    geometry : Geometry
    backend : Backend
    pixel_m : float
        Object pixel of the whole frames.

    Attributes
    ----------
    is_warm : bool
        Whether it began with the probe of an earlier scan.
    working_image : WorkingImage
        Object and probe, and the engine that works on them.
    rhythm : Rhythm
    beginning : Beginning
    refinement : Refinement
    constraints : Constraints
    quality : LiveQuality
    """

    def __init__(
        self,
        intake: Intake,
        search: ProbeSearch,
        settings: SolverSettings,
        *,
        geometry: Geometry,
        backend: Backend,
        pixel_m: float,
    ) -> None:
        frames = intake.frames
        self.is_warm = False
        self.beginning = Beginning(frames, geometry, backend, pixel_m)
        self.refinement = Refinement(settings, backend)
        self.quality = LiveQuality(settings, backend, pixel_m)
        self._frames = frames
        self._rejected = intake.rejected
        self._odd_pixels = OddPixels(frames, intake.leave_out, settings)
        self._search = search
        self._settings = settings
        self._geometry = geometry
        self._backend = backend
        self._window_m = frames.frame_px * pixel_m
        self.constraints = self._make_constraints(settings)
        self._further_modes = FurtherModes(settings, backend)
        self.rhythm = Rhythm(settings, LastPasses(settings, backend), self._further_modes)
        self.working_image = WorkingImage(frames, settings, self.rhythm.algorithm, backend, is_near=geometry.is_near)
        self._queue = FrameQueue(settings.seed, settings.newest_frames)
        self._pass_in_work: Iterator[None] | None = None
        self._report: tuple[FrameStore, Slots, UpdateReport] | None = None

    # Frames ---------------------------------------------------------------------------------------------------

    def use(self, slots: Iterable[int]) -> None:
        """Use these frames as new ones, and count full passes from here on."""
        self._queue.add(slots)
        self.rhythm.restart()

    def drop_unused(self) -> None:
        """Use no frame any more that has no weight, and make room for the others."""
        self._queue.remove(np.flatnonzero(self._frames.weights[: len(self._frames)] == 0).tolist())
        self.working_image.make_room()

    # How far it is --------------------------------------------------------------------------------------------

    @property
    def state(self) -> SolverState | None:
        """Object and probe, of half the pixels while `is_coarse`; None before it began."""
        return self.working_image.state

    @property
    def is_coarse(self) -> bool:
        """Whether only the central half of the detector is used."""
        return self.working_image.is_coarse

    @property
    def is_in_pass(self) -> bool:
        """Whether a pass has begun and not ended."""
        return self._pass_in_work is not None

    @property
    def is_settled(self) -> bool:
        """Whether it had most of the passes that it should have on whole frames; of several engines all."""
        return self.state is not None and self.rhythm.is_settled(self._progress(self.state))

    @property
    def wants_passes(self) -> bool:
        """Whether another pass would better it: until it is ripe, too, while no frames come, as in a pause."""
        if self.state is None:
            return False
        return self._queue.fresh > 0 or self.rhythm.wants_passes(self._progress(self.state))

    def _progress(self, state: SolverState) -> ImageProgress:
        """Return how far the image has come."""
        uses = self._frames.uses[self._frames.active]
        return ImageProgress(
            is_coarse=self.is_coarse,
            is_warm=self.is_warm,
            probe_is_told=self._search.has_told,
            frames=len(uses),
            uses=float(np.mean(uses)) if len(uses) else 0.0,
            passes=state.passes,
            modes=len(state.probe),
        )

    # Beginnings -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin with the frames that are here: with the warm probe, where there is one, or with the optic's."""
        self._odd_pixels.leave_lonely_out()
        self.is_warm = self._search.begins_warm
        level = self.beginning.level(self._settings)
        if self.is_warm:
            probe = self._search.warm_probe(level, level.active)
            self.working_image.take(self.beginning.from_probe(level, probe, self._settings), level)
        else:
            self.working_image.take(self.beginning.from_optic(level, self._settings), level)

    def begin_with(self, probe: npt.NDArray[np.complex64]) -> None:
        """Begin with a known probe (modes, N, N); what was done so far counts for nothing."""
        level = self.beginning.level(self._settings)
        self.restart(self.beginning.from_known(level, probe, self._settings), level)

    def restart(self, state: SolverState, level: FrameStore) -> None:
        """Go on from another state, for which no frame has been used."""
        self.forget()
        self.is_warm = False
        self.working_image.take(state, level)

    def restart_from_optic(self) -> None:
        """Go on from the optic's defocus, or the one that is told."""
        level = self.beginning.level(self._settings)
        self.restart(self.beginning.from_optic(level, self._settings), level)

    def forget(self) -> None:
        """Let all frames count as new, and drop the image and what was found beside it."""
        frames = self._frames
        self.working_image.drop()
        self._pass_in_work = self._report = None
        for slot in np.flatnonzero(frames.suspended[: len(frames)] == FOREVER).tolist():
            self._rejected.pop(int(frames.seq_nums[slot]), None)  # another image may have room for it
        frames.forget(slice(len(frames)))
        self.rhythm.begin_anew()
        self.constraints.reset()
        self._queue.add(frames.active.tolist())
        self.refinement.reset(frames)
        self._odd_pixels.reset()
        self._further_modes.reset()
        self.quality.reset()

    def _make_constraints(self, settings: SolverSettings) -> Constraints:
        return Constraints(settings, self._geometry, self._backend, self._window_m)

    # Settings -------------------------------------------------------------------------------------------------

    def configure(self, settings: SolverSettings) -> None:
        """Make passes with other settings from now on; a pass that goes on begins anew.

        Call `adopt` when all else has the settings, too.

        Raises
        ------
        SettingsError
            For an unknown engine; nothing is changed then.
        """
        last_passes, constraints = LastPasses(settings, self._backend), self._make_constraints(settings)
        self._settings, self.constraints = settings, constraints
        self.rhythm.configure(settings, last_passes)
        self.refinement.configure(settings)
        self._odd_pixels.configure(settings)
        self.quality.configure(settings)
        self._further_modes.configure(settings)
        self.working_image.configure(settings, self.rhythm.algorithm)
        self._pass_in_work = None

    def adopt(self, before: SolverSettings) -> None:
        """Give the image the modes that are wanted now, or begin anew with another defocus than was told `before`."""
        settings = self._settings
        if self.state is not None and settings.defocus_m not in (None, before.defocus_m):
            self.restart_from_optic()
        elif self.state is not None:
            if settings.modes != before.modes:
                self.working_image.set_modes(settings.modes)
            self.working_image.fit()
        self.rhythm.restart()

    # Passes ---------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Make the last passes from now on: all frames are here."""
        self.rhythm.finish(is_ripe=self.state is not None and self._progress(self.state).is_ripe)

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
        self.note_report()  # of a pass that was broken off

    def note_report(self) -> None:
        """Keep what the latest batch reported: once the next one is on its way, or before it counts."""
        if self._report is None:
            return
        (frames, slots, report), self._report = self._report, None
        whole = self._frames.amplitude_sums[slots] / np.maximum(frames.amplitude_sums[slots], 1e-12)
        frames.residuals[slots] = report.residual * whole
        if report.light is not None:
            frames.light_sums[slots] = report.light

    def _pass(self, state: SolverState) -> Iterator[None]:
        """One pass over all frames, in batches, new frames first."""
        self._begin_pass(state)
        if state.variation is not None or state.passes >= self._settings.refine_start:
            wanted = self._settings.probe_variation or self._further_modes.variation
            let_vary(self._backend, state, self._frames, wanted)
        yield from self._updates(state)
        self.working_image.engine.end_pass(state, self.working_image.level)
        self._hold(state)
        if self._wants_refinement(state):
            yield from self._refine(state)
        self._suspend_misfits(state)
        state.passes += 1
        if not self.is_coarse and self._odd_pixels.look(state):
            self.rhythm.settle_anew()
        progress = self._progress(state)
        if self.rhythm.wants_modes(progress):
            self._look_at_modes(state)
        if self.rhythm.end_pass(progress, state.r_factor):
            self.working_image.refine()

    def _begin_pass(self, state: SolverState) -> None:
        """Go on with the engine of the next stage when it is time, with momentum or without."""
        rhythm, progress = self.rhythm, self._progress(state)
        if rhythm.is_at_end(progress):
            moves_on = self.refinement.places.move_on
            rhythm.last_passes.look(rhythm.passes_done, state, self._frames, progress.uses, moves_on)
        before = rhythm.stage
        rhythm.begin_pass(progress)
        if rhythm.stage != before:
            self.working_image.change_engine(rhythm.algorithm)
        self.working_image.engine.rest(rhythm.rests, at_end=rhythm.is_at_end(progress))

    def _updates(self, state: SolverState) -> Iterator[None]:
        """Let the engine have each frame once; the half-sets work beside it."""
        frames, active = self.working_image.level, self.working_image.level.active
        batch = batch_frames(
            self._settings,
            len(active),
            is_last=self.rhythm.is_last and not self.is_coarse,
            resting=self.rhythm.rests,
            is_near=self._geometry.is_near,
            least=self.working_image.engine.least_batch,
        )
        steps = steps_of(frames.shifts_px[active], self._settings.subpixel)
        self._queue.start_pass(active, frames.corners_px[active], batch, steps, live=not self.rhythm.is_last)
        while not self._queue.pass_is_over:
            slots = self._queue.next_batch(batch)
            report = self.working_image.engine.begin_update(state, frames, slots)
            self.note_report()
            self._report = frames, slots, report
            frames.uses[slots] += 1
            yield
            if not self.is_coarse:
                yield from self.quality.work(state, self._frames, len(slots))
        self.note_report()

    def _hold(self, state: SolverState) -> None:
        """Hold object and probe to what is known of them, and note the R of the pass."""
        frames, active = self.working_image.level, self.working_image.level.active
        self.constraints.hold_probe(state)
        if len(active):
            seen = self.working_image.engine.seen()
            set_probe_power(self._backend.xp, state, photons_through(frames, active, state.background), seen)
        self.constraints.hold_object(state, frames)
        used = active[frames.uses[active] > 0]  # some have come during the pass
        if len(used):
            self.working_image.note_r(
                float(np.sum(frames.residuals[used]) / np.sum(self._frames.amplitude_sums[used]))
            )

    def _look_at_modes(self, state: SolverState) -> None:
        """Add a mode or take one away, where the frames ask for that."""
        if self._further_modes.look(state, self._frames, self.rhythm.passes_for_modes):
            self.working_image.fit()
            self.rhythm.settle_with_modes()

    def _suspend_misfits(self, state: SolverState) -> None:
        """Suspend frames that do not fit, or list them; not before their positions could be put right."""
        uses = LEAST_USES + (self._settings.refine_start if self.refinement.places.are_corrected else 0)
        unexplained = functools.partial(unexplained_part, self._backend, state, self.working_image.level)
        self._rejected.update(suspend_misfits(self._frames, uses, unexplained))
        self._queue.remove(np.flatnonzero(self._frames.suspended[: len(self._frames)]).tolist())

    def _wants_refinement(self, state: SolverState) -> bool:
        """Return whether to refine now.

        Not while the defocus is in question, for with a wrong one all positions are; nor at the very end, for the
        image has to follow.
        """
        if self._search.is_open(len(self._frames.wanted), no_more=self.rhythm.is_last):
            return False
        return self.refinement.due(state) and self.rhythm.lets_settle

    def _refine(self, state: SolverState) -> Iterator[None]:
        """Put right what is not; engines that keep a frame's exit wave begin it anew where its window moved."""
        frames = self._frames
        if not self.is_coarse:
            were_corrected = self.refinement.places.are_corrected
            yield from self.refinement.look(state, frames)
            if self.refinement.places.are_corrected and not were_corrected:
                self.rhythm.settle_anew()
        if self.refinement.is_of_flux_alone(state.passes) and self.working_image.engine.sums_light:
            self.refinement.take_flux(frames, state)
            return
        corners = frames.corners_px[: len(frames)].copy()
        yield from self.refinement.round(state, self.working_image.level, frames)
        moved = (frames.corners_px[: len(corners)] != corners).any(axis=1)
        self.working_image.forget(np.flatnonzero(moved).tolist())
        self.working_image.make_room()

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def contents(self) -> dict[str, dict[str, Any]]:
        """Return all of it but the frames, section by section, for a checkpoint; there must be a state."""
        sections = self.working_image.contents()
        return {
            **sections,
            "solver": {**sections["solver"], **self.rhythm.contents(), "is_warm": self.is_warm},
            "queue": self._queue.contents(),
            "refinement": self.refinement.contents(),
            "constraints": self.constraints.contents(),
            "further_modes": self._further_modes.contents(),
            "odd_pixels": self._odd_pixels.contents(),
            "last_passes": self.rhythm.last_passes.contents(),
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
        self._pass_in_work = self._report = None
        self.is_warm = own["is_warm"]
        self.rhythm.restore(own, more_to_come)
        self.working_image.restore(contents, self.rhythm.algorithm)
        self._queue.restore(contents["queue"])
        self._queue.remove(np.flatnonzero(self._frames.weights[: len(self._frames)] == 0).tolist())
        self.refinement.restore(contents["refinement"])
        self.constraints.restore(contents["constraints"])
        self._further_modes.restore(contents["further_modes"])
        self._odd_pixels.restore(contents["odd_pixels"])
        self.rhythm.last_passes.restore(contents["last_passes"])
        self.quality.restore(contents["quality"], self._frames)
