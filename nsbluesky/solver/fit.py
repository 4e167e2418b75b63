"""How one frame is modelled: what was measured beside what object and probe say should have been."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.solver.canvas import window_corners_px
from nsbluesky.solver.engines.base import corners_on_canvas
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.propagation import Propagator
from nsbluesky.solver.shifts import ramps
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.variation import probe_of
from nsbluesky.solver.windows import stacked

__all__ = ["DiffractionFit", "diffraction_fit", "intensity_of", "modelled_frame", "unexplained_part"]


@dataclass(frozen=True, eq=False)
class DiffractionFit:
    """A frame and its model.

    Attributes
    ----------
    seq_num : int
    data, model : (N, N) float32
        Photons, zero frequency at N//2; NaN in the data where a pixel is masked or was not measured.
    r_factor : float
        Σ | √model − √data | / Σ √data over the measured pixels.
    """

    seq_num: int
    data: npt.NDArray[np.float32]
    model: npt.NDArray[np.float32]
    r_factor: float


def intensity_of(
    backend: Backend, propagator: Propagator, window: Any, probe: Any, shift_px: npt.NDArray[np.float64]
) -> Any:
    """Return Σ |F(O · P)|² (N, N), FFT order, for a window (N, N) or (states, N, N) and a probe (modes, N, N).

    F is the propagator; the probe is moved by `shift_px` (row, column), a fraction of a pixel.
    """
    moved = backend.ifft2(backend.fft2(probe.copy()) * ramps(backend.xp, shift_px[None], probe.shape[-1]))
    waves = (stacked(window)[:, None] * moved).reshape(1, -1, *probe.shape[1:])
    far = propagator.forward(waves, shift_px[None])[0]
    return (backend.xp.abs(far) ** 2).sum(axis=0)


def r_of(data: npt.NDArray[np.float32], model: npt.NDArray[np.float32]) -> float:
    """Return R of a model where there are data (not NaN)."""
    known = np.isfinite(data)
    amplitude = np.sqrt(np.maximum(data[known], 0))
    light = float(amplitude.sum(dtype=np.float64))
    return (
        float(np.abs(np.sqrt(model[known]) - amplitude).sum(dtype=np.float64)) / light if light > 0 else float("nan")
    )


def diffraction_fit(backend: Backend, state: SolverState, frames: FrameStore, slot: int) -> DiffractionFit:
    """Return how the frame in a slot is modelled by the state, which is of whole frames."""
    side = frames.frame_px
    row, column = corners_on_canvas(state, frames, np.array([slot]))[0]
    window = state.object[..., row : row + side, column : column + side]
    data, model = _measured(backend, frames, slot), _model(backend, state, frames, slot, window)
    return DiffractionFit(int(frames.seq_nums[slot]), data, model, r_of(data, model))


def unexplained_part(backend: Backend, state: SolverState, frames: FrameStore, slot: int) -> float:
    """Return the R of the frame in a slot, as part of its R with a clear field in the object's place."""
    clear = backend.xp.ones((frames.frame_px, frames.frame_px), np.complex64)
    without = r_of(_measured(backend, frames, slot), _model(backend, state, frames, slot, clear))
    return diffraction_fit(backend, state, frames, slot).r_factor / without


def _measured(backend: Backend, frames: FrameStore, slot: int) -> npt.NDArray[np.float32]:
    """Return photons (N, N), zero frequency at N//2; NaN where a pixel is masked or was not measured."""
    amplitude = frames.amplitude(slot)
    known = (amplitude >= 0) & (frames.good > 0)
    data = backend.to_numpy(backend.xp.where(known, amplitude**2, np.float32(np.nan)))
    return np.asarray(np.fft.fftshift(data), np.float32)


def _model(
    backend: Backend, state: SolverState, frames: FrameStore, slot: int, window: Any
) -> npt.NDArray[np.float32]:
    """Return the photons (N, N), zero frequency at N//2, that are expected with a window of an object."""
    probe, shift = probe_of(backend, state, frames, slot), frames.shifts_px[np.array([slot])][0]
    model = intensity_of(backend, frames.propagator, window, probe, shift)
    model = np.float32(frames.flux[slot]) * (model + np.float32(state.background + frames.backgrounds[slot]))
    return np.asarray(np.fft.fftshift(backend.to_numpy(model)), np.float32)


def modelled_frame(
    backend: Backend,
    propagator: Propagator,
    object: npt.NDArray[np.complex64],
    probe: npt.NDArray[np.complex64],
    pixel_m: float,
    origin_m: tuple[float, float],
    place_m: tuple[float, float],
) -> npt.NDArray[np.float32]:
    """Return the photons (N, N), zero frequency at N//2, that a finished reconstruction expects at a place.

    Parameters
    ----------
    backend : Backend
        On the host.
    propagator : Propagator
    object : (H, W) complex64
        NaN where nothing was measured, which counts as empty, as what lies beyond it.
    probe : (modes, N, N) complex64
    pixel_m : float
    origin_m, place_m : (float, float)
        x and y of the outer edge of the object's first pixel, and of the sample.
    """
    side = probe.shape[-1]
    position = np.subtract(place_m, origin_m)[::-1] / pixel_m
    corner = window_corners_px(position, side)
    window = np.ones((side, side), np.complex64)
    rows, columns = (
        slice(max(first, 0), min(first + side, size)) for first, size in zip(corner, object.shape, strict=True)
    )
    if rows.stop > rows.start and columns.stop > columns.start:
        part = object[rows, columns]
        at = (
            slice(rows.start - corner[0], rows.stop - corner[0]),
            slice(columns.start - corner[1], columns.stop - corner[1]),
        )
        window[at] = np.where(np.isfinite(part), part, 1)
    shift = np.asarray(position - side / 2 - corner, np.float64)
    model = intensity_of(backend, propagator, backend.from_numpy(window), backend.from_numpy(probe), shift)
    return np.asarray(np.fft.fftshift(backend.to_numpy(model)), np.float32)
