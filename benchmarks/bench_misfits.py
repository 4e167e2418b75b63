"""Frames at wrong places: how many are found, how many right ones are left out, and what becomes of the image.

400 frames of 64² by dose, over an object that fills the scan and over small ones on a clear field; gold balls; the
measured star.  A wrong frame is said to be where another one is.  Over a clear field that makes no difference: such
frames cannot be found, and do no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.bench_contest import told_wrong
from benchmarks.bench_image import RIM_PX, gold_balls_scan, star_scan
from benchmarks.figures import Figure
from benchmarks.object_errors import errors
from benchmarks.simulated_scans import simulated_scan
from nsbluesky.backend import get_backend
from nsbluesky.geometry import Geometry
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.reconstruct import reconstruct

DOSES = (1e4, 1e5, 1e6, 1e7)
SIZES_PX = (8, 24, 60)
PARTS_WRONG = (0.0, 0.01, 0.03)
PASSES = 20
SEED = 7


def measure() -> list[Figure]:
    """Reconstruct each scan with none, few and more frames at wrong places."""
    figures = []
    for photons in DOSES:
        scan = simulated_scan(64, 20, photons)
        told = scan.frames, scan.translations_m, told_wrong(scan), scan.object
        figures += [_row(f"64², {photons:.0e} photons", *told, part) for part in PARTS_WRONG]
    for size in SIZES_PX:
        for photons in DOSES[1:]:
            scan = simulated_scan(64, 20, photons, sample=_small_object(size))
            what = f"object of {size}² pixels on a clear field, {photons:.0e} photons"
            told = scan.frames, scan.translations_m, scan.geometry, scan.object
            figures += [_row(what, *told, part) for part in PARTS_WRONG[:2]]
    frames, places_m, geometry, sample = gold_balls_scan(20, 21)
    figures += [_row("gold balls 20 × 20", frames, places_m, geometry, sample.object, part) for part in PARTS_WRONG]
    frames, places_m, geometry = star_scan()
    return figures + [_row("star (measured)", frames, places_m, geometry, None, part) for part in PARTS_WRONG]


def _small_object(size_px: int) -> Callable[[tuple[int, int], np.random.Generator], Any]:
    """Return a maker of clear fields with a square of noise in the middle."""

    def sample(shape: tuple[int, int], rng: np.random.Generator) -> Any:
        field = np.ones(shape, np.complex64)
        first = [(length - size_px) // 2 for length in shape]
        inside = tuple(slice(start, start + size_px) for start in first)
        absorbed, phase = rng.random((2, size_px, size_px))
        field[inside] = (1 - 0.3 * absorbed) * np.exp(1.5j * phase)
        return field

    return sample


def _row(what: str, frames: Any, places_m: Any, geometry: Geometry, truth: Any, part: float) -> Figure:
    rng = np.random.default_rng(SEED)
    wrong = rng.choice(len(frames), round(part * len(frames)), replace=False)
    told_m = np.array(places_m)
    told_m[wrong] = told_m[(wrong + len(frames) // 3) % len(frames)]
    settings = SolverSettings(passes_final=PASSES)
    result = reconstruct(frames, told_m, None, geometry, settings, get_backend("numpy"))
    left_out = np.array(sorted(result.rejected), int)
    found = np.isin(left_out, wrong)
    note = f"R {result.picture.r_factor:.4f}"
    if truth is not None:
        error = errors(result.picture.object, truth, RIM_PX)
        note = f"object error {error.whole:.4f}, by contrast {error.contrast:.4f}, " + note
    value = f"{found.sum()} of {len(wrong)} found, {np.count_nonzero(~found)} right ones left out"
    return Figure(f"{what}, {part:.0%} at wrong places", value, note)
