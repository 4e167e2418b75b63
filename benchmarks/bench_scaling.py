"""How costs grow: of the solver with frames and pixels, of cleaning and solver with the workers that share them.

The first rows time passes of the live engine on one machine, and count the memory of NumPy's arrays by the frame.

The next rows clean raw FCCD frames of 1040 × 1152 pixels, read by reference in blocks of 8, on processes of this
machine.  The others replace the cleaning by sleeping for as long as a core needs for a block: workers that do not
compete for cores, as on other machines; what is lost against the ideal is the cost of sharing.  Clean frames are not
sent back there: 0.5 MB each, they ask for the network and not for Dask.

Then a scan is reconstructed with its frames on two Dask workers, beside the same in one process, with as many passes.

The last rows are a model of eight GPUs.  What a shard gets and sends is measured: the pickled messages of eight
shards in one process, over the passes that exchange once.  All of it goes through the process that adds the sums,
over one link whose bandwidth is assumed and said; computing and sending do not overlap.
"""

from __future__ import annotations

import contextlib
import functools
import io
import pickle
import tempfile
import time
import tracemalloc
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import distributed
import h5py
import numpy as np

from benchmarks.bench_contest import solver_for
from benchmarks.bench_solver import least_times_s, one_pass
from benchmarks.figures import Figure
from nsbluesky.backend import get_backend
from nsbluesky.callbacks.frame_readers import HDF5Frames
from nsbluesky.callbacks.remote_cleaning import Recipe, clean_block
from nsbluesky.cleaning.darks import DarkAccumulator
from nsbluesky.cleaning.layout import get_layout
from nsbluesky.cleaning.plan import center_and_mean
from nsbluesky.cli import main
from nsbluesky.cxi import read_cxi
from nsbluesky.cxi.stored_frames import StoredFrames
from nsbluesky.dask_cluster import DaskExecutor, open_cluster
from nsbluesky.service.dask_shards import DaskShards
from nsbluesky.settings import SolverSettings
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import gold_balls
from nsbluesky.solver.quality import contrast_correlation
from nsbluesky.solver.reconstruct import Reconstruction, reconstruct
from nsbluesky.solver.sharded import reconstruct_sharded
from nsbluesky.solver.shards import ShardOrder, ShardSums, ShardTask, work_on_shard

COUNTS = (100, 1000, 10_000)
"""Frames of 128² whose passes are timed; the middle one is what others are compared with."""

SIDES = (64, 128, 256, 512)
SIDES_FRAMES = 200
STEP_PX = 11
MEMORY_FRAMES = (512, 1536)

BLOCK = 8
NUM_FRAMES = 64
REPEATS = 4

SCAN = "20x20"
PASSES = 40
SHARDS = 8
FRAMES = 400
GPU_RATE = 1e10
"""Frame·pixels a second on one GPU, the design's aim for an H100-class card; not measured here."""
LINKS = {"one host, NVLink at 300 GB/s": 300e9, "two hosts, 100 Gbit/s Ethernet": 12.5e9}


def measure() -> list[Figure]:
    """Time passes; clean, share, and model."""
    costs = [*cost_by_frames(), *cost_by_pixels(), memory_by_frames()]
    with tempfile.TemporaryDirectory() as folder:
        figures, block_s = cleaning(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        return costs + figures + sharing(block_s) + shared_frames(Path(folder))


def cost_by_frames() -> list[Figure]:
    """Return the time of a pass a frame, for few and many."""
    backend = get_backend("auto")
    times = {count: _pass_s(count, 128) / count for count in COUNTS}
    usual = times[COUNTS[1]]
    return [
        Figure(
            f"solver, {count} × 128²: a pass, a frame",
            f"{1e6 * seconds:.0f} µs",
            f"{seconds / usual:.2f} times that of {COUNTS[1]} frames; 2 modes, {backend.threads} threads",
        )
        for count, seconds in times.items()
    ]


def cost_by_pixels() -> list[Figure]:
    """Return the time of a pass a pixel of a frame, for small and large frames."""
    times = {side: _pass_s(SIDES_FRAMES, side) / SIDES_FRAMES / side**2 for side in SIDES}
    return [
        Figure(
            f"solver, {SIDES_FRAMES} × {side}²: a pass, a frame and pixel",
            f"{1e9 * seconds:.1f} ns",
            f"{seconds / times[128]:.2f} times that of 128²",
        )
        for side, seconds in times.items()
    ]


def _pass_s(frames: int, side: int) -> float:
    backend = get_backend("auto")
    return least_times_s(one_pass(backend, SolverSettings(), frames, side), backend, repetitions=3)[0]


def memory_by_frames() -> Figure:
    """Return the memory that a solver takes for each further frame, its object's canvas included."""
    side = 128
    sizes = []
    for count in (MEMORY_FRAMES[0], *MEMORY_FRAMES):  # what the first one compiles stays
        frames = np.ones((count, side, side), np.float32)
        rows, columns = np.divmod(np.arange(count), 32)
        geometry = gold_balls().geometry
        places_m = np.stack([columns, rows], axis=1) * STEP_PX * geometry.object_pixel_m(side)
        tracemalloc.start()
        solver = solver_for(frames, geometry, get_backend("numpy"), sweep_frames=0)
        solver.add_frames(np.arange(count), frames, places_m)
        while solver.state is None or solver.is_coarse or solver.state.passes < 1:
            solver.step(0.0)
        sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        del solver
    first, second = MEMORY_FRAMES
    each = (sizes[2] - sizes[1]) / (second - first)
    return Figure(
        f"solver, memory for each further frame of {side}²",
        f"{each / 1000:.1f} kB",
        f"its amplitudes {4 * side**2 / 1000:.1f} kB; 2 modes, steps of {STEP_PX} pixels",
    )


def cleaning(folder: Path) -> tuple[list[Figure], float]:
    """Return the rates of real cleaning, and how long one process takes for a block."""
    simulator = FrameSimulator(gold_balls(), layout="cosmic", seed=0)
    settings = simulator.cleaning_settings
    darks = np.stack([simulator.raw_frame(0.0, 0.0, shutter_open=False, index=k) for k in range(8)])
    few = [simulator.raw_frame(k * 1e-7, 0.0, shutter_open=True, index=8 + k) for k in range(NUM_FRAMES // 4)]
    raw = np.stack(few * 4)
    with h5py.File(folder / "frames.h5", "w", libver="latest") as file:
        file.create_dataset("data", data=raw, chunks=(1, *raw.shape[1:]))
    layout = get_layout(settings, raw.shape[1:])
    accumulator = DarkAccumulator(layout)
    accumulator.add(darks)
    dark = accumulator.result(settings)
    geometry = simulator.geometry
    center, mean = center_and_mean(raw[:16], settings, layout, dark, energy_eV=geometry.energy_eV)
    shape = raw.shape[1:]
    recipe = Recipe(settings.replace(center_px=center), shape, dark, mean, geometry.energy_eV, geometry.pixel_size_m)
    recipe.save(folder / "recipe.npz")
    source = HDF5Frames(folder / "frames.h5", "data")
    blocks = [source.refer(start, start + BLOCK) for start in range(0, NUM_FRAMES, BLOCK)]
    source.close()
    exposure = np.zeros(BLOCK, np.intp)
    arguments = exposure, (folder / "recipe.npz",), "numpy", geometry
    figures, rates = [], []
    for workers in (1, 2):
        with (
            distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0") as cluster,
            cluster.get_client() as client,
            DaskExecutor(client) as executor,
        ):
            list(executor.map(lambda block: clean_block(block, *arguments), blocks * workers))  # compiles
            began = time.perf_counter()
            tasks = [executor.submit(clean_block, block, *arguments) for block in blocks * REPEATS]
            for task in tasks:
                task.result()
            rates.append(NUM_FRAMES * REPEATS / (time.perf_counter() - began))
        note = f"{rates[-1] / rates[0]:.2f} times one" if workers > 1 else "read, cleaned and brought back"
        figures.append(Figure(f"cleaning, {workers} workers on this machine", f"{rates[-1]:.0f} frames/s", note))
    return figures, BLOCK / rates[0]


def sharing(block_s: float) -> list[Figure]:
    """Return the rates of workers that sleep."""
    figures = []
    for workers, frames in ((8, BLOCK), (32, BLOCK), (32, 4 * BLOCK)):
        options: dict[str, Any] = {"n_workers": workers, "threads_per_worker": 1, "processes": False}
        with (
            distributed.LocalCluster(**options, dashboard_address=":0") as cluster,
            cluster.get_client() as client,
            DaskExecutor(client) as executor,
        ):
            count = 20 * workers
            began = time.perf_counter()
            task_s = block_s * frames / BLOCK
            for task in [executor.submit(time.sleep, task_s) for _ in range(count)]:
                task.result()
            elapsed = time.perf_counter() - began
        rate, ideal = frames * count / elapsed, BLOCK * workers / block_s
        note = f"{100 * rate / ideal:.0f} % of the ideal; tasks sleep for {1000 * task_s:.0f} ms, all in one process"
        what = f"sharing, {workers} workers (simulated), blocks of {frames} frames"
        figures.append(Figure(what, f"{rate:.0f} frames/s", note))
    return figures


def shared_frames(folder: Path) -> list[Figure]:
    """Reconstruct with frames on workers and in one process; model GPUs with the messages of shards."""
    path = folder / "clean.cxi"
    with contextlib.redirect_stdout(io.StringIO()):
        main(["simulate", str(path), "--shape", SCAN])
    with h5py.File(path.with_suffix(".truth.h5")) as file:
        truth = file["object"][()]
    figures = []

    def told(where: str, result: Reconstruction, began: float) -> None:
        likeness = contrast_correlation(result.picture.object, truth, margin_px=20)
        quality = f"R {result.r_factors[-1]:.4f}, contrast correlation {likeness:.3f}"
        note = f"{PASSES} passes, {time.perf_counter() - began:.0f} s"
        figures.append(Figure(f"solver, {SCAN} frames {where}", quality, note))

    with read_cxi(path) as data:
        given = (data.translation_m, data.mask, data.geometry(), SolverSettings(), get_backend("numpy"))
        refer = functools.partial(StoredFrames.of, data.frames)
        began = time.perf_counter()
        told("in one process", reconstruct(data.frames, *given, passes=PASSES), began)
        client, cluster = open_cluster(2, "")
        with client, cluster:
            began = time.perf_counter()
            submit = DaskShards(client).submit
            result = reconstruct_sharded(data.frames, refer, *given, submit=submit, shards=2, passes=PASSES)
            told("on 2 workers", result, began)
        messages = Messages()
        began = time.perf_counter()
        result = reconstruct_sharded(data.frames, refer, *given, submit=messages.submit, shards=SHARDS, passes=PASSES)
        told(f"in {SHARDS} shards", result, began)
        side = data.frames.shape[-1]
    return figures + solver_model(messages, FRAMES * side**2 / GPU_RATE)


class Messages:
    """Does the tasks of shards at once, and notes the size of what would be sent and received."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.received: list[int] = []

    def submit(self, order: ShardOrder, task: ShardTask) -> Future[ShardSums]:
        future: Future[ShardSums] = Future()
        future.set_result(work_on_shard(order, task))
        if task.parts == 1:
            self.sent.append(len(pickle.dumps((order, task))))
            self.received.append(len(pickle.dumps(future.result())))
        return future


def solver_model(messages: Messages, pass_s: float) -> list[Figure]:
    """Return what eight GPUs would send, and the speed that this allows."""
    sent, received = float(np.mean(messages.sent)), float(np.mean(messages.received))
    what = f"solver on {SHARDS} workers: to and from each, a pass"
    figures = [Figure(what, f"{sent / 1e6:.1f} and {received / 1e6:.1f} MB", f"measured, {SCAN} frames, 2 modes")]
    for link, bandwidth in LINKS.items():
        speed = pass_s / (pass_s / SHARDS + SHARDS * (sent + received) / bandwidth)
        figures.append(Figure(f"solver on {SHARDS} GPUs, {link} (model)", f"{speed:.2f} times one", "per pass"))
    return figures
