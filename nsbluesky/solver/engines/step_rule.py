"""What an engine of batches steps by."""

from __future__ import annotations

from typing import Protocol

from nsbluesky.solver.windows import Divisor

__all__ = ["StepRule"]


class StepRule(Protocol):
    """How the sums of a batch become steps of object and probe."""

    @property
    def name(self) -> str:
        """Name of the algorithm."""

    @property
    def averages_passes(self) -> bool:
        """Whether a pass ends with the average over its frames."""

    @property
    def momentum(self) -> float:
        """Friction of `nsbluesky.solver.engines.momentum.Momentum`; 0 for none."""

    @property
    def momentum_frames(self) -> int:
        """Frames between two of its steps."""

    def damped(self, caution: float) -> StepRule:
        """Return the rule with so many times the regularisation, and so much less momentum."""

    def calmed(self) -> StepRule:
        """Return the rule of the last passes: shorter steps, so that more of them are averaged."""

    def object_divisor(self) -> Divisor:
        """Return what Σ conj(P)·χ is divided by, from the probe's |P|² (N, N)."""

    def probe_divisor(self, batch: int) -> Divisor:
        """Return what Σ conj(O)·χ is divided by, from Σ |O|² (N, N) over so many frames."""
