"""The loops of `nsbluesky.solver.kernels` that every batch is made of, in CUDA: each pixel touched once there too.

A batch's way on a device is memory traffic.  As array operations, the modulus alone reads and writes the far fields
four times over; here it does once.  Sums on the canvas are formed by the pixel: each looks which windows lie on it.
So no two threads add to one number, and the result is the same in every run.

A test compiles their source, `nsbluesky.solver.device_kernels`, for the host and compares them with their twins.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import KERNEL_THREADS, Launch, cuda_launch
from nsbluesky.solver.device_kernels import SOURCE
from nsbluesky.solver.light import SUMS

__all__ = ["DeviceLoops", "StoredAmplitudes", "device_loops"]

THREAD_PIXELS = 4
"""Pixels of an item that one thread takes."""

FIELD_PIXELS = 8
"""The same where sums over the pixels are formed."""


@dataclass(frozen=True)
class StoredAmplitudes:
    """Where the amplitudes of some frames lie, and what they are corrected by.

    Attributes
    ----------
    side : int
        Of the frames as they are kept: N, or 2N where the central halves are wanted.
    is_half : bool
        Whether float16 is kept.
    addresses : (n,) uint64
    gains : (n,) float32
        What they are multiplied by.
    backgrounds : (n,) float32
        Photons a pixel that are subtracted then.
    held : (n,) int32, or None
        Number of the pixels that are held out of a frame.
    numbers : (N, N) int32 of the device, or None
        Which pixels those are.
    """

    side: int
    is_half: bool
    addresses: npt.NDArray[np.uint64]
    gains: npt.NDArray[np.float32]
    backgrounds: npt.NDArray[np.float32]
    held: npt.NDArray[np.int32] | None
    numbers: Any


class DeviceLoops:
    """Loops with the names, arguments and results of those in `nsbluesky.solver.kernels`.

    Arrays are of the device, contiguous, in single precision; which probe, corners and weights may be of the host.

    Parameters
    ----------
    xp : module
    launch : Launch
        What runs the kernels of `SOURCE`.
    """

    def __init__(self, xp: ModuleType, launch: Launch) -> None:
        self._xp = xp
        self._launch = launch
        self._spaces: dict[tuple[int, type], Any] = {}

    def _scratch(self, size: int, kind: type) -> Any:
        """Return work space, always the same as graphs know it; counters in it are 0 before and after a kernel."""
        if (size, kind) not in self._spaces:
            self._spaces[size, kind] = self._xp.zeros(size, kind)
        return self._spaces[size, kind]

    def run(self, name: str, size: int, arrays: Iterable[Any], *numbers: Any) -> None:
        """Start a kernel for so many results.

        Raises
        ------
        ValueError
            If an array is not contiguous.
        """
        arrays = tuple(arrays)
        for array in arrays:
            if not array.flags.c_contiguous:
                raise ValueError(f"{name}: an array of shape {array.shape} is not contiguous")
        self._launch(name, size, *arrays, *numbers)

    def run_shared(
        self,
        name: str,
        items: int,
        pixels: int,
        arrays: Iterable[Any],
        sizes: Iterable[int],
        reals: Iterable[float] = (),
        *,
        thread_pixels: int = THREAD_PIXELS,
    ) -> None:
        """Start a kernel whose items, each of so many pixels, are shared by some blocks."""
        tiles = _tiles_of(pixels, thread_pixels)
        self.run(name, items * tiles * KERNEL_THREADS, arrays, *sizes, tiles, *map(float, reals))

    def _whole(self, numbers: Any) -> Any:
        on_host = isinstance(numbers, np.ndarray)
        return self._xp.asarray(np.ascontiguousarray(numbers, np.int32)) if on_host else numbers

    def _real(self, numbers: Any) -> Any:
        on_host = isinstance(numbers, np.ndarray)
        return self._xp.asarray(np.ascontiguousarray(numbers, np.float32)) if on_host else numbers

    def take_amplitudes(self, stored: StoredAmplitudes, out: Any) -> None:
        """Write the amplitudes of frames into `out` (n, N, N), as `nsbluesky.solver.frames` says."""
        held = np.zeros(len(out), np.int32) if stored.held is None else stored.held
        numbers = self._whole(held) if stored.numbers is None else stored.numbers
        lists = self._real(stored.gains), self._real(stored.backgrounds), self._whole(held), numbers
        (count, side, _), holds_out = out.shape, int(stored.numbers is not None)
        sizes = count, side, stored.side, int(stored.is_half), holds_out
        self.run_shared("take_amplitudes", count, side**2, (self._xp.asarray(stored.addresses), *lists, out), sizes)

    def multiply_windows(self, objects: Any, probes: Any, which: Any, corners: Any, out: Any) -> None:
        """See the twin."""
        (states, height, width), (_, modes, side, _) = objects.shape, probes.shape
        arrays = objects, probes, self._whole(which), self._whole(corners), out
        sizes = len(corners), states, modes, side, height, width
        self.run_shared("multiply_windows", len(corners) * states, side**2, arrays, sizes)

    def change_fields(
        self,
        field: Any,
        amplitude: Any,
        good: Any,
        background: float,
        epsilon: float,
        scale: float,
        poisson: bool,
        sums: Any,
    ) -> None:
        """See the twin."""
        nothing = self._whole(np.zeros(1, np.int32))
        sources = amplitude, *[nothing] * 5
        self._change_fields(field, sources, (0, 0, 0, 0), good, (background, epsilon, scale), poisson, sums)

    def change_fields_stored(
        self,
        field: Any,
        stored: StoredAmplitudes,
        lists: tuple[Any, ...],
        good: Any,
        numbers: tuple[float, float, float],
        poisson: bool,
        sums: Any,
    ) -> None:
        """Do the same with amplitudes that are read from where they lie.

        `lists` are addresses, gains, backgrounds and numbers of the pixels held out, on the device; `numbers` are
        background, ε and scale.
        """
        held_out = lists[-1] if stored.numbers is None else stored.numbers
        how = 1, stored.side, int(stored.is_half), int(stored.numbers is not None)
        self._change_fields(field, (good, *lists, held_out), how, good, numbers, poisson, sums)

    def _change_fields(
        self,
        field: Any,
        sources: tuple[Any, ...],
        how: tuple[int, ...],
        good: Any,
        numbers: tuple[float, float, float],
        poisson: bool,
        sums: Any,
    ) -> None:
        count, waves, side, _ = field.shape
        work = self._scratch(count * _tiles_of(side**2, FIELD_PIXELS) * SUMS, np.float32)
        arrays = field, *sources, good, work, self._scratch(count, np.int32), sums
        sizes = count, waves, side, int(poisson), *how
        self.run_shared("change_fields", count, side**2, arrays, sizes, numbers, thread_pixels=FIELD_PIXELS)

    def back_project(
        self,
        change: Any,
        probes: Any,
        which: Any,
        objects: Any,
        corners: Any,
        weights: Any,
        terms: Any,
        with_probe: bool,
        probe_numerators: Any,
        probe_denominator: Any,
    ) -> None:
        """See the twin."""
        states, modes, side = len(objects), probes.shape[1], probes.shape[-1]
        numbers, light = self._whole(which), self._real(weights)
        arrays = change, probes, numbers, light, terms
        sizes = len(corners), states, modes, side**2
        self.run_shared("project_back", len(corners) * states, side**2, arrays, sizes)
        if with_probe:
            lists = numbers, self._whole(corners), light
            found = self._scratch(2, np.float32)
            self.add_to_probes(change, objects, lists, probe_numerators, probe_denominator, found, fresh=False)

    def add_to_probes(
        self,
        change: Any,
        objects: Any,
        lists: tuple[Any, Any, Any],
        numerators: Any,
        denominator: Any,
        found: Any,
        *,
        fresh: bool = True,
    ) -> None:
        """Form the sums for the probes, and mean and maximum (2,) of Σ w·|O|²; not `fresh`, add to those there are.

        `lists` are which probe, corners and weights of the frames, on the device.
        """
        (states, height, width), (count, modes, side, _) = objects.shape, numerators.shape
        work = self._scratch(2 * _tiles_of(side**2, 1), np.float32), self._scratch(1, np.int32)
        arrays = change, objects, *lists, numerators, denominator, *work, found
        sizes = len(lists[0]), states, modes, count, side, height, width, int(fresh)
        self.run_shared("add_to_probes", count * modes, side**2, arrays, sizes, thread_pixels=1)

    def add_and_step(
        self,
        objects: Any,
        low: int,
        high: int,
        corners: npt.NDArray[np.int64],
        terms: Any,
        power: Any,
        weights: Any,
        step: npt.NDArray[np.float32],
        averages: bool,
        pass_numerator: Any,
        pass_denominator: Any,
    ) -> None:
        """See the twin."""
        side = terms.shape[-1]
        top, left = max(low, int(corners[:, 0].min())), int(corners[:, 1].min())
        rows = min(high, int(corners[:, 0].max()) + side) - top
        columns = int(corners[:, 1].max()) + side - left
        if rows <= 0:
            return
        floor, slope, share, bound = step.tolist()
        lists = self._whole(corners), self._real(weights)
        bounds = self._real(np.array([0.0, bound]))
        passes, box = (pass_numerator, pass_denominator), (top, left, rows, columns)
        projected = terms, terms, lists[0]
        self._step_windows(
            objects, lists, projected, 0, power, bounds, averages, passes, box, (floor, 0.0, slope, share)
        )

    def step_object(
        self,
        objects: Any,
        change: Any,
        probes: Any,
        lists: tuple[Any, Any, Any],
        power: Any,
        bounds: Any,
        averages: bool,
        passes: tuple[Any, Any],
        divisor: tuple[float, float, float, float],
    ) -> None:
        """Project χ (n, states·modes, N, N) back, add the windows of a batch up, and step the whole canvas.

        Parameters
        ----------
        objects, change, probes
        lists
            Which probe, corners and weights of the frames, on the device.
        power : (N, N)
        bounds : (2,)
            Mean and maximum of `power`.
        averages : bool
        passes
            Sums of the pass.
        divisor
            f, m, s and g of f + m·mean + s·D + g·max(D, maximum).
        """
        which, corners, weights = lists
        _, height, width = objects.shape
        projected, box = (change, probes, which), (0, 0, height, width)
        modes = probes.shape[1]
        self._step_windows(
            objects, (corners, weights), projected, modes, power, bounds, averages, passes, box, divisor
        )

    def _step_windows(
        self,
        objects: Any,
        lists: tuple[Any, Any],
        projected: tuple[Any, Any, Any],
        modes: int,
        power: Any,
        bounds: Any,
        averages: bool,
        passes: tuple[Any, Any],
        box: tuple[int, int, int, int],
        divisor: tuple[float, float, float, float],
    ) -> None:
        (corners, weights), (states, height, width) = lists, objects.shape
        arrays = objects, corners, *projected, power, weights, bounds, *passes
        sizes = len(corners), states, modes, power.shape[-1], height, width, *box, int(averages)
        self.run("add_and_step", states * box[2] * box[3], arrays, *sizes, *map(float, divisor))

    def step_probe(
        self,
        probe: Any,
        numerator: Any,
        denominator: Any,
        divisor: Any,
        averages: bool,
        pass_numerator: Any,
        pass_denominator: Any,
    ) -> None:
        """See the twin."""
        arrays = probe, numerator, denominator, divisor, pass_numerator, pass_denominator
        sizes = len(probe), denominator.size, int(averages)
        self.run_shared("step_probe", len(probe), denominator.size, arrays, sizes, thread_pixels=1)

    def step_probe_by_rule(
        self,
        probe: Any,
        numerator: Any,
        denominator: Any,
        bounds: Any,
        moved: bool,
        averages: bool,
        passes: Iterable[Any],
        divisor: tuple[float, float, float],
    ) -> None:
        """Step a probe by sums N (modes, N, N) and D (N, N): P += N / (f + s·D + g·maximum), `divisor` = (f, s, g).

        Where it was `moved`, D is what `nsbluesky.solver.shifts.light_around` makes of it; `bounds` hold its mean and
        maximum.
        """
        modes, side, _ = probe.shape
        arrays, sizes = (probe, numerator, denominator, bounds, *passes), (modes, side, int(moved), int(averages))
        self.run_shared("step_probe_by_rule", 1, side**2, arrays, sizes, divisor, thread_pixels=1)

    def add_power(self, probes: Any, weights: Any, out: Any, found: Any = None) -> None:
        """See the twin; with `found` (2,), what `out` holds does not count, and its mean and maximum are found."""
        count, modes = probes.shape[:2]
        work = self._scratch(2 * _tiles_of(out.size, 1), np.float32), self._scratch(1, np.int32)
        bounds = self._scratch(2, np.float32) if found is None else found
        arrays = probes, self._real(weights), out, *work, bounds
        self.run_shared(
            "add_power", 1, out.size, arrays, (count, modes, out.size, int(found is not None)), thread_pixels=1
        )

    def push(self, target: Any, before: Any, velocity: Any, friction: np.float32) -> None:
        """See the twin."""
        self.run("push", target.size, (target, before, velocity), target.size, float(friction))


def _tiles_of(pixels: int, thread_pixels: int = THREAD_PIXELS) -> int:
    """Return how many blocks share an item of so many pixels."""
    return max(1, pixels // (thread_pixels * KERNEL_THREADS))


@functools.cache
def device_loops(xp: ModuleType) -> DeviceLoops:
    """Return the loops of a device's array module."""
    return DeviceLoops(xp, cuda_launch(xp, SOURCE))
