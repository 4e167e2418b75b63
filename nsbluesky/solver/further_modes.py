"""Probe modes that are added while a reconstruction goes on, because the frames ask for them.

Where the modes are too few, the misfit stays above what the noise of photons explains.  Then one more is added, and
kept if it explains a good part of what was left; else it is taken away again, for what is left has another cause.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special

from nsbluesky.backend import Backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.held_out import predictions, spaced
from nsbluesky.solver.modes import orthogonal_modes, probe_power
from nsbluesky.solver.pace import SETTLING_PASSES
from nsbluesky.solver.schedule import most_variation
from nsbluesky.solver.shifts import finer
from nsbluesky.solver.start import with_modes
from nsbluesky.solver.state import SolverState

__all__ = ["FurtherModes", "mean_deviation", "unexplained"]

LOOKED_AT = 32
"""Frames whose misfit is looked at."""

ENOUGH = 0.05
LITTLE = 0.02
"""Misfits beyond photon noise, as part of that noise, which no further mode is tried for, and no variation."""

LEAST_GAIN = 0.12
"""Part of that misfit that a further mode must explain.  On simulated gold balls of two modes the second explains
77 %, the third, for what sub-pixel steps leave, 25 % (the object's error falls from 0.0104 to 0.0081), the fourth
10 %, and does no more good."""

START_POWER = 0.01
"""Power of a further mode when it is added, relative to all: it disturbs an image that has settled."""

TRIAL_PASSES = 10
"""Passes that a further mode has to show what it is worth."""

MOST_PHOTONS = 64.0
"""Photons from which on the mean deviation of their square root is that of a normal distribution, within 0.5 %."""


@cache
def _table() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return √λ (k,) and E|√n − √λ| (k,) for n with a Poisson distribution of mean λ."""
    roots = np.linspace(0, math.sqrt(MOST_PHOTONS), 200)
    counts = np.arange(4 * int(MOST_PHOTONS))
    mean = roots[:, None] ** 2
    chance = np.exp(scipy.special.xlogy(counts, mean) - mean - scipy.special.gammaln(counts + 1))
    return roots, (chance * np.abs(np.sqrt(counts) - roots[:, None])).sum(axis=1)


def mean_deviation(intensity: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return E|√n − √λ| for counts n with a Poisson distribution whose mean λ is `intensity`."""
    return np.interp(np.sqrt(intensity), *_table())


def unexplained(backend: Backend, state: SolverState, frames: FrameStore, subpixel: int) -> float:
    """Return Σ|G − A| over what the noise of photons makes of it, less 1, for some frames; 0 where there is no light.

    Parameters
    ----------
    backend : Backend
    state : SolverState
    frames : FrameStore
    subpixel : int
        Steps of a position in a pixel.
    """
    misfit = noise = 0.0
    good = backend.to_numpy(frames.good) > 0
    for intensity, measured in predictions(backend, state, frames, spaced(frames.active, LOOKED_AT), subpixel):
        model, amplitude = backend.to_numpy(intensity), backend.to_numpy(measured)
        usable = good & (amplitude >= 0)
        misfit += float(np.abs(np.sqrt(model) - amplitude)[usable].sum(dtype=np.float64))
        noise += float(mean_deviation(model[usable]).sum())
    return misfit / noise - 1 if noise > 0 else 0.0


class Tries(enum.Enum):
    """What is tried, or tried next."""

    MODES = "modes"
    VARIATION = "variation"
    NOTHING = "nothing"


class FurtherModes:
    """Adds modes one after another, and then those of variation, and takes away again what is not worth it.

    Parameters
    ----------
    settings : SolverSettings
        Up to `most_modes`; none where there are as many as that from the start.  Then `most_variation`, all at once.
    backend : Backend

    Attributes
    ----------
    variation : int
        Modes of variation that are tried, or were kept.
    """

    def __init__(self, settings: SolverSettings, backend: Backend) -> None:
        self._backend = backend
        self.settings = settings
        self.reset()

    def configure(self, settings: SolverSettings) -> None:
        """Go on with other settings; begin anew where they ask for other numbers of modes."""
        before, self.settings = self.settings, settings
        if _numbers_of(settings) != _numbers_of(before):
            self.reset()

    def reset(self) -> None:
        """Begin anew, as the image did."""
        self.variation = 0
        self._tries = Tries.MODES
        self._before: float | None = None
        self._judged_at = 0

    def contents(self) -> dict[str, Any]:
        """Return what was tried, for a checkpoint."""
        tried = {"tries": self._tries.value, "before": self._before, "judged_at": self._judged_at}
        return {**tried, "variation": self.variation}

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned."""
        self._tries, self._before = Tries(contents["tries"]), contents["before"]
        self._judged_at, self.variation = contents["judged_at"], contents["variation"]

    @property
    def is_trying(self) -> bool:
        """Whether a mode is still to be judged."""
        return self._before is not None

    def is_open(self, modes: int) -> bool:
        """Return whether there is something to look for while the probe has so many modes, or to judge."""
        return self.is_trying or self._next(modes) is not Tries.NOTHING

    def grows(self, passes: int) -> bool:
        """Return whether a mode is tried that should have momentum, as it is weak at first, after so many passes."""
        return self.is_trying and passes < self._judged_at - SETTLING_PASSES

    def look(self, state: SolverState, frames: FrameStore, passes_left: int | None = None) -> bool:
        """Add or take away a mode if it is time; call it after a pass.  Return whether the probe has other modes now.

        Parameters
        ----------
        state : SolverState
            With orthogonal modes.
        frames : FrameStore
        passes_left : int, optional
            Passes that will follow, where that is known: a mode that could not be judged is not tried.
        """
        if not self.is_open(len(state.probe)) or (self.is_trying and state.passes < self._judged_at):
            return False
        left = unexplained(self._backend, state, frames, finer(self.settings.subpixel))
        if self._before is not None:
            freedom = self.variation / max(len(frames.active), 1)
            gained = self._before - left - freedom >= LEAST_GAIN * self._before
            self._before = None
            if not gained:
                self._take_away(state)
                return True
        if self._tries is Tries.MODES and left <= ENOUGH:
            self._tries = Tries.VARIATION
        self._tries = self._next(len(state.probe))
        too_late = passes_left is not None and passes_left <= TRIAL_PASSES
        if left <= LITTLE or too_late or self._tries is Tries.NOTHING:
            self._tries = Tries.NOTHING
            return False
        self._before, self._judged_at = left, state.passes + TRIAL_PASSES
        if self._tries is Tries.MODES:
            self._set_modes(state, len(state.probe) + 1)
        else:
            self.variation = most_variation(self.settings)
        return True

    def _next(self, modes: int) -> Tries:
        """Return what to try next with a probe of so many modes."""
        if self._tries is Tries.MODES and modes < self.settings.most_modes:
            return Tries.MODES
        may_vary = self._tries is not Tries.NOTHING and self.variation == 0 and self.settings.probe_variation == 0
        return Tries.VARIATION if may_vary and most_variation(self.settings) else Tries.NOTHING

    def _take_away(self, state: SolverState) -> None:
        if self._tries is Tries.MODES:
            self._tries = Tries.VARIATION
            self._set_modes(state, len(state.probe) - 1)
        else:
            self._tries = Tries.NOTHING
            self.variation = 0

    def _set_modes(self, state: SolverState, modes: int) -> None:
        probe = self._backend.to_numpy(state.probe)
        power = probe_power(np, probe)
        complete = with_modes(probe, modes, power)
        if modes > len(probe):
            complete[-1] *= math.sqrt(START_POWER * power / probe_power(np, complete[-1]))
        state.probe = self._backend.from_numpy(orthogonal_modes(np, complete))


def _numbers_of(settings: SolverSettings) -> tuple[int, ...]:
    return settings.modes, settings.most_modes, settings.probe_variation, most_variation(settings)
