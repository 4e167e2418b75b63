"""WASP in batches: weighted average of sequential projections (Maiden, Mei & Li, Opt. Express 32, 21327 (2024))."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nsbluesky.solver.windows import Divisor

__all__ = ["PEAK", "WaspRule"]

PEAK = 0.015
"""Weight of the probe's maximum, relative to that of its mean.  The mean says little of a probe that is small in its
window: of gold balls in a focus, whose maximum is 387 times the mean, 20 passes left an error of 0.0076 with it, of
0.0090 without; with background, of 0.016 and 0.021.  Where the maximum is 10 or 20 times the mean nothing changed."""

CALM = 8
"""Times as large weights in the last passes, so that the noise of more passes is averaged.  4 and 16 do the same."""


@dataclass(frozen=True)
class WaspRule:
    """Steps within a pass; at its end the average over all frames of the pass.

    Attributes
    ----------
    alpha : float
        Weight of the probe's mean intensity in the object's denominator.
    peak : float
        Weight of its maximum, or of what a batch has more, as part of `alpha`; 0 as published.
    beta : float
        Weight of the number of frames in the probe's denominator.
    momentum : float
        Friction of `nsbluesky.solver.engines.momentum.Momentum`; 0, as published, for none.
    momentum_frames : int
        Frames between two steps of momentum.
    """

    alpha: float = 2.0
    beta: float = 1.0
    momentum: float = 0.0
    momentum_frames: int = 96
    peak: float = 0.0
    name: str = "wasp"
    averages_passes: bool = True

    def damped(self, caution: float) -> WaspRule:
        """Return the rule with larger weights."""
        return replace(self, alpha=self.alpha * caution, beta=self.beta * caution, momentum=self.momentum / caution)

    def calmed(self) -> WaspRule:
        """Return the rule with larger weights yet."""
        return replace(self, alpha=self.alpha * CALM, beta=self.beta * CALM)

    def object_divisor(self) -> Divisor:
        """Σ |P|² + α·(⟨|P|²⟩ + peak·max(Σ |P|², max(|P|²)))."""
        return Divisor(per_mean=self.alpha, slope=1.0, share=self.alpha * self.peak)

    def probe_divisor(self, batch: int) -> Divisor:
        """Σ |O|² + β·(number of frames)."""
        return Divisor(floor=self.beta * batch, slope=1.0)
