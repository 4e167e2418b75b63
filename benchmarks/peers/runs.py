"""What a runner is given and what it leaves: data in one file, and an image with its time after each pass."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SPARSER = 1.04
"""An image is kept once this many times the seconds of the one before have passed, and the last one."""

WARM_UP_FRAMES = 36
KIB = 1024


@dataclass(frozen=True)
class Data:
    """Frames and what is known of them.

    Attributes
    ----------
    frames : (n, N, N) float32
        Photons, zero frequency at N//2.
    corners_px : (n, 2) float64
        First row and column of each window on the object; the least is 0.
    probe : (N, N) complex64
        Start, centred, in √photon under the unitary transform.
    wavelength_m, distance_m, detector_pixel_m : float
    """

    frames: Any
    corners_px: Any
    probe: Any
    wavelength_m: float
    distance_m: float
    detector_pixel_m: float

    @property
    def side(self) -> int:
        """Side N of a frame."""
        return int(self.frames.shape[-1])

    @property
    def object_shape(self) -> tuple[int, int]:
        """Rows and columns that windows reach."""
        rows, columns = (np.ceil(self.corners_px.max(axis=0)) + self.side).astype(int)
        return int(rows), int(columns)

    def few(self) -> Data:
        """Return some of the frames, for a run that loads and compiles what a code needs."""
        count = WARM_UP_FRAMES
        return Data(self.frames[:count], self.corners_px[:count], self.probe, **self._lengths())

    def save(self, path: Path) -> None:
        """Write a file that `load` reads."""
        np.savez(path, frames=self.frames, corners_px=self.corners_px, probe=self.probe, **self._lengths())

    @classmethod
    def load(cls, path: Path) -> Data:
        """Read a file that `save` wrote."""
        with np.load(path) as arrays:
            lengths = {name: float(arrays[name]) for name in ("wavelength_m", "distance_m", "detector_pixel_m")}
            return cls(arrays["frames"], arrays["corners_px"], arrays["probe"], **lengths)

    def _lengths(self) -> dict[str, float]:
        return {
            "wavelength_m": self.wavelength_m,
            "distance_m": self.distance_m,
            "detector_pixel_m": self.detector_pixel_m,
        }


class Clock:
    """Counts the seconds in which a code works, and keeps its images; what is done for the benchmark is not counted.

    Parameters
    ----------
    folder : Path
        Images are written there, so that they take no memory.
    limit_s : float
    """

    def __init__(self, folder: Path, limit_s: float) -> None:
        self.seconds = 0.0
        self.passes: list[float] = []
        self._folder = folder
        self._limit_s = limit_s
        self._kept: list[float] = []
        self._began = time.perf_counter()

    def stop(self) -> None:
        """Count no further."""
        self.seconds += time.perf_counter() - self._began

    def go_on(self) -> None:
        """Count again."""
        self._began = time.perf_counter()

    def passed(self, image: Callable[[], tuple[Any, Any]], counts: bool = True) -> bool:
        """Note a pass, and the object and probe that `image` returns; return whether there is time for another.

        A pass that does not count, because it is cheaper than others, is left out of `passes`, and is not the last:
        a short run has one that does.
        """
        before = self.seconds
        self.stop()
        if counts:
            self.passes.append(self.seconds - before)
        last = self.seconds >= self._limit_s and bool(self.passes)
        if not self._kept or self.seconds > SPARSER * self._kept[-1] or last:
            self.keep(*image())
        self.go_on()
        return not last

    def keep(self, canvas: Any, probe: Any) -> None:
        """Write an image as of now."""
        np.savez(self._folder / f"{len(self._kept):04d}.npz", object=canvas, probe=probe)
        self._kept.append(self.seconds)

    def close(self) -> None:
        """Write when images were kept, how long passes took, and the most memory that the process had."""
        summary = {
            "kept_s": self._kept,
            "passes_s": self.passes,
            "peak_memory_MB": peak_memory_MB(),
        }
        (self._folder / "summary.json").write_text(json.dumps(summary))


def peak_memory_MB() -> float:
    """Return the most memory that this program had; what `getrusage` tells begins with that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * KIB / 1e6


def run(reconstruct: Callable[[Data, str, Callable[[], Clock]], None]) -> None:
    """Reconstruct the data that the command line names, after a short run over a few frames.

    `reconstruct` gets the data, the engine's name, and what makes the clock, which it calls when it begins.
    """
    path, folder, limit_s, engine = sys.argv[1:]
    data = Data.load(Path(path))
    warm_up = Path(folder, "warm-up")
    warm_up.mkdir()
    reconstruct(data.few(), engine, lambda: Clock(warm_up, 0.0))
    reconstruct(data, engine, lambda: Clock(Path(folder), float(limit_s)))
