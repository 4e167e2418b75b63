"""Speed of the solver: one pass over frames in memory, as a ratio to the bare FFT pairs of the same run.

    OMP_NUM_THREADS=1 python benchmarks/bench_solver.py [--frames 1600] [--side 128] [--backend numpy]

The minimum of several repetitions is taken, because a shared machine only ever adds time; the ratio is that of the
processor time of all threads, which other processes disturb least (on a GPU, of the wall-clock time).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from nsbluesky.backend import Backend, get_backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.engines import ENGINES, make_engine
from nsbluesky.solver.engines.base import CACHED_WAVES, shares
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.ordering import spread
from nsbluesky.solver.state import SolverState


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
    size = frames if backend.on_device else CACHED_WAVES
    waves = [backend.xp.ones((size, side, side), np.complex64) for _ in range(backend.threads)]

    def part(wave: Any, share: slice) -> None:
        for _ in range(share.start, share.stop, size):
            backend.ifft2(backend.fft2(wave))

    def run() -> None:
        parts = shares(backend, frames)
        backend.map(part, waves[: len(parts)], parts)

    return run


def one_pass(backend: Backend, settings: SolverSettings, frames: int, side: int) -> Callable[[], None]:
    rng = np.random.default_rng(0)
    lines = int(np.ceil(np.sqrt(frames)))
    grid = np.stack(np.meshgrid(np.arange(lines), np.arange(lines), indexing="ij"), -1).reshape(-1, 2)[:frames]
    corners = (grid * 11 + rng.integers(-2, 3, grid.shape) + 2).astype(np.int64)
    store = FrameStore(side, backend)
    image = rng.poisson(50.0, (side, side)).astype(np.float32)
    for number, corner in enumerate(corners):
        store.put(number, image, corner, 1.0)
    canvas = backend.xp.ones(tuple(corners.max(axis=0) + side), np.complex64)
    line = np.exp(-(((np.arange(side) - side / 2) / (side / 6)) ** 2))
    probe = np.stack([np.outer(line, line) * 10 / (mode + 1) for mode in range(settings.modes)]).astype(np.complex64)
    state = SolverState(canvas, backend.from_numpy(probe), passes=settings.probe_start)
    engine = make_engine(settings, backend)
    engine.initialize(state, store)

    def run() -> None:
        order = spread(np.arange(frames), corners, settings.batch, rng)
        for first in range(0, frames, settings.batch):
            engine.update(state, store, order[first : first + settings.batch])
        engine.end_pass(state, store)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=1600)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    backend = get_backend(arguments.backend, threads=arguments.threads)
    size = (arguments.frames, arguments.side)
    rows = []
    for algorithm in ENGINES:
        for modes, batch in ((1, 8), (1, 16), (2, 8), (2, 16)):
            settings = SolverSettings(algorithm=algorithm, modes=modes, batch=batch, batch_final=batch)
            bare = bare_transforms(backend, size[0] * modes, size[1])
            bare_s, bare_cpu_s = least_times_s(bare, backend, arguments.repetitions)
            work = one_pass(backend, settings, *size)
            pass_s, pass_cpu_s = least_times_s(work, backend, arguments.repetitions)
            ratio = pass_s / bare_s if backend.on_device else pass_cpu_s / bare_cpu_s
            rows.append(
                {
                    "algorithm": algorithm,
                    "modes": modes,
                    "batch": batch,
                    "pass_s": round(pass_s, 3),
                    "pass_cpu_s": round(pass_cpu_s, 3),
                    "fft_pairs_s": round(bare_s, 3),
                    "fft_pairs_cpu_s": round(bare_cpu_s, 3),
                    "ratio": round(ratio, 2),
                    "frame_pixels_per_s": round(size[0] * size[1] ** 2 / pass_s),
                }
            )
            if not arguments.json:
                row = rows[-1]
                print(
                    f"{algorithm:5s} {modes} mode(s), batch {batch:2d}: {pass_s:6.3f} s a pass "
                    f"({pass_cpu_s:.3f} s CPU), "
                    f"{ratio:5.2f} × bare FFT pairs ({bare_s:.3f} s), {row['frame_pixels_per_s']:.2e} frame·px/s",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps({"backend": backend.name, "threads": backend.threads, "frames": size[0], "rows": rows}))


if __name__ == "__main__":
    main()
