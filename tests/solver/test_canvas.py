"""A canvas grows with the frames that lie on it."""

from __future__ import annotations

import numpy as np
import pytest

from nsbluesky.backend import Backend
from nsbluesky.solver.canvas import GROWTH_MARGIN_PX, make_room
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.state import SolverState

SIDE = 8


def store_of(backend: Backend, *corners: tuple[int, int]) -> FrameStore:
    store = FrameStore(SIDE, backend)
    for number, corner in enumerate(corners):
        store.put([number], np.ones((1, SIDE, SIDE), np.float32), np.array(corner))
    return store


@pytest.mark.parametrize("states", [1, 2])
def test_a_canvas_grows_towards_the_window_that_lies_outside(backend: Backend, states: int) -> None:
    before = np.arange(states * 12 * 10).reshape(states, 12, 10).astype(np.complex64) + 2
    state = SolverState(before[0] if states == 1 else before, np.ones((1, SIDE, SIDE), np.complex64), (100, -50))
    frames = store_of(backend, (101, -50), (97, -40))
    assert make_room(backend, state, frames) == ((3 + GROWTH_MARGIN_PX, 0), (0, 8 + GROWTH_MARGIN_PX))
    assert state.origin_px == (97 - GROWTH_MARGIN_PX, -50)
    assert state.objects.shape == (states, 15 + GROWTH_MARGIN_PX, 18 + GROWTH_MARGIN_PX)
    np.testing.assert_array_equal(state.objects[:, -12:, :10], before)
    assert (state.image[:-12] == 1).all() and (state.image[:, 10:] == 1).all()
    assert make_room(backend, state, frames) is None


def test_frames_without_weight_take_no_room(backend: Backend) -> None:
    canvas = np.ones((SIDE, SIDE), np.complex64)
    state = SolverState(canvas, np.ones((1, SIDE, SIDE), np.complex64))
    frames = store_of(backend, (0, 0), (50, 50))
    frames.weights[1] = 0
    assert make_room(backend, state, frames) is None
    frames.weights[0] = 0
    assert make_room(backend, state, frames) is None
    assert state.object is canvas
