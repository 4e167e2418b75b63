"""``nsbluesky quality``: how good a reconstruction is, by itself and against another one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from nsbluesky.cxi import CxiError, CxiImage, read_cxi
from nsbluesky.cxi.compare import compare_images

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("a", type=Path, help="a CXI file with a reconstruction")
    parser.add_argument("b", type=Path, nargs="?", help="another one of the same sample, from other frames")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Judge one reconstruction, or compare two."""
    first = _latest(options.a)
    summary: dict[str, Any] = {
        "object_pixel_nm": first.pixel_m * 1e9 if np.isfinite(first.pixel_m) else None,
        "r_factor": float(first.errors[-1]) if len(first.errors) else None,
        "measured_part_of_the_picture": float(np.mean(first.mask == 0)),
    }
    if options.b is None:
        return summary
    second = _latest(options.b)
    if options.b.samefile(options.a):
        raise CxiError(f"{options.b} is both files: expected another reconstruction, from other frames")
    compared = compare_images(first, second)
    return {
        **summary,
        "r_factor_of_b": float(second.errors[-1]) if len(second.errors) else None,
        "contrast_correlation": compared.contrast_correlation,
        "half_bit_resolution_nm": compared.frc.resolution_m * 1e9,
    }


def _latest(path: Path) -> CxiImage:
    with read_cxi(path) as cxi:
        images = cxi.images
    if not images:
        raise CxiError(f"{path} has no reconstruction: expected entry_1/image_1; run nsbluesky reconstruct first")
    return images[-1]
