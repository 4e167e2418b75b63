"""What a warm start buys: the object of a second scan while its frames arrive, begun with the first one's probe.

All scans are simulated, under the same light; the optic's defocus is told 20 % too small.  Frames arrive within 8 s
on a virtual clock, which runs by the processor time of the solver's threads.  A probe that fits no more is the first
scan's, moved by some depths of field.  On gold balls, whose light has two modes, the fourth scan of a day is measured
as well: each begins with the probe of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks.bench_contest import TICK_FRAMES, Streamed, solver_for, told_wrong
from benchmarks.bench_image import gold_balls_scan
from benchmarks.figures import Figure
from benchmarks.object_errors import errors
from benchmarks.simulated_scans import SimulatedScan, simulated_scan
from nsbluesky.backend import Backend, get_backend
from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.start import propagated

SCAN_S = 8.0
PARTS = (0.1, 0.25, 1.0)
WRONG_BY_DEPTHS = (2.0, 5.0)
RIM_PX = 10
NO_IMAGE = 1.0


def measure() -> list[Figure]:
    """Stream second scans cold, warm, and with a probe that is wrong; then a day of four."""
    backend = get_backend("auto")
    _ended(simulated_scan(64, 12, 1e5), backend)  # compiles
    figures = []
    for what, scan_of in SCANS.items():
        first, second = scan_of(1), scan_of(2)
        left = _ended(first, backend)
        figures.append(streamed(second, None, backend, f"{what}: cold"))
        figures.append(streamed(second, left, backend, f"{what}: warm"))
        for depths in WRONG_BY_DEPTHS:
            moved = _moved(left, first, depths)
            figures.append(streamed(second, moved, backend, f"{what}: probe wrong by {depths:g} λ/NA²"))
    for number in (2, 3):
        left = _ended(scan_of(number), backend, left)
    figures.append(streamed(scan_of(4), None, backend, f"{what}, the fourth scan: cold"))
    figures.append(streamed(scan_of(4), left, backend, f"{what}, the fourth scan: warm"))
    return figures


def gold_balls_alike(seed: int) -> SimulatedScan:
    """Return 400 frames of the gold balls, at places and with noise of their own."""
    frames, places_m, geometry, sample = gold_balls_scan(20, seed, 0.0)
    depth_m = 4 * sample.optic.outer_zone_m**2 / geometry.wavelength_m
    nothing = np.empty(0, np.complex64)  # the truth of the probe is not looked at
    return SimulatedScan(frames, places_m, sample.object, nothing, nothing, geometry, sample.optic.defocus_m, depth_m)


SCANS: dict[str, Callable[[int], SimulatedScan]] = {
    "400 × 64², 1e4 photons": partial(simulated_scan, 64, 20, 1e4),
    "400 × 64², 1e6 photons": partial(simulated_scan, 64, 20, 1e6),
    "1600 × 128², 1e6 photons": partial(simulated_scan, 128, 40, 1e6),
    "gold balls, 400 × 104²": gold_balls_alike,
}


def _ended(scan: SimulatedScan, backend: Backend, probe: Any = None) -> Any:
    """Return the probe with which a scan ends that began with another."""
    solver = solver_for(scan.frames, told_wrong(scan), backend)
    if probe is not None:
        solver.offer(probe)
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
        next_s = run.clock_s + SCAN_S * len(tick) / count
        while run.clock_s < next_s and solver.has_work:
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
        return errors(solver.picture().object, scan.object, RIM_PX).whole
    except ValueError:
        return NO_IMAGE
