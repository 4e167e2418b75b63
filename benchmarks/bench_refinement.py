"""What refinement is worth: gold balls whose positions, flux and background are not what the frames are told to be.

400 simulated frames with the photons of the measured data. Errors of objects are given twice: relative to the whole
object, and to its contrast (mean removed). More photons than the sample's own bring noise of their own, which no
refinement takes out: how much that is tell reconstructions that know flux and background of each frame, of the same
passes from the usual start, and of conjugate gradients that begin with the true object and probe.

Then scans whose probe changes from frame to frame, and bounds of object and probe (`benchmarks.refined_probe`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.bench_contest import solver_for
from benchmarks.figures import Figure
from benchmarks.refined_probe import probe_and_bounds
from nsbluesky.backend import get_backend
from nsbluesky.geometry import Geometry
from nsbluesky.settings import SolverSettings
from nsbluesky.simulation.samples import Sample, gold_balls
from nsbluesky.solver.picture import Picture
from nsbluesky.solver.quality import align, nrmse
from nsbluesky.solver.reconstruct import Reconstruction, reconstruct
from nsbluesky.trajectories import make_trajectory

SIDE = 20
SEED = 21
PASSES = 40
RIM_PX = 10
METRES_PER_UM = 1e-6
ON = {"refine_positions": "frames", "refine_flux": True, "refine_background": True}
OFF = {"refine_positions": "none", "refine_flux": False, "refine_background": False}


@dataclass(frozen=True)
class Scan:
    """Frames, where they are told to lie and where they do, and their true flux and background (photons a pixel)."""

    sample: Sample
    frames: Any
    told_m: Any
    true_m: Any
    flux: Any
    background: Any


def measure() -> list[Figure]:
    """Reconstruct clean and spoilt scans, with refinement and without."""
    figures = []
    for what, scan in (
        ("clean", make_scan()),
        ("position errors of 2 px rms along each axis", make_scan(error_px=2.0)),
        ("background of 5 %, flux varying by 10 %", make_scan(background=0.05, flux=0.1)),
    ):
        for how, changes, passes in (
            ("not refined", OFF, PASSES),
            ("refined", ON, PASSES),
            ("refined, until the image has settled", ON, None),
            ("refined, then 30 passes of cg", ON | {"algorithm": f"wasp:{PASSES},cg:30"}, PASSES + 30),
        ):
            started = time.perf_counter()
            result = _reconstruct(scan, changes, passes)
            seconds = time.perf_counter() - started
            whole, contrast = _errors(scan, result.picture)
            done = f"{len(result.r_factors)} passes, {seconds:.1f} s"
            note = f"by its contrast {contrast:.4f}, R {result.picture.r_factor:.4f}, {done}"
            figures.append(Figure(f"{what}, {how}: object error (whole object)", f"{whole:.4f}", note))
            if "position" in what:
                figures.append(
                    Figure(f"{what}, {how}: positions off by", f"{_off_px(scan, result):.3f} px rms", AXIS)
                )
        if "position" not in what:
            for how, from_truth in (
                ("flux and background told", False),
                ("conjugate gradients from true object, probe, flux and background", True),
            ):
                whole, contrast = _errors(scan, _known(scan, from_truth=from_truth))
                note = f"by its contrast {contrast:.4f}"
                figures.append(Figure(f"{what}, {how}: object error (whole object)", f"{whole:.4f}", note))
    return figures + probe_and_bounds()


AXIS = "along one axis, all frames, translation and linear terms taken out"


def make_scan(error_px: float = 0.0, background: float = 0.0, flux: float = 0.0) -> Scan:
    """Simulate a scan."""
    sample = gold_balls()
    rng = np.random.default_rng(SEED)
    step_um = sample.scan_range_m[0] / SIDE / METRES_PER_UM
    told_m = make_trajectory("jittered_raster", (SIDE, SIDE), step_um, SEED) * METRES_PER_UM
    true_m = told_m + rng.normal(size=told_m.shape) * error_px * sample.pixel_m
    shares = np.maximum(1 + flux * rng.normal(size=len(told_m)), 0.3)
    frames, backgrounds = [], []
    for (x, y), share in zip(true_m, shares, strict=True):
        field = np.fft.fftshift(np.fft.fft2(sample.exit_waves(x, y), norm="ortho"), axes=(-2, -1))
        light = (np.abs(field) ** 2).sum(axis=0)
        backgrounds.append(background * light.mean())
        frames.append(rng.poisson(share * light + backgrounds[-1]))
    return Scan(sample, np.array(frames, np.float32), told_m, true_m, shares, np.array(backgrounds))


def _geometry(scan: Scan) -> Geometry:
    sample, side = scan.sample, scan.frames.shape[-1]
    return sample.geometry.replace(pixel_size_m=sample.detector_pixel_m * sample.detector_px / side)


def _reconstruct(scan: Scan, changes: dict[str, Any], passes: int | None) -> Reconstruction:
    settings = SolverSettings(sweep_frames=0, **changes)
    return reconstruct(scan.frames, scan.told_m, None, _geometry(scan), settings, get_backend("auto"), passes=passes)


def _known(scan: Scan, *, from_truth: bool) -> Picture:
    """Reconstruct with the true flux and background, from the true object and probe or from the usual start."""
    settings = {"sweep_frames": 0, "passes_final": PASSES, **OFF}
    if from_truth:
        settings |= {"coarse_uses": 0, "algorithm": "cg"}
    solver = solver_for(scan.frames, _geometry(scan), get_backend("auto"), **settings)
    slots = np.arange(len(scan.frames))
    solver.add_frames(slots, scan.frames, scan.true_m)
    if from_truth:
        solver.start_with(scan.sample.probe)
    solver.finish()
    while solver.state is None:
        solver.step(0.0)
    frames, side = solver.frames, scan.frames.shape[-1]
    if from_truth:
        for (row, column), (x, y) in zip(frames.corners_px[slots] - solver.state.origin_px, scan.true_m, strict=True):
            solver.state.object[row : row + side, column : column + side] = scan.sample.window(x, y)[0]
    background = scan.background / scan.flux
    while not solver.finished:
        solver.state.background = float(background.mean())  # the state is another one on whole frames
        frames.flux[slots], frames.backgrounds[slots] = scan.flux, background - background.mean()
        solver.step(0.0)
    return solver.picture()


def _errors(scan: Scan, picture: Picture) -> tuple[float, float]:
    """Return the object's error relative to all of it, and to its contrast."""
    aligned = align(picture.object, scan.sample.object, RIM_PX)
    both = np.isfinite(aligned.image) & np.isfinite(aligned.truth)
    flat = nrmse(aligned.image - aligned.image[both].mean(), aligned.truth - aligned.truth[both].mean())
    return nrmse(aligned.image, aligned.truth), flat


def _off_px(scan: Scan, result: Reconstruction) -> float:
    wrong = (result.translations_m - scan.true_m) / result.picture.pixel_m
    basis = np.concatenate([np.ones((len(wrong), 1)), scan.true_m / METRES_PER_UM], axis=1)
    wrong -= basis @ np.linalg.lstsq(basis, wrong, rcond=None)[0]
    return float(np.sqrt(np.mean(wrong**2)))
