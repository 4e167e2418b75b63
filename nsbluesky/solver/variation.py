"""A probe that changes over the scan: a few modes of variation, and how much of each is in every frame.

The first mode of frame j is P + Σ_v a_jv·U_v with real weights a (orthogonal probe relaxation: Odstrčil et al., Opt.
Express 24, 8360 (2016)).  The publication keeps the principal components of as many probes as there are frames; here
these are never formed.  With the sums n_j = w_j·conj(O_j)·χ_j that the probe's own update needs,

    a_jv += β·(Re⟨U_v, n_j⟩/w_j − ρ·a_jv) / (‖O_j·U_v‖² + ρ)    at each use of a frame
    U_v  += Σ_j a_jv·n_j / Σ_j a_jv²·w_j·|O_j|²                  at the end of a pass

which is one step of subspace iteration a pass, so that U ends at these components.  The weights of all frames have a
mean square of 1; ρ = ¼, the variance of √photons, draws those to 0 that a frame does not tell.  Both see the same
misfit, so with β = 1 a mode that is too weak would be mended twice; β = ½.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.compiled import FAST, njit
from nsbluesky.solver.frames import MOST_VARIATION, FrameStore
from nsbluesky.solver.light import PHOTON_NOISE
from nsbluesky.solver.shifts import light_around, lines_of, turn
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.variation_gauge import powers, settle, used_slots

__all__ = [
    "ProbeVariation",
    "Variation",
    "VariedProbe",
    "let_vary",
    "probe_of",
    "variation_of",
    "varied_part",
]

WEIGHT_STEP = 0.5
"""β.  With 1, four modes and 5 % of variation let weights and modes grow without bound."""

START_POWER = 1e-3
"""Power of a mode of variation at the start, relative to the probe's first mode."""

LARGEST_WEIGHT = 4.0
"""Weights are kept within so many standard deviations."""


@dataclass(frozen=True)
class Variation:
    """How a probe changed over a scan.

    Attributes
    ----------
    modes : (V, N, N) complex64
        Orthogonal, strongest first; each is the typical change of the probe, in √photon.
    weights : (n, V) float32
        How much of each is in every frame, with a mean square of 1; NaN where a frame was not used.
    part : float
        Part of the probe's light that is another than that of the mean probe.
    """

    modes: npt.NDArray[np.complex64]
    weights: npt.NDArray[np.float32]
    part: float


class VariedProbe:
    """The probes of some frames, each its own, and the way back for what is summed with them.

    Parameters
    ----------
    backend : Backend
    probe, variation : (modes, N, N) and (V, N, N) complex64
    fields : ((modes, N, N), (V, N, N)) complex64
        Their Fourier transforms, where any frame lies between pixels.
    weights : (n, V) float32
        a.
    steps : (n, 2) int
        Shift of each frame in steps of 1/`subpixel` pixel.
    subpixel : int
    compiled : bool
        Use the loops compiled for a CPU.

    Attributes
    ----------
    probes : (n, modes, N, N) complex64
    which : (n,) int
        0 … n − 1: which of the probes is that of each frame.
    products : (n, V) float64
        Re⟨U_v, n_j⟩, after `back`.
    sums : (V, N, N) complex64
        Σ_j a_jv·n_j, after `back`.
    """

    def __init__(
        self,
        backend: Backend,
        probe: Any,
        variation: Any,
        fields: tuple[Any, Any],
        weights: npt.NDArray[np.float32],
        steps: npt.NDArray[np.int64],
        subpixel: int,
        *,
        compiled: bool,
    ) -> None:
        self._backend = backend
        self._compiled = compiled
        self._weights = np.ascontiguousarray(weights)
        self._lines = None
        self.which = np.arange(len(steps))
        if not steps.any():
            self._variation = variation
            self.probes = self._varied(probe)
            return
        light, self._variation = fields
        self._lines = lines_of(steps, subpixel, probe.shape[-1])
        self.probes = backend.ifft2(turn(backend, self._varied(light), self._lines))

    def _varied(self, light: Any) -> Any:
        xp = self._backend.xp
        out = xp.empty((len(self.which), *light.shape), np.complex64)
        out[...] = light
        if self._compiled:
            _add_variation(self._variation, self._weights, out)
        else:
            out[:, 0] += xp.tensordot(xp.asarray(self._weights), self._variation, 1)
        return out

    def back(self, sums: Any) -> Any:
        """Return Σ_j of n_j (n, modes, N, N), each moved back by its shift, (modes, N, N); overwrites them."""
        backend, xp = self._backend, self._backend.xp
        if self._lines is not None:
            sums = turn(backend, backend.fft2(sums), self._lines.conj())
        if self._compiled:
            self.products = np.empty(self._weights.shape, np.float64)
            self.sums = np.zeros_like(self._variation)
            _take_variation(self._variation, self._weights, sums, self.products, self.sums)
        else:
            first = sums[:, 0]
            axes = ((1, 2), (1, 2))
            products = xp.tensordot(first, xp.conj(self._variation), axes).real
            self.products = np.asarray(backend.to_numpy(products), np.float64)
            self.sums = xp.tensordot(xp.asarray(self._weights.T), first, 1).astype(np.complex64)
        total = sums.sum(axis=0)
        if self._lines is None:
            return total
        self.sums = backend.ifft2(self.sums)
        return backend.ifft2(total)


class ProbeVariation:
    """Steps of the weights, and the sums of a pass that move the modes of variation at its end.

    Parameters
    ----------
    backend : Backend
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.clear()

    def clear(self) -> None:
        """Begin a pass."""
        self._sums: Any = None
        self._light: Any = None

    def add(
        self,
        state: SolverState,
        frames: FrameStore,
        slots: npt.NDArray[np.intp],
        probes: list[VariedProbe],
        light: Any,
    ) -> None:
        """Use what a batch tells of its frames.

        Parameters
        ----------
        state : SolverState
        frames : FrameStore
        slots : (n,) int
        probes : list of VariedProbe
            Those of the frames in `slots`, in their order, after `back`.
        light : (N, N) float32
            Σ w·|O|² over the batch.
        """
        if self._sums is None:
            self._sums, self._light = self._backend.xp.zeros_like(state.variation), 0
        for part in probes:
            self._sums += part.sums
        self._light = self._light + light
        count = len(state.variation)
        before = frames.variation[slots, :count]
        told = np.concatenate([part.products for part in probes]) / frames.weights[slots][:, None]
        brightness = frames.photons[slots] / max(float(np.mean(frames.photons[slots])), 1e-12)
        power = powers(self._backend, state.variation)[None] * brightness[:, None]
        step = WEIGHT_STEP * (told - PHOTON_NOISE * before) / (power + PHOTON_NOISE)
        frames.variation[slots, :count] = np.clip(before + step, -LARGEST_WEIGHT, LARGEST_WEIGHT)

    def end_pass(self, state: SolverState, frames: FrameStore) -> None:
        """Move the modes, and make them orthogonal: to each other, to the probe, and strongest first."""
        if self._sums is not None:
            xp = self._backend.xp
            slots = used_slots(frames)
            squares = np.mean(frames.variation[slots, : len(state.variation)].astype(np.float64) ** 2, axis=0)
            light = light_around(self._backend, self._light)
            share = xp.asarray(np.maximum(squares, 0.1), np.float32)
            state.variation = state.variation + self._sums / (share[:, None, None] * light)
        self.clear()
        if state.variation is not None:
            settle(self._backend, state, frames)


def let_vary(backend: Backend, state: SolverState, frames: FrameStore, count: int) -> None:
    """Let a state have so many modes of variation, with what it had before: the strongest ones."""
    there = 0 if state.variation is None else len(state.variation)
    if count == there:
        return
    frames.variation[:, min(count, there) :] = 0
    if count == 0:
        state.variation = None
        return
    kept = [] if state.variation is None else [state.variation[:count]]
    state.variation = backend.xp.concatenate([*kept, _beginning(backend, state.probe[0])[there:count]])


def probe_of(backend: Backend, state: SolverState, frames: FrameStore, slot: int) -> Any:
    """Return the probe (modes, N, N) of the frame in a slot, centred: a copy."""
    probe = state.probe.copy()
    if state.variation is not None:
        weights = backend.xp.asarray(frames.variation[slot, : len(state.variation)])
        probe[0] += backend.xp.tensordot(weights, state.variation, 1)
    return probe


def variation_of(backend: Backend, state: SolverState, frames: FrameStore, count: int) -> Variation | None:
    """Return how the probe changed over frames with the numbers 0 … `count` − 1; None where it may not."""
    if state.variation is None:
        return None
    modes = backend.to_numpy(state.variation)
    weights = np.full((count, len(modes)), np.nan, np.float32)
    slots = used_slots(frames)
    weights[frames.seq_nums[slots]] = frames.variation[slots, : len(modes)]
    return Variation(modes, weights, varied_part(backend, state))


def varied_part(backend: Backend, state: SolverState) -> float:
    """Return the part of the probe's light that is another than that of the mean probe."""
    if state.variation is None:
        return 0.0
    light = float(powers(backend, state.probe).sum())
    return float(powers(backend, state.variation).sum()) / max(light, 1e-12)


def _beginning(backend: Backend, first: Any) -> Any:
    """Return fields (MOST_VARIATION, N, N) to begin with: mixtures of what commonly changes in a beamline.

    These are the probe's derivatives by place, direction and defocus, and three more of second order.  Each field has
    some of all, so that whatever changes is found by the first.
    """
    xp, side = backend.xp, first.shape[-1]
    frequency = xp.fft.fftfreq(side).astype(np.float32)
    place = (xp.arange(side) - side // 2).astype(np.float32)
    down, right = frequency[:, None], frequency[None, :]
    field = backend.fft2(first.copy())
    moved = [1j * down, 1j * right, 1j * (down**2 + right**2), down**2, down * right, right**2]
    changes = [*backend.ifft2(xp.stack([(field * factor).astype(np.complex64) for factor in moved]))]
    changes += [1j * place[:, None] * first, 1j * place[None, :] * first]
    flat = xp.stack(changes).reshape(MOST_VARIATION, -1)
    flat = flat - (flat @ first.reshape(-1).conj())[:, None] / (xp.abs(first) ** 2).sum() * first.reshape(-1)
    flat = flat / xp.sqrt((xp.abs(flat) ** 2).sum(axis=1, keepdims=True))
    number = np.arange(MOST_VARIATION)
    mixture = np.cos(np.pi / MOST_VARIATION * number[:, None] * (number + 0.5)) / np.sqrt(MOST_VARIATION)
    size = xp.sqrt(START_POWER * (xp.abs(first) ** 2).sum())
    mixed = xp.asarray(mixture, np.complex64) @ flat.astype(np.complex64) * size
    return mixed.reshape(MOST_VARIATION, side, side).astype(np.complex64)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _add_variation(modes, weights, probes):  # type: ignore[no-untyped-def]
    """Add Σ_v a_jv·U_v to the first of the modes of `probes` (n, modes, N, N)."""
    count, side, _ = modes.shape
    for frame in range(len(probes)):
        for row in range(side):
            target = probes[frame, 0, row]
            for mode in range(count):
                weight, line = weights[frame, mode], modes[mode, row]
                for column in range(side):
                    t, u = target[column], line[column]
                    target[column] = complex(t.real + weight * u.real, t.imag + weight * u.imag)


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _take_variation(modes, weights, terms, products, sums):  # type: ignore[no-untyped-def]
    """Write Re⟨U_v, n_j⟩ into `products` and add Σ_j a_jv·n_j to `sums`, n_j being the first of `terms`' modes."""
    count, side, _ = modes.shape
    zero = weights.dtype.type(0)
    for frame in range(len(terms)):
        for mode in range(count):
            weight, product = weights[frame, mode], 0.0
            for row in range(side):
                line, term, total = modes[mode, row], terms[frame, 0, row], sums[mode, row]
                part = zero
                for column in range(side):
                    u, n, s = line[column], term[column], total[column]
                    part += u.real * n.real + u.imag * n.imag
                    total[column] = complex(s.real + weight * n.real, s.imag + weight * n.imag)
                product += part
            products[frame, mode] = product
