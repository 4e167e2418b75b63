"""Offline reconstruction whose frames lie in many processes: WASP on each part of the scan, joined by sums.

Frames are dealt to shards by place, so that a shard holds one part of the scan.  In a pass every shard does what the
engine does with one process, on its own copy of object and probe.  Then Σ w·conj(P)·wave, Σ w·|P|² and the same for
the probe are added over all shards, and their quotient is the object and the probe that all go on with: the average
at the end of WASP's pass (Maiden, Mei & Li, Opt. Express 32, 21327 (2024)), over all frames instead of one process's.
With one shard this is the engine itself.  With several the image is the same, but takes more passes: shards hear of
each other only when they are joined (`python -m benchmarks scaling`).

The flux of each frame is corrected as in one process: before a pass a shard looks how much light its frames had
beside what object and probe let expect, and the corrections, whose mean is over all shards, go with the next pass.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.geometry import Geometry
from nsbluesky.settings import SettingsError, SolverSettings
from nsbluesky.solver.canvas import bounding_box, window_corners_px
from nsbluesky.solver.checkpoint_writer import Checkpoints, CheckpointWriter
from nsbluesky.solver.dose import DOSE_FRAMES
from nsbluesky.solver.engines.averages import follows, put_averages_in
from nsbluesky.solver.engines.base import PassSums
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.gauge import set_probe_power
from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.intake import NO_POSITION, reachable, valid_mask
from nsbluesky.solver.light import residuals_of
from nsbluesky.solver.misfits import suspend_misfits
from nsbluesky.solver.modes import orthogonal_modes
from nsbluesky.solver.pace import SETTLING_PASSES, rests
from nsbluesky.solver.picture import render
from nsbluesky.solver.plausibility import complaint_about_overlap, refuse_lost_scan
from nsbluesky.solver.reconstruct import BLOCK_FRAMES, Reconstruction, valid_input
from nsbluesky.solver.refinement import Refinement
from nsbluesky.solver.schedule import stages_of
from nsbluesky.solver.sharded_progress import Progress, identity_in_shards
from nsbluesky.solver.shards import FramesByReference, ShardOrder, ShardSums, ShardTask
from nsbluesky.solver.state import SolverState

__all__ = ["ShardedSolver", "Submit", "reconstruct_sharded"]

Submit = Callable[[ShardOrder, ShardTask], "Future[ShardSums]"]
"""Hands `nsbluesky.solver.shards.work_on_shard` with these arguments to some process."""

LEAST_BATCH = 4
"""A shard's batch is its share of one process's batch, so that a pass takes as many steps, but has so many frames."""

EARLY_PARTS = 4
"""Into so many parts the first passes are cut, each with an exchange: shards that begin with a blank object drift
apart in phase where they do not hear of each other."""

PASSES = 40
"""Passes where no number of them is told: whether the image has settled is not looked at here."""

EARLY_PASSES = 5
START_PASSES = 10
"""Passes over the first frames, in this process, from which the probe is taken."""

ALGORITHM = "wasp"

START_WITHOUT = {"refine_flux": False, "find_orientation": False}
"""What the start must not do to its frames: shards do not do it to theirs, or only later."""


NEEDS_ALL_FRAMES = {
    "refine_positions": ("none", "auto"),
    "object_modes": (1,),
    "probe_variation": (0,),
    "object_most": (0.0,),
    "object_phase": ("any",),
    "probe_radius_m": (0.0,),
    "probe_pupil": (False,),
    "quality_share": (0.0,),
    "held_out": (0.0,),
}
"""Settings that one process can follow only, and what they may be here; all of it means that nothing is done."""


@dataclass
class _Place:
    """Where a shard lies: its frames in the ledger, and its box on the canvas."""

    order: ShardOrder
    slots: npt.NDArray[np.intp]
    box: tuple[slice, slice]


class ShardedSolver:
    """Object and probe, and what is known of the frames, which are elsewhere.

    Parameters
    ----------
    state : SolverState
        Where to begin; its canvas holds all windows.
    orders : sequence of ShardOrder
    numbers : sequence of (n,) int
        Number of each frame of each order.
    submit : callable
    backend : Backend
    dose : float
        Photons on a lit pixel (`nsbluesky.solver.dose`).
    refinement : Refinement
        Corrects the flux of the frames, where its settings say so.

    Attributes
    ----------
    state : SolverState
    ledger : FrameStore
        Without amplitudes.
    rejected : dict of int to str
        Numbers of frames that did not fit, and why.
    """

    def __init__(
        self,
        state: SolverState,
        orders: Sequence[ShardOrder],
        numbers: Sequence[npt.NDArray[np.intp]],
        submit: Submit,
        backend: Backend,
        *,
        dose: float,
        refinement: Refinement,
    ) -> None:
        self.state = state
        self._submit = submit
        self._backend = backend
        self._dose = dose
        self._refinement = refinement
        self.rejected: dict[int, str] = {}
        side = orders[0].good.shape[0]
        self.ledger = FrameStore(side, backend)
        self._sums = PassSums.zeros(backend, state)
        self._places = [self._place(order, which) for order, which in zip(orders, numbers, strict=True)]

    @property
    def dark(self) -> dict[int, str]:
        """Numbers of frames without photons, of which shards told, and why they are not used."""
        known = slice(len(self.ledger))
        return dict.fromkeys(self.ledger.seq_nums[known][self.ledger.weights[known] == 0].tolist(), "no photons")

    def _place(self, order: ShardOrder, numbers: npt.NDArray[np.intp]) -> _Place:
        slots = self.ledger.note(numbers, order.corners_px, order.shifts_px, order.weights)
        row0, column0, row1, column1 = order.box
        row, column = self.state.origin_px
        box = slice(row0 - row, row1 - row), slice(column0 - column, column1 - column)
        return _Place(order, slots, box)

    def take_up(self, known: Progress) -> None:
        """Go on with what is known of the frames; nothing is at the beginning."""
        if known.refinement:
            self._refinement.restore(known.refinement)
        if known.frames:
            self.ledger.recall(known.frames)
        self.rejected = known.rejected

    def tell(self, known: Progress) -> None:
        """Write down what is known of the frames; `rejected` is there already."""
        known.frames, known.refinement = self.ledger.contents(), self._refinement.contents()

    def run_pass(self, *, parts: int = 1, resting: bool = False, refine: bool = False) -> None:
        """Use every frame once, and exchange `parts` times; correct the flux of the frames, where that is due."""
        for part in range(parts):
            self._run_part(part, parts, resting)
        if refine and self._refinement.due(self.state):
            self._refinement.take_flux(self.ledger, self.state)
        ledger, state = self.ledger, self.state
        active = ledger.active
        state.r_factor = float(np.sum(ledger.residuals[active]) / np.sum(ledger.amplitude_sums[active]))
        self.rejected |= suspend_misfits(ledger)
        state.passes += 1

    def _run_part(self, part: int, parts: int, resting: bool) -> None:
        state, backend = self.state, self._backend
        canvas, probe = backend.to_numpy(state.object), backend.to_numpy(state.probe)
        waiting = []
        for place in self._places:
            left_out = self.ledger.suspended[place.slots] > 0
            around = np.ascontiguousarray(canvas[place.box])
            known = self._dose, left_out, self.ledger.flux[place.slots]
            task = ShardTask(around, probe, state.passes, part, parts, resting, *known)
            waiting.append(self._submit(place.order, task))
        for place, future in zip(self._places, waiting, strict=True):
            self._add(place, future.result())
        put_averages_in(backend.xp, self._sums, state)
        seen = follows(self._sums.object.denominator)
        self._sums.clear()
        state.probe = orthogonal_modes(backend.xp, state.probe)
        set_probe_power(backend.xp, state, float(np.mean(self.ledger.photons[self.ledger.active])), seen)

    def _add(self, place: _Place, sums: ShardSums) -> None:
        """Add what a shard has summed, always in the same order: sums do not depend on who was first."""
        ledger, backend, slots = self.ledger, self._backend, place.slots
        self._sums.object.numerator[place.box] += backend.from_numpy(sums.object)
        self._sums.object.denominator[place.box] += backend.from_numpy(sums.object_light)
        self._sums.probe_numerator += backend.from_numpy(sums.probe)
        self._sums.probe_denominator += backend.from_numpy(sums.probe_light)
        ledger.amplitude_sums[slots], ledger.photons[slots] = sums.amplitude_sums, sums.photons
        ledger.weights[slots] = np.where(sums.photons == 0, 0, ledger.weights[slots])
        used = slots[sums.used]
        ledger.residuals[used] = residuals_of(sums.light_sums)
        ledger.light_sums[used] = sums.light_sums
        ledger.uses[used] += 1


def reconstruct_sharded(
    frames: Any,
    refer: Callable[[npt.NDArray[np.intp]], FramesByReference],
    translations_m: npt.ArrayLike,
    mask: npt.ArrayLike | None,
    geometry: Geometry,
    settings: SolverSettings,
    backend: Backend,
    *,
    submit: Submit,
    shards: int,
    weights: npt.ArrayLike | None = None,
    passes: int | None = None,
    probe: npt.ArrayLike | None = None,
    checkpoints: Checkpoints | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Reconstruction:
    """Reconstruct as `nsbluesky.solver.reconstruct.reconstruct` does, with the frames in many processes.

    This process holds only the first frames, from which it finds the probe to begin with.

    Parameters
    ----------
    frames, translations_m, mask, geometry, settings, backend, weights, passes, probe, checkpoints, progress
        As there; `settings` may name one algorithm, WASP, and no refinement but that of the flux; a background is
        not looked for.  The orientation of frames is what is declared.
    refer : callable
        Returns some of the frames (by index) by reference, for a process that reads them.
    submit : callable
        Hands a shard's task to a process.
    shards : int
        Into how many the frames are dealt: one for each process.

    Raises
    ------
    SettingsError
        For an algorithm or a refinement that needs all frames in one process.
    ValueError
        If shapes do not fit, or most frames cannot be used.
    CheckpointError
        If there is a checkpoint to go on from, but it is damaged, or of another reconstruction than this one.
    """
    wanted = _passes_of(settings, passes)
    settings = settings.replace(refine_positions="none", refine_background=False)
    places, given = valid_input(frames, translations_m, weights)
    count, side = frames.shape[:2]
    pixel_m = geometry.object_pixel_m(side)
    places_px = places[:, 1::-1] / pixel_m
    reached = reachable(places_px, side, weights=given)
    unplaced = dict.fromkeys(np.flatnonzero(~reached).tolist(), NO_POSITION)
    refuse_lost_scan(unplaced, given, places_px[:, ::-1] * pixel_m, side, pixel_m)
    usable = np.flatnonzero(reached & (given > 0))
    good = np.ones((side, side), bool) if mask is None else valid_mask(mask, side)
    corners_px = window_corners_px(places_px[usable], side)
    if complaint := complaint_about_overlap(corners_px, good, settings, is_near=geometry.is_near):
        warnings.warn(complaint, stacklevel=2)

    identity = identity_in_shards(side, pixel_m, geometry, settings)
    spread_px = geometry.spread_px(side, pixel_m) if geometry.is_near else None
    how = settings, backend.name, spread_px
    orders, numbers = _deal(refer, usable, places_px, given, good, *how, min(shards, len(usable)))
    if checkpoints is not None and checkpoints.to_go_on:
        known = Progress.load(checkpoints.path, identity, backend)
    else:
        first = _lit(frames, usable, good, max(settings.sweep_frames, DOSE_FRAMES))
        given_first = frames[first], places_px[first] * pixel_m
        known = Progress.of(_beginning(*given_first, good, geometry, settings, backend, probe), backend)
    state = known.state = _on_canvas(backend, known.state, orders)
    refinement = Refinement(settings, backend)
    solver = ShardedSolver(state, orders, numbers, submit, backend, dose=known.dose, refinement=refinement)
    solver.take_up(known)
    r_factors, passes_before = known.r_factors, len(known.r_factors)
    written = CheckpointWriter(checkpoints, kept=passes_before)

    def save(path: Path) -> None:
        solver.tell(known)
        known.save(path, identity, backend)

    for done in range(passes_before, wanted):
        resting = rests(wanted, wanted - done)
        parts = EARLY_PARTS if shards > 1 and done < EARLY_PASSES else 1
        solver.run_pass(parts=parts, resting=resting, refine=wanted - done > SETTLING_PASSES)
        if done == passes_before:  # what is dark, shards have told only now
            refuse_lost_scan(unplaced | solver.dark, given, places_px[:, ::-1] * pixel_m, side, pixel_m)
        r_factors.append(state.r_factor)
        written.write(save, len(r_factors))
        if progress is not None:
            progress(done + 1, wanted, state.r_factor)
    written.tell_missed()
    ledger = solver.ledger
    found, in_use = np.full((count, 2), np.nan), ledger.seq_nums[ledger.wanted]
    found[in_use] = places_px[in_use, ::-1] * pixel_m
    return Reconstruction(
        picture=render(backend, state, ledger, pixel_m=pixel_m, num_points=count, previous=None),
        r_factors=np.array(r_factors),
        sweep=known.sweep,
        rejected=solver.rejected | unplaced | solver.dark,
        translations_m=found,
        refinement=refinement,
        passes_before=passes_before,
        checkpoints_missed=written.missed,
    )


def _passes_of(settings: SolverSettings, passes: int | None) -> int:
    """Return the passes that are wanted, or raise a SettingsError: not all settings are what shards can follow."""
    wanted = PASSES if passes is None and settings.passes_final is None else passes
    stages = stages_of(settings if wanted is None else settings.replace(passes_final=wanted))
    if [stage.algorithm for stage in stages] != [ALGORITHM]:
        raise SettingsError(
            f"solver.algorithm = {settings.algorithm!r}: expected {ALGORITHM!r} where frames lie in several processes"
        )
    for name, allowed in NEEDS_ALL_FRAMES.items():
        if getattr(settings, name) not in allowed:
            off = allowed[0]
            raise SettingsError(f"solver.{name} needs all frames in one process: leave the workers out, or set {off}")
    return stages[0].passes


def _beginning(
    frames: Any,
    translations_m: npt.NDArray[np.float64],
    good: npt.NDArray[np.bool_],
    geometry: Geometry,
    settings: SolverSettings,
    backend: Backend,
    probe: npt.ArrayLike | None,
) -> IncrementalSolver:
    """Return a solver that is through with the first frames."""
    side = frames.shape[-1]
    solver = IncrementalSolver(
        settings.replace(passes_final=START_PASSES, **START_WITHOUT),
        frame_px=side,
        pixel_m=geometry.object_pixel_m(side),
        geometry=geometry,
        backend=backend,
    )
    solver.set_mask(np.where(good, 0, 1).astype(np.uint32))
    solver.add_frames(np.arange(len(frames)), frames, translations_m[:, ::-1])
    if probe is not None:
        solver.start_with(probe)
    solver.finish()
    while not solver.finished:
        solver.step(1.0)
    return solver


def _lit(frames: Any, usable: npt.NDArray[np.intp], good: npt.NDArray[np.bool_], wanted: int) -> npt.NDArray[np.intp]:
    """Return the first so many of the usable frames that have photons on good pixels; a ValueError if none has."""
    found = np.empty(0, np.intp)
    for begin in range(0, len(usable), BLOCK_FRAMES):
        block = usable[begin : begin + BLOCK_FRAMES]
        found = np.append(found, block[(np.asarray(frames[block])[:, good] > 0).any(axis=1)])
        if len(found) >= wanted:
            break
    if not len(found):
        raise ValueError(f"none of the {len(frames)} frames can be used: expected photons")
    return found[:wanted]


def _deal(
    refer: Callable[[npt.NDArray[np.intp]], FramesByReference],
    usable: npt.NDArray[np.intp],
    places_px: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    good: npt.NDArray[np.bool_],
    settings: SolverSettings,
    backend: str,
    spread_px: float | None,
    shards: int,
) -> tuple[list[ShardOrder], list[npt.NDArray[np.intp]]]:
    """Deal the usable frames to shards by place; return the orders, and the frames of each."""
    side, job = good.shape[0], uuid.uuid4().hex
    settings = settings.replace(batch_final=max(LEAST_BATCH, settings.batch_final // shards))
    numbers = [np.sort(usable[part]) for part in _parts(places_px[usable], np.arange(len(usable)), shards)]
    orders = []
    for number, which in enumerate(numbers):
        corners = window_corners_px(places_px[which], side)
        shifts = places_px[which] - side / 2 - corners
        box = bounding_box(corners, side)
        given = weights[which].astype(np.float32)
        places = corners, shifts, given, good, box
        orders.append(ShardOrder(job, number, refer(which), *places, settings, backend, shards, spread_px))
    return orders, numbers


def _parts(places: npt.NDArray[np.float64], which: npt.NDArray[np.intp], count: int) -> list[npt.NDArray[np.intp]]:
    """Cut frames into `count` parts of equal number, again and again across the longer side."""
    if count == 1:
        return [which]
    axis = int(np.argmax(np.ptp(places[which], axis=0)))
    ordered = which[np.argsort(places[which, axis], kind="stable")]
    cut = len(which) * (count // 2) // count
    return _parts(places, ordered[:cut], count // 2) + _parts(places, ordered[cut:], count - count // 2)


def _on_canvas(backend: Backend, known: SolverState, orders: Sequence[ShardOrder]) -> SolverState:
    """Return a state whose canvas holds all windows, with what is known of it."""
    row, column = known.origin_px
    rows, columns = known.object.shape
    boxes = np.array([order.box for order in orders] + [(row, column, row + rows, column + columns)])
    row0, column0 = boxes[:, :2].min(axis=0).tolist()
    row1, column1 = boxes[:, 2:].max(axis=0).tolist()
    canvas = backend.xp.ones((row1 - row0, column1 - column0), np.complex64)
    canvas[row - row0 : row - row0 + rows, column - column0 : column - column0 + columns] = known.object
    return replace(known, object=canvas, probe=known.probe.copy(), origin_px=(row0, column0), background=0.0)
