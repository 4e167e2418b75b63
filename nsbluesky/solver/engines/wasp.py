"""WASP in batches: weighted average of sequential projections (Maiden, Mei & Li, Opt. Express 32, 21327 (2024))."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nsbluesky.solver.windows import Divisor

__all__ = ["WaspRule"]

LAST_ALPHA = 8
"""Times as much weight of the mean intensity in the last passes.  Where a probe is faint, few frames decide, and noise
with them; of more passes the average has less.  Of 4, 8 and 16 all the same."""


@dataclass(frozen=True)
class WaspRule:
    """Steps within a pass; at its end the average over all frames of the pass.

    Attributes
    ----------
    alpha : float
        Weight of the probe's mean intensity in the object's denominator.
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
    name: str = "wasp"
    averages_passes: bool = True

    def damped(self, caution: float) -> WaspRule:
        """Return the rule with larger weights."""
        return replace(self, alpha=self.alpha * caution, beta=self.beta * caution, momentum=self.momentum / caution)

    def averaging(self) -> WaspRule:
        """Return the rule with a larger weight for the object."""
        return replace(self, alpha=self.alpha * LAST_ALPHA)

    def object_divisor(self) -> Divisor:
        """Σ |P|² + α·⟨|P|²⟩."""
        return Divisor(per_mean=self.alpha, slope=1.0)

    def probe_divisor(self, batch: int) -> Divisor:
        """Σ |O|² + β·(number of frames)."""
        return Divisor(floor=self.beta * batch, slope=1.0)
