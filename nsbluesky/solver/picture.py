"""A picture of a reconstruction for people: cropped to what was measured, without ramp, in stage coordinates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.gauge import align_phase, phase_ramp, ramp
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.windows import add_power

__all__ = ["Picture", "covered_area", "illumination", "render"]

COVERED = 0.05
"""A pixel is shown where its illumination is at least this part of the typical one."""

FAINT = 0.01
"""The probe counts as dark below this part of its maximum."""

BLOCK_FRAMES = 64


@dataclass(frozen=True)
class Picture:
    """What is shown and written of a reconstruction.

    Attributes
    ----------
    object : (H, W) complex64
        NaN where coverage is below 5 %.
    further : (states − 1, H, W) complex64
        The other states where the object is a mixture, weaker and orthogonal to one another; NaN as in `object`.
    probe : (modes, N, N) complex64
        In √photon, centred on N//2, strongest mode first.
    pixel_m : float
        Pixel of object and probe.
    extent_m : (x0, x1, y0, y1)
        Outer edges of the object in stage coordinates: the centre of a frame's window lies at its translation.
    r_factor : float
        Σ | ‖model‖ − A | / Σ A over the frames used; NaN before any was.
    num_frames : int
        Frames used.
    num_passes : float
        Passes over the frames.
    coverage : float
        0…1: frames used of those planned; where no number is planned, the part of the object's bounding box that is
        covered.
    newest_seq_num : int
        Largest sequence number used; 0 before any was.
    """

    object: npt.NDArray[np.complex64]
    probe: npt.NDArray[np.complex64]
    pixel_m: float
    extent_m: tuple[float, float, float, float]
    r_factor: float
    num_frames: int
    num_passes: float
    coverage: float
    newest_seq_num: int
    further: npt.NDArray[np.complex64] = field(default_factory=lambda: np.empty((0, 0, 0), np.complex64))


def illumination(backend: Backend, state: SolverState, frames: FrameStore, slots: npt.NDArray[np.intp]) -> Any:
    """Return Σ_j w_j Σ_k |P_k|² (H, W) float32 on the canvas, without the probe's faint noise far from its centre."""
    power = backend.xp.sum(backend.xp.abs(state.probe) ** 2, axis=0)
    power = backend.xp.where(power > FAINT * power.max(), power, np.float32(0))
    lit = backend.xp.zeros(state.shape, np.float32)
    everywhere = slice(0, len(lit))
    for first in range(0, len(slots), BLOCK_FRAMES):
        part = slots[first : first + BLOCK_FRAMES]
        corners = frames.corners_px[part] - np.array(state.origin_px)
        add_power(backend, lit, everywhere, corners, power, frames.weights[part])
    return lit


def covered_area(xp: Any, lit: Any, single: float) -> Any:
    """Return True (H, W) where the illumination `lit` is at least 5 % of the typical one.

    Typical is the median over pixels that got more than 5 % of the maximum `single` of one frame, so that a place
    that was measured many times does not outshine the others.
    """
    clear = lit[lit > COVERED * single]
    return lit > COVERED * xp.median(clear) if clear.size else lit > 0


def render(
    backend: Backend,
    state: SolverState,
    frames: FrameStore,
    *,
    pixel_m: float,
    num_points: int | None,
    previous: Picture | None,
) -> Picture:
    """Make a picture of a state.

    The phase gradient that the data leave open is taken out of the object and put into the probe; the global phase
    follows the picture before, so that a live image does not flicker.
    """
    xp = backend.xp
    used = frames.wanted[frames.uses[frames.wanted] > 0]
    lit = illumination(backend, state, frames, used)
    power = xp.sum(xp.abs(state.probe) ** 2, axis=0)
    covered = covered_area(xp, lit, float(power.max()))
    box = _box(backend.to_numpy(covered))
    lit, covered, images = lit[box], covered[box], state.objects[(..., *box)]

    row_step, column_step = phase_ramp(images[0], lit * covered)
    images = images * ramp(xp, lit.shape, -row_step, -column_step)
    images = backend.to_numpy(xp.where(covered, images, np.complex64(complex("nan+nanj"))))
    side = state.probe.shape[-1]
    probe = state.probe * ramp(xp, (side, side), row_step, column_step)

    row0, column0 = state.origin_px[0] + box[0].start, state.origin_px[1] + box[1].start
    shown = images[0]
    before, now = _overlap(previous, (row0, column0), shown, pixel_m)
    phase = align_phase(now, before)
    amplitude = float(np.sum(frames.amplitude_sums[used]))
    planned = len(used) / num_points if num_points else float(covered.mean()) if covered.size else 0.0
    return Picture(
        object=(shown * phase).astype(np.complex64),
        probe=(backend.to_numpy(probe) * phase.conjugate()).astype(np.complex64),
        pixel_m=pixel_m,
        extent_m=(
            column0 * pixel_m,
            (column0 + shown.shape[1]) * pixel_m,
            row0 * pixel_m,
            (row0 + shown.shape[0]) * pixel_m,
        ),
        r_factor=float(np.sum(frames.residuals[used])) / amplitude if amplitude > 0 else float("nan"),
        num_frames=len(used),
        num_passes=float(np.mean(frames.uses[used])) if len(used) else 0.0,
        coverage=min(planned, 1.0),
        newest_seq_num=int(frames.seq_nums[used].max()) if len(used) else 0,
        further=(images[1:] * phase).astype(np.complex64),
    )


def _box(covered: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the bounding box of what is covered; an empty one where nothing is."""
    rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _overlap(
    previous: Picture | None, corner: tuple[int, int], image: npt.NDArray[np.complex64], pixel_m: float
) -> tuple[npt.NDArray[np.complex64] | None, npt.NDArray[np.complex64]]:
    """Return the part of the picture before, and that of `image`, where both have pixels; else None and `image`."""
    if previous is None or not previous.object.size:
        return None, image
    row, column = round(previous.extent_m[2] / pixel_m), round(previous.extent_m[0] / pixel_m)
    row0, column0 = max(row, corner[0]), max(column, corner[1])
    row1 = min(row + previous.object.shape[0], corner[0] + image.shape[0])
    column1 = min(column + previous.object.shape[1], corner[1] + image.shape[1])
    if row1 <= row0 or column1 <= column0:
        return None, image
    before = previous.object[row0 - row : row1 - row, column0 - column : column1 - column]
    now = image[row0 - corner[0] : row1 - corner[0], column0 - corner[1] : column1 - corner[1]]
    return before, now
