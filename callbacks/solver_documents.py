"""What the stages with a solver have in common: what they take from documents, and what they tell of pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.picture import Picture

__all__ = ["add_clean_frames", "is_last_picture_due", "picture_data"]


def add_clean_frames(solver: IncrementalSolver, page: Mapping[str, Any]) -> None:
    """Give the frames of a ``clean`` event page to a solver."""
    data = page["data"]
    translations_m = np.stack([data["x_m"], data["y_m"]], axis=1)
    solver.add_frames(np.asarray(page["seq_num"]), data["frame"], translations_m, data["weight"])


def is_last_picture_due(solver: IncrementalSolver, deadline: float) -> bool:
    """Return whether a solver is done, or has an image to show at its deadline (as of `time.monotonic`)."""
    late = time.monotonic() > deadline and solver.is_settled
    return (solver.finished or late) and solver.state is not None


def picture_data(picture: Picture) -> dict[str, Any]:
    """Return what events tell of a picture, whatever engine made it."""
    return {
        "object": picture.object,
        "probe": picture.probe,
        "pixel_size_m": float(picture.pixel_m),
        "extent_m": np.asarray(picture.extent_m, dtype=np.float64),
        "r_factor": float(picture.r_factor),
        "num_frames": int(picture.num_frames),
        "num_passes": float(picture.num_passes),
        "coverage": float(picture.coverage),
    }
