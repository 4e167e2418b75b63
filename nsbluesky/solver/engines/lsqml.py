"""Least-squares maximum likelihood (Odstrčil, Menzel & Guizar-Sicairos, Opt. Express 26, 3108 (2018)).

For each batch, the differences χ between the exit waves and those with the measured amplitudes give directions

    ΔO = Σ_j w_j Σ_k conj(P_k)·χ_jk / (D + δ·max D)     with D = Σ_j w_j Σ_k |P_k|²
    ΔP_k = Σ_j w_j conj(O_j)·χ_jk / (E + δ·max E)       with E = Σ_j w_j |O_j|²

and the steps α, β that minimise Σ_j w_j Σ_k ‖χ_jk − α·ΔO·P_k − β·O_j·ΔP_k‖², a system of two equations.  The
publication solves it for each frame and averages; here one system serves the batch, so that frames with more light
count for more and frames that overlap are seen together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.solver import kernels
from nsbluesky.solver.engines.base import Engine, Slots, ThreadSpace, report_of, work_space
from nsbluesky.solver.engines.differences import Differences, Likelihood
from nsbluesky.solver.engines.momentum import Momentum
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.light import UpdateReport
from nsbluesky.solver.modes import orthogonal_modes
from nsbluesky.solver.shifts import MovedProbe
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.windows import ObjectSums, bands, gather

__all__ = ["LeastSquaresEngine", "best_steps"]

MIXED = 1e-3
"""Added to the diagonal of the two equations, relative to it: object and probe may ask for the same change."""

FLOOR = np.float32(0.5)
"""Photons added in the Poisson likelihood (see `nsbluesky.solver.forward`): more than elsewhere: steps are full."""

LONGEST_STEP = 2.0
"""Steps are kept within this, for a batch may know too little about one of the two."""


class LeastSquaresEngine(Engine):
    """Runs batches, better large ones; keeps nothing of a frame.

    Parameters
    ----------
    name : {"lsqml", "lsqml_poisson"}
    backend : Backend
    poisson : bool
        Likelihood of the photons themselves; else of their square roots, as normally distributed.
    probe_start : int
        Passes before the probe is updated.
    batch : int
        The largest batch that will be used.
    damping : float
        δ.
    momentum : float
        Friction of `nsbluesky.solver.engines.momentum.Momentum`; 0 for none.
    subpixel : int
        Steps of a position in a pixel.
    compiled : bool, optional
        Use the loops compiled for a CPU; by default wherever arrays live in host memory.
    """

    least_batch = 128

    def __init__(
        self,
        name: str,
        backend: Backend,
        *,
        poisson: bool,
        probe_start: int,
        batch: int,
        damping: float,
        momentum: float,
        subpixel: int = 1,
        compiled: bool | None = None,
    ) -> None:
        self.name = name
        self._backend = backend
        self._likelihood = Likelihood(poisson, FLOOR)
        self._probe_start = probe_start
        self._batch = batch
        self._damping = np.float32(damping)
        self._subpixel = subpixel
        self._compiled = not backend.on_device if compiled is None else compiled
        self._momentum = Momentum(backend, momentum, 1, compiled=self._compiled)

    def initialize(self, state: SolverState, frames: FrameStore) -> None:
        """Make work space and begin a pass."""
        self._spaces, self._terms = work_space(self._backend, state.probe.shape, self._batch)
        self._changes = self._backend.xp.empty((self._batch, *state.probe.shape), np.complex64)
        self._sums = ObjectSums.zeros(self._backend, state.object.shape)
        self._momentum.begin(state)

    def pad(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        """Follow a canvas that grew."""
        self._sums.pad(self._backend, before, after)
        self._momentum.pad(before, after)

    def rest(self, resting: bool, *, at_end: bool = False) -> None:
        """Take no steps of momentum, or begin anew to take them."""
        self._momentum.rest(resting)

    def contents(self) -> dict[str, Any]:
        """Return momentum, for a checkpoint."""
        return self._momentum.contents()

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned, after `initialize`."""
        self._momentum.restore(contents)

    def begin_update(self, state: SolverState, frames: FrameStore, slots: Slots) -> UpdateReport:
        """Use one batch of frames: directions, then the steps along them."""
        backend, xp = self._backend, self._backend.xp
        self._momentum.before(state)
        batch = Differences(
            backend,
            state,
            frames,
            slots,
            subpixel=self._subpixel,
            likelihood=self._likelihood,
            compiled=self._compiled,
        )
        light = batch.add(self._spaces, self._terms, changes=self._changes)
        corners, weights = batch.corners, batch.weights
        power = xp.sum(xp.abs(state.probe) ** 2, axis=0)
        terms = self._terms[: len(slots), 0]

        def add(band: slice) -> None:
            self._sums.add(backend, band, corners, terms, power, weights)

        backend.map(add, bands(backend, state.object.shape))
        top, left = corners.min(axis=0)
        bottom, right = corners.max(axis=0) + frames.frame_px
        box = (slice(top, bottom), slice(left, right))
        direction, illumination = self._sums.numerator, self._sums.denominator
        illumination[box] += self._damping * illumination[box].max()
        direction[box] *= np.float32(1) / xp.maximum(illumination[box], np.float32(1e-30))
        with_probe = state.passes >= self._probe_start
        probe_direction = self._probe_direction(self._spaces[: len(batch.shares)])
        if not with_probe:
            probe_direction[...] = 0
        fields = [batch.transformed(p) for p in (state.probe, probe_direction)]

        def products(share: slice) -> npt.NDArray[np.float64]:
            probe = batch.moved(state.probe, fields[0], share)
            bends = batch.moved(probe_direction, fields[1], share).probes
            of_share = (corners[share], self._changes[share], weights[share])
            return self._products(state, direction, probe, bends, *of_share)

        total = np.sum(backend.map(products, batch.shares), axis=0)
        object_step, probe_step = best_steps(total)
        state.object[box] += np.float32(object_step) * direction[box]
        if with_probe:
            state.probe += np.float32(probe_step) * probe_direction
        direction[box] = 0
        illumination[box] = 0
        self._momentum.after(state, 1)
        return report_of(light)

    def _probe_direction(self, spaces: list[ThreadSpace]) -> Any:
        numerator, denominator = spaces[0].probe_numerator, spaces[0].probe_denominator
        for space in spaces[1:]:
            numerator += space.probe_numerator
            denominator += space.probe_denominator
        return numerator / (denominator + self._damping * denominator.max())

    def _products(
        self,
        state: SolverState,
        direction: Any,
        probe: MovedProbe,
        bends: Any,
        corners: npt.NDArray[np.int64],
        change: Any,
        weights: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.float64]:
        """Return the products of u = ΔO·P, v = O·ΔP and χ that the two equations need; see `best_steps`."""
        backend, xp = self._backend, self._backend.xp
        if self._compiled:
            sums = np.zeros(5)
            measured = (corners, change, weights)
            kernels.step_products(state.object, direction, probe.probes, bends, probe.which, *measured, sums)
            return sums
        side = change.shape[-1]
        windows = gather(backend, state.object, corners, xp.empty((len(corners), side, side), np.complex64))
        turns = gather(backend, direction, corners, xp.empty_like(windows))
        u, v = turns[:, None] * probe.probes[probe.which], windows[:, None] * bends[probe.which]
        weighted = xp.asarray(weights)[:, None, None, None]

        def product(a: Any, b: Any) -> float:
            return float((weighted * (a.conj() * b).real).sum(dtype=np.float64))

        return np.array([product(u, change), product(v, change), product(u, u), product(v, v), product(u, v)])

    def end_pass(self, state: SolverState, frames: FrameStore) -> None:
        """Orthogonal modes."""
        state.probe = orthogonal_modes(self._backend.xp, state.probe)
        self._momentum.end_pass()


def best_steps(products: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return α, β that minimise ‖χ − α·u − β·v‖², each between 0 and `LONGEST_STEP`.

    Parameters
    ----------
    products : (5,) float64
        Re⟨u, χ⟩, Re⟨v, χ⟩, ⟨u, u⟩, ⟨v, v⟩ and Re⟨u, v⟩.
    """
    ux, vx, uu, vv, uv = products.tolist()
    if uu <= 0:
        return 0.0, 0.0
    if vv <= 0:
        return min(max(ux / uu, 0.0), LONGEST_STEP), 0.0
    left, right = uu * (1 + MIXED), vv * (1 + MIXED)
    determinant = left * right - uv * uv
    alpha, beta = (ux * right - vx * uv) / determinant, (vx * left - ux * uv) / determinant
    return min(max(alpha, 0.0), LONGEST_STEP), min(max(beta, 0.0), LONGEST_STEP)
