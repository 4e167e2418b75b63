"""Which defocus has the starting probe?  A global search over the first frames, in small slices of time.

Every algorithm gets stuck with a badly wrong defocus, and there are second minima; so candidates all over the
range each get a few passes over the same frames, which gives the curve, and the best few of them some more, after
which the least residual wins.

A warm probe, that with which an earlier scan ended, is one more candidate, with as many passes over the same frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.canvas import bounding_box
from nsbluesky.solver.engines import make_engine
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.gauge import set_probe_power
from nsbluesky.solver.mean_light import MeanLight, mean_light, photons_through
from nsbluesky.solver.ordering import spread
from nsbluesky.solver.shifts import steps_of
from nsbluesky.solver.start import starting_probe
from nsbluesky.solver.state import SolverState

__all__ = ["DefocusSweep", "Sweep"]

ACCEPTED_CONFIDENCE = 0.1
"""A sweep is accepted where its minimum lies this part below its median …"""

ACCEPTED_DEVIATIONS = 6.0
"""… or this many standard deviations (from the median deviation): photon noise lifts all residuals alike, and the
minimum of a faint scan stands out from its neighbours without being much lower."""


MAX_ROUNDS = 2
"""Rounds of `SolverSettings.sweep_passes` passes over all candidates while none stands out."""

FINALISTS = 5
FINAL_PASSES = 2
"""So many of the best candidates get so many passes more."""

ENGINE = {
    "algorithm": "wasp",
    "object_modes": 1,
    "likelihood": "amplitude",
    "momentum": 0.0,
    "subpixel": 1,
    "batch": 8,
    "batch_final": 8,
}
"""Engine of the sweep, whatever runs afterwards.  Of 9 simulated scans with 1e3 … 1e6 photons a frame, wrong by up to
± 5 depths of field, WASP had the right candidate first from the third pass on, at 1e3
at times its neighbour; rPIE had others there."""


@dataclass(frozen=True)
class Sweep:
    """Result of a sweep.

    Attributes
    ----------
    candidates_m, residual : (k,) float64
        Distances tried and the R factor that each reached after equally many passes.
    defocus_m : float
        The one with the least residual after the last passes of the best few.
    confidence : float
        1 − minimum/median of the residuals; the minimum may be that of a warm probe that fits.
    accepted : bool
        Whether the confidence suffices to believe it.
    warm_residual : float
        Residual of the warm probe after as many passes; NaN where there was none.
    warm_fits : bool
        Whether the warm probe had at most the residual of the best candidate after the last passes of both.
    """

    candidates_m: npt.NDArray[np.float64]
    residual: npt.NDArray[np.float64]
    defocus_m: float
    confidence: float
    accepted: bool
    warm_residual: float = math.nan
    warm_fits: bool = False


class DefocusSweep:
    """A sweep over some frames of a store; `run` yields after every batch, then `sweep` and `best` are there.

    Parameters
    ----------
    frames : FrameStore
    slots : (n,) int
        The frames to use.
    candidates_m : (k,) float
    settings : SolverSettings
    backend : Backend
    light : MeanLight
        Of these frames.
    wavelength_m, pixel_m : float
        Wavelength and object pixel.
    warm : (modes, N, N) complex64, optional
        Starting probe of one more candidate.
    """

    def __init__(
        self,
        frames: FrameStore,
        slots: npt.NDArray[np.intp],
        candidates_m: npt.NDArray[np.float64],
        settings: SolverSettings,
        backend: Backend,
        *,
        light: MeanLight,
        wavelength_m: float,
        pixel_m: float,
        warm: npt.NDArray[np.complex64] | None = None,
    ) -> None:
        self.sweep: Sweep | None = None
        self.best: SolverState | None = None
        self.residual: npt.NDArray[np.float64] = np.empty(0)
        self._states: list[SolverState] = []
        self._frames = frames
        self._slots = slots
        self._candidates_m = candidates_m
        self._settings = settings
        self._engine = make_engine(settings.replace(**ENGINE), backend)
        self._backend = backend
        self._wavelength_m = wavelength_m
        self._pixel_m = pixel_m
        self._light = light
        self._warm = None if warm is None else self._blank(warm, self._light.background)
        self._warm_residual = math.nan

    def run(self) -> Iterator[None]:
        """Try all candidates, go on with them all while none stands out, and end with the best few."""
        yield from self.first_passes(self._settings.sweep_passes)
        for _ in range(MAX_ROUNDS - 1):
            if not judge(self._candidates_m, self.residual, self._warm_residual).accepted:
                yield from self._round(self._settings.sweep_passes)
        finalists = np.argsort(self.residual)[:FINALISTS].tolist()
        for number in finalists:
            yield from self._passes(self._states[number], FINAL_PASSES)
        winner = min(finalists, key=lambda number: self._states[number].r_factor)
        self.best, warm = self._states[winner], self._warm
        if self._light.background > 0:
            yield from self._without_background(float(self._candidates_m[winner]))
        if warm is not None:
            yield from self._passes(warm, FINAL_PASSES)
            if warm.r_factor <= self.best.r_factor:
                self.best = warm
        fits = self.best is warm
        sweep = judge(self._candidates_m, self.residual, self._warm_residual if fits else math.nan)
        defocus_m = float(self._candidates_m[winner])
        self.sweep = replace(sweep, defocus_m=defocus_m, warm_residual=self._warm_residual, warm_fits=fits)

    def _without_background(self, defocus_m: float) -> Iterator[None]:
        """Give the best candidate as many passes without a background, and take that where it fits better.

        Of a cone of light that is wider than the detector, and scatters little, dark pixels tell one that is none.
        """
        assert self.best is not None
        state = self._begun(defocus_m, mean_light(self._frames, self._slots, with_background=False))
        yield from self._passes(state, self.best.passes)
        if state.r_factor < self.best.r_factor:
            self.best = state

    def first_passes(self, passes: int) -> Iterator[None]:
        """Begin with all candidates; `residual` is there afterwards."""
        self._states = [self._begun(float(z), self._light) for z in self._candidates_m]
        yield from self._round(passes)

    def _round(self, passes: int) -> Iterator[None]:
        for state in self._states:
            yield from self._passes(state, passes)
        self.residual = np.array([state.r_factor for state in self._states])
        if self._warm is not None:
            yield from self._passes(self._warm, passes)
            self._warm_residual = self._warm.r_factor

    def _begun(self, defocus_m: float, light: MeanLight) -> SolverState:
        optics = self._wavelength_m, self._pixel_m, self._settings.modes
        return self._blank(starting_probe(light.pattern, defocus_m, *optics, light.photons), light.background)

    def _blank(self, probe: Any, background: float) -> SolverState:
        row0, column0, row1, column1 = bounding_box(self._frames.corners_px[self._slots], self._frames.frame_px)
        canvas = self._backend.xp.ones((row1 - row0, column1 - column0), np.complex64)
        return SolverState(canvas, self._backend.from_numpy(probe), (row0, column0), background)

    def _passes(self, state: SolverState, passes: int) -> Iterator[None]:
        settings, frames, batch = self._settings, self._frames, ENGINE["batch"]
        assert isinstance(batch, int)
        self._engine.initialize(state, frames)
        rng = np.random.default_rng(settings.seed + state.passes)
        amplitude = float(np.sum(frames.amplitude_sums[self._slots]))
        steps = steps_of(frames.shifts_px[self._slots], settings.subpixel)
        for _ in range(passes):
            order = spread(self._slots, frames.corners_px[self._slots], batch, rng, steps)
            told = []
            for first in range(0, len(order), batch):
                told.append(self._engine.begin_update(state, frames, order[first : first + batch]))
                yield
            self._engine.end_pass(state, frames)
            set_probe_power(self._backend.xp, state, photons_through(frames, self._slots, state.background))
            state.passes += 1
            state.r_factor = sum(float(each.residual.sum()) for each in told) / amplitude


def judge(
    candidates_m: npt.NDArray[np.float64], residual: npt.NDArray[np.float64], warm_residual: float = math.nan
) -> Sweep:
    """Return the candidate with the least residual, and how much that, or the warm probe's, stands out."""
    best = int(np.argmin(residual))
    least = float(np.fmin(residual[best], warm_residual))
    median = float(np.median(residual))
    spread = 1.4826 * float(np.median(np.abs(residual - median)))
    confidence = 1 - least / median
    accepted = confidence >= ACCEPTED_CONFIDENCE or median - least > ACCEPTED_DEVIATIONS * spread
    return Sweep(candidates_m, residual, float(candidates_m[best]), confidence, bool(accepted))
