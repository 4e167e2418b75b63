"""Momentum for engines that step after every batch (Maiden, Johnson & Li, Optica 4, 736 (2017), eqs. 19–21)."""

from __future__ import annotations

from typing import Any

import numpy as np

from nsbluesky.backend import Backend
from nsbluesky.solver import kernels
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.windows import bands, pad_canvas

__all__ = ["Momentum"]


class Momentum:
    """After every so many frames: v ← η·v + (O − O_before), O ← O + η·v; the probe likewise.

    Parameters
    ----------
    backend : Backend
    friction : float
        η, at least 0 and below 1.
    period_frames : int
        Frames between two such steps.
    compiled : bool
        Use the loops compiled for a CPU.
    """

    def __init__(self, backend: Backend, friction: float, period_frames: int, *, compiled: bool) -> None:
        self._backend = backend
        self.friction = np.float32(friction)
        self._period_frames = period_frames
        self._compiled = compiled

    def begin(self, state: SolverState) -> None:
        """Begin at rest."""
        xp = self._backend.xp
        self._frames = 0
        self._before = [state.object.copy(), state.probe.copy()]
        self._velocity = [xp.zeros_like(state.object), xp.zeros_like(state.probe)]

    def pad(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        """Follow a canvas that grew."""
        self._before[0] = pad_canvas(self._backend, self._before[0], before, after, 1)
        self._velocity[0] = pad_canvas(self._backend, self._velocity[0], before, after, 0)

    def after(self, state: SolverState, frames: int) -> None:
        """Take note of a batch, and the step of momentum when it is time."""
        self._frames += frames
        if self._frames < self._period_frames:
            return
        self._frames = 0
        self._push(state.object, self._before[0], self._velocity[0])
        for mode in range(len(state.probe)):
            self._push(state.probe[mode], self._before[1][mode], self._velocity[1][mode])

    def _push(self, target: Any, before: Any, velocity: Any) -> None:
        if self._compiled:

            def rows(band: slice) -> None:
                kernels.push(target[band], before[band], velocity[band], self.friction)

            self._backend.map(rows, bands(self._backend, len(target)))
            return
        velocity *= self.friction
        velocity += target - before
        target += self.friction * velocity
        before[...] = target

    def take_up(self, state: SolverState) -> None:
        """Go on, at the speed there is, from a state that was changed from outside: scaled, or its modes turned."""
        self._before[0][...] = state.object
        self._before[1][...] = state.probe
