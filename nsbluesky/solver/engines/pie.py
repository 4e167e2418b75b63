"""ePIE and rPIE in batches (Maiden, Johnson & Li, Optica 4, 736 (2017)): one regularised step, ePIE its extreme."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nsbluesky.solver.windows import StepTerms

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
    momentum : float
        Friction; with it, rPIE is mPIE.
    momentum_frames : int
        Frames between two steps of momentum.
    step : float
        Part of the step that is taken: momentum makes up for it, and averages meanwhile.
    """

    name: str
    alpha: float
    beta: float
    averages_passes: bool = False
    momentum: float = 0.0
    momentum_frames: int = 48
    step: float = 1.0

    def damped(self, caution: float) -> PieRule:
        """Return the rule nearer to ePIE."""
        alpha, beta = min(1.0, self.alpha * caution), min(1.0, self.beta * caution)
        return replace(self, alpha=alpha, beta=beta, momentum=self.momentum / caution)

    def object_step(self, xp: Any, power: Any) -> StepTerms:
        """((1 − α)·Σ|P|² + α·max(|P|²)) / step."""
        slope, share = (1 - self.alpha) / self.step, self.alpha / self.step
        return StepTerms(slope=slope, share=share, bound=float(power.max()))

    def probe_denominator(self, xp: Any, denominator: Any, batch: int) -> Any:
        """((1 − β)·Σ|O|² + β·max(Σ|O|²)) / step."""
        damped = np.float32(1 - self.beta) * denominator + np.float32(self.beta) * denominator.max()
        return damped / np.float32(self.step)
