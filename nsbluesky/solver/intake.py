"""What comes in is looked at before it is put into the frame store: shapes, positions, weights, the mask."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.geometry import orientation_after, oriented
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.canvas import bounding_box, most_canvas_px, united_box, window_corners_px
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.plausibility import complaint_about_range, complaint_about_steps
from nsbluesky.solver.saturation import FullScale

__all__ = ["NO_POSITION", "Intake", "good_pixels", "reachable", "valid_mask", "valid_weights"]

GOOD_CODES = (0x0, 0x1000)
"""Codes of a CXI mask that mark a pixel as usable."""

NO_POSITION = "no usable position"
"""Why a frame is rejected that lies nowhere, or too far from the others."""

LEAST_PIXELS = 256
"""With fewer good pixels none is held out."""

LARGEST_POSITION_PX = 2.0**52

FRAMES_AT_ONCE = 64
"""That are copied from another store."""


class Intake:
    """Puts frames into a store, turned and at their places in pixels.

    Parameters
    ----------
    frames : FrameStore
    pixel_m : float
        Object pixel.
    settings : SolverSettings

    Attributes
    ----------
    rejected : dict of int to str
        Sequence numbers of frames that cannot be used, and why.
    turned : int
        How frames are flipped and swapped when they come, as `nsbluesky.geometry.Geometry.orientation`.
    odd : (N, N) bool
        Pixels that were found not to fit, of frames as they are turned; zero frequency at N//2.
    """

    def __init__(self, frames: FrameStore, pixel_m: float, settings: SolverSettings) -> None:
        self.frames = frames
        self.rejected: dict[int, str] = {}
        self.turned = 0
        self._pixel_m = pixel_m
        self._settings = settings
        self._good = np.ones((frames.frame_px, frames.frame_px), bool)
        self.odd = np.zeros_like(self._good)
        self._full_scale = FullScale()
        self._complained = False
        self._use_pixels()

    def configure(self, settings: SolverSettings) -> None:
        """Go on with other settings."""
        before, self._settings = self._settings, settings
        if not settings.leave_out_pixels:
            self.odd = np.zeros_like(self._good)
            self.full_scale = None
        if (settings.held_out, settings.leave_out_pixels) != (before.held_out, before.leave_out_pixels):
            self._use_pixels()

    def set_mask(self, mask: npt.ArrayLike) -> None:
        """Say which pixels can be used: (N, N) CXI codes, 0 and 0x1000 good, zero frequency at N//2."""
        self._good = valid_mask(mask, self.frames.frame_px)
        self._use_pixels()

    def leave_out(self, odd: npt.NDArray[np.bool_]) -> None:
        """Use these pixels (N, N) of no frame any more, beside those that were left out before; see `odd`."""
        self.odd = self.odd | odd
        self._use_pixels()

    def _use_pixels(self) -> None:
        """Let frames use the good pixels, but for a share of each that is held out; few pixels are all used."""
        good = oriented(self._good, self.turned) & ~self.odd
        numbers = None
        if self._settings.held_out and np.count_nonzero(good) >= LEAST_PIXELS:
            count = round(1 / self._settings.held_out)
            numbers = np.random.default_rng(self._settings.seed).integers(0, count, good.shape)
        self.frames.set_good(good, numbers)
        if self.full_scale is None:  # which a brighter pixel may have hidden that is left out now
            self._full_scale = FullScale()
            self._look_at_full_scale(self.frames.active)

    def turn(self, orientation: int) -> None:
        """Flip and swap the frames that are here, and those that will come, after what was done to them already."""
        self.turned = orientation_after(self.turned, orientation)
        self.odd = oriented(self.odd, orientation)
        self.frames.turn(orientation)
        self._use_pixels()

    def contents(self) -> dict[str, Any]:
        """Return what was found of the detector, for a checkpoint."""
        return {"turned": self.turned, "left_out": self.odd, "full_scale": self.full_scale}

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned, for the frames that are here and those that will come."""
        self.turn(contents["turned"])
        self.leave_out(contents["left_out"])
        self.full_scale = contents["full_scale"]

    def take_over(self, other: Intake) -> npt.NDArray[np.intp]:
        """Copy mask, orientation and frames of another one, as they were told; return the slots of those in use."""
        self.turned, self._good, self.odd = other.turned, other._good, other.odd
        self.full_scale = other.full_scale
        self._use_pixels()
        there = other.frames
        told = {number: why for number, why in other.rejected.items() if number not in there.slots}
        self.rejected.update(told)
        for first in range(0, len(there), FRAMES_AT_ONCE):
            slots = np.arange(first, min(first + FRAMES_AT_ONCE, len(there)))
            places = there.told_px[slots] + there.frame_px / 2
            self._put(there.seq_nums[slots], there.photons_of(slots), places, there.weights[slots])
        return self.frames.active

    def take(
        self, seq_nums: npt.ArrayLike, frames: Any, translations_m: npt.ArrayLike, weights: npt.ArrayLike | None
    ) -> dict[int, int]:
        """Put frames into the store and return their slots, by number; see `IncrementalSolver.add_frames`.

        What is not returned has no usable position.  A frame without photons is there, but `rejected`.  Of several
        frames of one number the last counts.
        """
        numbers = np.atleast_1d(np.asarray(seq_nums, np.int64))
        images = oriented(frames if hasattr(frames, "get") else np.asarray(frames), self.turned)
        translations = np.atleast_2d(np.asarray(translations_m, np.float64))
        expected = (len(numbers), *self._good.shape)
        if tuple(images.shape) != expected:
            raise ValueError(f"frames of shape {tuple(images.shape)}: expected {expected}")
        if translations.ndim != 2 or len(translations) != len(numbers) or translations.shape[1] < 2:
            raise ValueError(f"translations of shape {translations.shape}: expected ({len(numbers)}, 2)")
        given = np.ones(len(numbers)) if weights is None else np.atleast_1d(np.asarray(weights, np.float64))
        if given.shape != numbers.shape:
            raise ValueError(f"weights of shape {given.shape}: expected ({len(numbers)},)")
        self._look_at_steps(translations[:, :2])
        here = np.array(sorted({number: k for k, number in enumerate(numbers.tolist())}.values()), np.intp)
        positions_px = translations[:, 1::-1] / self._pixel_m
        given = valid_weights(given)
        known = self.frames.corners_px[self.frames.active]
        usable = reachable(positions_px[here], self.frames.frame_px, known, given[here])
        for number, is_usable in zip(numbers[here].tolist(), usable.tolist(), strict=True):
            self.rejected.pop(number, None)
            if not is_usable:
                self.rejected[number] = NO_POSITION
        here = here[usable]
        if len(here) < len(numbers):
            numbers, images = numbers[here], images[here]
        slots = self._put(numbers, images, positions_px[here], given[here])
        self._look_at_range()
        return dict(zip(numbers.tolist(), slots.tolist(), strict=True))

    def fits(self, number: int) -> bool:
        """Return whether a frame that had no weight can have one; it is `rejected` where it lies too far off."""
        if number not in self.rejected:
            frames = self.frames
            place = frames.told_px[[frames.slots[number]]] + frames.frame_px / 2
            if not reachable(place, frames.frame_px, frames.corners_px[frames.active]).all():
                self.rejected[number] = NO_POSITION
        return number not in self.rejected

    def _look_at_steps(self, translations_m: npt.NDArray[np.float64]) -> None:
        """Warn, once, of steps so wide that the translations cannot be metres."""
        if self._complained:
            return
        self._complain(complaint_about_steps(translations_m, self.frames.frame_px, self._pixel_m))

    def _look_at_range(self) -> None:
        """Warn, once, where all frames so far lie at one place."""
        if not self._complained:
            self._complain(complaint_about_range(self.frames.told_px[self.frames.active], self._pixel_m))

    def _look_at_full_scale(self, slots: npt.NDArray[np.intp]) -> None:
        """Leave out what is saturated, where frames show that they have a full scale."""
        frames, settings = self.frames, self._settings
        if not settings.leave_out_pixels or settings.half_precision_frames:  # those are rounded
            return
        if self._full_scale.look(frames.brightest[slots], frames.piled_up[slots], frames.photons[slots]):
            assert self.full_scale is not None
            frames.end_at(self.full_scale)
            warnings.warn(
                f"several pixels of several frames have exactly {self.full_scale**2:.6g} photons, and none has more: "
                "they are taken for saturated and left out; the solver's leave_out_pixels=false uses them",
                stacklevel=5,
            )

    @property
    def full_scale(self) -> float | None:
        """√photons from which on pixels of a frame are saturated, None where none are."""
        return self._full_scale.amplitude

    @full_scale.setter
    def full_scale(self, amplitude: float | None) -> None:
        self._full_scale.amplitude = amplitude
        self.frames.end_at(amplitude)

    def _complain(self, complaint: str | None) -> None:
        if complaint is not None:
            self._complained = True
            warnings.warn(complaint, stacklevel=5)

    def _put(
        self, numbers: npt.NDArray[np.int64], images: Any, positions_px: npt.NDArray[Any], weights: npt.NDArray[Any]
    ) -> npt.NDArray[np.intp]:
        frame_px = self.frames.frame_px
        corners = window_corners_px(positions_px, frame_px)
        slots = self.frames.put(numbers, images, corners, weights, positions_px - frame_px / 2 - corners)
        self._look_at_full_scale(slots)
        dark = numbers[self.frames.photons[slots] == 0]
        self.rejected.update(dict.fromkeys(dark.tolist(), "no photons"))
        return slots


def reachable(
    positions_px: npt.NDArray[np.float64],
    frame_px: int,
    known: npt.NDArray[np.intp] | None = None,
    weights: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.bool_]:
    """Return False for positions (n, 2) that are no number, or too far off for one canvas with the others.

    Those nearest to the middle of all come first, so that a wrong one does not keep out those that are right.

    Parameters
    ----------
    positions_px : (n, 2) float64
        Middles of windows.
    frame_px : int
    known : (m, 2) int, optional
        Corners of windows that are on the canvas already.
    weights : (n,) float64, optional
        Frames of weight 0 take no room on the canvas.
    """
    usable = np.isfinite(positions_px).all(axis=1) & (np.abs(positions_px).max(axis=1) <= LARGEST_POSITION_PX)
    box = bounding_box(known, frame_px) if known is not None and len(known) else None
    wanted = usable.copy() if weights is None else usable & (weights > 0)
    places = np.flatnonzero(usable)
    if wanted.any():
        away = np.abs(positions_px[places] - np.median(positions_px[wanted], axis=0)).max(axis=1)
        places = places[np.lexsort((away, ~wanted[places]))]
    corners = window_corners_px(positions_px[places], frame_px)
    count = len(known) if known is not None else 0
    for place, (row, column) in zip(places.tolist(), corners.tolist(), strict=True):
        window = (row, column, row + frame_px, column + frame_px)
        wider = window if box is None else united_box(box, window)
        needed_px = (wider[2] - wider[0]) * (wider[3] - wider[1])
        usable[place] = needed_px <= most_canvas_px(count + 1, frame_px)
        if usable[place] and wanted[place]:
            box, count = wider, count + 1
    return np.asarray(usable)


def good_pixels(mask: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return True where a CXI mask (N, N) says that the pixel may be used."""
    return np.isin(np.asarray(mask), GOOD_CODES)


def valid_mask(mask: npt.ArrayLike, frame_px: int) -> npt.NDArray[np.bool_]:
    """Return where a CXI mask lets pixels be used, or raise a ValueError: it fits no frame, or lets none."""
    good = good_pixels(mask)
    if good.shape != (frame_px, frame_px):
        raise ValueError(f"mask of shape {good.shape}: expected {(frame_px, frame_px)}")
    if not good.any():
        raise ValueError("the mask marks every pixel as bad: expected 0 or 0x1000 where pixels may be used")
    return good


def valid_weights(weights: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return weights within 0…1; 0 for what is no number."""
    return np.asarray(np.clip(np.nan_to_num(weights, nan=0.0, posinf=0.0, neginf=0.0), 0.0, 1.0))
