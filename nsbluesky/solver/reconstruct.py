"""Offline reconstruction of frames that are all there: the same incremental solver, run to its end."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.geometry import Geometry
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.checkpoint_writer import Checkpoints, CheckpointWriter
from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.intake import NO_POSITION, reachable, valid_weights
from nsbluesky.solver.orientation import Orientation
from nsbluesky.solver.picture import Picture
from nsbluesky.solver.plausibility import refuse_lost_scan
from nsbluesky.solver.quality import Quality
from nsbluesky.solver.refinement import Refinement
from nsbluesky.solver.shadow_motion import complaint_about_motion
from nsbluesky.solver.sweep import Sweep
from nsbluesky.solver.vacuum import Vacuum
from nsbluesky.solver.variation import Variation, variation_of

__all__ = ["Checkpoints", "Reconstruction", "reconstruct", "valid_input"]

BLOCK_FRAMES = 64
ONE_BATCH_S = 0.0
"""A budget that ends after one batch, so that no pass goes by unseen."""

LEAST_FRAME_PX = 4
"""Of rows and columns; less holds no diffraction."""


@dataclass(frozen=True)
class Reconstruction:
    """A finished reconstruction.

    Attributes
    ----------
    picture : Picture
    r_factors : (passes,) float64
        Σ | ‖model‖ − A | / Σ A of each pass, each frame before its own update.
    sweep : Sweep or None
        The defocus sweep, where one was made.
    rejected : dict of int to str
        Indices of frames that could not be used, and why.
    translations_m : (n, 2) float64
        x, y of every frame as corrected; NaN where it was not used.
    refinement : Refinement
        What was put right of the positions, of flux and background.
    passes_before : int
        Passes that a checkpoint had already.
    orientation : Orientation or None
        How frames are turned from what was declared, and how certain that is; None where it was not looked for.
    variation : Variation or None
        How the probe changed over the scan, where it might.
    vacuum : Vacuum or None
        The empty beam that the object was bounded by; None where it was not, or there was no empty place.
    quality : Quality or None
        What half-sets and held-out pixels tell, where there are any; None in shards.
    odd_pixels : (N, N) bool or None
        Pixels of the detector that fit in no frame and were left out; None in shards.
    full_scale : float or None
        Photons at which counts end, where frames showed it; such pixels were left out of each frame.  None in shards.
    checkpoints_missed : int
        How often a checkpoint could not be written.
    background_part : float
        Part of the light that does not come through the sample; 0 in shards, which do not look for it.
    """

    picture: Picture
    r_factors: npt.NDArray[np.float64]
    sweep: Sweep | None
    rejected: dict[int, str]
    translations_m: npt.NDArray[np.float64]
    refinement: Refinement
    passes_before: int = 0
    orientation: Orientation | None = None
    variation: Variation | None = None
    vacuum: Vacuum | None = None
    quality: Quality | None = None
    odd_pixels: npt.NDArray[np.bool_] | None = None
    full_scale: float | None = None
    checkpoints_missed: int = 0
    background_part: float = 0.0


def reconstruct(
    frames: Any,
    translations_m: npt.ArrayLike,
    mask: npt.ArrayLike | None,
    geometry: Geometry,
    settings: SolverSettings,
    backend: Backend,
    *,
    weights: npt.ArrayLike | None = None,
    passes: int | None = None,
    probe: npt.ArrayLike | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Reconstruction:
    """Reconstruct an object and its probe from frames of any origin.

    A warning is given where they do not determine an image (`nsbluesky.solver.plausibility`).

    Parameters
    ----------
    frames : (n, N, N) array-like
        Photons, zero frequency at N//2; sliced in blocks, so an HDF5 dataset serves.
    translations_m : (n, 2 or more) float
        x, y of the sample.
    mask : (N, N) uint32 or None
        CXI codes; None where all pixels are good.
    geometry : Geometry
        `pixel_size_m` is the pixel of `frames`.
    settings : SolverSettings
    backend : Backend
    weights : (n,) float, optional
        0…1; frames of weight 0 are left out.  1 by default.
    passes : int, optional
        Full passes of a stage of the schedule that names none; `settings.passes_final` by default.
    probe : (N, N) or (modes, N, N) complex, optional
        Starting probe, centred; without it the defocus sweep finds one.
    checkpoints : Checkpoints, optional
        Without, none are written.  One that cannot be written is warned of; the reconstruction goes on.
    progress : callable, optional
        Called after each pass with passes done, passes wanted and the R factor.

    Raises
    ------
    ValueError
        If shapes do not fit, or most frames cannot be used.
    CheckpointError
        If there is a checkpoint to go on from, but it is damaged, or of another reconstruction than this one.
    """
    if passes is not None:
        settings = settings.replace(passes_final=passes)
    places, given = valid_input(frames, translations_m, weights)
    count, side = frames.shape[:2]
    pixel_m = geometry.object_pixel_m(side)
    solver = IncrementalSolver(
        settings,
        frame_px=side,
        pixel_m=pixel_m,
        geometry=geometry,
        backend=backend,
        num_points=count,
    )
    if mask is not None:
        solver.set_mask(mask)
    reached = reachable(places[:, 1::-1] / pixel_m, side, weights=given)
    known = given, places[:, :2], side, pixel_m
    refuse_lost_scan(dict.fromkeys(np.flatnonzero(~reached).tolist(), NO_POSITION), *known)
    for first in range(0, count, BLOCK_FRAMES):
        block = slice(first, min(first + BLOCK_FRAMES, count))
        solver.add_frames(np.arange(block.start, block.stop), frames[block], places[block], given[block])
    refuse_lost_scan(solver.rejected, *known)
    if (complaint := solver.complaint()) is not None:
        warnings.warn(complaint, stacklevel=2)
    if probe is not None:
        solver.start_with(probe)
    solver.finish()
    if checkpoints is not None and checkpoints.to_go_on:
        solver.load(checkpoints.path)
    seen = passes_before = solver.passes_done
    written = CheckpointWriter(checkpoints, kept=passes_before)
    motion_told = solver.motion
    while not solver.finished:
        solver.step(ONE_BATCH_S)
        if solver.motion is not motion_told:
            motion_told = solver.motion
            if (complaint := complaint_about_motion(motion_told, geometry)) is not None:
                warnings.warn(complaint, stacklevel=2)
        state = solver.state
        if state is None or solver.is_coarse or solver.passes_done == seen:
            continue
        seen = solver.passes_done
        written.write(solver.save, seen)
        if progress is not None:
            progress(seen, solver.passes_wanted, state.r_factor)
    written.tell_missed()
    corrected = np.full((count, 2), np.nan)
    used, translations = solver.positions()
    corrected[used] = translations
    return Reconstruction(
        picture=solver.picture(),
        r_factors=np.array(solver.r_factors),
        sweep=solver.sweep,
        rejected=dict(solver.rejected),
        translations_m=corrected,
        refinement=solver.refinement,
        passes_before=passes_before,
        orientation=solver.orientation,
        variation=variation_of(backend, solver.state, solver.frames, count) if solver.state is not None else None,
        vacuum=solver.constraints.vacuum,
        quality=solver.quality(),
        odd_pixels=solver.odd_pixels,
        full_scale=solver.full_scale,
        checkpoints_missed=written.missed,
        background_part=solver.background_part,
    )


def valid_input(
    frames: Any, translations_m: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return translations (n, 2 or more) and weights (n,) of frames (n, N, N), or raise a ValueError."""
    if len(frames.shape) != 3 or frames.shape[1] != frames.shape[2]:
        raise ValueError(f"frames of shape {tuple(frames.shape)}: expected (n, N, N); crop them to squares")
    if frames.shape[1] < LEAST_FRAME_PX:
        size = f"{frames.shape[1]} × {frames.shape[1]}"
        raise ValueError(f"frames of {size} pixels: expected at least {LEAST_FRAME_PX}; were they binned too far?")
    count = len(frames)
    places = np.asarray(translations_m, np.float64)
    given = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    if given.shape != (count,):
        raise ValueError(f"weights of shape {given.shape} for {count} frames: expected one for each")
    if places.ndim != 2 or len(places) != count or places.shape[1] < 2:
        raise ValueError(f"translations of shape {places.shape}: expected ({count}, 2)")
    return places, valid_weights(given)
