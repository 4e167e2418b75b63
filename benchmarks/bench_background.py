"""Background and flicker, with nothing set: what they cost where they are looked for, as by default, and where not.

A strong object, 400 frames of 64², counted with a background that is the same on all pixels, and with a flux that
differs from frame to frame; 40 passes.  Errors are given by the whole object, by its contrast, and with a scale for
each tile of 64 pixels.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks.figures import Figure
from benchmarks.object_errors import errors
from benchmarks.simulated_scans import SimulatedScan, simulated_scan
from nsbluesky.backend import get_backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.reconstruct import reconstruct

PASSES = 40
DOSES = (1e4, 1e5, 1e6, 1e7)
CASES = ((0.0, 0.0), (0.05, 0.1), (0.2, 0.1), (0.5, 0.0), (0.5, 0.1), (1.0, 0.1), (2.0, 0.1))
"""Background as a part of the mean light, and the flux's standard deviation."""
NOISELESS = 1e12
SEED = 5
RIM_PX = 10


def measure() -> list[Figure]:
    """Reconstruct each case twice."""
    light = simulated_scan(64, 20, NOISELESS)
    return [
        _figure(light, photons, background, flux, looks)
        for photons in DOSES
        for background, flux in CASES
        for looks in (True, False)
    ]


def _figure(light: SimulatedScan, photons: float, background: float, flux: float, looks: bool) -> Figure:
    rng = np.random.default_rng(SEED)
    expected = light.frames.astype(np.float64) * (photons / NOISELESS)
    told = background * expected.mean()
    share = np.maximum(1 + flux * rng.normal(size=len(expected)), 0.3)
    frames = rng.poisson(share[:, None, None] * expected + told).astype(np.float32)
    settings = SolverSettings(**({} if looks else {"refine_background": False, "refine_flux": False}))
    given = (frames, light.translations_m, None, light.geometry, settings, get_backend("auto"))
    begin = time.perf_counter()
    result = reconstruct(*given, passes=PASSES)
    seconds = time.perf_counter() - begin
    what = f"{photons:.0e} photons, background of {100 * background:.0f} %, flux varying by {100 * flux:.0f} %"
    how = "default" if looks else "neither is looked for"
    value = str(errors(result.picture.object, light.object, RIM_PX))
    note = f"R {result.picture.r_factor:.4f}, {len(result.rejected)} frames left out, {seconds:.1f} s"
    return Figure(f"{what}, {how}: error of the object", value, note)
