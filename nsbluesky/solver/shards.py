"""A part of the frames that stays in a process: read there once, used there in every pass.

What travels is small: the object around these frames and the probe to the process, sums over the pass back.  A
process that has not got the frames, because another one died that had them, reads them and goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend, get_backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.engines import in_near_field, make_engine
from nsbluesky.solver.engines.batched import BatchedEngine
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.light import SUMS, UpdateReport
from nsbluesky.solver.ordering import spread
from nsbluesky.solver.propagation import make_propagator
from nsbluesky.solver.state import SolverState

__all__ = ["FramesByReference", "ShardOrder", "ShardSums", "ShardTask", "work_on_shard"]


class FramesByReference(Protocol):
    """Frames that any process can read."""

    def read(self) -> npt.NDArray[Any]:
        """Return them (n, N, N), photons, zero frequency at N//2."""


@dataclass(frozen=True)
class ShardOrder:
    """What makes a shard; small, for it travels with every task.

    Attributes
    ----------
    job : str
        Shards of another job make room for it.
    number : int
        Of the shard in the job.
    frames : FramesByReference
    corners_px : (n, 2) int64
        First row and column of each frame's window on the stage's grid.
    shifts_px : (n, 2) float64
    weights : (n,) float32
    good : (N, N) bool
        Usable pixels.
    box : (row0, column0, row1, column1)
        The part of the canvas that holds all windows, on the stage's grid.
    settings : SolverSettings
    backend : str
    shards : int
        How many there are.
    spread_px : float or None
        Of the near field (`nsbluesky.solver.propagation`); None for the far field.
    """

    job: str
    number: int
    frames: FramesByReference
    corners_px: npt.NDArray[np.int64]
    shifts_px: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float32]
    good: npt.NDArray[np.bool_]
    box: tuple[int, int, int, int]
    settings: SolverSettings
    backend: str
    shards: int = 1
    spread_px: float | None = None


@dataclass(frozen=True)
class ShardTask:
    """One pass over a shard, or a part of one.

    Attributes
    ----------
    object : (H, W) complex64
        The canvas in the shard's box.
    probe : (modes, N, N) complex64
    passes : int
        Passes done.
    part, parts : int
        Which part of the pass, from 0, and into how many the pass is cut.
    resting : bool
        Whether there is no momentum (`Engine.rest`).
    dose : float
        Photons on a lit pixel, over all shards.
    left_out : (n,) bool
        Frames of the shard that rest (`nsbluesky.solver.misfits`).
    flux : (n,) float64
        Of each frame, relative to the mean over all shards.
    """

    object: npt.NDArray[np.complex64]
    probe: npt.NDArray[np.complex64]
    passes: int
    part: int
    parts: int
    resting: bool
    dose: float
    left_out: npt.NDArray[np.bool_]
    flux: npt.NDArray[np.float64]


@dataclass(frozen=True)
class ShardSums:
    """What a task brings back.

    Attributes
    ----------
    object, object_light : (H, W) complex64 and float32
        Σ w·conj(P)·wave and Σ w·|P|² in the shard's box.
    probe, probe_light : (modes, N, N) complex64 and (N, N) float32
    used : (k,) int
        Frames used, as places in the order's arrays.
    light_sums : (k, SUMS) float64
        What was told of each, from before its own update (`nsbluesky.solver.light`).
    amplitude_sums, photons : (n,) float64
        Σ m·A and Σ m·A² of all frames of the shard.
    """

    object: npt.NDArray[np.complex64]
    object_light: npt.NDArray[np.float32]
    probe: npt.NDArray[np.complex64]
    probe_light: npt.NDArray[np.float32]
    used: npt.NDArray[np.intp]
    light_sums: npt.NDArray[np.float64]
    amplitude_sums: npt.NDArray[np.float64]
    photons: npt.NDArray[np.float64]


class _Shard:
    """Frames, and the engine that goes over them."""

    def __init__(self, order: ShardOrder) -> None:
        self.order = order
        self.backend: Backend = get_backend(order.backend)
        frames = order.frames.read()
        side = frames.shape[-1]
        propagator = make_propagator(self.backend, side, order.spread_px)
        half = order.settings.half_precision_frames
        self.store = FrameStore(side, self.backend, propagator, half=half)
        self.store.set_good(order.good)
        self.store.put(np.arange(len(frames)), frames, order.corners_px, order.weights, order.shifts_px)
        dark = self.store.photons[: len(frames)] == 0
        self.store.weights[: len(frames)] = np.where(dark, 0, self.store.weights[: len(frames)])
        settings = order.settings if order.spread_px is None else in_near_field(order.settings)
        engine = make_engine(settings, self.backend)
        if not isinstance(engine, BatchedEngine):
            raise TypeError(f"engine {engine.name!r}: expected one that works in batches")
        engine.share(order.shards)
        self.engine = engine
        self.begun = False

    def take(self, task: ShardTask) -> SolverState:
        """Take object and probe, and what is known of the frames, from a task."""
        count = len(self.store)
        self.store.suspended[:count], self.store.flux[:count] = task.left_out, task.flux
        canvas, probe = (self.backend.from_numpy(values.copy()) for values in (task.object, task.probe))
        return SolverState(canvas, probe, self.order.box[:2], passes=task.passes)

    def run(
        self, task: ShardTask, state: SolverState
    ) -> tuple[dict[str, Any], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """Go over the frames, or a part of them; return the sums, the frames used and what they told."""
        store, order = self.store, self.order
        self.engine.adapt(task.dose)
        if not self.begun:
            self.engine.initialize(state, store)
            self.begun = True
        self.engine.rest(task.resting, at_end=True)
        rng = np.random.default_rng([order.settings.seed, order.number, task.passes])
        batch = order.settings.batch_final
        active = store.active
        dealt = spread(active, store.corners_px[active], batch, rng) if len(active) else active
        used = np.array_split(dealt, task.parts)[task.part]
        reports: list[UpdateReport] = []
        for first in range(0, len(used), batch):
            reports.append(self.engine.begin_update(state, store, used[first : first + batch]))
        store.uses[used] += 1
        light = [np.zeros((0, SUMS)), *(each.light for each in reports if each.light is not None)]
        return self.engine.hand_over_sums(), used, np.concatenate(light)


_held: dict[tuple[str, int], _Shard] = {}
"""The shards of this process: they stay here between tasks, which is the point of them."""


def work_on_shard(order: ShardOrder, task: ShardTask) -> ShardSums:
    """Do a task, on the shard that this process holds, or on one that is made now."""
    for key in [key for key in _held if key[0] != order.job]:
        del _held[key]
    key = order.job, order.number
    if key not in _held:
        _held[key] = _Shard(order)
    shard = _held[key]
    state = shard.take(task)
    sums, used, light_sums = shard.run(task, state)
    count = len(order.weights)
    return ShardSums(
        sums["sum_object"],
        sums["sum_object_light"],
        sums["sum_probe"],
        sums["sum_probe_light"],
        used,
        light_sums,
        shard.store.amplitude_sums[:count].copy(),
        shard.store.photons[:count].copy(),
    )
