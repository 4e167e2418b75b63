"""What comes in is looked at before it is put into the frame store: shapes, positions, weights, the mask."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.geometry import orientation_after, oriented
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.canvas import MAX_CANVAS_PX, bounding_box, window_corners_px
from nsbluesky.solver.frames import FrameStore, good_pixels
from nsbluesky.solver.plausibility import complaint_about_steps

__all__ = ["Intake", "valid_weight"]

LEAST_PIXELS = 256
"""With fewer good pixels none is held out."""

LARGEST_POSITION_PX = 2.0**52


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
    """

    def __init__(self, frames: FrameStore, pixel_m: float, settings: SolverSettings) -> None:
        self.frames = frames
        self.rejected: dict[int, str] = {}
        self.turned = 0
        self._pixel_m = pixel_m
        self._settings = settings
        self._good = np.ones((frames.frame_px, frames.frame_px), bool)
        self._complained = False
        self._use_pixels()

    def configure(self, settings: SolverSettings) -> None:
        """Go on with other settings."""
        before, self._settings = self._settings, settings
        if settings.held_out != before.held_out:
            self._use_pixels()

    def set_mask(self, mask: npt.ArrayLike) -> None:
        """Say which pixels can be used: (N, N) CXI codes, 0 and 0x1000 good, zero frequency at N//2."""
        good = good_pixels(mask)
        if good.shape != self._good.shape:
            raise ValueError(f"mask of shape {good.shape}: expected {self._good.shape}")
        if not good.any():
            raise ValueError("the mask marks every pixel as bad: expected 0 or 0x1000 where pixels may be used")
        self._good = good
        self._use_pixels()

    def _use_pixels(self) -> None:
        """Let frames use the good pixels, but for a share of each that is held out; few pixels are all used."""
        good = oriented(self._good, self.turned)
        numbers = None
        if self._settings.held_out and np.count_nonzero(good) >= LEAST_PIXELS:
            count = round(1 / self._settings.held_out)
            numbers = np.random.default_rng(self._settings.seed).integers(0, count, good.shape)
        self.frames.set_good(good, numbers)

    def turn(self, orientation: int) -> None:
        """Flip and swap the frames that are here, and those that will come, after what was done to them already."""
        self.turned = orientation_after(self.turned, orientation)
        self.frames.turn(orientation)
        self._use_pixels()

    def take(
        self, seq_nums: npt.ArrayLike, frames: Any, translations_m: npt.ArrayLike, weights: npt.ArrayLike | None
    ) -> dict[int, int]:
        """Put frames into the store and return their slots, by number; see `IncrementalSolver.add_frames`.

        What is not returned has no usable position.  A frame without photons is there, but `rejected`.
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
        slots = {}
        for number, image, translation, weight in zip(numbers.tolist(), images, translations, given, strict=True):
            slot = self._put(number, image, translation[1::-1] / self._pixel_m, valid_weight(float(weight)))
            if slot is not None:
                slots[number] = slot
        return slots

    def _look_at_steps(self, translations_m: npt.NDArray[np.float64]) -> None:
        """Warn, once, of steps so wide that the translations cannot be metres."""
        if self._complained:
            return
        complaint = complaint_about_steps(translations_m, self.frames.frame_px, self._pixel_m)
        if complaint is not None:
            self._complained = True
            warnings.warn(complaint, stacklevel=4)

    def _put(self, number: int, image: Any, position_px: npt.NDArray[np.float64], weight: float) -> int | None:
        self.rejected.pop(number, None)
        if not self._is_reachable(position_px):
            self.rejected[number] = "no usable position"
            return None
        frame_px = self.frames.frame_px
        corner = window_corners_px(position_px, frame_px)
        slot = self.frames.put(number, image, corner, weight, position_px - frame_px / 2 - corner)
        if self.frames.photons[slot] == 0:
            self.rejected[number] = "no photons"
        return slot

    def _is_reachable(self, position_px: npt.NDArray[np.float64]) -> bool:
        """Return False for a position that is no number, or so far off that no canvas could hold it."""
        if not np.all(np.isfinite(position_px)) or np.abs(position_px).max() > LARGEST_POSITION_PX:
            return False
        frame_px = self.frames.frame_px
        corners = self.frames.corners_px[self.frames.active]
        corner = window_corners_px(position_px, frame_px)
        row0, column0, row1, column1 = bounding_box(np.concatenate([corners, corner[None]]), frame_px)
        return (row1 - row0) * (column1 - column0) <= MAX_CANVAS_PX


def valid_weight(weight: float) -> float:
    """Return a weight within 0…1; 0 for what is no number."""
    return min(max(weight, 0.0), 1.0) if math.isfinite(weight) else 0.0
