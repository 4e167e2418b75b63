"""What choices among the settings of cleaning and solver buy the image, on raw frames of a good and of a bad day.

Scans of 14 × 14 gold balls in steps of 0.1 µm, where frames overlap by little, as raw FCCD frames: cleaned, and
reconstructed with 40 passes.  "heavy" has 5 % of flux fluctuation, packets lost in a fifth of the frames, lost,
doubled and renumbered frames, and seven bad ADCs side by side.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure
from nsbluesky.backend import get_backend
from nsbluesky.commands.raw_scan import write_raw_scan
from nsbluesky.conversion import Workers, convert, scan_of_cxi
from nsbluesky.cxi import read_cxi
from nsbluesky.settings import PipelineSettings
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import gold_balls
from nsbluesky.solver.quality import contrast_correlation
from nsbluesky.solver.reconstruct import reconstruct
from nsbluesky.trajectories import make_trajectory

SHAPE = (14, 14)
STEP_UM = 0.1
PASSES = 40
RIM_PX = 10
METRES_PER_UM = 1e-6
DETECTORS = {"light": (0,), "heavy": (5,)}
"""Presets of the simulated detector, and seeds."""
WAYS = {
    "defaults": [],
    "spikes left in": ["cleaning.spikes=none"],
    "downsampled by Fourier transform": ["cleaning.downsample=fourier"],
    "flux of frames not corrected": ["solver.refine_flux=false"],
}


def measure() -> list[Figure]:
    """Clean and reconstruct each scan in each way."""
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for preset, seeds in DETECTORS.items():
            scans = [_scan(Path(folder, f"{preset}-{seed}.cxi"), preset, seed) for seed in seeds]
            for way, changes in WAYS.items():
                settings = PipelineSettings().set_from_text(["backend=numpy", *changes])
                found = [_image(raw, settings) for raw in scans]
                correlations = ", ".join(f"{correlation:.4f}" for correlation, _, _ in found)
                r_factors = ", ".join(f"{r_factor:.4f}" for _, r_factor, _ in found)
                left_out = ", ".join(str(rejected) for _, _, rejected in found)
                note = f"R {r_factors}; frames that did not fit: {left_out}"
                figures.append(Figure(f"{preset}, {way}: contrast correlation", correlations, note))
    return figures


def _scan(path: Path, preset: str, seed: int) -> Path:
    simulator = FrameSimulator(gold_balls(), seed=seed, detector=preset)
    places_m = make_trajectory("jittered_raster", SHAPE, STEP_UM, seed) * METRES_PER_UM
    write_raw_scan(path, path.with_suffix(".truth.h5"), simulator, places_m)
    return path


def _image(raw: Path, settings: PipelineSettings) -> tuple[float, float, int]:
    """Return the object's contrast correlation with the truth, R, and the number of frames that did not fit."""
    clean = raw.with_suffix(".clean.cxi")
    clean.unlink(missing_ok=True)
    convert(scan_of_cxi(raw), clean, settings, workers=Workers.threads(1))
    with read_cxi(clean) as data:
        assert data.frames is not None
        result = reconstruct(
            data.frames,
            data.translation_m,
            data.mask,
            data.geometry(),
            settings.solver,
            get_backend("numpy"),
            weights=data.frame_weights,
            passes=PASSES,
        )
    image = result.picture.object
    known = bool(np.isfinite(image).any())
    correlation = contrast_correlation(image, gold_balls().object, RIM_PX) if known else float("nan")
    return correlation, float(result.r_factors[-1]), len(result.rejected)
