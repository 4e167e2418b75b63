"""One block of points: its frames are read where it is cleaned, and the result goes into a file of its own.

What is handed to a worker is a few hundred bytes, and what comes back is nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend, get_backend
from nsbluesky.cleaning.background import overscan_drift
from nsbluesky.cleaning.clean import IN_PHOTONS, clean, trace
from nsbluesky.cleaning.exposures import combine_exposures
from nsbluesky.cleaning.plan import CleaningPlan
from nsbluesky.conversion.block_file import CleanBlock, block_path, write_block
from nsbluesky.conversion.frames import StoredFrames
from nsbluesky.conversion.recipe import ScanRecipe

__all__ = ["Block", "clean_block"]


@dataclass(frozen=True, eq=False)
class Block:
    """Points that are cleaned at once.

    Attributes
    ----------
    number : int
    points : (n,) int64
        Their indices in the scan.
    frames : tuple of StoredFrames
        For each exposure, its frame of every point.
    folder : Path
        Where the recipe is and the result goes.
    one_by_one : bool
        Whether a point that fails costs itself alone: the way of the second try.
    """

    number: int
    points: npt.NDArray[np.int64]
    frames: tuple[StoredFrames, ...]
    folder: Path
    one_by_one: bool = False

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.points)

    def split(self) -> Iterator[Block]:
        """Yield its points as blocks of one."""
        for k in range(len(self)):
            frames = tuple(stored[k : k + 1] for stored in self.frames)
            yield Block(self.number, self.points[k : k + 1], frames, self.folder)


def clean_block(block: Block) -> None:
    """Clean a block and write its file; runs in any thread or process that sees the files."""
    recipe = ScanRecipe.load(block.folder)
    backend = get_backend(recipe.backend, threads=1)
    if not block.one_by_one:
        result = _cleaned(block, recipe, backend)
    else:
        result = _cleaned_one_by_one(block, recipe, backend)
    write_block(block_path(block.folder, block.number), result)


def _cleaned_one_by_one(block: Block, recipe: ScanRecipe, backend: Backend) -> CleanBlock:
    """Return what can be cleaned of a block; a point that cannot is listed.

    Raises
    ------
    Exception
        The last one, where every point fails.
    """
    whole: list[CleanBlock] = []
    failed: dict[int, str] = {}
    for one in block.split():
        try:
            whole.append(_cleaned(one, recipe, backend))
        except Exception as error:  # whatever a damaged file brings to light must not cost the frames beside it
            failed[int(one.points[0])] = str(error)
            if len(failed) == len(block):
                raise
    return CleanBlock(
        points=np.concatenate([one.points for one in whole]),
        frames=np.concatenate([one.frames for one in whole]),
        flags=np.concatenate([one.flags for one in whole]),
        drift_adu=whole[-1].drift_adu,
        failed=failed,
        stage_points=np.concatenate([one.stage_points for one in whole]),
        stages={name: np.concatenate([one.stages[name] for one in whole]) for name in recipe.stages},
    )


def _cleaned(block: Block, recipe: ScanRecipe, backend: Backend) -> CleanBlock:
    exposures: list[dict[int, tuple[npt.NDArray[np.float32], int]]] = []
    drift_adu = np.nan
    stage_points: list[npt.NDArray[np.int64]] = []
    stages: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in recipe.stages}
    for stored, plan in zip(block.frames, recipe.plans, strict=True):
        rows = np.flatnonzero(stored.recorded)
        if not len(rows):
            exposures.append({})
            continue
        raw = stored[rows].read()
        cleaned = clean(raw, plan)
        frames = backend.to_numpy(cleaned.frames)
        exposures.append(dict(zip(rows.tolist(), zip(frames, cleaned.flags.tolist(), strict=True), strict=True)))
        drift_adu = np.fmax(drift_adu, _drift_adu(raw, cleaned.flags, plan))
        stage_points.append(block.points[rows])
        for frame in raw if recipe.stages else ():
            windows = trace(backend.from_numpy(frame), plan)
            for name in recipe.stages:
                photon = 1.0 if name in IN_PHOTONS else plan.adu_per_photon
                stages[name].append(windows[name] / np.float32(photon))
    if len(exposures) == 1:
        flags = cleaned.flags
    else:
        frames, flags = _combined(exposures, recipe.exposures_s, recipe.plans[0].frame_px)
    orient = recipe.geometry.orient
    return CleanBlock(
        points=block.points,
        frames=np.ascontiguousarray(orient(frames)),
        flags=flags,
        drift_adu=float(drift_adu),
        failed={},
        stage_points=np.concatenate(stage_points),
        stages={name: np.ascontiguousarray(orient(np.stack(windows))) for name, windows in stages.items()},
    )


def _drift_adu(raw: npt.NDArray[Any], flags: npt.NDArray[np.uint16], plan: CleaningPlan) -> float:
    """Return the drift that the last whole frame shows; NaN where there is none, or nothing to compare it with."""
    whole = np.flatnonzero(flags == 0)
    known = plan.probe is not None  # there are darks, and columns without light
    if not (len(whole) and known):
        return np.nan
    return overscan_drift(plan.xp.asarray(raw[whole[-1]]), plan.background)


def _combined(
    exposures: list[dict[int, tuple[npt.NDArray[np.float32], int]]], exposures_s: tuple[float, ...], frame_px: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint16]]:
    """Return one frame for each point, in photons of the longest exposure; single exposures may be missing."""
    points = sorted({point for exposure in exposures for point in exposure})
    frames, flags = np.empty((len(points), frame_px, frame_px), np.float32), np.zeros(len(points), np.uint16)
    for place, point in enumerate(points):
        taken = [k for k, exposure in enumerate(exposures) if point in exposure]
        times = [exposures_s[k] for k in taken]
        parts = [exposures[k][point] for k in taken]
        frames[place], flags[place] = combine_exposures(
            np.stack([frame for frame, _ in parts]), np.array([flag for _, flag in parts], np.uint16), times
        )
        frames[place] *= np.float32(max(exposures_s) / max(times))  # the longest one may be missing
    return frames, flags
