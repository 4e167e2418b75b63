"""``nsbluesky simulate``: a simulated scan, from any picture, in a CXI file."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nsbluesky.commands import output_file, parse_count, parse_shape
from nsbluesky.commands.raw_scan import write_raw_scan
from nsbluesky.cxi import CxiFile
from nsbluesky.cxi.export import require_space_for_frames
from nsbluesky.simulation.fccd_frames import NOMINAL_EXPOSURE_S, FrameSimulator
from nsbluesky.simulation.presets import PRESETS
from nsbluesky.simulation.samples import Sample, from_picture, gold_balls, near_field_sample
from nsbluesky.trajectories import PATTERNS, make_trajectory

__all__ = ["add_arguments", "run"]

METRES_PER_UM = 1e-6
DEFAULT_FAULTS = "sensor"
DEFAULT_DARKS = 25
MOST_DARKS = 10_000
LEAST_STEP_PX = 0.01


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("out", type=Path, help="the CXI file to write; the truth goes beside it")
    parser.add_argument("--image", type=Path, help="a picture: dark is thick (gold nanospheres by default)")
    parser.add_argument("--shape", type=parse_shape, default="20x20", help="rows and columns (%(default)s)")
    parser.add_argument("--step-um", type=float, help="step in µm (what covers the sample by default)")
    parser.add_argument("--pattern", choices=sorted(PATTERNS), default="jittered_raster", help="(%(default)s)")
    parser.add_argument("--seed", type=parse_count, default=0, help="seed of noise and jitter (%(default)s)")
    parser.add_argument("--near-field", action="store_true", help="the picture behind a diffuser, in diverging light")
    parser.add_argument("--raw", action="store_true", help="raw FCCD frames and darks instead of clean frames")
    raw = parser.add_argument_group("with --raw")
    raw.add_argument("--darks", type=parse_count, help=f"dark frames of each exposure ({DEFAULT_DARKS})")
    raw.add_argument("--faults", choices=list(PRESETS), help=f"what is wrong with the detector ({DEFAULT_FAULTS})")
    raw.add_argument(
        "--exposures-s", type=float, nargs="+", metavar="S", help=f"exposures of each point ({NOMINAL_EXPOSURE_S:g})"
    )
    raw.add_argument("--photons", action="store_true", help="keep the photons that really fell with the truth")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Simulate a scan and write it."""
    if not options.raw and (options.darks is not None or options.faults or options.exposures_s or options.photons):
        raise ValueError("--darks, --faults, --exposures-s and --photons are about raw frames: expected --raw too")
    if options.darks is not None and options.darks > MOST_DARKS:
        raise ValueError(f"--darks {options.darks}: expected at most {MOST_DARKS}, of a megabyte each")
    sources = [options.image] if options.image is not None else []
    out = output_file(options.out, *sources)
    truth = output_file(out.with_suffix(".truth.h5"), *sources)
    sample = _sample(options)
    rows, columns = options.shape
    width_m, height_m = sample.scan_range_m
    step_um = options.step_um
    if step_um is None:
        step_um = min(width_m / columns, height_m / rows) / METRES_PER_UM
    elif math.isfinite(step_um) and step_um > 0:
        _check_step(step_um, sample)
    translations_m = make_trajectory(options.pattern, options.shape, step_um, options.seed) * METRES_PER_UM
    summary: dict[str, Any] = {"cxi": str(out), "truth": str(truth), "frames": len(translations_m)}
    if options.raw:
        simulator = FrameSimulator(sample, seed=options.seed, detector=options.faults or DEFAULT_FAULTS)
        exposures_s = options.exposures_s or [NOMINAL_EXPOSURE_S]
        summary |= write_raw_scan(
            out,
            truth,
            simulator,
            translations_m,
            num_darks=DEFAULT_DARKS if options.darks is None else options.darks,
            exposures_s=exposures_s,
            photons=options.photons,
        )
        return summary | {"step_um": step_um}
    simulator = FrameSimulator(sample, layout="none", seed=options.seed)
    geometry = simulator.geometry
    require_space_for_frames(out, (len(translations_m), *simulator.shape))  # HDF5 does not survive a full disk
    with CxiFile.create(
        out,
        energy_eV=geometry.energy_eV,
        detector_distance_m=geometry.detector_distance_m,
        pixel_size_m=geometry.pixel_size_m,
        frame_shape=simulator.shape,
        propagation=geometry.propagation,
        source_distance_m=geometry.source_distance_m,
        whole=True,
    ) as cxi:
        for k, (x, y) in enumerate(tqdm(translations_m, unit="frame", disable=None)):
            frame = simulator.raw_frame(x, y, shutter_open=True, index=k)
            cxi.append(frame[None].astype(np.float32), translations_m[k : k + 1])
    simulator.save_truth(truth)
    return summary | {"step_um": step_um}


def _check_step(step_um: float, sample: Sample) -> None:
    """Raise a ValueError about a step in another unit: all frames lie at one place, or beside the sample."""
    least_um, most_um = LEAST_STEP_PX * sample.pixel_m / METRES_PER_UM, max(sample.scan_range_m) / METRES_PER_UM
    if not least_um <= step_um <= most_um:
        raise ValueError(
            f"--step-um {step_um:g}: expected µm, at least {least_um:.2g}, of which a frame shows something, and at "
            f"most {most_um:.3g}, the width of the sample; if that is in nm, write {step_um / 1e3:g}"
        )


def _sample(options: argparse.Namespace) -> Sample:
    if not options.near_field:
        return gold_balls() if options.image is None else from_picture(options.image)
    if options.raw:
        raise ValueError("--near-field has no raw FCCD frames: expected it without --raw")
    return near_field_sample(np.abs(gold_balls().object) if options.image is None else options.image)
