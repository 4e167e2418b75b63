"""Which engine is the live default: WASP against rPIE with momentum, streamed.

Frames arrive at a rate on a virtual clock, which runs by the processor time of the solver's threads: a figure does
not depend on what else the machine does.  The optic's defocus is told 20 % too small; a sweep has to find it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.bench_image import TICK_FRAMES, gold_balls_scan, star_scan
from benchmarks.figures import Figure
from benchmarks.object_errors import errors
from benchmarks.simulated_scans import SimulatedScan, simulated_scan
from nsbluesky.backend import Backend, get_backend
from nsbluesky.geometry import Geometry
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.incremental import IncrementalSolver

CONTESTANTS = {
    "WASP": {"algorithm": "wasp"},
    "WASP, whole detector only": {"algorithm": "wasp", "coarse_uses": 0},
    "WASP without momentum": {"algorithm": "wasp", "momentum": 0.0},
    "rPIE with momentum": {"algorithm": "mpie", "batch": 48, "batch_final": 96},
}
FINALISTS = ("WASP", "rPIE with momentum")
AFTER_S = 1.0
TOLD_DEFOCUS = 0.8
ROUNDING = 1e-6
"""Of a frame: 440 frames at 50 Hz end at 8.8 s, which times 50 is a little less than 440."""


@dataclass
class Streamed:
    """A solver fed by a virtual clock, and the seconds on it."""

    solver: IncrementalSolver
    backend: Backend
    clock_s: float = 0.0

    def work(self) -> None:
        """Use one batch."""
        before = time.process_time()
        self.solver.step(0.0)
        self.clock_s += (time.process_time() - before) / self.backend.threads

    def stream(self, frames: Any, translations_m: Any, rate_hz: float) -> None:
        """Take all frames at their time; work in between."""
        taken = 0
        while taken < len(frames):
            here = min(int(self.clock_s * rate_hz + ROUNDING), len(frames))
            if here - taken >= TICK_FRAMES or here == len(frames):
                part = np.arange(taken, here)
                self.solver.add_frames(part, frames[part], translations_m[part])
                taken = here
            if self.solver.has_work:
                self.work()
            else:
                self.clock_s = max(self.clock_s, (taken + TICK_FRAMES) / rate_hz)

    def finish(self, seconds: float | None = None) -> None:
        """Do the last passes, or as much of them as the time allows."""
        self.solver.finish()
        end = float("inf") if seconds is None else self.clock_s + seconds
        while not self.solver.finished and self.clock_s < end:
            self.work()


def solver_for(frames: Any, geometry: Geometry, backend: Backend, **settings: Any) -> IncrementalSolver:
    """Return a solver with the defaults but for `settings`."""
    side = frames.shape[-1]
    return IncrementalSolver(
        SolverSettings(**settings),
        frame_px=side,
        pixel_m=geometry.object_pixel_m(side),
        geometry=geometry,
        backend=backend,
        num_points=len(frames),
    )


def told_wrong(scan: SimulatedScan) -> Geometry:
    """Return the geometry with too small a defocus."""
    return scan.geometry.replace(optic__defocus_m=TOLD_DEFOCUS * scan.defocus_m)


def race(scan: SimulatedScan, rate_hz: float, backend: Backend, name: str, what: str) -> Figure:
    """Stream a simulated scan; the value is the error at scan end, a second later and at the end."""
    run = Streamed(solver_for(scan.frames, told_wrong(scan), backend, modes=1, **CONTESTANTS[name]), backend)
    run.stream(scan.frames, scan.translations_m, rate_hz)
    margin = scan.side // 6
    found = [errors(run.solver.picture().object, scan.object, margin)]
    last = run.clock_s
    for seconds in (AFTER_S, None):
        run.finish(seconds)
        found.append(errors(run.solver.picture().object, scan.object, margin))
    whole = " → ".join(f"{each.whole:.4f}" for each in found)
    contrast = " → ".join(f"{each.contrast:.4f}" for each in found)
    tiles = " → ".join(f"{each.tiles:.4f}" for each in found)
    note = f"by contrast {contrast}, by tiles {tiles}; last passes take {run.clock_s - last:.1f} s"
    return Figure(f"{what}, {rate_hz:.0f} Hz: {name}", whole, note)


def measured(backend: Backend, name: str) -> list[Figure]:
    """Stream the measured star and the simulated gold balls at 50 Hz."""
    figures = []
    frames, translations_m, geometry = star_scan()
    run = Streamed(solver_for(frames, geometry, backend, **CONTESTANTS[name]), backend)
    run.stream(frames, translations_m, 50.0)
    at_end = run.solver.picture().r_factor
    run.finish()
    figures.append(
        Figure(f"star (measured): {name}", f"R {at_end:.4f} → {run.solver.picture().r_factor:.4f}", "scan end → end")
    )
    frames, translations_m, geometry, sample = gold_balls_scan(20, 21)
    run = Streamed(solver_for(frames, geometry, backend, **CONTESTANTS[name]), backend)
    run.stream(frames, translations_m, 50.0)
    first = errors(run.solver.picture().object, sample.object, 10)
    run.finish()
    final = errors(run.solver.picture().object, sample.object, 10)
    note = f"by contrast {first.contrast:.4f} → {final.contrast:.4f}, by tiles {first.tiles:.4f} → {final.tiles:.4f}"
    figures.append(Figure(f"gold balls 20 × 20: {name}", f"{first.whole:.4f} → {final.whole:.4f}", note))
    return figures


def measure() -> list[Figure]:
    """Run the contest."""
    backend = get_backend("auto")
    race(simulated_scan(64, 12, 1e5), 1e3, backend, "WASP", "warming up")
    figures = []
    for photons in (1e4, 1e5, 1e6, 1e7):
        small = simulated_scan(64, 20, photons)
        figures += [race(small, 50.0, backend, name, f"400 × 64², {photons:.0e} photons") for name in CONTESTANTS]
    for photons, names in ((1e4, FINALISTS), (1e6, CONTESTANTS)):
        big = simulated_scan(128, 40, photons)
        figures += [race(big, 200.0, backend, name, f"1600 × 128², {photons:.0e} photons") for name in names]
    for name in FINALISTS:
        figures += measured(backend, name)
    return figures
