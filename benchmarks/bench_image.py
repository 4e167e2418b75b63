"""How good the live image is: frames arrive in ticks of 20, some passes a tick, as at a beamline.

The measured Siemens star comes without an optic, and its own probe guess is not used.  The gold balls are simulated
with two probe modes, their optic's defocus is told wrong by some depths of field λ/NA².
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure
from benchmarks.object_errors import errors
from nsbluesky.backend import get_backend
from nsbluesky.cxi import read_cxi, siemens_star_to_cxi
from nsbluesky.geometry import Geometry
from nsbluesky.settings import SolverSettings
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import Sample, gold_balls
from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.quality import contrast_correlation
from nsbluesky.trajectories import make_trajectory

STAR = Path(__file__).parent.parent / "tests" / "data" / "siemens_star" / "siemens-star-small.npz.bz2"
TICK_FRAMES = 20
PASSES_A_TICK = 3
RIM_PX = 10
WRONG_BY_DEPTHS = 2.3
MOST_DEPTHS = 5.0
METRES_PER_UM = 1e-6


def measure() -> list[Figure]:
    """Stream the measured star and two simulated scans."""
    figures = []
    frames, places, geometry = star_scan()
    solver = _solver(geometry, frames)
    end = _stream(solver, frames, places)
    final = _finish(solver)
    figures.append(Figure("Siemens star (measured): R at scan end", f"{end.r_factor:.4f}", "number to beat 0.1475"))
    figures.append(Figure("Siemens star: R after 10 more passes", f"{final.r_factor:.4f}", "after 20 passes: 0.1465"))
    figures += _gold_balls(20, 21, WRONG_BY_DEPTHS)
    figures += _gold_balls(20, 21, WRONG_BY_DEPTHS, modes=3)
    for wrong_by in (-MOST_DEPTHS, MOST_DEPTHS):
        figures += _gold_balls(20, 21, wrong_by)
    figures += _gold_balls(40, 22, WRONG_BY_DEPTHS)
    return figures


def star_scan() -> tuple[Any, Any, Geometry]:
    """Return frames, translations in the order of a raster, and geometry of the measured star."""
    with tempfile.TemporaryDirectory() as folder:
        siemens_star_to_cxi(STAR, Path(folder) / "star.cxi")
        with read_cxi(Path(folder) / "star.cxi") as star:
            assert star.frames is not None
            order = np.lexsort((star.translation_m[:, 0], np.round(star.translation_m[:, 1] / 5e-7)))
            return star.frames[:][order], star.translation_m[order], star.geometry()


def gold_balls_scan(side: int, seed: int, wrong_by: float = WRONG_BY_DEPTHS) -> tuple[Any, Any, Geometry, Sample]:
    """Return frames, translations, geometry with a wrong defocus, and the sample with the truth."""
    sample = gold_balls()
    simulator = FrameSimulator(sample, layout="none", seed=seed)
    step_um = sample.scan_range_m[0] / side / METRES_PER_UM
    places = make_trajectory("jittered_raster", (side, side), step_um, seed) * METRES_PER_UM
    frames = np.stack([simulator.raw_frame(x, y, shutter_open=True, index=k) for k, (x, y) in enumerate(places)])
    wrong = sample.optic.replace(defocus_m=sample.optic.defocus_m + wrong_by * _depth_m(sample))
    return frames.astype(np.float32), places, simulator.geometry.replace(optic=wrong), sample


def _depth_m(sample: Sample) -> float:
    return 4 * sample.optic.outer_zone_m**2 / sample.geometry.wavelength_m


def _gold_balls(side: int, seed: int, wrong_by: float, **settings: Any) -> list[Figure]:
    frames, places, geometry, sample = gold_balls_scan(side, seed, wrong_by)
    solver = _solver(geometry, frames, **settings)
    what = f"gold balls {side} × {side}, {solver.settings.modes} modes, defocus told wrong by {wrong_by:+.1f} λ/NA²"
    whole, contrast = [], []
    for picture in (_stream(solver, frames, places), _finish(solver)):
        found = errors(picture.object, sample.object, RIM_PX)
        whole.append(f"{found.whole:.4f}")
        contrast.append(f"{found.contrast:.4f}")
    assert solver.sweep is not None
    off = (solver.sweep.defocus_m - sample.optic.defocus_m) / _depth_m(sample)
    correlation = contrast_correlation(picture.object, sample.object, RIM_PX)
    return [
        Figure(
            f"{what}: object error at scan end → after 10 more passes",
            " → ".join(whole),
            f"by contrast {' → '.join(contrast)}, contrast correlation {correlation:.4f}, R {picture.r_factor:.4f}",
        ),
        Figure(f"{what}: defocus found", f"{off:+.2f} λ/NA² from the truth"),
    ]


def _solver(geometry: Geometry, frames: Any, **settings: Any) -> IncrementalSolver:
    side = frames.shape[-1]
    return IncrementalSolver(
        SolverSettings(**settings),
        frame_px=side,
        pixel_m=geometry.object_pixel_m(side),
        geometry=geometry,
        backend=get_backend("auto"),
        num_points=len(frames),
    )


def _stream(solver: IncrementalSolver, frames: Any, places: Any) -> Any:
    """Add frames tick by tick, with a fixed number of passes after each; return the picture at scan end."""
    for start in range(0, len(frames), TICK_FRAMES):
        tick = slice(start, min(start + TICK_FRAMES, len(frames)))
        solver.add_frames(np.arange(tick.start, tick.stop), frames[tick].astype(np.float32), places[tick])
        while solver.state is None and solver.has_work:
            solver.step(0)
        wanted = 0 if solver.state is None else solver.state.passes + PASSES_A_TICK
        while solver.state is not None and solver.state.passes < wanted and solver.has_work:
            solver.step(0)
    return solver.picture()


def _finish(solver: IncrementalSolver) -> Any:
    solver.finish()
    while not solver.finished:
        solver.step(1)
    return solver.picture()
