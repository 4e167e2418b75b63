"""A reconstruction that lives while the scan runs: frames come, are replaced or withdrawn; nothing is reset."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.geometry import Geometry
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.canvas import MAX_CANVAS_PX, bounding_box, grown_box, window_corners_px
from nsbluesky.solver.engines import make_engine
from nsbluesky.solver.frames import FrameStore, good_pixels
from nsbluesky.solver.gauge import set_probe_power
from nsbluesky.solver.ordering import Deck
from nsbluesky.solver.picture import Picture, render
from nsbluesky.solver.start import defocus_candidates_m, numerical_aperture, starting_probe, with_modes
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.sweep import DefocusSweep, Sweep
from nsbluesky.solver.windows import pad_canvas

__all__ = ["IncrementalSolver"]


class IncrementalSolver:
    """Turns frames into a picture in slices of time.

    Frames are keyed by their sequence number: one that comes again replaces the earlier.  `step` does work for
    about a given time; all else returns at once.  Not thread-safe: one thread owns a solver.

    Parameters
    ----------
    settings : SolverSettings
    frame_px : int
        Side N of a frame.
    pixel_m : float
        Object pixel dx = λ·z/(N·p), as `Geometry.object_pixel_m` returns it.
    geometry : Geometry
        Wavelength and optic are used; lengths of the detector are in `pixel_m` already.
    backend : Backend
    num_points : int, optional
        Frames that the scan plans; a picture's coverage refers to it.

    Attributes
    ----------
    sweep : Sweep or None
        The latest defocus sweep.
    state : SolverState or None
        Object and probe; None before there were enough frames.
    rejected : dict of int to str
        Sequence numbers of frames that cannot be used, and why.
    """

    def __init__(
        self,
        settings: SolverSettings,
        *,
        frame_px: int,
        pixel_m: float,
        geometry: Geometry,
        backend: Backend,
        num_points: int | None = None,
    ) -> None:
        if not (math.isfinite(pixel_m) and pixel_m > 0):
            raise ValueError(f"pixel_m = {pixel_m!r}: expected a positive length in metres")
        self.settings = settings
        self.frame_px = frame_px
        self.pixel_m = pixel_m
        self.geometry = geometry
        self.num_points = num_points
        self.sweep: Sweep | None = None
        self.state: SolverState | None = None
        self.rejected: dict[int, str] = {}
        self.frames = FrameStore(frame_px, backend)
        self._backend = backend
        self._engine = make_engine(settings, backend)
        self._deck = Deck(settings.seed)
        self._work: Iterator[None] | None = None
        self._finishing = False
        self._settled_passes = 0
        self._previous: Picture | None = None

    # Frames ---------------------------------------------------------------------------------------------------

    def set_mask(self, mask: npt.ArrayLike) -> None:
        """Say which pixels can be used: (N, N) CXI codes, 0 and 0x1000 good, zero frequency at N//2."""
        good = good_pixels(mask)
        if good.shape != (self.frame_px, self.frame_px):
            raise ValueError(f"mask of shape {good.shape}: expected ({self.frame_px}, {self.frame_px})")
        self.frames.set_good(good)

    def add_frames(
        self,
        seq_nums: npt.ArrayLike,
        frames: Any,
        translations_m: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
    ) -> None:
        """Take frames in; they are used from the next `step` on.

        A frame without photons, or at a position that cannot be, is listed in `rejected` and not used.

        Parameters
        ----------
        seq_nums : (n,) int
        frames : (n, N, N) float32
            Photons, zero frequency at N//2.  Negative values count as 0, NaN as not measured.
        translations_m : (n, 2 or more) float
            x, y of the sample.
        weights : (n,) float, optional
            0…1; 1 by default.

        Raises
        ------
        ValueError
            If shapes do not fit.
        """
        numbers = np.atleast_1d(np.asarray(seq_nums, np.int64))
        images = frames if hasattr(frames, "get") else np.asarray(frames)
        translations = np.atleast_2d(np.asarray(translations_m, np.float64))
        expected = (len(numbers), self.frame_px, self.frame_px)
        if tuple(images.shape) != expected:
            raise ValueError(f"frames of shape {tuple(images.shape)}: expected {expected}")
        if translations.ndim != 2 or len(translations) != len(numbers) or translations.shape[1] < 2:
            raise ValueError(f"translations of shape {translations.shape}: expected ({len(numbers)}, 2)")
        given = np.ones(len(numbers)) if weights is None else np.atleast_1d(np.asarray(weights, np.float64))
        if given.shape != numbers.shape:
            raise ValueError(f"weights of shape {given.shape}: expected ({len(numbers)},)")
        for number, image, translation, weight in zip(numbers.tolist(), images, translations, given, strict=True):
            self._add(number, image, translation[1::-1] / self.pixel_m, _valid_weight(float(weight)))

    def _add(self, number: int, image: Any, position_px: npt.NDArray[np.float64], weight: float) -> None:
        self.rejected.pop(number, None)
        if not self._is_reachable(position_px):
            self._reject(number, "no usable position")
            return
        corner = window_corners_px(position_px, self.frame_px)
        shift = position_px - self.frame_px / 2 - corner
        slot = self.frames.put(number, image, corner, weight, shift)
        self._engine.forget(slot)
        if self.frames.photons[slot] == 0:
            self._reject(number, "no photons")
            return
        if self.state is not None:
            self._make_room(self.state)
        if weight > 0:
            self._deck.add(slot)
            self._settled_passes = 0
        else:
            self._deck.remove([slot])

    def _is_reachable(self, position_px: npt.NDArray[np.float64]) -> bool:
        """Return False for a position that is no number, or so far off that no canvas could hold it."""
        if not np.all(np.isfinite(position_px)) or np.abs(position_px).max() > 2**52:
            return False
        corners = self.frames.corners_px[self.frames.active]
        corner = window_corners_px(position_px, self.frame_px)
        row0, column0, row1, column1 = bounding_box(np.concatenate([corners, corner[None]]), self.frame_px)
        return (row1 - row0) * (column1 - column0) <= MAX_CANVAS_PX

    def _reject(self, number: int, reason: str) -> None:
        self.rejected[number] = reason
        if number in self.frames.slots:
            self.withdraw([number])

    def withdraw(self, seq_nums: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """Use these frames no more; unknown numbers are passed over."""
        self.set_weight(seq_nums, np.zeros(len(seq_nums)))

    def set_weight(self, seq_nums: Sequence[int] | npt.NDArray[np.int64], weights: npt.ArrayLike) -> None:
        """Change the weights (0…1) of frames; unknown numbers are passed over."""
        given = np.broadcast_to(np.asarray(weights, np.float64), (len(seq_nums),))
        for number, weight in zip(seq_nums, given.tolist(), strict=True):
            slot = self.frames.slots.get(int(number))
            if slot is None:
                continue
            if weight > 0 and self.frames.weights[slot] == 0 and int(number) not in self.rejected:
                self._deck.add(slot)
            self.frames.weights[slot] = 0 if int(number) in self.rejected else _valid_weight(weight)
            self._settled_passes = 0
        self._deck.remove(np.flatnonzero(self.frames.weights[: len(self.frames)] == 0).tolist())
        if self.state is not None:
            self._make_room(self.state)  # a frame that had weight 0 until now may lie outside the canvas

    @property
    def num_frames(self) -> int:
        """Frames that are here with a weight above 0."""
        return len(self.frames.active)

    def start_with(self, probe: npt.ArrayLike) -> None:
        """Begin with a known probe (N, N) or (modes, N, N), centred, in place of mean pattern and sweep.

        It is scaled to the frames' mean photons; modes that are missing are made as for any start.

        Raises
        ------
        ValueError
            If its shape does not fit, or there are no frames.
        """
        given = np.asarray(probe, np.complex64)
        given = given[None] if given.ndim == 2 else given
        if given.ndim != 3 or given.shape[1:] != (self.frame_px, self.frame_px):
            raise ValueError(f"probe of shape {given.shape}: expected (modes, {self.frame_px}, {self.frame_px})")
        if self.num_frames == 0:
            raise ValueError("there are no frames yet: add frames before start_with")
        photons = float(np.mean(self.frames.photons[self.frames.active]))
        self._work = None
        self._begin(self._blank(with_modes(given, self.settings.modes, photons)))

    # Work -----------------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """True when a `step` would improve the picture."""
        if self._work is not None:
            return True
        if self.num_frames == 0:
            return False
        if self.state is None:
            return self._finishing or self.num_frames >= max(self.settings.sweep_frames, self.settings.batch)
        return self._deck.fresh > 0 or self._settled_passes < self.settings.passes_final

    @property
    def num_unused(self) -> int:
        """Frames that no update has used yet."""
        return int(np.sum(self.frames.uses[self.frames.active] == 0))

    @property
    def finished(self) -> bool:
        """True when no more frames will come and the last passes are done."""
        return self._finishing and not self.has_work

    def finish(self) -> None:
        """Say that no more frames will come; `step` then does the last passes."""
        if not self._finishing:
            self._finishing = True
            self._settled_passes = 0

    def step(self, budget_s: float) -> None:
        """Work for about `budget_s` seconds, at least one batch; return at once where there is nothing to do."""
        end = time.monotonic() + budget_s
        while self.has_work:
            if self._work is None:
                self._work = self._start() if self.state is None else self._pass(self.state)
            if next(self._work, self) is self:
                self._work = None
            if time.monotonic() >= end:
                return

    def _start(self) -> Iterator[None]:
        """Find the starting probe, by a sweep where settings want one, and begin."""
        settings, frames, wavelength_m = self.settings, self.frames, self.geometry.wavelength_m
        slots = frames.active
        mean = self._backend.to_numpy(frames.mean_intensity(slots))
        optic = self.geometry.optic
        if settings.sweep_frames:
            aperture = numerical_aperture(mean, optic, wavelength_m, self.pixel_m)
            window_m = self.frame_px * self.pixel_m
            candidates = defocus_candidates_m(
                aperture, optic, wavelength_m, window_m, settings.sweep_range, settings.sweep_candidates
            )
            search = DefocusSweep(
                frames,
                slots[: 2 * settings.sweep_frames],
                candidates,
                settings,
                self._backend,
                wavelength_m=wavelength_m,
                pixel_m=self.pixel_m,
            )
            yield from search.run()
            self.sweep = search.sweep
            self._begin(search.best)
            return
        photons = float(np.mean(frames.photons[slots]))
        probe = starting_probe(mean, optic.defocus_m, wavelength_m, self.pixel_m, settings.modes, photons)
        self._begin(self._blank(probe))

    def _blank(self, probe: npt.NDArray[np.complex64]) -> SolverState:
        row0, column0, row1, column1 = bounding_box(self.frames.corners_px[self.frames.active], self.frame_px)
        canvas = self._backend.xp.ones((row1 - row0, column1 - column0), np.complex64)
        return SolverState(canvas, self._backend.from_numpy(probe), (row0, column0))

    def _begin(self, state: SolverState | None) -> None:
        assert state is not None
        self.state = state
        self._engine.initialize(state, self.frames)
        self._make_room(state)

    def _make_room(self, state: SolverState) -> None:
        """Grow the canvas where a window lies outside it."""
        if self.num_frames == 0:
            return
        row0, column0 = state.origin_px
        box = (row0, column0, row0 + state.object.shape[0], column0 + state.object.shape[1])
        grown = grown_box(box, bounding_box(self.frames.corners_px[self.frames.active], self.frame_px))
        if grown == box:
            return
        before = (box[0] - grown[0], box[1] - grown[1])
        after = (grown[2] - box[2], grown[3] - box[3])
        state.object = pad_canvas(self._backend, state.object, before, after, 1)
        state.origin_px = (grown[0], grown[1])
        self._engine.pad(before, after)

    def _pass(self, state: SolverState) -> Iterator[None]:
        """One pass over all frames, in batches, new frames first."""
        frames, active = self.frames, self.frames.active
        batch = self.settings.batch_final if self._finishing else self.settings.batch
        self._settled_passes += 1
        self._deck.start_pass(active, frames.corners_px[active], batch)
        while not self._deck.pass_is_over:
            slots = self._deck.deal(batch)
            frames.residuals[slots] = self._engine.update(state, frames, slots)
            frames.uses[slots] += 1
            yield
        self._engine.end_pass(state, frames)
        state.passes += 1
        active = frames.active
        if len(active):
            set_probe_power(self._backend.xp, state, float(np.mean(frames.photons[active])))
            state.r_factor = float(np.sum(frames.residuals[active]) / np.sum(frames.amplitude_sums[active]))

    # Results --------------------------------------------------------------------------------------------------

    def picture(self) -> Picture:
        """Return the present picture.

        Raises
        ------
        RuntimeError
            Before there is a reconstruction (`state` is None).
        """
        if self.state is None:
            raise RuntimeError("there is no picture yet: add frames and call step until `state` is not None")
        self._previous = render(
            self._backend,
            self.state,
            self.frames,
            pixel_m=self.pixel_m,
            num_points=self.num_points,
            previous=self._previous,
        )
        return self._previous

    def save(self, path: str | Path) -> None:
        """Write a checkpoint of object and probe; the frames are not in it.

        Raises
        ------
        RuntimeError
            Before there is a reconstruction.
        """
        if self.state is None:
            raise RuntimeError("there is nothing to save yet: add frames and call step until `state` is not None")
        self.state.save(path, self._backend)

    def load(self, path: str | Path) -> None:
        """Go on from a checkpoint; frames may be added before or after.

        Raises
        ------
        ValueError
            If the file is no checkpoint, or its frames have another size.
        """
        state = SolverState.load(path, self._backend)
        if state.probe.shape[-1] != self.frame_px:
            raise ValueError(
                f"checkpoint {path} has frames of {state.probe.shape[-1]} pixels: expected {self.frame_px}"
            )
        self._work = None
        self.state = state
        self._engine.initialize(state, self.frames)
        self._make_room(state)


def _valid_weight(weight: float) -> float:
    return min(max(weight, 0.0), 1.0) if math.isfinite(weight) else 0.0
