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
from nsbluesky.compiled import FAST, njit
from nsbluesky.solver.engines.base import Slots, corners_on_canvas, frames_in_cache, pieces, shares
from nsbluesky.solver.forward import EPSILON
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.kernels import multiply_windows, spread_lines
from nsbluesky.solver.shifts import lines_of, ramps, steps_of
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.transform_calls import call_transform
from nsbluesky.solver.variation import probe_of
from nsbluesky.solver.windows import gather

__all__ = ["Sensitivity", "measure_halves", "measure_sensitivity", "misfits_around"]

ON_DEVICE_FRAMES = 32

NUMBERS = 16
"""Sums over half of a frame's rows, the even or the odd ones: curvature (rr, rc, cc, rf, cf, ff), gradient (3), Σ d²,
pixels, three for the background, excess, and light."""


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
    sums, steps_px = _sums_of_halves(backend, state, frames, slots, subpixel, positions, compiled)
    return _sorted(sums.sum(axis=1), steps_px)


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
    sums, steps_px = _sums_of_halves(backend, state, frames, slots, subpixel, True, compiled)
    return _sorted(sums[:, 0], steps_px), _sorted(sums[:, 1], steps_px)


def _sums_of_halves(
    backend: Backend,
    state: SolverState,
    frames: FrameStore,
    slots: Slots,
    subpixel: int,
    positions: bool,
    compiled: bool | None,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the sums (n, 2, NUMBERS) over even and odd rows, and the shifts (n, 2) they are of, in pixels."""
    compiled = not backend.on_device if compiled is None else compiled
    steps = steps_of(frames.shifts_px[slots], subpixel)
    order = np.lexsort(steps.T)
    slots_in_order, steps_in_order = slots[order], steps[order]
    corners = corners_on_canvas(state, frames, slots_in_order)
    field = backend.fft2(state.probe.copy())
    modes, side = len(state.objects) * len(state.probe), frames.frame_px
    varies = state.variation is not None
    waves_a_frame = 3 * modes if positions else modes
    count = ON_DEVICE_FRAMES if backend.on_device else frames_in_cache(waves_a_frame, side)
    calls = compiled and frames.propagator.is_far
    transforms = backend.compiled_transforms(side, field.dtype) if calls else None
    sums = np.zeros((len(slots), 2, NUMBERS))

    def fields_of(part: slice) -> Any:
        """Return the transform of the one probe, or of those of the frames, (1 or n, modes, N, N)."""
        if not varies:
            return field[None]
        own = [probe_of(backend, state, frames, int(slot)) for slot in slots_in_order[part]]
        return backend.fft2(backend.xp.stack(own))

    def by_frames(part: slice, measured: Any, waves: Any) -> None:
        """One frame after the other, with all its transforms, within one compiled loop."""
        assert transforms is not None
        lines = lines_of(steps_in_order[part], subpixel, side).astype(field.dtype, copy=False)
        detector = measured, frames.good, np.float32(state.background), EPSILON
        places = state.objects, fields_of(part), lines, corners[part]
        _measure_frames(transforms, *places, *detector, waves, sums[part])

    def by_runs(part: slice, measured: Any, waves: Any) -> None:
        """Step by step, those frames together that share a moved probe."""
        xp, fields = backend.xp, fields_of(part)
        windows = xp.empty((count, side, side), np.complex64)
        for run in _runs(steps_in_order[part], each=varies):
            of_run = slice(part.start + run.start, part.start + run.stop)
            shift_px = steps_in_order[of_run] / subpixel
            light = _moved(backend, fields[run.start if varies else 0], shift_px[0], positions)
            if compiled:
                there = waves[: len(shift_px)]
                which = np.zeros(len(shift_px), np.int64)
                multiply_windows(state.objects, light[None], which, corners[of_run], there)
            else:
                seen = (gather(backend, canvas, corners[of_run], windows) for canvas in state.objects)
                there = xp.concatenate([window[:, None] * light[None] for window in seen], axis=1)
            far = frames.propagator.with_slopes(there, modes, shift_px)
            if compiled:
                detector = measured[run], frames.good, np.float32(state.background), EPSILON
                _add_sums(far, modes, *detector, sums[of_run])
            else:
                found = _sums(xp, far, modes, measured[run], frames.good, state.background)
                sums[of_run] = backend.to_numpy(found)

    def measure(share: slice) -> None:
        xp, of_part = backend.xp, by_runs if transforms is None else by_frames
        waves = xp.empty((count if transforms is None else 1, waves_a_frame, side, side), np.complex64)
        amplitude = xp.empty((count, side, side), np.float32)
        for part in pieces(share, count):
            of_part(part, frames.amplitudes(slots_in_order[part], amplitude), waves)

    if len(slots):
        backend.map(measure, shares(backend, len(slots), waves_a_frame * side**2))
    in_given_order = np.empty_like(sums)
    in_given_order[order] = sums
    return in_given_order, steps / subpixel


def misfits_around(
    backend: Backend, state: SolverState, frames: FrameStore, slot: int, moves_px: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return Σ m·|A − G| (k,) of a frame if it lay whole pixels `moves_px` (k, 2) elsewhere; inf off the canvas."""
    xp, side = backend.xp, frames.frame_px
    corners = frames.corners_px[slot] - np.array(state.origin_px) + moves_px
    inside = ((corners >= 0) & (corners + side <= np.array(state.shape))).all(axis=1)
    result = np.full(len(moves_px), np.inf)
    shift_px = frames.shifts_px[slot][None]
    light = backend.ifft2(backend.fft2(probe_of(backend, state, frames, slot)) * ramps(xp, shift_px, side))
    measured = frames.amplitudes(np.array([slot]), xp.empty((1, side, side), np.float32))
    usable = frames.good * (measured >= 0)

    def measure(row: int) -> None:
        seen = gather(backend, state.image, corners[row][None], xp.empty((1, side, side), np.complex64))
        far = frames.propagator.forward(seen[:, None] * light[None], shift_px)
        model = xp.sqrt((xp.abs(far) ** 2).sum(axis=1) + np.float32(state.background))
        result[row] = float((usable * xp.abs(measured - model)).sum())

    backend.map(measure, np.flatnonzero(inside).tolist())
    return result


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
    """Return the sums (n, 2, NUMBERS) over arrays; see `_add_sums`."""
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


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _measure_frames(  # type: ignore[no-untyped-def]
    transforms, objects, fields, lines, corners, amplitude, good, background, epsilon, waves, sums
):
    """Add the sums of a few frames to `sums` (n, 2, NUMBERS), one after the other, so that it stays in the cache.

    `fields` (1 or n, modes, N, N) are the transforms of their probes, which `lines` (n, 2, N) move; `waves` (1, modes
    or 3·modes of all states, N, N) is work space, with room for the derivatives where they are wanted.
    """
    execute, forward, backward = transforms
    count, (_, modes, side, _) = len(corners), fields.shape
    light = np.empty((1, waves.shape[1] // len(objects), side, side), fields.dtype)
    scale = light.real.dtype.type(1 / side)  # of both lines: that of the way back, and that of the way there
    which = np.zeros(1, np.int64)
    slope = np.empty(side, np.complex64)
    for pixel in range(side):
        slope[pixel] = complex(0, -2 * np.pi * (pixel if pixel < (side + 1) // 2 else pixel - side) / side)
    same = False
    for frame in range(count):
        here = slice(frame, frame + 1)
        if frame > 0:
            same = len(fields) == 1 and (lines[frame] == lines[frame - 1]).all()
        if not same:
            spread_lines(fields[frame if len(fields) > 1 else 0], scale * lines[here], light[:, :modes])
            if light.shape[1] > modes:
                for mode in range(modes):
                    for row in range(side):
                        down = slope[row]
                        for column in range(side):
                            value, right = light[0, mode, row, column], slope[column]
                            light[0, modes + mode, row, column] = value * down
                            light[0, 2 * modes + mode, row, column] = value * right
            for wave in range(light.shape[1]):
                call_transform(execute, backward, light[0, wave])
        multiply_windows(objects, light, which, corners[here], waves)
        for wave in range(waves.shape[1]):
            call_transform(execute, forward, waves[0, wave])
        _add_sums(waves, modes * len(objects), amplitude[here], good, background, epsilon, sums[here])


@njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _add_sums(far, modes, amplitude, good, background, epsilon, sums):  # type: ignore[no-untyped-def]
    """Add the sums of a few frames with far fields (n, modes or 3·modes, N, N) to `sums` (n, 2, NUMBERS)."""
    count, waves, side, _ = far.shape
    light = np.empty(side, good.dtype)
    by_row = np.empty(side, good.dtype)
    by_column = np.empty(side, good.dtype)
    zero = light.dtype.type(0)
    one = light.dtype.type(1)
    half = light.dtype.type(0.5)
    for frame in range(count):
        for row in range(side):
            light[:] = zero
            by_row[:] = zero
            by_column[:] = zero
            for mode in range(modes):
                wave = far[frame, mode, row]
                for column in range(side):
                    w = wave[column]
                    light[column] += w.real * w.real + w.imag * w.imag
            for mode in range(modes if waves > modes else 0):
                wave, down, right = (
                    far[frame, mode, row],
                    far[frame, modes + mode, row],
                    far[frame, 2 * modes + mode, row],
                )
                for column in range(side):
                    w, d, r = wave[column], down[column], right[column]
                    by_row[column] += w.real * d.real + w.imag * d.imag
                    by_column[column] += w.real * r.real + w.imag * r.imag
            measured, usable = amplitude[frame, row], good[row]
            rr, rc, cc, rf, cf, ff = zero, zero, zero, zero, zero, zero
            gr, gc, gf, dd, pixels, bn, bd, bv = zero, zero, zero, zero, zero, zero, zero, zero
            excess, all_light = zero, zero
            for column in range(side):
                mask = usable[column] if measured[column] >= zero else zero
                power = light[column] + background
                model = np.sqrt(power)
                inverse = one / (model + epsilon)
                r, c, f = by_row[column] * inverse, by_column[column] * inverse, half * light[column] * inverse
                difference = (measured[column] - model) * mask
                rr += mask * r * r
                rc += mask * r * c
                cc += mask * c * c
                rf += mask * r * f
                cf += mask * c * f
                ff += mask * f * f
                gr += difference * r
                gc += difference * c
                gf += difference * f
                dd += difference * difference
                pixels += mask
                beyond = measured[column] * measured[column] - power
                excess += mask * beyond
                all_light += mask * light[column]
                weight = mask / ((power + one) * (power + one))
                bn += weight * (measured[column] * measured[column] - light[column])
                bd += weight
                bv += weight * beyond * (weight * beyond)
            total = sums[frame, row % 2]
            total[0] += rr
            total[1] += rc
            total[2] += cc
            total[3] += rf
            total[4] += cf
            total[5] += ff
            total[6] += gr
            total[7] += gc
            total[8] += gf
            total[9] += dd
            total[10] += pixels
            total[11] += bn
            total[12] += bd
            total[13] += bv
            total[14] += excess
            total[15] += all_light
