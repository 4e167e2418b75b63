"""Where frames lie on the stage's grid of object pixels, and a canvas that grows with them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.start import blank_canvas
from nsbluesky.solver.state import SolverState

__all__ = ["bounding_box", "grown_box", "make_room", "most_canvas_px", "united_box", "window_corners_px"]

MAX_CANVAS_PX = 2**27
"""Largest canvas in pixels (1 GiB of complex64, of which a solver has several)."""

SMALL_CANVAS_PX = 2**24
SPARSE = 4
"""A canvas has at most so many times the pixels of its frames, which overlap; a small one may have more."""

GROWTH_MARGIN_PX = 64
"""Pixels that a canvas grows beyond need, so that a raster does not move it with every row."""

Box = tuple[int, int, int, int]

Margins = tuple[tuple[int, int], tuple[int, int]]
"""Rows and columns that are put before a canvas, and after it."""


def most_canvas_px(frames: int, frame_px: int) -> int:
    """Return the pixels of the largest canvas for so many frames: a position that needs more is a wrong reading."""
    return min(MAX_CANVAS_PX, max(SMALL_CANVAS_PX, SPARSE * frames * frame_px**2))


def window_corners_px(positions_px: npt.ArrayLike, frame_px: int) -> npt.NDArray[np.int64]:
    """Return the first row and column (n, 2) of windows centred on `positions_px` (n, 2: row, column).

    The window of N pixels spans corner … corner + N; its centre, corner + N/2, is the position rounded to whole
    pixels.
    """
    return np.rint(np.asarray(positions_px, np.float64) - frame_px / 2).astype(np.int64)


def bounding_box(corners_px: npt.NDArray[np.int64], frame_px: int) -> Box:
    """Return (row0, column0, row1, column1) that holds all windows."""
    row0, column0 = corners_px.min(axis=0).tolist()
    row1, column1 = (corners_px.max(axis=0) + frame_px).tolist()
    return row0, column0, row1, column1


def united_box(box: Box, other: Box) -> Box:
    """Return the smallest box that holds both."""
    return min(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), max(box[3], other[3])


def grown_box(box: Box, needed: Box) -> Box:
    """Return `box`, enlarged with some margin where `needed` goes beyond it."""
    low = [have if want >= have else want - GROWTH_MARGIN_PX for have, want in zip(box[:2], needed[:2], strict=True)]
    high = [have if want <= have else want + GROWTH_MARGIN_PX for have, want in zip(box[2:], needed[2:], strict=True)]
    return low[0], low[1], high[0], high[1]


def make_room(backend: Backend, state: SolverState, frames: FrameStore) -> Margins | None:
    """Grow a state's canvas where the window of a frame lies outside it; return by how much, or None if none does.

    Parameters
    ----------
    backend : Backend
    state : SolverState
    frames : FrameStore
        Of the level that the state is of.
    """
    wanted = frames.wanted
    if len(wanted) == 0:
        return None
    row0, column0 = state.origin_px
    box = (row0, column0, row0 + state.shape[0], column0 + state.shape[1])
    grown = grown_box(box, bounding_box(frames.corners_px[wanted], frames.frame_px))
    if grown == box:
        return None
    before = (box[0] - grown[0], box[1] - grown[1])
    after = (grown[2] - box[2], grown[3] - box[3])
    shape = (grown[2] - grown[0], grown[3] - grown[1])
    canvas = blank_canvas(backend, shape, len(state.objects))
    rows, columns = slice(before[0], shape[0] - after[0]), slice(before[1], shape[1] - after[1])
    canvas[..., rows, columns] = state.object
    state.object = canvas
    state.origin_px = (grown[0], grown[1])
    return before, after
