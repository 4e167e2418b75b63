"""Momentum for engines that step after every batch (Maiden, Johnson & Li, Optica 4, 736 (2017), eqs. 19–21)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nsbluesky.backend import Backend
from nsbluesky.solver.engines.base import loops_of
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.windows import bands, pad_canvas, stacked

__all__ = ["Momentum"]

WORSE = 1.2
"""Momentum is dropped where the misfit has risen by this factor: steps that overshoot would grow without bound."""

RECOVERY = 1.1
"""Growth of the friction from one step to the next after it was halved."""


class Momentum:
    """After every so many frames: v ← η·v + (O − O_before), O ← O + η·v; the probe likewise.

    Parameters
    ----------
    backend : Backend
    friction : float
        η, at least 0 and below 1; 0 for no momentum at all.
    period_frames : int
        Frames between two such steps.
    compiled : bool
        Use the loops compiled for a CPU.
    """

    def __init__(self, backend: Backend, friction: float, period_frames: int, *, compiled: bool) -> None:
        self._backend = backend
        self.friction = np.float32(friction)
        self.period_frames = period_frames
        self._compiled = compiled
        self._resting = self._resumes = self._pass_begins = False
        self._misfits: list[Callable[[], float]] = []

    @property
    def moves(self) -> bool:
        """Whether steps are taken now."""
        return bool(self.friction > 0) and not self._resting

    def rest(self, resting: bool) -> None:
        """Take no steps; or begin anew, with no velocity, to take them."""
        self._resumes = self._resumes or (self._resting and not resting)
        self._resting = resting

    def begin(self, state: SolverState) -> None:
        """Begin with no velocity."""
        self._pass_begins = False
        if not self.friction:
            return
        xp = self._backend.xp
        self._frames = 0
        self._share = 1.0
        self._misfit = self._amplitude = 0.0
        self._misfits = []
        self._least = float("inf")
        self._before = [state.object.copy(), state.probe.copy()]
        self._velocity = [xp.zeros_like(state.object), xp.zeros_like(state.probe)]

    def pad(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        """Follow a canvas that grew."""
        if not self.friction:
            return
        if self._before[0].ndim > 2:  # what its states begin with there is not known here
            self._pass_begins = True
        self._before[0] = pad_canvas(self._backend, self._before[0], before, after, 1)
        self._velocity[0] = pad_canvas(self._backend, self._velocity[0], before, after, 0)

    def contents(self) -> dict[str, Any]:
        """Return velocity and friction as they are between two passes, for a checkpoint."""
        flags = {"rests": [self._resting, self._resumes, self._pass_begins]}
        if not self.friction:
            return flags
        self._add_misfits()
        return {
            **flags,
            "velocity_object": self._backend.to_numpy(self._velocity[0]),
            "velocity_probe": self._backend.to_numpy(self._velocity[1]),
            "momentum": [self._frames, self._share, self._misfit, self._amplitude, self._least],
        }

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take them up, after `begin`."""
        self._resting, self._resumes, self._pass_begins = contents["rests"]
        if self.friction:
            self._velocity = [self._backend.from_numpy(contents[f"velocity_{part}"]) for part in ("object", "probe")]
            self._frames, self._share, self._misfit, self._amplitude, self._least = contents["momentum"]

    def before(self, state: SolverState) -> None:
        """Make ready for a batch."""
        if self.moves and self._resumes:
            self.begin(state)
        elif self.moves and self._pass_begins:
            self._take_up(state)
        self._pass_begins = self._resumes = False

    def end_pass(self) -> None:
        """Expect that the state is changed from outside before the next batch: scaled, or its modes turned."""
        self._pass_begins = True

    def after(
        self, state: SolverState, frames: int, misfit: Callable[[], float] = lambda: 0.0, amplitude: float = 0.0
    ) -> None:
        """Take note of a batch, and the step of momentum when it is time.

        Parameters
        ----------
        state : SolverState
        frames : int
        misfit : callable
            Returns Σ|G − A| of those of them that were used before, for new ones fit worse for another reason; called
            when it is time for the step, as it may be still on its way from a device.
        amplitude : float
            Their ΣA.
        """
        if not self.moves:
            return
        self._frames += frames
        self._misfits.append(misfit)
        self._amplitude += amplitude
        if self._frames < self.period_frames:
            return
        self._add_misfits()
        self._watch()
        for arrays in zip((state.object, state.probe), self._before, self._velocity, strict=True):
            for images in [arrays] if self._backend.on_device else zip(*map(stacked, arrays), strict=True):
                self._push(*images)

    def _add_misfits(self) -> None:
        for misfit in self._misfits:  # in turn, so that the sum is the same where a checkpoint was written between
            self._misfit += misfit()
        self._misfits = []

    def _watch(self) -> None:
        """Drop the velocity, and halve the friction for a while, where the misfit has risen."""
        residual = self._misfit / self._amplitude if self._amplitude > 0 else 0.0
        self._frames = 0
        self._misfit = self._amplitude = 0.0
        if not residual <= WORSE * self._least:
            self._share /= 2
            self._least = residual
            for velocity in self._velocity:
                velocity[...] = 0
        elif residual > 0:
            self._share = min(1.0, RECOVERY * self._share)
            self._least = min(self._least, residual)

    def _push(self, target: Any, before: Any, velocity: Any) -> None:
        friction = np.float32(self.friction * self._share)
        loops = loops_of(self._backend, target, compiled=self._compiled)
        if loops is not None and self._backend.on_device:
            loops.push(target, before, velocity, friction)
            return
        if loops is not None:

            def rows(band: slice) -> None:
                loops.push(target[band], before[band], velocity[band], friction)

            self._backend.map(rows, bands(self._backend, target.shape))
            return
        velocity *= friction
        velocity += target - before
        target += friction * velocity
        before[...] = target

    def _take_up(self, state: SolverState) -> None:
        """Go on, at the speed there is, from a state that was changed from outside."""
        self._before[0][...] = state.object
        self._before[1][...] = state.probe
