"""How fine is the image?  Two reconstructions from interleaved halves of the frames, beside the image of all.

What both halves show alike is not noise: their Fourier ring correlation gives the resolution.  Both objects lie on
one canvas, one below the other, so that one batch has frames of both.  They share the probe of the image, refreshed
with each pass; so they have no phase ramp or shift of their own, and need no alignment.  What is wrong with the probe
is wrong in both: the resolution is that of the object, given the probe.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.engines import make_engine
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.ordering import spread
from nsbluesky.solver.picture import covered_area, illumination
from nsbluesky.solver.quality import FRC, frc
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.windows import pad_canvas

__all__ = ["HalfSets", "half_of"]

ALGORITHM = "wasp"

LEAST_PASSES = 3
"""Passes of the halves before they are compared: both start blank, and blanks are alike."""

SMALLEST_PX = 16
"""Sides of the common area below which rings have too few pixels."""


def half_of(slots: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
    """Return 0 or 1 for each slot by the Thue-Morse sequence: one of two frames in a row, without period."""
    return np.asarray(np.bitwise_count(np.asarray(slots, np.uint64)) % 2, np.int64)


class _Below:
    """Corners of windows where the second half's frames lie `height` rows lower."""

    def __init__(self, corners: Any, height: int) -> None:
        self._corners = corners
        self._height = height
        self.version = corners.version, height

    def __getitem__(self, slots: Any) -> npt.NDArray[np.int64]:
        corners = np.array(self._corners[slots])
        corners[..., 0] += self._height * half_of(slots)
        return corners


class HalfSets:
    """The two halves; `batch` does a little work on them.

    Parameters
    ----------
    settings : SolverSettings
    backend : Backend

    Attributes
    ----------
    passes : int
        Passes over all frames, each of which is in one half.
    """

    def __init__(self, settings: SolverSettings, backend: Backend) -> None:
        self.passes = 0
        self._backend = backend
        self._batch = settings.batch
        self._rng = np.random.default_rng(settings.seed)
        fixed = settings.replace(algorithm=ALGORITHM, momentum=0.0, probe_start=2**31, object_modes=1)
        self._engine = make_engine(fixed, backend)
        self._state: SolverState | None = None
        self._order: npt.NDArray[np.intp] = np.empty(0, np.intp)
        self._compared: tuple[int, FRC | None] = (-1, None)

    def reset(self) -> None:
        """Begin anew, as the image did."""
        self.passes = 0
        self._state = None
        self._compared = (-1, None)

    def contents(self) -> dict[str, Any]:
        """Return both halves and where they are in their pass, for a checkpoint."""
        found = {"passes": self.passes, "order": self._order.tolist(), "rng": self._rng.bit_generator.state}
        if self._state is None:
            return found
        state = {f"state_{name}": value for name, value in self._state.contents(self._backend).items()}
        return {**found, **state, **{f"engine_{name}": v for name, v in self._engine.contents().items()}}

    def restore(self, contents: Mapping[str, Any], frames: FrameStore) -> None:
        """Take up what `contents` returned."""
        self.passes = contents["passes"]
        self._order = np.array(contents["order"], np.intp)
        self._rng.bit_generator.state = contents["rng"]
        self._compared = (-1, None)
        self._state = None
        if "state_object" in contents:
            self._state = SolverState.of_contents(_of("state_", contents), self._backend)
            self._engine.initialize(self._state, frames)
            self._engine.restore(_of("engine_", contents))

    def batch(self, image: SolverState, frames: FrameStore) -> int:
        """Use one batch of frames, half of them from each half-set; return how many.

        Parameters
        ----------
        image : SolverState
            The reconstruction from all frames, whose probe and background are taken.
        frames : FrameStore
        """
        stacked = self._fit(image, frames)
        state = self._state
        assert state is not None
        self._order = self._order[np.isin(self._order, frames.active)]
        if not len(self._order):
            active = frames.active
            self._order = spread(active, stacked.corners_px[active], self._batch, self._rng)
            state.probe = image.probe.copy()
            state.background = image.background
        state.variation = image.variation  # the weights of the frames, which are common, belong to it
        slots, self._order = self._order[: self._batch], self._order[self._batch :]
        if len(slots):
            self._engine.begin_update(state, stacked, slots)
        if not len(self._order):
            self._engine.end_pass(state, stacked)
            state.probe = image.probe.copy()
            self.passes += 1
        return len(slots)

    def _fit(self, image: SolverState, frames: FrameStore) -> FrameStore:
        """Make the canvases as large as the image's, and return the frames with windows on both."""
        height, width = image.object.shape
        stacked = copy.copy(frames)
        stacked.corners_px = _Below(frames.corners_px, height)  # type: ignore[assignment]
        state = self._state
        wanted = ((2 * height, width), image.probe.shape, image.origin_px)
        if state is not None and (state.object.shape, state.probe.shape, state.origin_px) == wanted:
            return stacked
        xp = self._backend.xp
        if state is None:
            canvas = xp.ones((2 * height, width), np.complex64)
        else:
            before = (state.origin_px[0] - image.origin_px[0], state.origin_px[1] - image.origin_px[1])
            old_height, old_width = state.object.shape[0] // 2, state.object.shape[1]
            after = (height - old_height - before[0], width - old_width - before[1])
            halves = (state.object[:old_height], state.object[old_height:])
            canvas = xp.concatenate([pad_canvas(self._backend, half, before, after, 1) for half in halves])
        self._state = SolverState(canvas, image.probe.copy(), image.origin_px, image.background)
        self._engine.initialize(self._state, stacked)
        self._order = self._order[:0]
        return stacked

    def compare(self, frames: FrameStore, pixel_m: float) -> FRC | None:
        """Correlate the two objects where both were measured; None while that says nothing.

        The result is kept until the halves have done another pass.
        """
        state = self._state
        if state is None or self.passes < LEAST_PASSES:
            return None
        if self._compared[0] != self.passes:
            self._compared = (self.passes, self._compare(state, frames, pixel_m))
        return self._compared[1]

    def _compare(self, state: SolverState, frames: FrameStore, pixel_m: float) -> FRC | None:
        backend = self._backend
        height = state.object.shape[0] // 2
        objects, covered = [], []
        slots = frames.active
        for half in (0, 1):
            part = SolverState(state.object[half * height : (half + 1) * height], state.probe, state.origin_px)
            lit = illumination(backend, part, frames, slots[half_of(slots) == half])
            power = backend.xp.sum(backend.xp.abs(state.probe) ** 2, axis=0)
            covered.append(backend.to_numpy(covered_area(backend.xp, lit, float(power.max()))))
            objects.append(backend.to_numpy(part.object))
        both = covered[0] & covered[1]
        rows, columns = np.flatnonzero(both.any(axis=1)), np.flatnonzero(both.any(axis=0))
        if len(rows) < SMALLEST_PX or len(columns) < SMALLEST_PX:
            return None
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        first, second = (np.where(both[box], image[box], np.complex64(complex("nan+nanj"))) for image in objects)
        overlap = complex(np.nansum(first * second.conj()))
        return frc(first, second * (overlap / abs(overlap)) if overlap else second, pixel_m)


def _of(prefix: str, contents: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in contents.items() if name.startswith(prefix)}
