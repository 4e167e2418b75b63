"""``nsbluesky quality``: how good a reconstruction is, by itself and against another one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.cxi import CxiError, CxiImage, read_cxi
from nsbluesky.solver.quality import align, contrast_correlation, frc

__all__ = ["add_arguments", "run"]

RIM_PX = 10
"""Pixels at the rim that are not compared: few frames saw them."""
PIXEL_TOLERANCE = 1e-3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("a", type=Path, help="a CXI file with a reconstruction")
    parser.add_argument("b", type=Path, nargs="?", help="another one of the same sample, from other frames")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Judge one reconstruction, or compare two."""
    first = _latest(options.a)
    summary: dict[str, Any] = {
        "object_pixel_nm": first.pixel_m * 1e9,
        "r_factor": float(first.errors[-1]) if len(first.errors) else None,
        "measured_part_of_the_picture": float(np.mean(first.mask == 0)),
    }
    if options.b is None:
        return summary
    second = _latest(options.b)
    if abs(first.pixel_m / second.pixel_m - 1) > PIXEL_TOLERANCE:
        raise CxiError(
            f"pixels of {first.pixel_m * 1e9:.4g} and {second.pixel_m * 1e9:.4g} nm: expected the same; "
            "reconstruct both with the same crop"
        )
    image, reference = _unmeasured_as(first, np.nan), _unmeasured_as(second, second.object[second.mask == 0].mean())
    aligned = align(image, reference, RIM_PX)
    correlation = frc(aligned.image, aligned.truth, first.pixel_m)
    return {
        **summary,
        "r_factor_of_b": float(second.errors[-1]) if len(second.errors) else None,
        "contrast_correlation": contrast_correlation(image, reference, RIM_PX),
        "half_bit_resolution_nm": correlation.resolution_m * 1e9,
    }


def _latest(path: Path) -> CxiImage:
    with read_cxi(path) as cxi:
        images = cxi.images
    if not images:
        raise CxiError(f"{path} has no reconstruction: expected entry_1/image_1; run nsbluesky reconstruct first")
    return images[-1]


def _unmeasured_as(image: CxiImage, value: complex) -> npt.NDArray[np.complex64]:
    return np.where(image.mask == 0, image.object, np.complex64(value))
