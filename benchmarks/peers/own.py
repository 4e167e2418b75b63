"""nsbluesky, with its defaults; the engine is a schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers.runs import Clock, Data, run
from nsbluesky.backend import get_backend
from nsbluesky.geometry import Geometry, Optic
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.incremental import IncrementalSolver

PLANCK_C_EV_M = 1.239841984e-6


def reconstruct(data: Data, engine: str, clock_from_now: Callable[[], Clock]) -> None:
    """Run until the schedule ends or the time is over."""
    energy_eV = PLANCK_C_EV_M / data.wavelength_m
    geometry = Geometry(energy_eV, data.distance_m, data.detector_pixel_m, Optic())
    pixel_m = geometry.object_pixel_m(data.side)
    clock = clock_from_now()
    settings = SolverSettings(algorithm=engine, modes=1, most_modes=1)
    solver = IncrementalSolver(
        settings, frame_px=data.side, pixel_m=pixel_m, geometry=geometry, backend=get_backend("numpy")
    )
    centres_m = (data.corners_px[:, ::-1] + data.side / 2) * pixel_m
    solver.add_frames(np.arange(len(data.frames)), data.frames, centres_m)
    solver.start_with(data.probe)
    solver.finish()
    before = (solver.is_coarse, 0)
    more = True
    while more and not solver.finished:
        solver.step(0.0)
        assert solver.state is not None
        now = (solver.is_coarse, solver.state.passes)
        if now != before:
            more = clock.passed(lambda: _image(solver, data), counts=not before[0])
            before = now
    clock.stop()
    clock.keep(*_image(solver, data))
    clock.close()


def _image(solver: IncrementalSolver, data: Data) -> tuple[Any, Any]:
    """Return the object on the pixels that windows reach, and the probe."""
    picture = solver.picture()
    canvas = np.full(data.object_shape, np.nan, np.complex64)
    row, column = (round(picture.extent_m[k] / picture.pixel_m) for k in (2, 0))
    rows, columns = picture.object.shape
    canvas[row : row + rows, column : column + columns] = picture.object
    return canvas, picture.probe


if __name__ == "__main__":
    run(reconstruct)
