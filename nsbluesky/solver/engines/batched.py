"""Engines that update object and probe after every batch and keep no exit waves: WASP, ePIE, rPIE.

As nothing is kept of a frame between two uses, nothing goes stale when frames come late, twice, out of order or
not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.solver.dose import caution, counts_are_few
from nsbluesky.solver.engines.averages import PassAverage
from nsbluesky.solver.engines.base import Engine, Slots, ThreadSpace, report_of, work_space
from nsbluesky.solver.engines.device_batches import DeviceBatches, device_batches
from nsbluesky.solver.engines.differences import Differences, Likelihood
from nsbluesky.solver.engines.momentum import Momentum
from nsbluesky.solver.engines.step_rule import StepRule
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.light import UpdateReport
from nsbluesky.solver.modes import orthogonal_modes
from nsbluesky.solver.shifts import finer, light_around
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.variation import ProbeVariation
from nsbluesky.solver.windows import ObjectSums, bands, divisor_for, stacked

__all__ = ["BatchedEngine"]

PROBE_FRAMES = 4
"""With fewer frames the probe stays: object and probe would both take the whole step, and overshoot together."""


class BatchedEngine(Engine):
    """Runs a `StepRule` over batches.

    Parameters
    ----------
    rule : StepRule
    backend : Backend
    probe_start : int
        Passes before the probe is updated.
    batch : int
        The largest batch that will be used.
    subpixel : int
        Steps of a position in a pixel, more of them while it rests; 1 rounds to whole pixels.
    poisson : bool or None
        Follow the likelihood of photons, not that of amplitudes with equal noise, which the publications do; None
        leaves it to `adapt`.
    compiled : bool, optional
        Use the loops compiled for a CPU; by default wherever arrays live in host memory.
    """

    def __init__(
        self,
        rule: StepRule,
        backend: Backend,
        *,
        probe_start: int,
        batch: int,
        subpixel: int = 1,
        poisson: bool | None = False,
        compiled: bool | None = None,
    ) -> None:
        self.name = rule.name
        self._likelihood = Likelihood(bool(poisson))
        self._chooses_likelihood = poisson is None
        self._full_rule = self._damped_rule = self._rule = rule
        self._is_calm = False
        self._backend = backend
        self._probe_start = probe_start
        self._batch = batch
        self._usual_subpixel = self._subpixel = subpixel
        self._compiled = not backend.on_device if compiled is None else compiled
        self._on_device: DeviceBatches | None = None
        self._momentum = Momentum(backend, rule.momentum, rule.momentum_frames, compiled=self._compiled)

    def initialize(self, state: SolverState, frames: FrameStore) -> None:
        """Make work space and begin a pass."""
        self._work_space: tuple[list[ThreadSpace], Any] | None = None
        self._average = PassAverage(self._backend, state)
        self._variation = ProbeVariation(self._backend)
        if not frames.propagator.is_far:
            self._on_device = None
        else:
            self._prepare_device(state)
        self._momentum.begin(state)

    def _prepare_device(self, state: SolverState) -> None:
        if self._on_device is None or not self._on_device.fits(state, self._subpixel):
            self._on_device = device_batches(self._backend, state, self._batch, self._subpixel)

    def pad(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        """Follow a canvas that grew."""
        self._average.pad(before, after)
        self._momentum.pad(before, after)

    def adapt(self, dose: float) -> None:
        """Regularise more, and have less momentum, where there are few photons."""
        self._damped_rule = self._full_rule.damped(caution(dose))
        self._choose_rule()
        if self._chooses_likelihood:
            self._likelihood = Likelihood(counts_are_few(dose))
        self._momentum.friction = np.float32(self._rule.momentum)

    def _choose_rule(self) -> None:
        self._rule = self._damped_rule.calmed() if self._is_calm else self._damped_rule

    def share(self, parts: int) -> None:
        """Expect one of so many parts of the frames: a pass has as many steps of momentum as over all of them."""
        self._momentum.period_frames = max(1, self._full_rule.momentum_frames // parts)

    def rest(self, resting: bool, *, at_end: bool = False) -> None:
        """Take no steps of momentum, and finer ones of positions, or begin anew; at the end, shorter ones of all."""
        self._is_calm = resting and at_end
        self._choose_rule()
        self._momentum.rest(resting)
        self._subpixel = finer(self._usual_subpixel) if resting else self._usual_subpixel

    def shown(self, state: SolverState) -> SolverState:
        """Return the state as the average over as many uses of frames as a pass has."""
        return self._average.shown(state)

    def seen(self) -> Any:
        """Return how far pixels of the object follow a pass (H, W), after the end of one."""
        return self._average.seen()

    def contents(self) -> dict[str, Any]:
        """Return momentum and the sums of the pass, for a checkpoint."""
        return {**self._average.contents(), **self._momentum.contents()}

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned, after `initialize`."""
        self._momentum.restore(contents)
        self._average.restore(contents)

    def begin_update(self, state: SolverState, frames: FrameStore, slots: Slots) -> UpdateReport:
        """Use one batch of frames: steps of object and probe by the rule."""
        self._momentum.before(state)
        if self._rule.averages_passes:
            self._average.note(state, len(slots))
        several = int(np.count_nonzero(frames.weights[: len(frames)])) >= PROBE_FRAMES
        updates_probe = state.passes >= self._probe_start and several
        if self._on_device is not None:
            self._prepare_device(state)
        if self._on_device is not None and self._on_device.can_take(state, frames):
            sums = self._average.sums
            told = self._on_device.run(state, frames, slots, sums, self._rule, self._likelihood, updates_probe)
        else:
            told = report_of(self._by_shares(state, frames, slots, updates_probe))
        if self._momentum.moves:
            seen = frames.uses[slots] > 0
            amplitude = float(frames.amplitude_sums[slots[seen]].sum())
            self._momentum.after(state, len(slots), lambda: float(told.residual[seen].sum()), amplitude)
        return told

    def _by_shares(
        self, state: SolverState, frames: FrameStore, slots: Slots, updates_probe: bool
    ) -> npt.NDArray[np.float64]:
        """Use a batch, whose frames the threads share; return the light sums (n, SUMS)."""
        backend = self._backend
        batch = Differences(
            backend,
            state,
            frames,
            slots,
            subpixel=self._subpixel,
            likelihood=self._likelihood,
            compiled=self._compiled,
        )
        if self._work_space is None:
            self._work_space = work_space(backend, state.probe.shape, self._batch, len(state.objects))
        spaces, space_of_terms = self._work_space
        light = batch.add(spaces, space_of_terms, with_probe=updates_probe)
        self._step_object(state, batch, space_of_terms[: len(slots)])
        if updates_probe:
            self._step_probe(state, spaces[: len(batch.shares)], len(slots), batch.loops, moved=batch.between_pixels)
            if batch.varied:
                self._variation.add(state, frames, batch.slots, batch.varied, spaces[0].probe_denominator)
        return light

    def _step_object(self, state: SolverState, batch: Differences, terms: Any) -> None:
        """Add the windows of a batch up and step, in bands of rows that the threads share."""
        backend, loops, power = self._backend, batch.loops, batch.mean_light()
        sums, averages = self._average.sums.object, self._rule.averages_passes
        numbers = self._rule.object_divisor().numbers(power)

        def fused_step(band: slice) -> None:
            target = (state.objects, band.start, band.stop)
            terms_of_step = (batch.corners, terms, power, batch.weights, numbers)
            passes = stacked(sums.numerator), stacked(sums.denominator)
            loops.add_and_step(*target, *terms_of_step, averages, *passes)

        def step(band: slice) -> None:
            for number in range(terms.shape[1]):
                of_batch.of(number).add(backend, band, batch.corners, terms[:, number], power, batch.weights)
            rows = (..., band, slice(None))
            numerator, denominator, target = of_batch.numerator[rows], of_batch.denominator[rows], state.object[rows]
            if averages:
                sums.numerator[rows] += numerator
                sums.numerator[rows] += denominator * target
                sums.denominator[rows] += denominator
            # one real division and a product: much faster than dividing complex numbers
            numerator *= np.float32(1) / divisor_for(backend.xp, numbers, denominator)
            target += numerator

        if loops is None:
            of_batch = ObjectSums.zeros(backend, state.object.shape)
        backend.map(step if loops is None else fused_step, bands(backend, state.shape))

    def _step_probe(
        self, state: SolverState, spaces: list[ThreadSpace], batch: int, loops: Any, *, moved: bool
    ) -> None:
        xp = self._backend.xp
        numerator, denominator = spaces[0].probe_numerator, spaces[0].probe_denominator
        for space in spaces[1:]:
            numerator += space.probe_numerator
            denominator += space.probe_denominator
        if moved:
            denominator = light_around(self._backend, denominator)
        divisor = divisor_for(xp, self._rule.probe_divisor(batch).numbers(denominator), denominator)
        sums, averages = self._average.sums, self._rule.averages_passes
        if loops is not None:
            passes = sums.probe_numerator, sums.probe_denominator
            loops.step_probe(state.probe, numerator, denominator, divisor, averages, *passes)
            return
        if averages:
            sums.probe_numerator += numerator + denominator * state.probe
            sums.probe_denominator += denominator
        state.probe += numerator / divisor

    def end_pass(self, state: SolverState, frames: FrameStore) -> None:
        """Put the pass's averages in where they are well defined, else leave what is there; orthogonal modes."""
        xp = self._backend.xp
        if self._rule.averages_passes:
            self._average.end_pass(state)
        if self._on_device is not None:
            self._on_device.release(state)
        state.probe = orthogonal_modes(xp, state.probe)
        if state.object.ndim > 2:
            state.object = orthogonal_modes(xp, state.object)
        self._variation.end_pass(state, frames)
        self._momentum.end_pass()

    def hand_over_sums(self) -> dict[str, Any]:
        """Return the sums of the pass so far as NumPy arrays and begin a pass, in the place of `end_pass`."""
        handed = {name: np.array(array) for name, array in self._average.contents().items()}
        self._average.begin_pass()
        self._momentum.end_pass()
        return handed
