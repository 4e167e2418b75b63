"""Objects of several states: a simulated sample that spends half of each exposure in one of two states.

225 frames of 64² with 1e6 photons; the light is known.  A state that was there is compared with what of it the states
found can make up (least squares), by its contrast, in the middle of the scan.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.figures import Figure
from benchmarks.simulated_scans import PIXEL_M, SimulatedScan, picture, simulated_scan
from nsbluesky.backend import get_backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.incremental import IncrementalSolver

SIDE = 64
LINES = 15
PHOTONS = 1e6
RIM_PX = 40


def measure() -> list[Figure]:
    """Reconstruct with one state and with two."""
    scan, states = mixture()
    figures = []
    for number in (1, 2):
        solver = _solved(scan, object_modes=number)
        assert solver.state is not None
        missed = " and ".join(f"{_missed(state, solver):.3f}" for state in states)
        note = f"R {solver.state.r_factor:.4f}; {solver.passes_done} passes, until it has settled"
        figures.append(Figure(f"what {number} found of the two states miss of each", missed, note))
    return figures


def mixture() -> tuple[SimulatedScan, tuple[Any, Any]]:
    """Return a scan with frames of both states, and the states."""
    scan = simulated_scan(SIDE, LINES, PHOTONS)
    rng = np.random.default_rng(5)
    other = scan.object * np.exp(1j * (picture(scan.object.shape, rng) > 0.6))
    for frame, corner in zip(scan.frames, _corners(scan), strict=True):
        mean = [_pattern(scan.probe, state, corner) for state in (scan.object, other)]
        frame[...] = rng.poisson(np.mean(mean, axis=0))
    return scan, (scan.object, other)


def _corners(scan: SimulatedScan) -> Any:
    return np.rint(scan.translations_m[:, ::-1] / PIXEL_M - SIDE / 2).astype(int)


def _pattern(probe: Any, image: Any, corner: Any) -> Any:
    row, column = corner
    wave = probe * image[row : row + SIDE, column : column + SIDE]
    return np.fft.fftshift(np.abs(np.fft.fft2(wave, norm="ortho")) ** 2)


def _solved(scan: SimulatedScan, **changes: Any) -> IncrementalSolver:
    solver = IncrementalSolver(
        SolverSettings(modes=1, most_modes=1, **changes),
        frame_px=SIDE,
        pixel_m=PIXEL_M,
        geometry=scan.geometry,
        backend=get_backend("numpy"),
    )
    solver.add_frames(np.arange(len(scan.frames)), scan.frames, scan.translations_m)
    solver.start_with(scan.probe)
    solver.finish()
    while not solver.finished:
        solver.step(1.0)
    return solver


def _missed(truth: Any, solver: IncrementalSolver) -> float:
    """Return the part of a state's contrast that no mixture of those found makes up."""
    state = solver.state
    assert state is not None
    row, column = -np.array(state.origin_px)
    objects = state.objects[:, row : row + len(truth), column : column + truth.shape[1]]
    middle = slice(RIM_PX, -RIM_PX)
    found = np.stack([image[middle, middle].ravel() for image in objects], axis=1)
    there = truth[middle, middle].ravel()
    rest = there - found @ np.linalg.lstsq(found, there, rcond=None)[0]
    return float(np.linalg.norm(rest) / np.linalg.norm(there - there.mean()))
