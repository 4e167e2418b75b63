"""The file of a finished block: it appears when it is complete, and a damaged one is told from a whole one."""

from __future__ import annotations

import json
import uuid
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["BlockNotes", "CleanBlock", "block_path", "read_block", "read_notes", "write_block"]

DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
STAGE = "stage/"


@dataclass(frozen=True, eq=False)
class CleanBlock:
    """The result of a block.

    Attributes
    ----------
    points : (n,) int64
        Indices in the scan of the points that were cleaned.
    frames : (n, frame_px, frame_px) float32
        Photons.
    flags : (n,) uint16
        `nsbluesky.cleaning.flags.FrameFlag` of each.
    drift_adu : float
        How far the overscan has moved since the darks were taken; NaN where nothing tells.
    failed : dict of int to str
        Indices of points that could not be cleaned, and why.
    stage_points : (m,) int64
        Indices of the points of the kept stages: one for each exposure.
    stages : dict of str to (m, crop_px, crop_px) float32
        Windows after the steps that are kept, in photons.
    """

    points: npt.NDArray[np.int64]
    frames: npt.NDArray[np.float32]
    flags: npt.NDArray[np.uint16]
    drift_adu: float
    failed: dict[int, str]
    stage_points: npt.NDArray[np.int64]
    stages: dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class BlockNotes:
    """What is told of a block, without its frames; see `CleanBlock`.

    Attributes
    ----------
    flags : (n,) uint16
    photons : (n,) float64
        Of each frame.
    drift_adu : float
    failed : dict of int to str
    """

    flags: npt.NDArray[np.uint16]
    photons: npt.NDArray[np.float64]
    drift_adu: float
    failed: dict[int, str]


def block_path(folder: Path, number: int) -> Path:
    """Return the file of a block."""
    return folder / f"block-{number:07d}.npz"


def write_block(path: Path, block: CleanBlock) -> None:
    """Write a block; another process that writes the same one at the same time does no harm."""
    arrays: dict[str, Any] = {f"{STAGE}{name}": windows for name, windows in block.stages.items()}
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            np.savez(
                file,
                points=block.points,
                frames=block.frames,
                flags=block.flags,
                photons=np.nansum(block.frames, axis=(1, 2), dtype=np.float64),
                drift_adu=block.drift_adu,
                failed=np.array(json.dumps(block.failed)),
                stage_points=block.stage_points,
                **arrays,
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_block(path: Path) -> CleanBlock | None:
    """Return a block, or None where there is none or its file is damaged (the checksums of the file tell)."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return CleanBlock(
                points=arrays["points"],
                frames=arrays["frames"],
                flags=arrays["flags"],
                drift_adu=float(arrays["drift_adu"]),
                failed=_failed(arrays),
                stage_points=arrays["stage_points"],
                stages={k.removeprefix(STAGE): arrays[k] for k in arrays.files if k.startswith(STAGE)},
            )
    except DAMAGED:
        return None


def read_notes(path: Path) -> BlockNotes:
    """Return what is told of a block that is whole."""
    with np.load(path, allow_pickle=False) as arrays:
        return BlockNotes(arrays["flags"], arrays["photons"], float(arrays["drift_adu"]), _failed(arrays))


def _failed(arrays: Any) -> dict[int, str]:
    return {int(k): reason for k, reason in json.loads(str(arrays["failed"])).items()}
