"""What a warm start buys: the object of a second scan while its frames arrive, begun with the first one's probe.

Both scans are simulated, of other samples under the same light; the optic's defocus is told 20 % too small.  Frames
arrive on a virtual clock, which runs by the processor time of the solver's threads.  A probe that fits no more is the
first scan's, moved by some depths of field.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.bench_contest import LONGEST_S, TICK_FRAMES, Streamed, solver_for, told_wrong
from benchmarks.figures import Figure
from benchmarks.object_errors import errors
from benchmarks.simulated_scans import SimulatedScan, simulated_scan
from nsbluesky.backend import Backend, get_backend
from nsbluesky.solver.start import propagated

RATE_HZ = 50.0
PARTS = (0.1, 0.25, 1.0)
WRONG_BY_DEPTHS = (2.0, 5.0)
NO_IMAGE = 1.0


def measure() -> list[Figure]:
    """Stream second scans of two sizes, cold, warm, and with a probe that is wrong."""
    backend = get_backend("auto")
    _ended(simulated_scan(64, 12, 1e5), backend)  # compiles
    figures = []
    for side, lines, photons in ((64, 20, 1e5), (64, 20, 1e6), (128, 40, 1e6)):
        first, second = (simulated_scan(side, lines, photons, seed) for seed in (1, 2))
        left = _ended(first, backend)
        what = f"{lines**2} × {side}², {photons:.0e} photons"
        figures.append(streamed(second, None, backend, f"{what}: cold"))
        figures.append(streamed(second, left, backend, f"{what}: warm"))
        for depths in WRONG_BY_DEPTHS:
            moved = _moved(left, first, depths)
            figures.append(streamed(second, moved, backend, f"{what}: probe wrong by {depths:g} λ/NA²"))
    return figures


def _ended(scan: SimulatedScan, backend: Backend) -> Any:
    """Return the probe with which a scan ends."""
    run = Streamed(solver_for(scan.frames, told_wrong(scan), backend), backend)
    run.stream(scan.frames, scan.translations_m, RATE_HZ)
    run.finish()
    return run.solver.picture().probe


def _moved(probe: Any, scan: SimulatedScan, depths: float) -> Any:
    """Return a probe some depths of field further downstream."""
    geometry = scan.geometry
    return propagated(probe, depths * scan.depth_m, geometry.wavelength_m, geometry.object_pixel_m(scan.side))


def streamed(scan: SimulatedScan, probe: Any, backend: Backend, what: str) -> Figure:
    """Stream a scan; the value is the object's error when parts of the frames are there, and at the end."""
    solver = solver_for(scan.frames, told_wrong(scan), backend)
    if probe is not None:
        solver.offer(probe)
    run, taken = Streamed(solver, backend), 0
    found, count = [], len(scan.frames)
    for part in PARTS:
        wanted = round(part * count)
        while taken < wanted or run.clock_s < wanted / RATE_HZ:
            here = min(int(run.clock_s * RATE_HZ), wanted)
            if here - taken >= TICK_FRAMES or taken < here == wanted:
                numbers = np.arange(taken, here)
                solver.add_frames(numbers, scan.frames[numbers], scan.translations_m[numbers])
                taken = here
            if solver.has_work and run.busy_s < LONGEST_S:
                run.work()
            else:
                run.clock_s = max(run.clock_s, min(taken + TICK_FRAMES, wanted) / RATE_HZ)
        found.append(_error(solver, scan))
    run.finish()
    found.append(_error(solver, scan))
    begun = "began anew" if probe is not None and not solver.is_warm else ""
    parts = ", ".join(f"{part:.0%}" for part in PARTS)
    assert solver.sweep is not None
    off = (solver.sweep.defocus_m - scan.defocus_m) / scan.depth_m
    note = f"{begun or 'no restart by the sweep' if probe is not None else 'sweep'}; found {off:+.2f} λ/NA²"
    return Figure(f"{what}: error with {parts} of the frames → end", " → ".join(f"{e:.4f}" for e in found), note)


def _error(solver: Any, scan: SimulatedScan) -> float:
    if solver.state is None or not solver.frames.uses[solver.frames.active].any():
        return NO_IMAGE
    return errors(solver.picture().object, scan.object, scan.side // 6).whole
