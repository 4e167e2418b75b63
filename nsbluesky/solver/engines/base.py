"""What every engine offers, and the work space that engines share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.solver import kernels
from nsbluesky.solver.device_loops import device_loops
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.light import UpdateReport, residuals_of
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.windows import ObjectSums

__all__ = [
    "Engine",
    "PassSums",
    "ThreadSpace",
    "corners_on_canvas",
    "frames_in_cache",
    "pieces",
    "report_of",
    "shares",
    "work_space",
]

CACHED_PIXELS = 8 * 128**2
"""Pixels of waves that one thread handles at a time on a host: eight of 128² fit into the cache of one core."""

PART_PIXELS = 80_000
"""Pixels of waves for which a further thread is worth being woken: with half of it, two took longer than one."""

Slots = npt.NDArray[np.intp]


class Engine(Protocol):
    """An algorithm on an explicit `SolverState`; what it keeps itself can be made anew, or saved and restored."""

    name: str
    least_batch: int = 1
    """Frames that a batch should have once all are there."""
    sums_light: bool = True
    """Whether an update tells light sums of its frames (`nsbluesky.solver.light`)."""

    def initialize(self, state: SolverState, frames: FrameStore) -> None:
        """Make work space for this state and begin a pass."""

    def begin_update(self, state: SolverState, frames: FrameStore, slots: Slots) -> UpdateReport:
        """Use one batch of frames once; where arrays live on a device, this need not be done when it returns."""

    def update(self, state: SolverState, frames: FrameStore, slots: Slots) -> npt.NDArray[np.float32]:
        """Use one batch of frames once; return the residual Σ m·|G − A| of each, from before the update."""
        return self.begin_update(state, frames, slots).residual

    def end_pass(self, state: SolverState, frames: FrameStore) -> None:
        """Finish a pass: what needs the sums over all its frames."""

    def pad(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        """Follow a canvas that grew by rows and columns before and after."""

    def forget(self, slot: int) -> None:
        """Drop what is kept of a frame that was measured again; nothing by default."""
        return

    def adapt(self, dose: float) -> None:
        """Fit steps to the photons on a lit pixel (`nsbluesky.solver.dose`); by default they stay."""
        return

    def contents(self) -> dict[str, Any]:
        """Return what is kept from batch to batch, for a checkpoint: arrays of NumPy and JSON values."""
        return {}

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned, after `initialize`."""
        return

    def shown(self, state: SolverState) -> SolverState:
        """Return the state as it is best shown now; by default as it is."""
        return state

    def seen(self) -> Any:
        """Return how far pixels of the object follow a pass (H, W), 0…1; None where light is not summed."""
        return None

    def rest(self, resting: bool, *, at_end: bool = False) -> None:
        """Take no steps of momentum, where there are any, so that passes average photon noise; or take them again.

        `at_end`, when no more frames come, steps may be shorter besides, so that more of them are averaged.
        """
        return


def report_of(light: npt.NDArray[np.float64]) -> UpdateReport:
    """Return what tells light sums (n, SUMS) that are there."""
    return UpdateReport(lambda: (residuals_of(light), light))


@dataclass
class ThreadSpace:
    """Work space of one thread: windows, waves and amplitudes of a few frames, and its sums for the probe."""

    windows: Any
    waves: Any
    amplitude: Any
    model: Any
    probe_numerator: Any
    probe_denominator: Any

    @classmethod
    def make(cls, backend: Backend, probe_shape: tuple[int, int, int], batch: int, states: int = 1) -> ThreadSpace:
        """Allocate for a probe (modes, N, N): the whole batch on a device, what fits the cache on a host."""
        modes, side, _ = probe_shape
        count = batch if backend.on_device else frames_in_cache(states * modes, side)
        empty = backend.xp.empty
        return cls(
            windows=empty((count, side, side), np.complex64),
            waves=empty((count, states * modes, side, side), np.complex64),
            amplitude=empty((count, side, side), np.float32),
            model=empty((count, side, side), np.float32),
            probe_numerator=empty(probe_shape, np.complex64),
            probe_denominator=empty((side, side), np.float32),
        )

    @property
    def frames(self) -> int:
        """Frames that fit."""
        return len(self.windows)

    def add_probe_terms(
        self, xp: Any, windows: Any, waves: Any, weights: Any, which: Any = None, numerators: Any = None
    ) -> None:
        """Add Σ w·conj(O_j)·wave_jk and Σ w·|O_j|²; `windows` and `waves` are overwritten.

        With `numerators` (any, modes, N, N), the first sum goes to the one that `which` (n,) names for each frame.
        """
        magnitude = xp.abs(windows)
        magnitude *= magnitude
        xp.conj(windows, out=windows)
        if not bool((weights == 1).all()):
            on_device = xp.asarray(weights)[:, None, None]
            magnitude *= on_device
            windows *= on_device
        waves *= windows[:, None]
        if numerators is None:
            self.probe_numerator += waves.sum(axis=0)
        elif len(set(which.tolist())) == len(which):
            numerators[which] += waves
        else:
            for number in set(which.tolist()):
                numerators[number] += waves[which == number].sum(axis=0)
        self.probe_denominator += magnitude.sum(axis=0)


def work_space(
    backend: Backend, probe_shape: tuple[int, int, int], batch: int, states: int = 1
) -> tuple[list[ThreadSpace], Any]:
    """Return the space of each thread, and windows (batch, states, N, N) complex64 for every frame of a batch."""
    spaces = [ThreadSpace.make(backend, probe_shape, batch, states) for _ in range(backend.threads)]
    return spaces, backend.xp.empty((batch, states, *probe_shape[1:]), np.complex64)


@dataclass
class PassSums:
    """Σ w·conj(P)·wave and Σ w·|P|² for the object, Σ w·conj(O)·wave and Σ w·|O|² for the probe, over a pass."""

    object: ObjectSums
    probe_numerator: Any
    probe_denominator: Any

    @classmethod
    def zeros(cls, backend: Backend, state: SolverState) -> PassSums:
        """Return empty sums for a state."""
        xp = backend.xp
        return cls(
            ObjectSums.zeros(backend, state.object.shape),
            xp.zeros(state.probe.shape, np.complex64),
            xp.zeros(state.probe.shape[1:], np.float32),
        )

    def with_share(self, other: PassSums, share: Any) -> PassSums:
        """Return these sums and a share of others."""
        return PassSums(
            ObjectSums(
                self.object.numerator + share * other.object.numerator,
                self.object.denominator + share * other.object.denominator,
            ),
            self.probe_numerator + share * other.probe_numerator,
            self.probe_denominator + share * other.probe_denominator,
        )

    def clear(self) -> None:
        """Set the sums to zero."""
        self.object.clear()
        self.probe_numerator[...] = 0
        self.probe_denominator[...] = 0

    def contents(self, backend: Backend) -> dict[str, Any]:
        """Return the sums, for a checkpoint."""
        return {
            "sum_object": backend.to_numpy(self.object.numerator),
            "sum_object_light": backend.to_numpy(self.object.denominator),
            "sum_probe": backend.to_numpy(self.probe_numerator),
            "sum_probe_light": backend.to_numpy(self.probe_denominator),
        }

    def restore(self, contents: Mapping[str, Any], backend: Backend) -> None:
        """Take up the sums of a checkpoint."""
        self.object.numerator[...] = backend.from_numpy(contents["sum_object"])
        self.object.denominator[...] = backend.from_numpy(contents["sum_object_light"])
        self.probe_numerator[...] = backend.from_numpy(contents["sum_probe"])
        self.probe_denominator[...] = backend.from_numpy(contents["sum_probe_light"])

    def add_probe(self, spaces: list[ThreadSpace]) -> None:
        """Add what threads have summed for the probe."""
        for space in spaces:
            self.probe_numerator += space.probe_numerator
            self.probe_denominator += space.probe_denominator


def loops_of(backend: Backend, array: Any, *, compiled: bool) -> Any:
    """Return the fused loops for arrays like this one: those of a CPU where `compiled`, or of a device, or None."""
    if compiled:
        return kernels
    if backend.on_device and array.dtype == np.complex64:
        return device_loops(backend.xp)
    return None


def corners_on_canvas(state: SolverState, frames: FrameStore, slots: Slots) -> npt.NDArray[np.int64]:
    """Return first row and column (n, 2) of the windows of `slots` on the canvas.

    Raises
    ------
    IndexError
        If one lies outside; compiled loops do not look themselves.
    """
    corners = frames.corners_px[slots] - np.array(state.origin_px)
    inside = (corners >= 0) & (corners + frames.frame_px <= np.array(state.shape))
    if not inside.all():
        outside = frames.seq_nums[slots[~inside.all(axis=1)]].tolist()
        raise IndexError(f"the windows of frames {outside} lie off the canvas {state.shape}: grow it first")
    return np.asarray(corners)


def frames_in_cache(waves: int, side: int) -> int:
    """Return how many frames of side² with so many waves each are handled at a time on a host."""
    return max(1, CACHED_PIXELS // (waves * side**2))


def shares(backend: Backend, count: int, pixels: int) -> list[slice]:
    """Cut `count` frames with so many pixels of waves each into one run for each thread that is worth it.

    Where they are not equally long, the first ones are longer: the calling thread begins with the first at once,
    others have to be woken.
    """
    parts = max(1, min(backend.threads, count, count * pixels // PART_PIXELS))
    edges = [-(-count * part // parts) for part in range(parts + 1)]
    return [slice(low, high) for low, high in pairwise(edges)]


def pieces(share: slice, size: int) -> list[slice]:
    """Cut a run of frames into runs of at most `size`."""
    return [slice(first, min(first + size, share.stop)) for first in range(share.start, share.stop, size)]
