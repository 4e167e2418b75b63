"""A whole batch on a device as one graph: from the stored amplitudes to the steps of object and probe.

All that changes from batch to batch (which frames, where they lie, what they are corrected by) goes to the device in
one piece, so that the kernels and their arguments stay the same.  What comes back are the sums of the frames' light.
It is what `nsbluesky.solver.engines.differences` and `nsbluesky.solver.engines.batched` do by parts.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend, address_of, pinned
from nsbluesky.device_graphs import Recorder
from nsbluesky.solver.device_loops import DeviceLoops, device_loops
from nsbluesky.solver.engines.base import PassSums, Slots, corners_on_canvas
from nsbluesky.solver.engines.differences import Likelihood
from nsbluesky.solver.engines.step_rule import StepRule
from nsbluesky.solver.forward import EPSILON
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.light import SUMS, Told, residuals_of
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
    """

    _LAYOUT = (
        ("addresses", np.uint64, 1),
        ("corners", np.int32, 2),
        ("which", np.int32, 1),
        ("held", np.int32, 1),
        ("steps", np.int32, 2),
        ("weights", np.float32, 1),
        ("gains", np.float32, 1),
        ("backgrounds", np.float32, 1),
        ("parts", np.float32, 1),
    )

    def __init__(self, xp: Any, batch: int) -> None:
        size = sum(np.dtype(kind).itemsize * width for _, kind, width in self._LAYOUT) * batch
        self.packed = [pinned(xp, (size,), np.uint8) for _ in range(AT_ONCE)]
        self.sent = xp.zeros(size, np.uint8)
        self.host = [dict(self._cut(packed, batch)) for packed in self.packed]
        self.device = dict(self._cut(self.sent, batch))

    def _cut(self, memory: Any, batch: int) -> Iterator[tuple[str, Any]]:
        begin = 0
        for name, kind, width in self._LAYOUT:
            end = begin + np.dtype(kind).itemsize * width * batch
            part = memory[begin:end].view(kind)
            yield name, part.reshape(batch, width) if width > 1 else part
            begin = end


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
        self._told = [Told(lambda: (np.empty(0, np.float32), None)) for _ in range(AT_ONCE)]
        self._turn = 0
        self._field = xp.empty((modes, side, side), np.complex64)
        self._numerator = xp.empty((modes, side, side), np.complex64)
        self._moved: dict[int, tuple[Any, Any]] = {}
        self._power, self._denominator = xp.empty((2, side, side), np.float32)
        self._of_power, self._of_light = xp.empty((2, 2), np.float32)

    def fits(self, state: SolverState) -> bool:
        """Return whether this is for states of such a size."""
        waves = len(state.objects) * len(state.probe)
        return bool(state.probe.shape == self._probe.shape and waves == self._waves.shape[1])

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
    ) -> Told:
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
        self._told[self._turn].wait()  # so that what it was sent from, and came back to, is free
        lists, count = self._host_lists(), len(slots)
        stored = frames.stored(slots)
        lists["corners"][:count] = corners_on_canvas(state, frames, slots)
        lists["weights"][:count] = frames.weights[slots]
        lists["addresses"][:count] = stored.addresses
        lists["gains"][:count] = stored.gains
        lists["backgrounds"][:count] = stored.backgrounds
        if stored.held is not None:
            lists["held"][:count] = stored.held
        probes = self._place(steps_of(frames.shifts_px[slots], self._subpixel))
        numbers = (
            float(state.background),
            float(likelihood.floor if likelihood.poisson else EPSILON),
            likelihood.poisson,
            rule.object_divisor(),
            rule.probe_divisor(count),
            rule.averages_passes,
        )
        arrays = (
            state.objects,
            frames.good,
            stacked(sums.object.numerator),
            stacked(sums.object.denominator),
            sums.probe_numerator,
            sums.probe_denominator,
        )
        kept = stored.side, stored.is_half, None if stored.numbers is None else address_of(stored.numbers)
        key = (count, probes, with_probe, numbers, kept, state.objects.shape, *map(address_of, arrays))
        self._recorder.send(self._lists.packed[self._turn], self._lists.sent)
        work = functools.partial(self._start, stored, arrays, count, probes, with_probe, numbers)
        self._recorder.run(key, work)
        self._told[self._turn] = told = self._fetched(count)
        return told

    def _host_lists(self) -> dict[str, npt.NDArray[Any]]:
        return self._lists.host[self._turn]

    def _fetched(self, count: int) -> Told:
        """Begin to fetch the light sums of a batch."""
        arrived = self._arrived[self._turn]
        wait = self._recorder.fetch(self._light, arrived)

        def found() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
            wait()
            light = arrived[:count].astype(np.float64)
            return residuals_of(light), light

        return Told(found)

    def _place(self, steps: npt.NDArray[np.int64]) -> int:
        """Number the shifts (n, 2) of the frames; return how many probes there are, 0 where none is moved."""
        lists, count = self._host_lists(), len(steps)
        if not steps.any():
            lists["which"][:count] = 0
            lists["parts"][0] = 1
            return 0
        width = 2 * self._most_steps + 1
        row, column = (steps + self._most_steps).T
        codes, which = np.unique(row * width + column, return_inverse=True)
        probes = min(-(-len(codes) // SHIFTS_AT_ONCE) * SHIFTS_AT_ONCE, len(lists["parts"]))
        lists["which"][:count] = which
        lists["steps"][:probes] = self._most_steps
        lists["steps"][: len(codes), 0], lists["steps"][: len(codes), 1] = np.divmod(codes, width)
        lists["parts"][:probes] = np.bincount(which, minlength=probes) / count
        return probes

    def _start(
        self,
        stored: Any,
        arrays: tuple[Any, ...],
        count: int,
        probes: int,
        with_probe: bool,
        numbers: tuple[Any, ...],
    ) -> None:
        """Start all kernels of a batch."""
        loops, transform = self._loops, self._backend.transform
        told = {name: values[:count] for name, values in self._lists.device.items()}
        objects, good, *passes = arrays
        background, epsilon, poisson, object_divisor, probe_divisor, averages = numbers
        waves, light = self._waves[:count], self._light[:count]
        lists = told["which"], told["corners"], told["weights"]
        stored_lists = told["addresses"], told["gains"], told["backgrounds"], told["held"]
        moved, numerators = self._moved_probes(probes)
        loops.add_power(moved, self._lists.device["parts"][: len(moved)], self._power, self._of_power)
        loops.multiply_windows(objects, moved, *lists[:2], waves)
        transform(waves)
        numbers_too = good, background, epsilon, 1 / waves.shape[-1], poisson
        loops.change_fields_stored(waves, stored, stored_lists, *numbers_too, light)
        transform(waves, inverse=True)
        if with_probe:
            loops.add_to_probes(waves, objects, lists, numerators, self._denominator, self._of_light)
        of_power = self._power, self._of_power
        loops.step_object(objects, waves, moved, lists, *of_power, averages, passes[:2], astuple(object_divisor))
        if with_probe:
            self._step_probe(numerators, probes, probe_divisor, averages, passes[2:])

    def _moved_probes(self, probes: int) -> tuple[Any, Any]:
        """Return the probes (k, modes, N, N) of a batch, and an array like them for their sums."""
        if probes == 0:
            return self._probe[None], self._numerator[None]
        modes, side, _ = self._probe.shape
        if probes not in self._moved:
            most = self._backend.xp.empty((2, probes, modes, side, side), np.complex64)
            self._moved[probes] = most[0], most[1]
        moved, numerators = self._moved[probes]
        self._backend.transform(self._probe, self._field)
        arrays = self._field, self._lines, self._lists.device["steps"][:probes], moved
        self._loops.run_shared("spread_lines", probes, side**2, arrays, (probes, modes, side), (1 / side**2,))
        self._backend.transform(moved, inverse=True)
        return moved, numerators

    def _step_probe(self, numerators: Any, probes: int, divisor: Divisor, averages: bool, passes: list[Any]) -> None:
        """Move the sums for the probes back, and take the step."""
        loops, (modes, side, _) = self._loops, self._probe.shape
        if probes:
            self._backend.transform(numerators)
            arrays = numerators, self._lines, self._lists.device["steps"][:probes], self._numerator
            sizes = probes, modes, side
            loops.run_shared("gather_lines", modes, side**2, arrays, sizes, (1 / side**2,), thread_pixels=1)
            self._backend.transform(self._numerator, inverse=True)
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
