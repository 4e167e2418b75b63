"""ePIE and rPIE in batches (Maiden, Johnson & Li, Optica 4, 736 (2017)): one regularised step, ePIE its extreme."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["PieRule"]


@dataclass(frozen=True)
class PieRule:
    """Steps divided by (1 − α)·Σ|P|² + α·max, for the probe likewise with β.

    Where windows of one batch overlap, Σ|P|² may exceed the maximum of one probe; the larger of the two is taken, so
    that a batch never steps further than the average of its frames.

    Attributes
    ----------
    alpha, beta : float
        Regularisation of object and probe; 1 gives ePIE.
    """

    name: str
    alpha: float
    beta: float
    averages_passes: bool = False

    def object_denominator(self, xp: Any, denominator: Any, power: Any) -> Any:
        """(1 − α)·Σ|P|² + α·max(|P|²)."""
        bound = xp.maximum(denominator, power.max())
        bound *= np.float32(self.alpha)
        bound += np.float32(1 - self.alpha) * denominator
        return bound

    def probe_denominator(self, xp: Any, denominator: Any, batch: int) -> Any:
        """(1 − β)·Σ|O|² + β·max(Σ|O|²)."""
        return np.float32(1 - self.beta) * denominator + np.float32(self.beta) * denominator.max()
