"""How frames would look if they lay elsewhere or had more light: what refinement solves for, frame by frame.

The model amplitude is G = √(Σ_k |Ψ_k|² + b) with Ψ_k = F[P_k(r − s)·O].  Around the present shift s and flux, the
misfit Σ m·(A − G)² is a parabola in three small changes θ = (row, column, ln flux); its gradient and curvature are
what is gathered here (Gauss-Newton).  The derivatives by s are exact for a probe that is moved in Fourier space.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.solver.engines.base import Slots, corners_on_canvas, frames_in_cache, pieces, shares
from nsbluesky.solver.forward import EPSILON
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.kernels import multiply_windows
from nsbluesky.solver.sensitivity_loops import NUMBERS, add_sums, measure_frames
from nsbluesky.solver.shifts import lines_of, ramps, steps_of
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.variation import probe_of
from nsbluesky.solver.windows import gather

__all__ = ["Sensitivity", "measure_halves", "measure_sensitivity"]

ON_DEVICE_FRAMES = 32


@dataclass(frozen=True)
class Sensitivity:
    """Sums over the good pixels of each frame, with d = A − G.

    Attributes
    ----------
    curvature : (n, 3, 3) float64
        Σ m·(∂G/∂θ)(∂G/∂θ)ᵀ for θ = (row px, column px, ln flux).
    gradient : (n, 3) float64
        Σ m·d·∂G/∂θ; a change θ = curvature⁻¹·gradient removes the misfit to first order.
    misfit : (n,) float64
        Σ m·d²; ¼ a pixel where photons are counted and all else is right.
    pixels : (n,) float64
        Good pixels.
    background : (n, 3) float64
        Σ m·w·(A² − I), Σ m·w and Σ m·w²·(A² − G²)² with w = 1/(G² + 1)² and I = Σ_k |Ψ_k|²: the quotient of the first
        two over many frames is the background, the third tells the variance of a frame's own.  Photon noise alone
        would ask for the first power in w; the second leaves it to the dark pixels, for on bright ones a model that
        has not settled is wrong by more than any background.
    excess : (n,) float64
        Σ m·(A² − G²), photons that were counted beyond those of the model.
    light : (n,) float64
        Σ m·I, photons of the model but for the background.
    steps_px : (n, 2) float64
        The shifts at which all this was taken, which are rounded to 1/`subpixel` pixel.
    """

    curvature: npt.NDArray[np.float64]
    gradient: npt.NDArray[np.float64]
    misfit: npt.NDArray[np.float64]
    pixels: npt.NDArray[np.float64]
    background: npt.NDArray[np.float64]
    excess: npt.NDArray[np.float64]
    light: npt.NDArray[np.float64]
    steps_px: npt.NDArray[np.float64]

    def of(self, frames: npt.NDArray[np.bool_]) -> Sensitivity:
        """Return the sums of some of the frames."""
        return Sensitivity(**{f.name: getattr(self, f.name)[frames] for f in dataclasses.fields(self)})

    @classmethod
    def joined(cls, parts: Sequence[Sensitivity]) -> Sensitivity:
        """Return the sums of several calls as those of one."""
        names = [f.name for f in dataclasses.fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def measure_sensitivity(
    backend: Backend,
    state: SolverState,
    frames: FrameStore,
    slots: Slots,
    subpixel: int,
    *,
    positions: bool = True,
    compiled: bool | None = None,
) -> Sensitivity:
    """Return the sums for the frames in `slots`; nothing is changed.

    Parameters
    ----------
    backend : Backend
    state : SolverState
    frames : FrameStore
    slots : (n,) int
    subpixel : int
        As the engine's.
    positions : bool
        Take derivatives by the positions; without, all that concerns them is 0, for a third of the transforms.  Not
        of an object of several states.
    compiled : bool, optional
        Use the loops compiled for a CPU; by default wherever arrays live in host memory.
    """
    look = _Look(backend, state, frames, slots, subpixel, positions=positions, compiled=compiled)
    return _sorted(look.sums().sum(axis=1), look.steps_px)


def measure_halves(
    backend: Backend,
    state: SolverState,
    frames: FrameStore,
    slots: Slots,
    subpixel: int,
    *,
    compiled: bool | None = None,
) -> tuple[Sensitivity, Sensitivity]:
    """Return the sums over the even rows of the frames in `slots`, and over the odd ones: of other photons each.

    Parameters are those of `measure_sensitivity`.
    """
    look = _Look(backend, state, frames, slots, subpixel, positions=True, compiled=compiled)
    sums = look.sums()
    return _sorted(sums[:, 0], look.steps_px), _sorted(sums[:, 1], look.steps_px)


class _Look:
    """One look at some frames, with those of one shift beside each other, so that they share a moved probe.

    Parameters are those of `measure_sensitivity`.

    Attributes
    ----------
    steps_px : (n, 2) float64
        The shifts at which the frames are looked at, in the given order.
    """

    def __init__(
        self,
        backend: Backend,
        state: SolverState,
        frames: FrameStore,
        slots: Slots,
        subpixel: int,
        *,
        positions: bool,
        compiled: bool | None,
    ) -> None:
        steps = steps_of(frames.shifts_px[slots], subpixel)
        self.steps_px = steps / subpixel
        self._order = np.lexsort(steps.T)
        self._slots, self._steps = slots[self._order], steps[self._order]
        self._corners = corners_on_canvas(state, frames, self._slots)
        self._backend = backend
        self._state = state
        self._frames = frames
        self._subpixel = subpixel
        self._positions = positions
        self._varies = state.variation is not None
        self._modes = len(state.objects) * len(state.probe)
        self._waves = 3 * self._modes if positions else self._modes
        self._field = backend.fft2(state.probe.copy())
        self._compiled = not backend.on_device if compiled is None else compiled
        calls_transforms = self._compiled and frames.propagator.is_far
        self._transforms = (
            backend.compiled_transforms(frames.frame_px, self._field.dtype) if calls_transforms else None
        )
        self._sums = np.zeros((len(slots), 2, NUMBERS))

    def sums(self) -> npt.NDArray[np.float64]:
        """Return the sums (n, 2, NUMBERS) over even and odd rows, in the given order."""
        count = len(self._slots)
        if count:
            self._backend.map(self._measure, shares(self._backend, count, self._waves * self._frames.frame_px**2))
        in_given_order = np.empty_like(self._sums)
        in_given_order[self._order] = self._sums
        return in_given_order

    def _measure(self, share: slice) -> None:
        """Form the sums of the frames of one thread, a few at a time."""
        xp, side, calls = self._backend.xp, self._frames.frame_px, self._transforms is not None
        count = ON_DEVICE_FRAMES if self._backend.on_device else frames_in_cache(self._waves, side)
        waves = xp.empty((1 if calls else count, self._waves, side, side), np.complex64)
        amplitude = xp.empty((count, side, side), np.float32)
        of_part = self._by_frames if calls else self._by_runs
        for part in pieces(share, count):
            of_part(part, self._frames.amplitudes(self._slots[part], amplitude), waves)

    def _by_frames(self, part: slice, measured: Any, waves: Any) -> None:
        """One frame after the other, with all its transforms, within one compiled loop."""
        state, field = self._state, self._field
        lines = lines_of(self._steps[part], self._subpixel, field.shape[-1]).astype(field.dtype, copy=False)
        places = state.objects, self._fields(part), lines, self._corners[part]
        measure_frames(self._transforms, *places, measured, *self._detector, waves, self._sums[part])

    def _by_runs(self, part: slice, measured: Any, waves: Any) -> None:
        """Step by step, those frames together that share a moved probe."""
        backend, modes, fields = self._backend, self._modes, self._fields(part)
        for run in _runs(self._steps[part], each=self._varies):
            of_run = slice(part.start + run.start, part.start + run.stop)
            shifts_px = self._steps[of_run] / self._subpixel
            light = _moved(backend, fields[run.start if self._varies else 0], shifts_px[0], self._positions)
            there = self._exit_waves(light, self._corners[of_run], waves)
            far = self._frames.propagator.with_slopes(there, modes, shifts_px)
            if self._compiled:
                add_sums(far, modes, measured[run], *self._detector, self._sums[of_run])
            else:
                found = _sums(backend.xp, far, modes, measured[run], self._frames.good, self._state.background)
                self._sums[of_run] = backend.to_numpy(found)

    @property
    def _detector(self) -> tuple[Any, np.float32, np.float32]:
        return self._frames.good, np.float32(self._state.background), EPSILON

    def _fields(self, part: slice) -> Any:
        """Return the transform of the one probe, or of those of the frames, (1 or n, modes, N, N)."""
        if not self._varies:
            return self._field[None]
        slots = self._slots[part].tolist()
        own = [probe_of(self._backend, self._state, self._frames, slot) for slot in slots]
        return self._backend.fft2(self._backend.xp.stack(own))

    def _exit_waves(self, light: Any, corners: npt.NDArray[np.int64], waves: Any) -> Any:
        """Return the moved probe, and its derivatives if any, times the windows (n, waves, N, N)."""
        xp, side, objects = self._backend.xp, light.shape[-1], self._state.objects
        if self._compiled:
            there = waves[: len(corners)]
            multiply_windows(objects, light[None], np.zeros(len(corners), np.int64), corners, there)
            return there
        windows = xp.empty((len(corners), side, side), np.complex64)
        seen = (gather(self._backend, canvas, corners, windows) for canvas in objects)
        return xp.concatenate([window[:, None] * light[None] for window in seen], axis=1)


def _runs(steps: npt.NDArray[np.int64], *, each: bool = False) -> list[slice]:
    """Cut sorted steps into runs of equal ones, or into single ones."""
    differ = (np.diff(steps, axis=0) != 0).any(axis=1) | each
    edges = [0, *(np.flatnonzero(differ) + 1).tolist(), len(steps)]
    return [slice(low, high) for low, high in pairwise(edges)]


def _moved(backend: Backend, field: Any, shift_px: npt.NDArray[np.float64], derivatives: bool) -> Any:
    """Return the moved probe (modes, N, N), and its derivatives by the shift: P, ∂P/∂row, ∂P/∂column."""
    xp, side = backend.xp, field.shape[-1]
    moved = field * ramps(xp, shift_px[None], side)
    if not derivatives:
        return backend.ifft2(moved)
    slope = (-2j * np.pi * xp.fft.fftfreq(side)).astype(np.complex64)
    return backend.ifft2(xp.concatenate([moved, moved * slope[:, None], moved * slope[None, :]]))


def _sorted(sums: npt.NDArray[np.float64], steps_px: npt.NDArray[np.float64]) -> Sensitivity:
    rr, rc, cc, rf, cf, ff = sums[:, :6].T
    curvature = np.stack([np.stack([rr, rc, rf]), np.stack([rc, cc, cf]), np.stack([rf, cf, ff])])
    return Sensitivity(
        curvature=np.moveaxis(curvature, -1, 0),
        gradient=sums[:, 6:9],
        misfit=sums[:, 9],
        pixels=sums[:, 10],
        background=sums[:, 11:14],
        excess=sums[:, 14],
        light=sums[:, 15],
        steps_px=steps_px,
    )


def _sums(xp: Any, far: Any, modes: int, amplitude: Any, good: Any, background: float) -> Any:
    """Return the sums (n, 2, NUMBERS) over arrays, as `nsbluesky.solver.sensitivity_loops.add_sums`."""
    wave, down, right = far[:, :modes], far[:, modes : 2 * modes], far[:, 2 * modes :]
    if not down.shape[1]:
        down = right = xp.zeros_like(wave)
    light = (xp.abs(wave) ** 2).sum(axis=1)
    model = xp.sqrt(light + np.float32(background))
    usable = good * (amplitude >= 0)
    by_row = (wave.conj() * down).real.sum(axis=1) / (model + EPSILON)
    by_column = (wave.conj() * right).real.sum(axis=1) / (model + EPSILON)
    by_flux = light / (2 * model + EPSILON)
    difference = (amplitude - model) * usable
    weight = usable / (model**2 + np.float32(1)) ** 2
    terms = [
        usable * by_row * by_row,
        usable * by_row * by_column,
        usable * by_column * by_column,
        usable * by_row * by_flux,
        usable * by_column * by_flux,
        usable * by_flux * by_flux,
        difference * by_row,
        difference * by_column,
        difference * by_flux,
        difference * difference,
        usable,
        weight * (amplitude**2 - light),
        weight,
        (weight * (amplitude**2 - model**2)) ** 2,
        usable * (amplitude**2 - model**2),
        usable * light,
    ]
    by_rows = xp.stack([term.sum(axis=2, dtype=np.float64) for term in terms], axis=1)
    return xp.stack([by_rows[..., ::2].sum(axis=2), by_rows[..., 1::2].sum(axis=2)], axis=1)
