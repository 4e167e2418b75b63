"""Conjugate gradients on all frames at once: slow to begin with, the least misfit at the end; for a polish.

The loss is Σ_j w_j Σ m·(G − A)², the likelihood of amplitudes with equal noise.  A pass adds up its gradient

    g_O = Σ_j w_j Σ_k conj(P_k)·χ_jk        g_P = Σ_j w_j conj(O_j)·χ_jk

and at its end takes one step along d = g/(D + δ·max D) + β·d_before, D being Σ_j w_j Σ_k |P_k|² for the object and
Σ_j w_j |O_j|² for the probe, β that of Polak and Ribière, not below 0 (Nocedal & Wright, Numerical Optimization,
2nd ed., eq. 5.44).  How far is one step of Newton's method along d, which needs a transform more of each frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.solver import kernels
from nsbluesky.solver.engines.base import (
    Engine,
    PassSums,
    Slots,
    ThreadSpace,
    corners_on_canvas,
    pieces,
    report_of,
    shares,
    work_space,
)
from nsbluesky.solver.engines.differences import AMPLITUDES, Differences
from nsbluesky.solver.forward import line_terms
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.light import UpdateReport
from nsbluesky.solver.shifts import MovedProbe, steps_of
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.windows import bands, gather, pad_canvas

__all__ = ["ConjugateGradientEngine"]


@dataclass
class _Line:
    """A direction, the gradient that it came from, and ⟨s, g⟩ of that with its preconditioned form s."""

    ARRAYS: ClassVar[tuple[str, ...]] = ("object", "probe", "object_gradient", "probe_gradient")

    object: Any
    probe: Any
    object_gradient: Any
    probe_gradient: Any
    power: float


class ConjugateGradientEngine(Engine):
    """One step a pass; keeps nothing of a frame.

    Parameters
    ----------
    backend : Backend
    probe_start : int
        Passes before the probe is updated.
    batch : int
        The largest batch that will be used.
    damping : float
        δ.
    subpixel : int
        Steps of a position in a pixel.
    """

    name = "cg"

    def __init__(
        self,
        backend: Backend,
        *,
        probe_start: int,
        batch: int,
        damping: float,
        subpixel: int = 1,
    ) -> None:
        self._backend = backend
        self._probe_start = probe_start
        self._batch = batch
        self._damping = np.float32(damping)
        self._subpixel = subpixel
        self._compiled = not backend.on_device

    def initialize(self, state: SolverState, frames: FrameStore) -> None:
        """Make work space; the first step follows the gradient."""
        self._spaces, self._terms = work_space(self._backend, state.probe.shape, self._batch)
        self._sums = PassSums.zeros(self._backend, state)
        self._used: list[Slots] = []
        self._line: _Line | None = None

    def pad(self, before: tuple[int, int], after: tuple[int, int]) -> None:
        """Follow a canvas that grew."""
        self._sums.object.pad(self._backend, before, after)
        if self._line is not None:
            self._line.object = pad_canvas(self._backend, self._line.object, before, after, 0)
            self._line.object_gradient = pad_canvas(self._backend, self._line.object_gradient, before, after, 0)

    def contents(self) -> dict[str, Any]:
        """Return the line of the last step, for a checkpoint between two passes."""
        if self._line is None:
            return {}
        arrays = {f"line_{name}": self._backend.to_numpy(getattr(self._line, name)) for name in _Line.ARRAYS}
        return {**arrays, "line_power": self._line.power}

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned, after `initialize`."""
        if "line_power" in contents:
            arrays = {name: self._backend.from_numpy(contents[f"line_{name}"]) for name in _Line.ARRAYS}
            self._line = _Line(**arrays, power=contents["line_power"])

    def begin_update(self, state: SolverState, frames: FrameStore, slots: Slots) -> UpdateReport:
        """Add the gradient of one batch."""
        backend, xp = self._backend, self._backend.xp
        self._used.append(slots)
        batch = Differences(
            backend,
            state,
            frames,
            slots,
            subpixel=self._subpixel,
            likelihood=AMPLITUDES,
            compiled=self._compiled,
        )
        light = batch.add(self._spaces, self._terms)
        power = xp.sum(xp.abs(state.probe) ** 2, axis=0)
        terms = self._terms[: len(slots), 0]

        def add(band: slice) -> None:
            self._sums.object.add(backend, band, batch.corners, terms, power, batch.weights)

        backend.map(add, bands(backend, state.object.shape))
        self._sums.add_probe(self._spaces[: len(batch.shares)])
        return report_of(light)

    def end_pass(self, state: SolverState, frames: FrameStore) -> None:
        """Take one step along the conjugate direction."""
        used = np.unique(np.concatenate(self._used)) if self._used else np.empty(0, np.intp)
        used = used[frames.weights[used] > 0]
        if len(used):
            with_probe = state.passes >= self._probe_start
            line = self._line = self._direction(with_probe)
            step = np.float32(self._step_along(state, frames, used, line))
            state.object += step * line.object
            if with_probe:
                state.probe += step * line.probe
        self._used = []
        self._sums.clear()

    def _direction(self, with_probe: bool) -> _Line:
        xp = self._backend.xp

        def preconditioned(gradient: Any, curvature: Any) -> Any:
            return gradient / xp.maximum(curvature + self._damping * curvature.max(), np.float32(1e-30))

        sums = self._sums
        gradient = [sums.object.numerator.copy(), sums.probe_numerator.copy()]
        scaled = [
            preconditioned(gradient[0], sums.object.denominator),
            preconditioned(gradient[1], sums.probe_denominator),
        ]
        if not with_probe:
            scaled[1][...] = 0
        power = sum(_product(s, g) for s, g in zip(scaled, gradient, strict=True))
        before, direction = self._line, [part.copy() for part in scaled]
        if before is not None and before.power > 0:
            turned = power - _product(scaled[0], before.object_gradient)
            turned -= _product(scaled[1], before.probe_gradient)
            beta = np.float32(max(0.0, turned / before.power))
            direction[0] += beta * before.object
            direction[1] += beta * before.probe
            if sum(_product(d, g) for d, g in zip(direction, gradient, strict=True)) <= 0:  # uphill: begin anew
                direction = scaled
        return _Line(direction[0], direction[1], gradient[0], gradient[1], power)

    def _step_along(self, state: SolverState, frames: FrameStore, slots: Slots, line: _Line) -> float:
        """Return −L′/L″ of the loss along a line, with the part of L″ that is never negative."""
        backend = self._backend
        steps = steps_of(frames.shifts_px[slots], self._subpixel)
        by_shift = np.lexsort(steps.T)  # so that frames of one shift share a moved probe
        slots, steps = slots[by_shift], steps[by_shift]
        corners = corners_on_canvas(state, frames, slots)
        fields = [backend.fft2(p.copy()) if steps.any() else p for p in (state.probe, line.probe)]

        def sums(space: ThreadSpace, share: slice) -> npt.NDArray[np.float64]:
            total = np.zeros(2)
            for part in pieces(share, space.frames):
                moved = MovedProbe(backend, state.probe, fields[0], steps[part], self._subpixel)
                bent = MovedProbe(backend, line.probe, fields[1], steps[part], self._subpixel)
                amplitude = frames.amplitudes(slots[part], space.amplitude)
                waves = self._waves(state.object, corners[part], moved, space.windows)
                turned = self._waves(line.object, corners[part], moved, space.windows)
                turned += self._waves(state.object, corners[part], bent, space.windows)
                measured = (amplitude, frames.good, state.background, frames.weights[slots[part]])
                shifts_px = steps[part] / self._subpixel if steps.any() else None
                far, change = (frames.propagator.forward(some, shifts_px) for some in (waves, turned))
                total += line_terms(backend.xp, far, change, *measured)
            return total

        parts = shares(backend, len(slots), state.probe.size)
        slope, curvature = np.sum(backend.map(sums, self._spaces[: len(parts)], parts), axis=0)
        return float(slope / curvature) if curvature > 0 else 0.0

    def _waves(self, canvas: Any, corners: npt.NDArray[np.int64], probe: MovedProbe, windows: Any) -> Any:
        """Return P_jk·O_j (n, modes, N, N)."""
        if self._compiled:
            out = np.empty((len(corners), *probe.probes.shape[1:]), np.complex64)
            kernels.multiply_windows(canvas[None], probe.probes, probe.which, corners, out)
            return out
        return gather(self._backend, canvas, corners, windows)[:, None] * probe.probes[probe.which]


def _product(a: Any, b: Any) -> float:
    return float((a.conj() * b).real.sum(dtype=np.float64))
