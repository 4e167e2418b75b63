"""A small CXI file that can be reconstructed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nsbluesky.backend import get_backend
from nsbluesky.cxi import CxiFile
from nsbluesky.settings import SolverSettings
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import gold_balls
from nsbluesky.solver.reconstruct import reconstruct
from nsbluesky.trajectories import make_trajectory


def write_simulated_file(path: Path, points: tuple[int, int] = (6, 6)) -> Path:
    """Write frames of gold balls as they fall, and a quick reconstruction of them."""
    simulator = FrameSimulator(gold_balls(), layout="none")
    geometry = simulator.geometry
    xy_m = 1e-6 * make_trajectory("jittered_raster", points, 0.06)
    frames = np.stack([simulator.raw_frame(x, y, shutter_open=True, index=k) for k, (x, y) in enumerate(xy_m)])
    frames = frames.astype(np.float32)
    settings = SolverSettings(sweep_frames=0, modes=2)
    result = reconstruct(frames, xy_m, None, geometry, settings, get_backend("numpy"), passes=4)
    x0, x1, y0, y1 = result.picture.extent_m
    with CxiFile.create(
        path,
        energy_eV=geometry.energy_eV,
        detector_distance_m=geometry.detector_distance_m,
        pixel_size_m=geometry.pixel_size_m,
        frame_shape=frames.shape[1:],
    ) as cxi:
        cxi.append(frames, xy_m)
        cxi.set_illumination(result.picture.probe[0])
        cxi.write_image(
            result.picture.object,
            result.picture.probe,
            result.picture.pixel_m,
            settings.to_dict(),
            result.r_factors,
            center_m=((x0 + x1) / 2, (y0 + y1) / 2),
        )
    return path
