"""What it is worth to let the probe vary over the scan, and to hold what is known of object and probe beforehand.

256 simulated frames of 64² (`benchmarks.simulated_scans`), whose optic, sample and restlessness are known.  A part of
`benchmarks.bench_refinement`.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.figures import Figure
from benchmarks.simulated_scans import INNER, OUTER, PIXEL_M, SimulatedScan, sample_with_holes, simulated_scan
from nsbluesky.backend import get_backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.quality import align, nrmse
from nsbluesky.solver.reconstruct import Reconstruction, reconstruct

SIDE = 64
LINES = 16
PASSES = 30
RIM_PX = 16
START_DEFOCUS = 0.8
"""Told defocus, relative to the true one."""

RESTLESS = {"5 %": 1.0, "1 %": 0.5}
"""Light that is another than the mean probe's, and what `simulated_scans.restless_probes` makes that of."""

Ways = dict[str, dict[str, Any]]


def probe_and_bounds() -> list[Figure]:
    """Reconstruct each scan in several ways."""
    figures = []
    follows: Ways = {
        "one probe": {},
        "one probe of 3 incoherent modes": {"modes": 3},
        "positions refined": {"refine_positions": "frames"},
        "3 modes of variation": {"probe_variation": 3},
        "5 modes of variation": {"probe_variation": 5},
        "one probe, until the image has settled": {"most_variation": 0, "passes": None},
        "by default, until the image has settled": {"passes": None},
    }
    for photons in (1e4, 1e5, 1e6):
        for part, restless in RESTLESS.items():
            scan = simulated_scan(SIDE, LINES, photons, restless=restless)
            figures += _errors(f"restless probe ({part} of its light), {photons:.0e} photons", scan, follows)
        figures += _errors(
            f"probe at rest, {photons:.0e} photons",
            simulated_scan(SIDE, LINES, photons),
            {way: follows[way] for way in follows if not way.startswith(("positions", "5", "one probe of"))},
        )
    bounds: Ways = {
        "free": {},
        "|O| ≤ 1": {"object_most": 1.0},
        "phase ≤ 0": {"object_phase": "negative"},
        "both": {"object_most": 1.0, "object_phase": "negative"},
    }
    supports: Ways = {
        "free": {},
        "pupil": {"probe_pupil": True},
        "circle with 99 % of the light": {"probe_radius_m": 0.99},
        "circle with 99.8 % of the light": {"probe_radius_m": 0.998},
    }
    for photons in (1e3, 1e4, 1e5, 1e6):
        scan = simulated_scan(SIDE, LINES, photons, sample=sample_with_holes)
        figures += _errors(f"object with empty places, {photons:.0e} photons", scan, bounds)
        figures += _errors(f"probe, {photons:.0e} photons", simulated_scan(SIDE, LINES, photons), supports)
    return figures


def _errors(what: str, scan: SimulatedScan, ways: Ways) -> list[Figure]:
    figures = []
    for way, changes in ways.items():
        started = time.perf_counter()
        result = _reconstruct(scan, changes)
        seconds = time.perf_counter() - started
        aligned = align(result.picture.object, scan.object, RIM_PX)
        both = np.isfinite(aligned.image) & np.isfinite(aligned.truth)
        contrast = nrmse(aligned.image - aligned.image[both].mean(), aligned.truth - aligned.truth[both].mean())
        note = f"by its contrast {contrast:.4f}, R {result.picture.r_factor:.4f}, {seconds:.1f} s"
        if result.variation is not None:
            note += f"; {100 * result.variation.part:.2f} % varies"
        whole = nrmse(aligned.image, aligned.truth)
        figures.append(Figure(f"{what}, {way}: object error (whole object)", f"{whole:.4f}", note))
    return figures


def _reconstruct(scan: SimulatedScan, changes: dict[str, Any]) -> Reconstruction:
    changes = dict(changes)
    passes = changes.pop("passes", PASSES)
    if "probe_radius_m" in changes:
        changes = changes | {"probe_radius_m": _radius_m(scan, changes["probe_radius_m"])}
    stop_m = INNER / OUTER * scan.geometry.optic.diameter_m
    geometry = scan.geometry.replace(optic__defocus_m=START_DEFOCUS * scan.defocus_m, optic__central_stop_m=stop_m)
    settings = SolverSettings(**{"modes": 1, "sweep_frames": 0, "find_orientation": False} | changes)
    return reconstruct(scan.frames, scan.translations_m, None, geometry, settings, get_backend("auto"), passes=passes)


def _radius_m(scan: SimulatedScan, part: float) -> float:
    """Return the radius of the circle about the window's middle that holds so much of the probe's light."""
    light = np.abs(scan.probe) ** 2
    radius = np.hypot(*(np.indices(light.shape) - scan.side // 2))
    order = np.argsort(radius, axis=None)
    held = np.cumsum(light.ravel()[order]) / light.sum()
    return float(radius.ravel()[order][np.searchsorted(held, part)]) * PIXEL_M
