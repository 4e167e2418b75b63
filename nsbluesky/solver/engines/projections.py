"""AP, RAAR and DM: one combination of two projections with coefficients.

Pa sets the amplitudes on the detector to the measured ones, Pq replaces the exit waves z by P·O of the object and
probe that fit them best.  One iteration is

    z' = c_qa·Pq Pa z + c_a·Pa z + c_q·Pq z + c_1·z

with the coefficients

    ===== ====== ====== ===== ===
    name  c_qa   c_a    c_q   c_1
    ===== ====== ====== ===== ===
    AP    1      0      0     0
    RAAR  2b     1−2b   −b    b
    DM    2      −1     −1    1
    ===== ====== ====== ===== ===

RAAR is b/2·(R_q R_a + 1) + (1−b)·Pa with the reflectors R = 2P − 1 (Luke, Inverse Problems 21, 37 (2005)), DM is
its limit b = 1 (Thibault et al., Ultramicroscopy 109, 338 (2009), with the order of projections exchanged).

As the coefficients add up to 1 and Pq is linear for a given probe, Pq z' = Pq Pa z: the projection Pq z that an
iteration needs is P·O from the end of the one before.  So each iteration reads every exit wave once.  What is
stored of a frame is t = z − c_qa·P·O, the wave but for the part that follows from object and probe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.solver.engines.base import (
    Engine,
    PassSums,
    Slots,
    ThreadSpace,
    corners_on_canvas,
    pieces,
    shares,
    work_space,
)
from nsbluesky.solver.forward import amplitude_correction, exit_waves, misfit
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.light import UpdateReport
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.windows import bands, gather

__all__ = ["AP", "DM", "Coefficients", "ProjectionEngine", "raar"]

CHUNK_FRAMES = 64
"""Frames whose exit waves lie in one array."""

REGULARISATION = np.float32(1e-3)
"""Weight of the object of the pass before, relative to the largest Σ|P|², in the average that makes the new one."""


@dataclass(frozen=True)
class Coefficients:
    """What makes an algorithm; see the module.

    Attributes
    ----------
    overlap_of_amplitude, amplitude, overlap, identity : float
        c_qa, c_a, c_q and c_1.
    power_bound : float
        Mean misfit (G − A)² a pixel that is left as noise.
    """

    name: str
    overlap_of_amplitude: float
    amplitude: float
    overlap: float
    identity: float
    power_bound: float = 0.0


AP = Coefficients("ap", 1.0, 0.0, 0.0, 0.0)
DM = Coefficients("dm", 2.0, -1.0, -1.0, 1.0, power_bound=0.25)


def raar(relaxation: float) -> Coefficients:
    """Return the coefficients of RAAR with relaxation b."""
    return Coefficients("raar", 2 * relaxation, 1 - 2 * relaxation, -relaxation, relaxation)


class ProjectionEngine(Engine):
    """Runs a combination of projections; keeps an exit wave of every frame.

    Parameters
    ----------
    coefficients : Coefficients
    backend : Backend
    probe_start : int
        Passes before the probe is updated.
    batch : int
        The largest batch that will be used.
    """

    sums_light = False

    def __init__(self, coefficients: Coefficients, backend: Backend, *, probe_start: int, batch: int) -> None:
        self.name = coefficients.name
        self._coefficients = coefficients
        self._backend = backend
        self._probe_start = probe_start
        self._batch = batch

    def initialize(self, state: SolverState, frames: FrameStore) -> None:
        """Make work space; every frame begins with z = P·O."""
        self._spaces, self._terms = work_space(self._backend, state.probe.shape, self._batch)
        self._sums = PassSums.zeros(self._backend, state)
        self._remainders: list[Any] = []
        self._begun: set[int] = set()

    def pad(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        """Follow a canvas that grew."""
        self._sums.object.pad(self._backend, before, after)

    def forget(self, slot: int) -> None:
        """Begin again with z = P·O for a frame that was measured again."""
        if hasattr(self, "_begun"):
            self._begun.discard(slot)

    def contents(self) -> dict[str, Any]:
        """Return what is stored of each frame, for a checkpoint between two passes."""
        begun = sorted(self._begun)
        stored = [self._backend.to_numpy(self._remainders[k // CHUNK_FRAMES][k % CHUNK_FRAMES]) for k in begun]
        return {"begun": begun} | ({"remainders": np.stack(stored)} if stored else {})

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned, after `initialize`."""
        begun = contents["begun"]
        if not begun:
            return
        remainders = contents["remainders"]
        self._reserve(max(begun), remainders.shape[1:])
        for slot, stored in zip(begun, remainders, strict=True):
            self._remainders[slot // CHUNK_FRAMES][slot % CHUNK_FRAMES] = self._backend.from_numpy(stored)
        self._begun = set(begun)

    def begin_update(self, state: SolverState, frames: FrameStore, slots: Slots) -> UpdateReport:
        """Iterate the exit waves of one batch and add to the sums that make the new object and probe."""
        backend = self._backend
        corners = corners_on_canvas(state, frames, slots)
        weights = frames.weights[slots]
        power = backend.xp.sum(backend.xp.abs(state.probe) ** 2, axis=0)
        self._reserve(int(slots.max(initial=-1)), state.probe.shape)

        def iterate(space: ThreadSpace, share: slice) -> list[Any]:
            space.probe_numerator[...] = 0
            space.probe_denominator[...] = 0
            residuals = []
            for part in pieces(share, space.frames):
                batch = (slots[part], corners[part], weights[part])
                residuals.append(self._iterate(state, frames, *batch, space, self._terms[part, 0]))
            return residuals

        parts = shares(backend, len(slots), state.probe.size)
        residuals = [r for part in backend.map(iterate, self._spaces[: len(parts)], parts) for r in part]
        terms = self._terms[: len(slots), 0]

        def add(band: slice) -> None:
            self._sums.object.add(backend, band, corners, terms, power, weights)

        backend.map(add, bands(backend, state.object.shape))
        self._sums.add_probe(self._spaces[: len(parts)])
        self._begun.update(slots.tolist())
        residual = np.concatenate([backend.to_numpy(r) for r in residuals])
        return UpdateReport(lambda: (residual, None))

    def _reserve(self, last_slot: int, probe_shape: tuple[int, ...]) -> None:
        while last_slot >= CHUNK_FRAMES * len(self._remainders):
            self._remainders.append(self._backend.xp.empty((CHUNK_FRAMES, *probe_shape), np.complex64))

    def _iterate(
        self,
        state: SolverState,
        frames: FrameStore,
        slots: Slots,
        corners: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float32],
        space: ThreadSpace,
        terms: Any,
    ) -> Any:
        backend, xp, c = self._backend, self._backend.xp, self._coefficients
        windows = gather(backend, state.object, corners, space.windows)
        model = exit_waves(backend, state.probe, windows, space.waves[: len(slots)])
        waves = model.copy()
        for row, slot in enumerate(slots.tolist()):
            if slot in self._begun:
                waves[row] *= np.float32(c.overlap_of_amplitude)
                waves[row] += self._remainders[slot // CHUNK_FRAMES][slot % CHUNK_FRAMES]
        amplitude = frames.amplitudes(slots, space.amplitude)
        measured = (amplitude, frames.good, state.background, space.model[: len(slots)])
        residual = misfit(backend, frames.propagator, model.copy(), *measured, has_gaps=frames.has_gaps)
        fitted, _ = amplitude_correction(
            backend, frames.propagator, waves.copy(), *measured, has_gaps=frames.has_gaps, power_bound=c.power_bound
        )
        fitted += waves
        model *= np.float32(c.overlap)
        waves *= np.float32(c.identity)
        waves += model
        waves += np.float32(c.amplitude) * fitted
        for row, slot in enumerate(slots.tolist()):
            self._remainders[slot // CHUNK_FRAMES][slot % CHUNK_FRAMES] = waves[row]
        xp.sum(fitted * xp.conj(state.probe), axis=1, out=terms)
        terms *= xp.asarray(weights)[:, None, None]
        space.add_probe_terms(xp, windows, fitted, weights)
        return residual

    def end_pass(self, state: SolverState, frames: FrameStore) -> None:
        """Make the object, and the probe once it is time, that fit the exit waves of the pass best."""
        sums = self._sums
        _fit(sums.object.numerator, sums.object.denominator, state.object)
        if state.passes >= self._probe_start:
            _fit(sums.probe_numerator, sums.probe_denominator, state.probe)
        sums.clear()


def _fit(numerator: Any, denominator: Any, target: Any) -> None:
    """Set `target` to numerator/denominator, drawn to its old value where the denominator is small."""
    floor = REGULARISATION * denominator.max()
    if float(floor) > 0:
        target[...] = (numerator + floor * target) / (denominator + floor)
