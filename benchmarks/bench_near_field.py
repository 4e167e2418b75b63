"""Near field: gold nanospheres behind a diffuser in diverging light, by dose, and a star that was measured.

12 × 12 frames of 128² at places between pixels, with photon noise; the light is not known.  Errors of the object
after 40 passes are given by the whole object, by its contrast, and with a scale for each tile of 64 pixels;
the note parts them into structure of periods above 12 pixels and below, each relative to what the sample has of it.
How much is photon noise tell reconstructions that begin with the true probe, which stays, or with the true object
and probe.

The measured star has no truth.  What there is of it in a picture say its spokes (`benchmarks.spokes`) between 6.2 and
11.2 µm from the centre: share 1 is a perfect star's, the scatter that of the steps at single spokes.  In all its rows
2% of the pixels are held out, for R alone does not tell a wrong model from a right one.
``python -m benchmarks.bench_near_field`` prints its rows alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_contest import solver_for
from benchmarks.figures import Figure, section
from benchmarks.object_errors import errors
from benchmarks.spokes import find_centre, spokes_of
from nsbluesky.backend import get_backend
from nsbluesky.cxi import read_cxi
from nsbluesky.geometry import Geometry
from nsbluesky.settings import SolverSettings
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import Sample, gold_balls, near_field_sample
from nsbluesky.solver.picture import Picture
from nsbluesky.solver.quality import align
from nsbluesky.solver.reconstruct import reconstruct
from nsbluesky.solver.shadow_motion import ShadowMotionSearch
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
STAR = Path(__file__).parent.parent.joinpath(
    "tests", "data", "petra_p25_near_field", "PETRAIII_P25_Near_Field_Ptycho.cxi"
)
STAR_SOURCE_M = 3.65e-3
STAR_SPOKES = 28
STAR_CIRCLES_M = np.arange(6.2e-6, 11.3e-6, 0.3e-6)
STAR_HELD_OUT = 0.02
NOTE = f"whole / contrast / tiles; {PASSES} passes over {LINES * LINES} frames"


def measure() -> list[Figure]:
    """Reconstruct at three doses, beside what photon noise leaves, by other engines at one; and a measured star."""
    figures = []
    for photons in DOSES:
        scan = _scan(photons)
        figures += [
            _figure("default", scan),
            _floor("the default with the true probe held", scan, probe_start=PASSES),
            _floor("conjugate gradients from the true object and probe", scan, from_object=True, algorithm="cg"),
        ]
    figures += [_figure(engine, _scan(1e6), algorithm=engine) for engine in OTHERS]
    return figures + motions() + measured_star()


def motions() -> list[Figure]:
    """Tell orientation and magnification from how shadows move, of few frames and more."""
    figures = []
    for photons in DOSES:
        scan = _scan(photons)
        places_px = scan.places_m[:, 1::-1] / scan.geometry.object_pixel_m(SIDE)
        for count in (24, 80, len(scan.frames)):
            figures.append(_motion(f"{photons:.0e} photons", scan.frames[:count], places_px[:count]))
    with read_cxi(STAR) as data:
        data.propagation, data.source_distance_m = "near", STAR_SOURCE_M
        frames, places_m, bad = data.clean_frames[:].astype(np.float32), data.translation_m, data.mask != 0
        places_px = places_m[:, 1::-1] / data.geometry().object_pixel_m(frames.shape[-1])
    frames[:, bad] = np.nan
    return figures + [_motion("star (measured)", frames[:count], places_px[:count]) for count in (16, 80, 200)]


def _motion(what: str, frames: Any, places_px: Any) -> Figure:
    begin = time.perf_counter()
    search = ShadowMotionSearch(frames, places_px)
    for _ in search.run():
        pass
    seconds, found = time.perf_counter() - begin, search.found
    assert found is not None
    value = f"turned by {found.turn}, {found.scale:.3f} times as far" if found.certain else "not certain"
    note = f"correlation {found.correlation:.3f}, confidence {found.confidence:.2f}; {seconds:.2f} s"
    return Figure(f"{what}: how shadows of {len(frames)} frames move", value, note)


def measured_star() -> list[Figure]:
    """Reconstruct the star by four engines until they have settled, and as what it is not."""
    told: dict[str, Any] = {"refine_positions": "none"}
    figures = [_star("default"), _star("two modes", modes=2), _star("positions as told", **told)]
    for engine in ("lsqml", "cg", "raar"):
        figures.append(_star(engine, algorithm=engine))
        figures.append(_star(f"{engine}, positions as told", algorithm=engine, **told))
    for part in (0.9, 1.1, 2.0):
        what = f"positions as told, the source {part:g} times as far"
        figures.append(_star(what, source_m=part * STAR_SOURCE_M, **told))
    return [*figures, _star("default, declared as far field", source_m=None)]


def _star(what: str, *, source_m: float | None = STAR_SOURCE_M, **changes: Any) -> Figure:
    settings = SolverSettings(**{"modes": 1, "held_out": STAR_HELD_OUT} | changes)
    with read_cxi(STAR) as data:
        frames, places_m, mask = data.clean_frames[:], data.translation_m[:, :2], data.mask
        if source_m is not None:
            data.propagation, data.source_distance_m = "near", source_m
        geometry = data.geometry()
    begin = time.perf_counter()
    result = reconstruct(frames, places_m, mask, geometry, settings, get_backend("numpy"))
    seconds = time.perf_counter() - begin
    picture = result.picture
    phase = np.angle(picture.object * np.exp(-1j * np.angle(np.nansum(picture.object))))
    phase = np.nan_to_num(phase)
    circles_px = STAR_CIRCLES_M / picture.pixel_m
    spokes = spokes_of(phase, find_centre(phase, STAR_SPOKES, circles_px), STAR_SPOKES, circles_px)
    note = f"share of the spokes {spokes.share:.2f}, step {spokes.step:.2f} rad"
    if spokes.share > 0.5:
        note += f", scatter {100 * spokes.scatter:.0f}%"
    assert result.quality is not None
    value = f"R {result.r_factors[-1]:.4f}, held out {result.quality.r_held_out:.4f}"
    note += f"; {len(result.r_factors)} passes in {seconds:.1f} s"
    return Figure(f"star (measured): {what}", value, note)


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


if __name__ == "__main__":
    print(section("Star", "python -m benchmarks.bench_near_field", measured_star()))
