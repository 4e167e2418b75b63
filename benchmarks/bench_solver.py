"""Speed of the solver: one pass over frames in memory, as a ratio to the bare FFT pairs of the same run.

The minimum of several repetitions is taken, because a shared machine only ever adds time; the ratio is that of the
processor time of all threads, which other processes disturb least (on a GPU, of the wall-clock time).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.figures import Figure
from nsbluesky.backend import Backend, get_backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.engines import ENGINES, make_engine
from nsbluesky.solver.engines.base import frames_in_cache, shares
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.light import UpdateReport
from nsbluesky.solver.ordering import spread
from nsbluesky.solver.state import SolverState

FRAMES, SIDE = 1600, 128
REPETITIONS = 4


def synchronize(backend: Backend) -> None:
    if backend.on_device:
        backend.xp.cuda.Device().synchronize()


def least_times_s(function: Callable[[], None], backend: Backend, repetitions: int) -> tuple[float, float]:
    """Return the least wall-clock time and the least processor time; the first call warms up."""
    wall, processor = [], []
    for _ in range(repetitions + 1):
        start, start_processor = time.perf_counter(), time.process_time()
        function()
        synchronize(backend)
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    return min(wall[1:]), min(processor[1:])


def bare_transforms(backend: Backend, frames: int, side: int) -> Callable[[], None]:
    """FFT pairs of as many frames, in the same threads and cache-sized pieces as the solver's."""
    size = frames if backend.on_device else frames_in_cache(1, side)
    waves = [backend.xp.ones((size, side, side), np.complex64) for _ in range(backend.threads)]

    def part(wave: Any, share: slice) -> None:
        for _ in range(share.start, share.stop, size):
            backend.ifft2(backend.fft2(wave))

    def run() -> None:
        parts = shares(backend, frames, side**2)
        backend.map(part, waves[: len(parts)], parts)

    return run


def one_pass(backend: Backend, settings: SolverSettings, frames: int, side: int) -> Callable[[], None]:
    rng = np.random.default_rng(0)
    lines = int(np.ceil(np.sqrt(frames)))
    grid = np.stack(np.meshgrid(np.arange(lines), np.arange(lines), indexing="ij"), -1).reshape(-1, 2)[:frames]
    corners = (grid * 11 + rng.integers(-2, 3, grid.shape) + 2).astype(np.int64)
    store = FrameStore(side, backend)
    image = rng.poisson(50.0, (side, side)).astype(np.float32)
    store.put(range(frames), np.broadcast_to(image, (frames, side, side)), corners)
    canvas = backend.xp.ones(tuple(corners.max(axis=0) + side), np.complex64)
    line = np.exp(-(((np.arange(side) - side / 2) / (side / 6)) ** 2))
    probe = np.stack([np.outer(line, line) * 10 / (mode + 1) for mode in range(settings.modes)]).astype(np.complex64)
    state = SolverState(canvas, backend.from_numpy(probe), passes=settings.probe_start)
    engine = make_engine(settings, backend)
    engine.initialize(state, store)

    def run() -> None:
        order = spread(np.arange(frames), corners, settings.batch, rng)
        told: list[UpdateReport] = []
        for first in range(0, frames, settings.batch):
            told.append(engine.begin_update(state, store, order[first : first + settings.batch]))
            told[-2:][0].wait()  # of the batch before, while a device works on this one
        told[-1].wait()
        engine.end_pass(state, store)

    return run


def measure() -> list[Figure]:
    """Time one pass of the live engine, and of the others once."""
    backend = get_backend("auto")
    figures = []
    for algorithm in ENGINES:
        for modes in (1, 2) if algorithm == "wasp" else (2,):
            settings = SolverSettings(algorithm=algorithm, modes=modes, batch=16, batch_final=16)
            bare = bare_transforms(backend, FRAMES * modes, SIDE)
            bare_s, bare_cpu_s = least_times_s(bare, backend, REPETITIONS)
            pass_s, pass_cpu_s = least_times_s(one_pass(backend, settings, FRAMES, SIDE), backend, REPETITIONS)
            ratio = pass_s / bare_s if backend.on_device else pass_cpu_s / bare_cpu_s
            figures.append(
                Figure(
                    f"{algorithm}, {modes} mode(s): one pass over {FRAMES} × {SIDE}²",
                    f"{pass_s:.2f} s",
                    f"{ratio:.1f} × the bare FFT pairs ({bare_s:.2f} s), {FRAMES * SIDE**2 / pass_s:.1e} frame·px/s, "
                    f"{backend.name}, {backend.threads} threads",
                )
            )
    return figures
