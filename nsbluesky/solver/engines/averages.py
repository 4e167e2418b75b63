"""The average over a pass: what an engine of batches ends a pass with, and what is shown of it at any moment.

Between two averages the object follows the frames that were used last, above all with momentum: on a simulated scan
of 1600 frames the error in the middle of a pass was 0.07, and that of the average over the latest pass 0.04.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from nsbluesky.backend import Backend
from nsbluesky.solver.engines.base import PassSums
from nsbluesky.solver.state import SolverState

__all__ = ["PassAverage", "follows", "put_averages_in"]

COVERED = np.float32(1e-3)
"""A pixel takes the average of a pass where its Σ w·|P|² exceeds this part of the maximum …"""

FAINT = np.float32(1e-2)
"""… as if it had been seen, as it is, by this part of the maximum as well: an average of little light is noise, and
one pixel of it with thirty times the amplitude of its neighbours drives the probe."""


FOLLOWING = np.float32(5e-2)
"""A pixel with this part of the most light follows half of what a pass does to the scale of the object."""


class PassAverage:
    """Sums of the pass that goes on, and what the one before ended with.

    Parameters
    ----------
    backend : Backend
    state : SolverState

    Attributes
    ----------
    sums : PassSums
        Of the pass that goes on; batches are added from outside.
    """

    def __init__(self, backend: Backend, state: SolverState) -> None:
        self.sums = PassSums.zeros(backend, state)
        self._backend = backend
        self._frames = 0
        self._before: PassSums | None = None
        self._frames_before = 0
        self._begins = True

    def note(self, state: SolverState, frames: int) -> None:
        """Note that a batch of so many frames is about to be used."""
        before = self._before
        if self._begins and before is not None:  # what changed since the pass ended, as its scale, counts as well
            xp, there = self._backend.xp, before.object
            xp.multiply(there.denominator, state.object, out=there.numerator)
            xp.multiply(before.probe_denominator, state.probe, out=before.probe_numerator)
        self._begins = False
        self._frames += frames

    def end_pass(self, state: SolverState) -> None:
        """Put the averages in, and begin a pass."""
        put_averages_in(self._backend.xp, self.sums, state)
        free = PassSums.zeros(self._backend, state) if self._before is None else self._before
        self._before, self.sums = self.sums, free
        self._frames_before = self._frames
        self.begin_pass()

    def begin_pass(self) -> None:
        """Begin a pass with no sums."""
        self.sums.clear()
        self._frames = 0
        self._begins = True

    def seen(self) -> Any:
        """Return how far pixels of the object follow a pass (H, W), 0…1; None before the first one ended."""
        return None if self._before is None else follows(self._before.object.denominator)

    def shown(self, state: SolverState) -> SolverState:
        """Return the state as the average over as many uses of frames as a pass has, up to now."""
        if self._frames == 0:
            return state
        shown = replace(state, object=state.object.copy(), probe=state.probe.copy())
        put_averages_in(self._backend.xp, self._over_a_pass(), shown)
        return shown

    def _over_a_pass(self) -> PassSums:
        """Return the sums so far, and as much of those of the pass before as they lack of one."""
        before, now = self._before, self.sums
        lacking = np.float32(1 - self._frames / max(self._frames_before, 1))
        return now if before is None or lacking <= 0 else now.with_share(before, lacking)

    def pad(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        """Follow a canvas that grew."""
        for sums in (self.sums, self._before):
            if sums is not None:
                sums.object.pad(self._backend, before, after)

    def contents(self) -> dict[str, Any]:
        """Return the sums, for a checkpoint."""
        return self.sums.contents(self._backend)

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up the sums of a checkpoint."""
        self.sums.restore(contents, self._backend)


def follows(light: Any) -> Any:
    """Return how far pixels of the object follow a pass (H, W), 0…1, by the light Σ w·|P|² on them."""
    return light / (light + FOLLOWING * light.max() + np.float32(1e-30))  # where there is none, none follow


def put_averages_in(xp: Any, sums: PassSums, state: SolverState) -> None:
    """Draw object and probe to the averages over a pass where those are well defined."""
    _average(xp, sums.object.numerator, sums.object.denominator, state.object)
    _average(xp, sums.probe_numerator, sums.probe_denominator, state.probe)


def _average(xp: Any, numerator: Any, denominator: Any, target: Any) -> None:
    """Draw `target` to numerator/denominator where the denominator is large enough; leave it elsewhere."""
    most = denominator.max()
    covered = denominator > COVERED * most
    floor = FAINT * most
    drawn = (numerator + floor * target) / xp.where(covered, denominator + floor, np.float32(1))
    target[...] = xp.where(covered, drawn, target)
