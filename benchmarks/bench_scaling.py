"""Cleaning over Dask workers: frames a second by 1 and 2 processes, and what the sharing itself allows for many.

The first rows clean raw FCCD frames of 1040 × 1152 pixels, read by reference in blocks of 8, on processes of this
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
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import distributed
import h5py
import numpy as np

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
from nsbluesky.service.dask_shards import DaskShards
from nsbluesky.service.dask_workers import open_cluster
from nsbluesky.settings import SolverSettings
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import gold_balls
from nsbluesky.solver.quality import contrast_correlation
from nsbluesky.solver.reconstruct import Reconstruction, reconstruct
from nsbluesky.solver.sharded import reconstruct_sharded
from nsbluesky.solver.shards import ShardOrder, ShardSums, ShardTask, work_on_shard

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
    """Clean, share, and model."""
    with tempfile.TemporaryDirectory() as folder:
        figures, block_s = cleaning(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        return figures + sharing(block_s) + shared_frames(Path(folder))


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
        with distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0") as cluster:
            executor = cluster.get_client().get_executor(pure=False)
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
        with distributed.LocalCluster(**options, dashboard_address=":0") as cluster:
            executor = cluster.get_client().get_executor(pure=False)
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
