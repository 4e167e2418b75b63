"""What a warm start buys: the object of a second scan while its frames arrive, begun with the first one's probe.

Both scans are simulated, of other samples under the same light; the optic's defocus is told 20 % too small.  Frames
arrive on a virtual clock, which runs by the processor time of the solver's threads.  A probe that fits no more is the
first scan's, moved by some depths of field.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.bench_contest import LONGEST_S, TICK_FRAMES, Streamed, solver_for, told_wrong
from benchmarks.figures import Figure
from benchmarks.object_errors import errors
from benchmarks.simulated_scans import SimulatedScan, simulated_scan
from nsbluesky.backend import Backend, get_backend
from nsbluesky.solver.incremental import IncrementalSolver
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
    solver = solver_for(scan.frames, told_wrong(scan), backend)
    for _ in _stream(Streamed(solver, backend), scan):
        pass
    return solver.picture().probe


def _moved(probe: Any, scan: SimulatedScan, depths: float) -> Any:
    """Return a probe some depths of field further downstream."""
    geometry = scan.geometry
    return propagated(probe, depths * scan.depth_m, geometry.wavelength_m, geometry.object_pixel_m(scan.side))


def streamed(scan: SimulatedScan, probe: Any, backend: Backend, what: str) -> Figure:
    """Stream a scan; the value is the object's error when parts of the frames are there, and at the end."""
    solver = solver_for(scan.frames, told_wrong(scan), backend)
    if probe is not None:
        solver.offer(probe)
    found = [_error(solver, scan) for _ in _stream(Streamed(solver, backend), scan)]
    sweep = solver.sweep
    assert sweep is not None
    note = f"sweep: {(sweep.defocus_m - scan.defocus_m) / scan.depth_m:+.2f} λ/NA² from the truth"
    if probe is not None:
        went_on = "goes on" if solver.is_warm else "begins anew"
        note += f", least residual {sweep.residual.min():.3f}, the probe's {sweep.warm_residual:.3f}: image {went_on}"
    parts = ", ".join(f"{part:.0%}" for part in PARTS)
    what = f"{what}: error with {parts} of the frames → end"
    return Figure(what, " → ".join(f"{each:.4f}" for each in found), note)


def _stream(run: Streamed, scan: SimulatedScan) -> Iterator[None]:
    """Feed all frames, a tick at a time; yield before what comes after each of `PARTS`, and at the end."""
    solver, count, parts = run.solver, len(scan.frames), list(PARTS)
    for first in range(0, count, TICK_FRAMES):
        tick = np.arange(first, min(first + TICK_FRAMES, count))
        solver.add_frames(tick, scan.frames[tick], scan.translations_m[tick])
        next_s = run.clock_s + len(tick) / RATE_HZ
        while run.clock_s < next_s and solver.has_work and run.busy_s < LONGEST_S:
            run.work()
        run.clock_s = max(run.clock_s, next_s)
        while parts and tick[-1] + 1 >= parts[0] * count:
            parts.pop(0)
            yield
    run.finish()
    yield


def _error(solver: IncrementalSolver, scan: SimulatedScan) -> float:
    """Return the error of the object; that of no image where none of it can be compared yet."""
    if solver.state is None or not solver.frames.uses[solver.frames.active].any():
        return NO_IMAGE
    try:
        return errors(solver.picture().object, scan.object, scan.side // 6).whole
    except ValueError:
        return NO_IMAGE
