"""Cleaning over Dask workers: frames a second by 1 and 2 processes, and what the sharing itself allows for many.

The first rows clean raw FCCD frames of 1040 × 1152 pixels, read by reference in blocks of 8, on processes of this
machine.  The others replace the cleaning by sleeping for as long as a core needs for a block: workers that do not
compete for cores, as on other machines; what is lost against the ideal is the cost of sharing.  Clean frames are not
sent back there: 0.5 MB each, they ask for the network and not for Dask.

The last rows are a model of a solver whose frames stay on their workers: each pass, every worker sends its update of
object and probe and gets the sum (a ring: 2·(n − 1)/n of the arrays).  Sizes are those of the arrays that the
solver holds for the paper's scan; the bandwidths are assumed and said.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import distributed
import h5py
import numpy as np

from benchmarks.figures import Figure
from nsbluesky.callbacks.frame_readers import HDF5Frames
from nsbluesky.callbacks.remote_cleaning import Recipe, clean_block
from nsbluesky.cleaning.darks import DarkAccumulator
from nsbluesky.cleaning.layout import get_layout
from nsbluesky.cleaning.plan import center_and_mean
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import gold_balls

BLOCK = 8
NUM_FRAMES = 64
REPEATS = 4

# the paper's scan: 40 × 40 frames of 128 × 128 pixels, two probe modes, an object of about 1000 × 1000 pixels
OBJECT_BYTES = 1000 * 1000 * 8
WEIGHT_BYTES = 1000 * 1000 * 4
PROBE_BYTES = 2 * 128 * 128 * 8
PASS_S = 1600 * 128 * 128 / 1e10
"""On one GPU at 10¹⁰ frame·pixels a second, the design's aim for an H100-class card; not measured here."""
LINKS = {"one host, NVLink at 300 GB/s": 300e9, "two hosts, 100 Gbit/s Ethernet": 12.5e9}


def measure() -> list[Figure]:
    """Clean, share, and model."""
    with tempfile.TemporaryDirectory() as folder:
        figures, block_s = cleaning(Path(folder))
    return figures + sharing(block_s) + solver_model()


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
        with distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster:
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
        with distributed.LocalCluster(**options, dashboard_address=None) as cluster:
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


def solver_model() -> list[Figure]:
    """Return what eight GPUs would send, and the speed that this allows."""
    num = 8
    traffic = 2 * (num - 1) / num * (OBJECT_BYTES + WEIGHT_BYTES + PROBE_BYTES)
    sent = f"{traffic / 1e6:.0f} MB"
    figures = [Figure("solver on 8 workers: sent by each a pass (model)", sent, "40 × 40 frames of 128², 2 modes")]
    for link, bandwidth in LINKS.items():
        speed = PASS_S / (PASS_S / num + traffic / bandwidth)
        figures.append(Figure(f"solver on 8 GPUs, {link} (model)", f"{speed:.1f} times one", "nothing overlapped"))
    return figures
