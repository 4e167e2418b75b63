"""``nsbluesky raw2cxi``: raw FCCD frames of a CXI file to clean frames, block by block."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nsbluesky.cleaning.clean import clean
from nsbluesky.cleaning.darks import DarkAccumulator, DarkStatistics
from nsbluesky.cleaning.layout import FCCDLayout, get_layout
from nsbluesky.cleaning.plan import plan_for
from nsbluesky.commands import output_file
from nsbluesky.cxi import CxiError, CxiFile, FrameStack, read_cxi
from nsbluesky.settings import PipelineSettings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("raw", type=Path, help="a CXI file with raw_data and dark_data")
    parser.add_argument("clean", type=Path, help="the CXI file to write")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in cleaning.frame_px=208")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Clean a file; memory holds one block of frames."""
    settings = PipelineSettings().set_from_text(options.set)
    out = output_file(options.clean, options.raw)
    with read_cxi(options.raw) as raw:
        if raw.raw_data is None:
            raise CxiError(f"{options.raw} has no raw_data: expected a raw CXI file; is it clean already?")
        if raw.number_exposures != 1:
            raise CxiError(f"{options.raw} has {raw.number_exposures} exposures a point: expected 1")
        layout = get_layout(settings.cleaning, raw.raw_data.shape[1:])
        dark = _average(raw.dark_data, layout, settings)
        first = raw.raw_data[: settings.cleaning.center_frames]
        plan = plan_for(first, settings.cleaning, layout, dark, energy_eV=raw.energy_eV)
        pixel_size_m = raw.pixel_size_m[0] * settings.cleaning.pixel_ratio
        with CxiFile.create(
            out,
            energy_eV=raw.energy_eV,
            detector_distance_m=raw.detector_distance_m,
            pixel_size_m=pixel_size_m,
            frame_shape=(plan.frame_px, plan.frame_px),
            mask=plan.mask,
        ) as cxi:
            total = np.zeros((plan.frame_px, plan.frame_px))
            with tqdm(total=len(raw.raw_data), unit="frame", disable=None) as progress:
                for start in range(0, len(raw.raw_data), settings.block_frames):
                    block = slice(start, start + settings.block_frames)
                    frames = clean(raw.raw_data[block], plan).frames
                    cxi.append(frames, raw.translation_m[block])
                    total += frames.sum(axis=0)
                    progress.update(len(frames))
            cxi.set_illumination(intensities=total / len(raw.raw_data))
    return {
        "cxi": str(out),
        "frames": len(raw.translation_m),
        "darks": 0 if dark is None else dark.num_frames,
        "bad_adcs": [] if dark is None else [int(k) for k in dark.bad_adcs],
        "center_row_px": plan.center[0],
        "center_column_px": plan.center[1],
        "pixel_size_um": pixel_size_m * 1e6,
    }


def _average(darks: FrameStack | None, layout: FCCDLayout, settings: PipelineSettings) -> DarkStatistics | None:
    if darks is None or len(darks) == 0:
        return None
    accumulator = DarkAccumulator(layout)
    for start in range(0, len(darks), settings.block_frames):
        accumulator.add(darks[start : start + settings.block_frames])
    return accumulator.result(settings.cleaning)
