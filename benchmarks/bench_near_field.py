"""Near field: gold nanospheres behind a diffuser in diverging light, from the mean frame to the object, by dose.

12 × 12 frames of 128² at places between pixels, with photon noise; the light is not known.  Errors of the object
after 40 passes are given by the whole object, by its contrast, and with a scale for each tile of 64 pixels;
the note parts them into structure of periods above 12 pixels and below, each relative to what the sample has of it.
How much is photon noise tell reconstructions that begin with the true probe, which stays, or with the true object
and probe.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.bench_contest import solver_for
from benchmarks.figures import Figure
from benchmarks.object_errors import errors
from nsbluesky.backend import get_backend
from nsbluesky.geometry import Geometry
from nsbluesky.settings import SolverSettings
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import Sample, gold_balls, near_field_sample
from nsbluesky.solver.picture import Picture
from nsbluesky.solver.quality import align
from nsbluesky.solver.reconstruct import reconstruct
from nsbluesky.trajectories import make_trajectory

SIDE = 128
LINES = 12
STEP_PX = 11
PASSES = 40
RIM_PX = 24
WIDE_PX = 12
DOSES = (1e5, 1e6, 1e7)
OTHERS = ("rpie", "lsqml", "raar")
METRES_PER_UM = 1e-6
NOTE = f"whole / contrast / tiles; {PASSES} passes over {LINES * LINES} frames"


def measure() -> list[Figure]:
    """Reconstruct at three doses, beside what photon noise leaves, and by other engines at one."""
    figures = []
    for photons in DOSES:
        scan = _scan(photons)
        figures += [
            _figure("default", scan),
            _floor("the default with the true probe held", scan, probe_start=PASSES),
            _floor("conjugate gradients from the true object and probe", scan, from_object=True, algorithm="cg"),
        ]
    return figures + [_figure(engine, _scan(1e6), algorithm=engine) for engine in OTHERS]


@dataclass(frozen=True)
class Scan:
    """Frames of a sample, and where they lie."""

    photons: float
    sample: Sample
    geometry: Geometry
    places_m: Any
    frames: Any


def _scan(photons: float) -> Scan:
    balls = gold_balls()
    sample = near_field_sample(np.abs(balls.object), frame_px=SIDE, photons=photons)
    simulator = FrameSimulator(sample, layout="none", seed=7)
    step_um = STEP_PX * sample.pixel_m / METRES_PER_UM
    places_m = make_trajectory("jittered_raster", (LINES, LINES), step_um, 8) * METRES_PER_UM
    frames = [simulator.raw_frame(x, y, shutter_open=True, index=k) for k, (x, y) in enumerate(places_m)]
    return Scan(photons, sample, simulator.geometry, places_m, np.array(frames, np.float32))


def _figure(what: str, scan: Scan, **changes: Any) -> Figure:
    settings = SolverSettings(modes=1, passes_final=PASSES, **changes)
    begin = time.perf_counter()
    given = (scan.frames, scan.places_m, None, scan.geometry, settings, get_backend("numpy"))
    picture = reconstruct(*given).picture
    note = f"{NOTE} in {time.perf_counter() - begin:.1f} s"
    return _told(what, scan, picture, note)


def _floor(what: str, scan: Scan, *, from_object: bool = False, **changes: Any) -> Figure:
    """Begin with what is not known of a real scan."""
    settings = {"modes": 1, "most_modes": 1, "passes_final": PASSES, "refine_flux": False, **changes}
    solver = solver_for(scan.frames, scan.geometry, get_backend("numpy"), **settings)
    slots = np.arange(len(scan.frames))
    solver.add_frames(slots, scan.frames, scan.places_m)
    solver.start_with(scan.sample.probe)
    assert solver.state is not None
    if from_object:
        corners = solver.frames.corners_px[slots] - solver.state.origin_px
        for (row, column), (x, y) in zip(corners, scan.places_m, strict=True):
            solver.state.object[row : row + SIDE, column : column + SIDE] = scan.sample.window(x, y)[0]
    solver.finish()
    while not solver.finished:
        solver.step(1.0)
    return _told(what, scan, solver.picture(), NOTE)


def _told(what: str, scan: Scan, picture: Picture, note: str) -> Figure:
    error = str(errors(picture.object, scan.sample.object, RIM_PX))
    wide, fine = _by_width(picture.object, scan.sample.object)
    note = f"{note}; wide structure {wide:.2f}, fine {fine:.2f}"
    return Figure(f"{what}, {scan.photons:.0e} photons a frame: error of the object", error, note)


def _by_width(image: Any, truth: Any) -> tuple[float, float]:
    """Return the error of structure wider and finer than `WIDE_PX`, relative to that structure's own strength."""
    aligned = align(image, truth, RIM_PX)
    rows, columns = (np.flatnonzero(np.isfinite(aligned.image).any(axis=axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    there = np.nan_to_num(aligned.truth[box])
    off = np.nan_to_num(aligned.image[box]) - there
    window = np.outer(*(np.hanning(side) for side in there.shape))
    down, right = (np.fft.fftfreq(side) for side in there.shape)
    is_wide = np.hypot(down[:, None], right) < 1 / WIDE_PX
    error, strength = (np.abs(np.fft.fft2(each * window)) for each in (off, there - there.mean()))
    parts = [float(np.linalg.norm(error[which]) / np.linalg.norm(strength[which])) for which in (is_wide, ~is_wide)]
    return parts[0], parts[1]
