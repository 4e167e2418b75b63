"""A pass of conjugate gradients: of all its frames in any order, downhill, and nothing without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nsbluesky.backend import Backend
from nsbluesky.solver.engines.cg import ConjugateGradientEngine
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.state import SolverState


def one_pass(engine: ConjugateGradientEngine, state: SolverState, store: FrameStore, batches: Any) -> None:
    for slots in batches:
        engine.update(state, store, np.asarray(slots))
    engine.end_pass(state, store)
    state.passes += 1


@pytest.fixture
def begun(difficult_scan: Any, backend: Backend) -> Any:
    """A function that returns store, state and engine after a pass."""

    def make() -> tuple[FrameStore, SolverState, ConjugateGradientEngine]:
        store, state = difficult_scan(backend, 1)
        engine = ConjugateGradientEngine(backend, probe_start=0, batch=16, damping=0.05, subpixel=4)
        engine.initialize(state, store)
        one_pass(engine, state, store, [range(14)])
        return store, state, engine

    return make


def test_neither_the_order_of_frames_nor_batches_matter(begun: Any) -> None:
    found = []
    for batches in ([range(14)], [[9, 3, 13, 0, 5], [2, 8, 1], [4, 6, 7, 10, 11, 12]]):
        store, state, engine = begun()
        before = state.object.copy()
        one_pass(engine, state, store, batches)
        found.append(state.object)
    assert np.linalg.norm(found[0] - before) > 1e-3 * np.linalg.norm(before)
    np.testing.assert_allclose(found[0], found[1], atol=1e-4 * np.abs(found[0]).max())


def test_where_the_conjugate_direction_goes_uphill_the_gradient_is_followed(begun: Any) -> None:
    found = []
    for uphill in (True, False):
        store, state, engine = begun()
        engine.update(state, store, np.arange(14))
        line = engine._line
        assert line is not None
        if uphill:
            line.object[...] = -1e3 * engine._sums.object.numerator
            line.object_gradient[...] = line.probe_gradient[...] = 0  # so that much of the line is kept
        else:
            engine._line = None
        one_pass(engine, state, store, [])
        found.append((state.object, state.probe))
    for there, alone in zip(*found, strict=True):
        np.testing.assert_array_equal(there, alone)


def test_where_all_frames_are_withdrawn_in_a_pass_nothing_moves(begun: Any) -> None:
    store, state, engine = begun()
    before = state.object.copy(), state.probe.copy()
    for slots in (range(7), range(7, 14)):
        engine.update(state, store, np.asarray(slots))
    store.weights[:14] = 0
    engine.end_pass(state, store)
    engine.end_pass(state, store)  # of a pass that had no batch at all
    np.testing.assert_array_equal(state.object, before[0])
    np.testing.assert_array_equal(state.probe, before[1])
