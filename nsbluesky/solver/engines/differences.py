"""χ of a batch: what its exit waves lack of the measured amplitudes, and the sums with it that updates are made of.

    χ_jsk = F⁻¹[m·(A_j/G_j − 1)·F(P_jk·O_js)]

or, where photons are few, with the factor that the likelihood of counts asks for; P_jk is the probe at the place of
frame j, O_js one of the states of its object, mostly the only one.  Each thread takes a share of the batch, a few
frames at a time, and adds up its own sums for the probe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.solver import kernels
from nsbluesky.solver.engines.base import Slots, ThreadSpace, corners_on_canvas, loops_of, pieces, shares
from nsbluesky.solver.forward import EPSILON, POISSON_FLOOR, likelihood_change
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.light import SUMS
from nsbluesky.solver.shifts import MovedProbe, steps_of
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.variation import VariedProbe
from nsbluesky.solver.windows import gather

__all__ = ["AMPLITUDES", "Differences", "Likelihood"]


@dataclass(frozen=True)
class Likelihood:
    """What χ descends.

    Attributes
    ----------
    poisson : bool
        The likelihood of counted photons; else that of amplitudes with equal noise.
    floor : numpy.float32
        Photons added in the first; see `nsbluesky.solver.forward`.
    """

    poisson: bool = False
    floor: np.float32 = POISSON_FLOOR


AMPLITUDES = Likelihood()


class Differences:
    """One batch, with frames of one shift beside each other, so that they share a moved probe.

    Parameters
    ----------
    backend : Backend
    state : SolverState
    frames : FrameStore
    slots : (n,) int
        The batch.
    subpixel : int
        Steps of a position in a pixel.
    likelihood : Likelihood
    compiled : bool
        Use the loops compiled for a CPU.

    Attributes
    ----------
    slots, corners, weights, steps
        Of the frames, in the order in which they are worked on.
    between_pixels : bool
        Whether any frame is moved by less than a pixel.
    shares : list of slice
        Frames of each thread.
    loops
        The fused loops for these arrays, or None (`nsbluesky.solver.engines.base.loops_of`).
    """

    def __init__(
        self,
        backend: Backend,
        state: SolverState,
        frames: FrameStore,
        slots: Slots,
        *,
        subpixel: int,
        likelihood: Likelihood,
        compiled: bool,
    ) -> None:
        steps = steps_of(frames.shifts_px[slots], subpixel)
        self.between_pixels = bool(steps.any())
        self._order = np.lexsort(steps.T) if self.between_pixels else np.arange(len(slots))
        self.slots, self.steps = slots[self._order], steps[self._order]
        self.corners = corners_on_canvas(state, frames, self.slots)
        self.weights = frames.weights[self.slots]
        self.shares = shares(backend, len(slots), len(state.objects) * state.probe.size)
        self._backend = backend
        self._state = state
        self._frames = frames
        self._subpixel = subpixel
        self._likelihood = likelihood
        self._floor = likelihood.floor if likelihood.poisson else EPSILON
        self._compiled = compiled
        self.loops = loops_of(backend, state.probe, compiled=compiled)
        calls_transforms = self.loops is kernels and frames.propagator.is_far
        self._transforms = backend.compiled_transforms(frames.frame_px, np.complex64) if calls_transforms else None
        self._no_numerators = backend.xp.zeros((1, 1, 1, 1), np.complex64)
        self._placed: list[MovedProbe | VariedProbe] = []
        self._field = self.transformed(state.probe)
        if state.variation is not None:
            self._bends = self.transformed(state.variation)

    def transformed(self, probe: Any) -> Any:
        """Return the Fourier transform that `moved` takes of a probe; where none is moved, the probe itself."""
        return self._backend.fft2(probe.copy()) if self.between_pixels else probe

    def moved(self, probe: Any, field: Any, frames: slice) -> MovedProbe:
        """Return a probe at the places of some of the frames."""
        return MovedProbe(self._backend, probe, field, self.steps[frames], self._subpixel)

    def _probes(self, share: slice) -> MovedProbe | VariedProbe:
        """Return the probes of some of the frames, at their places."""
        state = self._state
        if state.variation is None:
            return self.moved(state.probe, self._field, share)
        weights = self._frames.variation[self.slots[share], : len(state.variation)]
        fields, places = (self._field, self._bends), (self.steps[share], self._subpixel)
        return VariedProbe(
            self._backend, state.probe, state.variation, fields, weights, *places, compiled=self._compiled
        )

    def add(
        self, spaces: list[ThreadSpace], terms: Any, *, with_probe: bool = True, changes: Any = None
    ) -> npt.NDArray[np.float64]:
        """Form χ of all frames and the sums with it; return their light sums (n, SUMS), in the given order.

        Parameters
        ----------
        spaces : list of ThreadSpace
            One for each of `shares` at least; their sums for the probe become Σ_j w_j conj(O_j)·χ_jk and
            Σ_j w_j |O_j|² of the share.
        terms : (n or more, states, N, N) complex64
            Becomes w_j Σ_k conj(P_jk)·χ_jsk.
        with_probe : bool
            Without, the sums for the probe are left out.
        changes : (n or more, states·modes, N, N) complex64, optional
            Becomes χ.
        """

        of_part = self._by_arrays if self.loops is None else self._by_loops

        def of_share(space: ThreadSpace, share: slice) -> tuple[list[Any], MovedProbe | VariedProbe]:
            space.probe_denominator[...] = 0
            moved = self._probes(share)
            numerators = self._backend.xp.zeros(moved.probes.shape, np.complex64) if with_probe else None
            found = []
            for part in pieces(share, space.frames):
                which = moved.which[part.start - share.start : part.stop - share.start]
                kept = None if changes is None else changes[part]
                found.append(of_part(part, moved.probes, which, space, terms[part], numerators, kept))
            if with_probe:
                space.probe_numerator[...] = moved.back(numerators)
            return found, moved

        parts = self._backend.map(of_share, spaces[: len(self.shares)], self.shares)
        light = np.empty((len(self.slots), SUMS))
        light[self._order] = np.concatenate([self._backend.to_numpy(sums) for found, _ in parts for sums in found])
        self._placed = [moved for _, moved in parts]
        return light

    @property
    def varied(self) -> list[VariedProbe]:
        """The probes of each share, where they vary; after `add`."""
        return [moved for moved in self._placed if isinstance(moved, VariedProbe)]

    def mean_light(self) -> Any:
        """Return Σ_k |P_jk|² (N, N), the mean over the frames j, each with its probe where it lies; after `add`.

        The probe's own light would not do: a sharp one is dark where it is bright half a pixel further.
        """
        xp, probe = self._backend.xp, self._state.probe
        light = xp.zeros(probe.shape[1:], np.float32)
        if not self.between_pixels and self._state.variation is None:
            self._add_power(probe[None], np.ones(1, np.float32), light)
            return light
        for moved in self._placed:
            parts = np.bincount(moved.which) / len(self.slots)
            self._add_power(moved.probes, parts.astype(np.float32), light)
        return light

    def _add_power(self, probes: Any, weights: npt.NDArray[np.float32], light: Any) -> None:
        """Add Σ_j w_j Σ_k |P_jk|² to `light` (N, N)."""
        if self.loops is not None:
            self.loops.add_power(probes, weights, light)
        else:
            xp = self._backend.xp
            light += xp.tensordot(xp.asarray(weights), (abs(probes) ** 2).sum(axis=1), 1)

    def _shifts_px(self, part: slice) -> Any:
        return self.steps[part] / self._subpixel if self.between_pixels else None

    def _by_loops(
        self, part: slice, probes: Any, which: Any, space: ThreadSpace, terms: Any, numerators: Any, kept: Any
    ) -> Any:
        """Return light sums (n, SUMS) of a few frames; write `terms`, and χ into `kept` if any, add to the others."""
        loops, objects, frames, corners = self.loops, self._state.objects, self._frames, self.corners[part]
        waves, light = space.waves[: len(corners)], self._backend.xp.empty((len(corners), SUMS), np.float32)
        amplitude, poisson = frames.amplitudes(self.slots[part], space.amplitude), self._likelihood.poisson
        detector = amplitude, frames.good, np.float32(self._state.background), self._floor
        with_probe = numerators is not None
        sums = with_probe, numerators if with_probe else self._no_numerators, space.probe_denominator
        to_terms = self.weights[part], terms, *sums
        change = waves
        if self._transforms is not None:
            places, scale = (objects, probes, which, corners), np.float32(1 / waves.shape[-1])
            loops.use_frames(self._transforms, *places, waves, *detector, scale, poisson, light, *to_terms)
        else:
            shifts_px = self._shifts_px(part)
            loops.multiply_windows(objects, probes, which, corners, waves)
            field, factor = frames.propagator.propagate(waves, shifts_px)
            loops.change_fields(field, *detector, field.real.dtype.type(factor), poisson, light)
            change = frames.propagator.propagate_back(field, shifts_px)
            loops.back_project(change, probes, which, objects, corners, *to_terms)
        if kept is not None:
            kept[...] = change
        return light

    def _by_arrays(
        self, part: slice, probes: Any, which: Any, space: ThreadSpace, terms: Any, numerators: Any, kept: Any
    ) -> Any:
        """Do the same step by step."""
        backend, xp, objects, frames = self._backend, self._backend.xp, self._state.objects, self._frames
        corners, shifts_px, weights = self.corners[part], self._shifts_px(part), self.weights[part]
        illumination, modes = probes[which], probes.shape[1]
        waves = space.waves[: len(corners)]
        of_states = [slice(first, first + modes) for first in range(0, waves.shape[1], modes)]
        for of_state, canvas in zip(of_states, objects, strict=True):
            windows = gather(backend, canvas, corners, space.windows)
            xp.multiply(windows[:, None], illumination, out=waves[:, of_state])
        field = frames.propagator.forward(waves, shifts_px)
        measured = frames.amplitudes(self.slots[part], space.amplitude), frames.good, self._state.background
        poisson, floor = self._likelihood.poisson, self._likelihood.floor
        factor, light = likelihood_change(xp, field, *measured, poisson=poisson, floor=floor)
        field *= factor[:, None]
        change = frames.propagator.back(field, shifts_px)
        if kept is not None:
            kept[...] = change
        weighted = xp.asarray(weights)[:, None, None]
        for number, (of_state, canvas) in enumerate(zip(of_states, objects, strict=True)):
            terms[:, number] = (change[:, of_state] * xp.conj(illumination)).sum(axis=1) * weighted
            if numerators is not None:
                windows = gather(backend, canvas, corners, space.windows)
                space.add_probe_terms(xp, windows, change[:, of_state], weights, which, numerators)
        return light
