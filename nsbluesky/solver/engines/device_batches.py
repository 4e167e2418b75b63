"""A whole batch on a device as one graph: from the stored amplitudes to the steps of object and probe.

All that changes from batch to batch (which frames, where they lie, what they are corrected by) goes to the device in
one piece, so that the kernels and their arguments stay the same.  What comes back are the sums of the frames' light.
It is what `nsbluesky.solver.engines.differences` and `nsbluesky.solver.engines.batched` do by parts.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Hashable, Iterator
from dataclasses import astuple
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend, address_of, pinned
from nsbluesky.device_graphs import Recorder
from nsbluesky.solver.device_loops import DeviceLoops, StoredAmplitudes, device_loops
from nsbluesky.solver.engines.base import PassSums, Slots, corners_on_canvas
from nsbluesky.solver.engines.differences import Likelihood
from nsbluesky.solver.engines.step_rule import StepRule
from nsbluesky.solver.forward import EPSILON
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.light import SUMS, UpdateReport, residuals_of
from nsbluesky.solver.shifts import lines_of, steps_of
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.windows import Divisor, stacked

__all__ = ["DeviceBatches", "device_batches"]

SHIFTS_AT_ONCE = 8
"""The number of moved probes is a multiple of this, so that few graphs serve all batches."""

AT_ONCE = 2
"""Batches on their way: while a device works on one, the next one is made ready."""


class _Lists:
    """What is told of each frame of a batch, packed in one array: in pinned memory, and where it goes.

    Parameters
    ----------
    xp : module
    batch : int
        The largest batch.

    Attributes
    ----------
    packed, sent
        The arrays, on the host one for each batch on its way.
    host, device
        Their parts by name.
    """

    _LAYOUT = (
        ("places", np.int64, (2,)),  # addresses and corners
        ("numbers", np.float32, (3,)),  # weights, gains and backgrounds
        ("held", np.int32, ()),
        ("which", np.int32, ()),
        ("parts", np.float32, ()),
        ("steps", np.int32, (2,)),
    )

    def __init__(self, xp: Any, batch: int) -> None:
        size = sum(np.dtype(kind).itemsize * math.prod(rows) for _, kind, rows in self._LAYOUT) * batch
        self.packed = [pinned(xp, (size,), np.uint8) for _ in range(AT_ONCE)]
        self.sent = xp.zeros(size, np.uint8)
        self.host = [dict(self._cut(packed, batch)) for packed in self.packed]
        self.device = dict(self._cut(self.sent, batch))

    def _cut(self, memory: Any, batch: int) -> Iterator[tuple[str, Any]]:
        begin = 0
        for name, kind, rows in self._LAYOUT:
            end = begin + np.dtype(kind).itemsize * math.prod(rows) * batch
            part = memory[begin:end].view(kind)
            yield name, part.reshape(batch, 2) if name == "steps" else part.reshape(*rows, batch)
            begin = end

    def of(self, count: int) -> dict[str, Any]:
        """Return what the kernels read of so many frames."""
        addresses, corners = self.device["places"]
        weights, gains, backgrounds = (numbers[:count] for numbers in self.device["numbers"])
        return {
            "addresses": addresses.view(np.uint64)[:count],
            "corners": corners.view(np.int32).reshape(-1, 2)[:count],
            "weights": weights,
            "gains": gains,
            "backgrounds": backgrounds,
            "held": self.device["held"][:count],
            "which": self.device["which"][:count],
        }


class _Table:
    """What `_Lists` are filled from, for all slots.

    Parameters
    ----------
    state : SolverState
    frames : FrameStore
    subpixel : int
        Steps of a position in a pixel.
    most_steps : int
        The most that a frame is moved by.

    Attributes
    ----------
    stored : StoredAmplitudes
        Of all slots.
    all_inside : bool
        Whether all windows lie on the canvas.
    codes : (slots,) int
        Number of the shift of each, as `steps` (shifts, 2) has them, where any is moved.
    """

    def __init__(self, state: SolverState, frames: FrameStore, subpixel: int, most_steps: int) -> None:
        slots = np.arange(len(frames))
        self.signature = _signature(state, frames)
        # so that nothing else gets the identity of these
        self._kept = frames.weights, frames.hold_out, frames.corners_px, frames.shifts_px
        self.stored = frames.stored(slots)
        corners = np.asarray(frames.corners_px[slots] - np.array(state.origin_px), np.int32)
        self.all_inside = bool(((corners >= 0) & (corners + frames.frame_px <= np.array(state.shape))).all())
        pairs = np.ascontiguousarray(corners).view(np.int64)[:, 0]
        self.places = np.stack([self.stored.addresses.view(np.int64), pairs])
        self.numbers = np.stack([frames.weights[slots], self.stored.gains, self.stored.backgrounds])
        self.held = self.stored.held
        row, column = (steps_of(frames.shifts_px[slots], subpixel) + most_steps).T
        width = 2 * most_steps + 1
        self.codes = row * width + column
        self.no_shift = most_steps * (width + 1)
        self.any_moved = bool((self.codes != self.no_shift).any())
        self.steps = np.stack(np.divmod(np.arange(width**2), width), axis=1)


def _signature(state: SolverState, frames: FrameStore) -> tuple[Any, ...]:
    return state.origin_px, state.shape, *frames.version


class DeviceBatches:
    """Batches for one size of probe and one number of states.

    Parameters
    ----------
    backend : Backend
    loops : DeviceLoops
    state : SolverState
    batch : int
        The largest batch.
    subpixel : int
        Steps of a position in a pixel.
    """

    def __init__(self, backend: Backend, loops: DeviceLoops, state: SolverState, batch: int, subpixel: int) -> None:
        xp, (modes, side, _), states = backend.xp, state.probe.shape, len(state.objects)
        self._backend = backend
        self._loops = loops
        self._recorder = Recorder(xp)
        self._subpixel = subpixel
        self._most_steps = subpixel // 2 + 1
        every = np.arange(-self._most_steps, self._most_steps + 1)
        self._lines = backend.from_numpy(lines_of(np.stack([every, every], 1), subpixel, side)[:, 0].copy())
        self._lists = _Lists(xp, batch)
        self._probe = xp.empty((modes, side, side), np.complex64)
        self._waves = xp.empty((batch, states * modes, side, side), np.complex64)
        self._light = xp.empty((batch, SUMS), np.float32)
        self._arrived = [pinned(xp, (batch, SUMS), np.float32) for _ in range(AT_ONCE)]
        self._reports = [UpdateReport(lambda: (np.empty(0, np.float32), None)) for _ in range(AT_ONCE)]
        self._turn = 0
        self._table: _Table | None = None
        self._known: tuple[tuple[Any, ...], Hashable] | None = None
        self._field = xp.empty((modes, side, side), np.complex64)
        self._numerator = xp.empty((modes, side, side), np.complex64)
        self._moved: Any = None
        self._plans: list[Any] = []
        self._power, self._denominator = xp.empty((2, side, side), np.float32)
        self._of_power, self._of_light = xp.empty((2, 2), np.float32)

    def fits(self, state: SolverState, subpixel: int) -> bool:
        """Return whether this is for states of such a size, and such steps."""
        waves = len(state.objects) * len(state.probe)
        same_size = state.probe.shape == self._probe.shape and waves == self._waves.shape[1]
        return bool(same_size and subpixel == self._subpixel)

    def can_take(self, state: SolverState, frames: FrameStore) -> bool:
        """Return whether batches can be done here: in the far field, with one probe for all frames."""
        return bool(frames.propagator.is_far and state.variation is None and state.probe.dtype == np.complex64)

    def release(self, state: SolverState) -> None:
        """Let a state have a probe of its own, as another one may come."""
        if state.probe is self._probe:
            state.probe = state.probe.copy()

    def run(
        self,
        state: SolverState,
        frames: FrameStore,
        slots: Slots,
        sums: PassSums,
        rule: StepRule,
        likelihood: Likelihood,
        with_probe: bool,
    ) -> UpdateReport:
        """Begin to use a batch of frames; `state.probe` becomes the array that is kept here.

        Parameters
        ----------
        state : SolverState
        frames : FrameStore
        slots : (n,) int
        sums : PassSums
            Where `rule` averages passes, the batch is added.
        rule : StepRule
        likelihood : Likelihood
        with_probe : bool
            Whether the probe takes a step as well.
        """
        if state.probe is not self._probe:
            self._probe[...] = state.probe
            state.probe = self._probe
        self._turn = (self._turn + 1) % AT_ONCE
        self._reports[self._turn].wait()  # so that what it was sent from, and came back to, is free
        lists, count, table = self._lists.host[self._turn], len(slots), self._table_of(state, frames)
        if not table.all_inside:
            corners_on_canvas(state, frames, slots)
        lists["places"][:, :count] = table.places[:, slots]
        lists["numbers"][:, :count] = table.numbers[:, slots]
        if table.held is not None:
            lists["held"][:count] = table.held[slots]
        probes = self._place(lists, table.codes[slots] if table.any_moved else None, count)
        key = count, probes, with_probe, self._key_of(state, frames, sums, rule, likelihood, table)
        self._recorder.send(self._lists.packed[self._turn], self._lists.sent)
        how = rule, likelihood, with_probe
        work = functools.partial(self._start, state, frames, sums, table.stored, how, count, probes)
        self._recorder.run(key, work)
        self._reports[self._turn] = report = self._fetched(count)
        return report

    def _table_of(self, state: SolverState, frames: FrameStore) -> _Table:
        if self._table is None or self._table.signature != _signature(state, frames):
            self._table = _Table(state, frames, self._subpixel, self._most_steps)
        return self._table

    def _key_of(
        self,
        state: SolverState,
        frames: FrameStore,
        sums: PassSums,
        rule: StepRule,
        likelihood: Likelihood,
        table: _Table,
    ) -> Hashable:
        """Return all but the numbers of frames and probes that a graph depends on."""
        objects = state.object, sums, rule, likelihood, frames.good, state.background, table.stored.numbers
        known = self._known is not None and all(map(operator.is_, objects, self._known[0]))
        if self._known is None or not known:
            arrays = (state.object, frames.good, sums.object.numerator, sums.object.denominator)
            probe_sums = sums.probe_numerator, sums.probe_denominator
            numbers = table.stored.numbers
            key = (
                (rule, likelihood, float(state.background), state.object.shape),
                (table.stored.side, table.stored.is_half, 0 if numbers is None else address_of(numbers)),
                *map(address_of, (*arrays, *probe_sums)),
            )
            self._known = objects, key
        return self._known[1]

    def _fetched(self, count: int) -> UpdateReport:
        """Begin to fetch the light sums of a batch."""
        arrived = self._arrived[self._turn]
        wait = self._recorder.fetch(self._light, arrived)

        def found() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
            wait()
            light = arrived[:count].astype(np.float64)
            return residuals_of(light), light

        return UpdateReport(found)

    def _place(self, lists: dict[str, npt.NDArray[Any]], codes: npt.NDArray[np.int64] | None, count: int) -> int:
        """Tell which probe each frame has, by the number of its shift; return how many there are, 0 if none moves."""
        table = self._table
        assert table is not None
        if codes is None or (codes == table.no_shift).all():
            lists["which"][:count] = 0
            lists["parts"][0] = 1
            return 0
        frames = np.bincount(codes, minlength=len(table.steps))
        shifts = np.flatnonzero(frames)
        probes = min(-(-len(shifts) // SHIFTS_AT_ONCE) * SHIFTS_AT_ONCE, len(lists["parts"]))
        number = np.empty(len(frames), np.int32)
        number[shifts] = np.arange(len(shifts))
        lists["which"][:count] = number[codes]
        lists["steps"][:probes] = self._most_steps
        lists["steps"][: len(shifts)] = table.steps[shifts]
        lists["parts"][:probes] = 0
        lists["parts"][: len(shifts)] = frames[shifts] / count
        return probes

    def _start(
        self,
        state: SolverState,
        frames: FrameStore,
        sums: PassSums,
        stored: StoredAmplitudes,
        how: tuple[StepRule, Likelihood, bool],
        count: int,
        probes: int,
    ) -> list[Any]:
        """Start all kernels of a batch; return the plans of its transforms."""
        loops, self._plans = self._loops, []
        rule, likelihood, with_probe = how
        told, objects = self._lists.of(count), state.objects
        waves, light = self._waves[:count], self._light[:count]
        lists = told["which"], told["corners"], told["weights"]
        stored_lists = told["addresses"], told["gains"], told["backgrounds"], told["held"]
        moved, numerators = self._moved_probes(probes)
        loops.add_power(moved, self._lists.device["parts"][: len(moved)], self._power, self._of_power)
        loops.multiply_windows(objects, moved, *lists[:2], waves)
        self._transform(waves)
        floor = float(likelihood.floor if likelihood.poisson else EPSILON)
        numbers = float(state.background), floor, 1 / waves.shape[-1]
        loops.change_fields_stored(waves, stored, stored_lists, frames.good, numbers, likelihood.poisson, light)
        self._transform(waves, inverse=True)
        if with_probe:
            loops.add_to_probes(waves, objects, lists, numerators, self._denominator, self._of_light)
        passes, divisor = (stacked(sums.object.numerator), stacked(sums.object.denominator)), rule.object_divisor()
        light_of_probe = self._power, self._of_power
        averages = rule.averages_passes
        loops.step_object(objects, waves, moved, lists, *light_of_probe, averages, passes, astuple(divisor))
        if with_probe:
            of_probe = sums.probe_numerator, sums.probe_denominator
            self._step_probe(numerators, probes, rule.probe_divisor(count), averages, of_probe)
        return self._plans

    def _transform(self, a: Any, out: Any = None, *, inverse: bool = False) -> None:
        self._plans.append(self._backend.transform(a, out, inverse=inverse))

    def _moved_probes(self, probes: int) -> tuple[Any, Any]:
        """Return the probes (k, modes, N, N) of a batch, and an array like them for their sums."""
        if probes == 0:
            return self._probe[None], self._numerator[None]
        modes, side, _ = self._probe.shape
        if self._moved is None:
            most = len(self._lists.host[0]["parts"])
            self._moved = self._backend.xp.empty((2, most, modes, side, side), np.complex64)
        moved, numerators = self._moved[:, :probes]
        self._transform(self._probe, self._field)
        arrays = self._field, self._lines, self._lists.device["steps"][:probes], moved
        self._loops.run_shared("spread_lines", probes, side**2, arrays, (probes, modes, side), (1 / side**2,))
        self._transform(moved, inverse=True)
        return moved, numerators

    def _step_probe(
        self, numerators: Any, probes: int, divisor: Divisor, averages: bool, passes: tuple[Any, Any]
    ) -> None:
        """Move the sums for the probes back, and take the step."""
        loops, (modes, side, _) = self._loops, self._probe.shape
        if probes:
            self._transform(numerators)
            arrays = numerators, self._lines, self._lists.device["steps"][:probes], self._numerator
            sizes = probes, modes, side
            loops.run_shared("gather_lines", modes, side**2, arrays, sizes, (1 / side**2,), thread_pixels=1)
            self._transform(self._numerator, inverse=True)
        floor, _, slope, share = astuple(divisor)
        of_light = self._denominator, self._of_light
        loops.step_probe_by_rule(
            self._probe, self._numerator, *of_light, probes > 0, averages, passes, (floor, slope, share)
        )


def device_batches(backend: Backend, state: SolverState, batch: int, subpixel: int) -> DeviceBatches | None:
    """Return what does whole batches where arrays live on a device, else None."""
    if not backend.on_device:
        return None
    return DeviceBatches(backend, device_loops(backend.xp), state, batch, subpixel)
