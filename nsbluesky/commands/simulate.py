"""``nsbluesky simulate``: a simulated scan, from any picture, in a CXI file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from nsbluesky.commands import output_file, parse_count, parse_shape
from nsbluesky.cxi import CxiFile, write_raw_cxi
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import from_picture, gold_balls
from nsbluesky.trajectories import PATTERNS, make_trajectory

__all__ = ["add_arguments", "run"]

METRES_PER_UM = 1e-6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("out", type=Path, help="the CXI file to write; the truth goes beside it")
    parser.add_argument("--image", type=Path, help="a picture: dark is thick (gold nanospheres by default)")
    parser.add_argument("--raw", action="store_true", help="raw FCCD frames and darks instead of clean frames")
    parser.add_argument("--shape", type=parse_shape, default="20x20", help="rows and columns (%(default)s)")
    parser.add_argument("--step-um", type=float, help="step in µm (what covers the sample by default)")
    parser.add_argument("--pattern", choices=sorted(PATTERNS), default="jittered_raster", help="(%(default)s)")
    parser.add_argument("--darks", type=parse_count, default=25, help="dark frames with --raw (%(default)s)")
    parser.add_argument("--seed", type=parse_count, default=0, help="seed of noise and jitter (%(default)s)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Simulate a scan and write it."""
    sources = [options.image] if options.image is not None else []
    out = output_file(options.out, *sources)
    truth = output_file(out.with_suffix(".truth.h5"), *sources)
    sample = gold_balls() if options.image is None else from_picture(options.image)
    simulator = FrameSimulator(sample, layout="cosmic" if options.raw else "none", seed=options.seed)
    rows, columns = options.shape
    width_m, height_m = sample.scan_range_m
    step_um = options.step_um
    if step_um is None:
        step_um = min(width_m / columns, height_m / rows) / METRES_PER_UM
    translations_m = make_trajectory(options.pattern, options.shape, step_um, options.seed) * METRES_PER_UM
    geometry = simulator.geometry
    experiment: dict[str, Any] = {
        "energy_eV": geometry.energy_eV,
        "detector_distance_m": geometry.detector_distance_m,
        "pixel_size_m": geometry.pixel_size_m,
    }
    frames = _frames(simulator, translations_m, first_index=options.darks)
    if options.raw:
        darks = (simulator.raw_frame(0, 0, shutter_open=False, index=k) for k in range(options.darks))
        write_raw_cxi(out, frames, darks, translations_m, **experiment)
    else:
        with CxiFile.create(out, frame_shape=simulator.shape, **experiment) as cxi:
            for frame, translation_m in zip(frames, translations_m, strict=True):
                cxi.append(frame[None].astype(np.float32), translation_m[None])
    simulator.save_truth(truth)
    return {"cxi": str(out), "truth": str(truth), "frames": len(translations_m), "step_um": step_um}


def _frames(
    simulator: FrameSimulator, translations_m: npt.NDArray[np.float64], first_index: int
) -> Iterator[npt.NDArray[np.uint16]]:
    for k, (x, y) in enumerate(tqdm(translations_m, unit="frame", disable=None)):
        yield simulator.raw_frame(x, y, shutter_open=True, index=first_index + k)
