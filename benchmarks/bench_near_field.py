"""Near field: gold nanospheres behind a diffuser in diverging light, from the mean frame to the object, by dose.

12 × 12 frames of 128² at places between pixels, with photon noise; the light is not known.  Errors of the object are
given by the whole object, by its contrast, and with a scale for each tile of 64 pixels, after 40 passes.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.figures import Figure
from benchmarks.object_errors import errors
from nsbluesky.backend import get_backend
from nsbluesky.settings import SolverSettings
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import gold_balls, near_field_sample
from nsbluesky.solver.reconstruct import reconstruct
from nsbluesky.trajectories import make_trajectory

SIDE = 128
LINES = 12
STEP_PX = 11
PASSES = 40
RIM_PX = 24
DOSES = (1e5, 1e6, 1e7)
OTHERS = ("rpie", "lsqml", "raar")
METRES_PER_UM = 1e-6


def measure() -> list[Figure]:
    """Reconstruct at three doses, and by other engines at one."""
    return [
        *(_figure(f"default, {photons:.0e} photons a frame", photons) for photons in DOSES),
        *(_figure(f"{engine}, 1e+06 photons a frame", 1e6, algorithm=engine) for engine in OTHERS),
    ]


def _figure(what: str, photons: float, **changes: Any) -> Figure:
    balls = gold_balls()
    sample = near_field_sample(np.abs(balls.object), frame_px=SIDE, photons=photons)
    simulator = FrameSimulator(sample, layout="none", seed=7)
    step_um = STEP_PX * sample.pixel_m / METRES_PER_UM
    places_m = make_trajectory("jittered_raster", (LINES, LINES), step_um, 8) * METRES_PER_UM
    frames = [simulator.raw_frame(x, y, shutter_open=True, index=k) for k, (x, y) in enumerate(places_m)]
    settings = SolverSettings(modes=1, passes_final=PASSES, **changes)
    begin = time.perf_counter()
    given = (np.array(frames, np.float32), places_m, None, simulator.geometry, settings, get_backend("numpy"))
    picture = reconstruct(*given).picture
    took = time.perf_counter() - begin
    note = f"whole / contrast / tiles; {PASSES} passes over {LINES * LINES} frames in {took:.1f} s"
    return Figure(f"{what}: error of the object", str(errors(picture.object, sample.object, RIM_PX)), note)
