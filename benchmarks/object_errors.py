"""How far an object is from its truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nsbluesky.solver.quality import align, nrmse


@dataclass(frozen=True)
class Errors:
    """Of an object against its truth: by the whole object, by its contrast, and with a scale for each 64-px tile."""

    whole: float
    contrast: float
    tiles: float

    def __str__(self) -> str:
        """Return all three."""
        return f"{self.whole:.4f} / {self.contrast:.4f} / {self.tiles:.4f}"


def errors(image: Any, truth: Any, margin_px: int) -> Errors:
    """Compare an image with the truth after alignment; a blank image has a contrast error of 1."""
    aligned = align(image, truth, margin_px)
    known = np.isfinite(aligned.image) & np.isfinite(aligned.truth)
    there = aligned.truth[known]
    whole = nrmse(aligned.image, aligned.truth)
    contrast = whole * np.linalg.norm(there) / np.linalg.norm(there - there.mean())
    return Errors(whole, float(contrast), nrmse(aligned.image, aligned.truth, 64))
