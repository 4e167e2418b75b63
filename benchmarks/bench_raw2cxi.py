"""Conversion of a raw file to a clean one, end to end: frames a second, and where the time goes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.figures import Figure
from nsbluesky.conversion import Workers, convert, scan_of_cxi
from nsbluesky.cxi import read_cxi, write_raw_cxi
from nsbluesky.settings import PipelineSettings
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import gold_balls

NUM_FRAMES = 400
FEW_FRAMES = 50
NUM_DARKS = 25
NUM_DIFFERENT = 20
"""Frames that are simulated; the file holds them again and again."""

WAYS = {
    "all nine steps, by Fourier transform": ["crop_px=960", "frame_px=256", "downsample=fourier", "spikes=lines"],
    "dark, overscan, threshold, 4 × 4 bins": ["crop_px=1024", "frame_px=256"],
}


def measure() -> list[Figure]:
    """Convert a file that lies in the page cache."""
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder, "raw.cxi"), Path(folder, "clean.cxi")
        few = Path(folder, "few.cxi")
        _write(raw, few)
        cores = len(os.sched_getaffinity(0))
        for way, changes in WAYS.items():
            settings = _settings(changes)
            _convert(few, out, settings, Workers.threads(cores))  # compiles
            for name, workers in (
                ("1 thread", Workers.threads(1)),
                (f"{cores} threads", Workers.threads(cores)),
                (f"{cores} processes", Workers.processes(cores)),
            ):
                times = _convert(raw, out, settings, workers)
                total = sum(times.values())
                parts = ", ".join(f"{part} {value:.1f} s" for part, value in times.items())
                figures.append(Figure(f"{way}; {name}", f"{NUM_FRAMES / total:.0f} frames/s", parts))
        peaks = [_peak_bytes(path, out) for path in (few, raw)]
        figures.append(
            Figure(
                f"peak memory, {FEW_FRAMES} and {NUM_FRAMES} frames",
                f"{peaks[0] / 1e6:.0f} and {peaks[1] / 1e6:.0f} MB",
                f"{NUM_FRAMES} raw frames are {raw_bytes() / 1e6:.0f} MB",
            )
        )
    return figures


def raw_bytes() -> int:
    return NUM_FRAMES * int(np.prod(FrameSimulator(gold_balls()).shape)) * 2


def _settings(changes: list[str]) -> PipelineSettings:
    return PipelineSettings().set_from_text(["backend=numpy", *(f"cleaning.{change}" for change in changes)])


def _write(raw: Path, few: Path) -> None:
    simulator = FrameSimulator(gold_balls())
    frames = [simulator.raw_frame(0, 0, shutter_open=True, index=k) for k in range(NUM_DIFFERENT)]
    darks = [simulator.raw_frame(0, 0, shutter_open=False, index=1000 + k) for k in range(NUM_DARKS)]
    for path, num in ((few, FEW_FRAMES), (raw, NUM_FRAMES)):
        write_raw_cxi(
            path,
            (frames[k % NUM_DIFFERENT] for k in range(num)),
            darks,
            _places(num),
            energy_eV=simulator.geometry.energy_eV,
            detector_distance_m=simulator.geometry.detector_distance_m,
            pixel_size_m=simulator.geometry.pixel_size_m,
        )
        with read_cxi(path) as cxi:  # into the page cache
            assert cxi.raw_data is not None
            for k in range(num):
                cxi.raw_data[k]


def _places(num: int) -> npt.NDArray[np.float64]:
    return np.random.default_rng(0).uniform(0, 1e-6, (num, 2))


def _convert(raw: Path, out: Path, settings: PipelineSettings, workers: Workers) -> dict[str, float]:
    """Return the seconds of each part."""
    marks: list[float] = []
    began = time.perf_counter()
    convert(scan_of_cxi(raw), out, settings, workers=workers, progress=lambda *_: marks.append(time.perf_counter()))
    ended = time.perf_counter()
    return {"darks and centre": marks[0] - began, "cleaning": marks[-1] - marks[0], "file": ended - marks[-1]}


def _peak_bytes(raw: Path, out: Path) -> int:
    """Return the peak of a process that converts a file."""
    command = [sys.executable, "-m", __name__, str(raw), str(out)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]), _settings(next(iter(WAYS.values()))), Workers.threads(2))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
