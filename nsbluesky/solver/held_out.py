"""What the model says of frames, and how well it predicts pixels that the solver never saw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.solver.engines.base import Slots, corners_on_canvas
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.shifts import ramps, steps_of
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.variation import probe_of
from nsbluesky.solver.windows import gather

__all__ = ["held_out_r", "predictions", "spaced"]


def spaced(slots: Slots, count: int) -> npt.NDArray[np.intp]:
    """Return at most `count` of the slots, evenly spaced."""
    return slots[np.linspace(0, len(slots) - 1, min(count, len(slots))).astype(np.intp)]


def predictions(
    backend: Backend, state: SolverState, frames: FrameStore, slots: Slots, subpixel: int, *, all_pixels: bool = False
) -> Iterator[tuple[Any, Any]]:
    """Yield the calculated photons (N, N) and the measured amplitudes (N, N) of some frames, FFT order.

    Amplitudes are as `FrameStore.amplitudes` returns them; the arrays are used again.
    """
    xp, side = backend.xp, frames.frame_px
    field = backend.fft2(state.probe.copy())
    corners = corners_on_canvas(state, frames, slots)
    shifts = steps_of(frames.shifts_px[slots], subpixel) / subpixel
    window = xp.empty((1, side, side), np.complex64)
    amplitude = xp.empty((1, side, side), np.float32)
    for slot, corner, shift in zip(slots, corners, shifts, strict=True):
        if state.variation is not None:
            field = backend.fft2(probe_of(backend, state, frames, int(slot)))
        moved = backend.ifft2(field * ramps(xp, shift[None], side))
        seen = (gather(backend, canvas, corner[None], window) for canvas in state.objects)
        waves = xp.concatenate([part[:, None] * moved[None] for part in seen], axis=1)
        far = frames.propagator.forward(waves, shift[None])[0]
        intensity = (xp.abs(far) ** 2).sum(axis=0) + np.float32(state.background)
        yield intensity, frames.amplitudes(np.array([slot]), amplitude, all_pixels=all_pixels)[0]


def held_out_r(backend: Backend, state: SolverState, frames: FrameStore, slots: Slots, subpixel: int) -> float:
    """Return R = Σ|G − A| / ΣA over the held-out pixels of some frames; NaN where there is no light on them."""
    if frames.hold_out is None:
        return float("nan")
    xp = backend.xp
    misfit = light = 0.0
    seen = predictions(backend, state, frames, slots, subpixel, all_pixels=True)
    for slot, (intensity, amplitude) in zip(slots, seen, strict=True):
        places = frames.hold_out.places(frames.seq_nums[slot])
        model, measured = xp.sqrt(intensity.reshape(-1)[places]), amplitude.reshape(-1)[places]
        usable = measured >= 0
        misfit += float(xp.abs(model - measured)[usable].sum())
        light += float(measured[usable].sum())
    return misfit / light if light > 0 else float("nan")
