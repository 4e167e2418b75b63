"""ePIE and rPIE in batches (Maiden, Johnson & Li, Optica 4, 736 (2017)): one regularised step, ePIE its extreme."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nsbluesky.solver.windows import Divisor

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

    def calmed(self) -> PieRule:
        """Return the rule as it is."""
        return self

    def object_divisor(self) -> Divisor:
        """((1 − α)·Σ|P|² + α·max(|P|²)) / step."""
        return Divisor(slope=(1 - self.alpha) / self.step, share=self.alpha / self.step)

    def probe_divisor(self, batch: int) -> Divisor:
        """((1 − β)·Σ|O|² + β·max(Σ|O|²)) / step."""
        return Divisor(slope=(1 - self.beta) / self.step, share=self.beta / self.step)
