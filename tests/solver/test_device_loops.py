"""The solver's CUDA loops, compiled for the host (`host_kernels`), against those compiled for a CPU."""

from __future__ import annotations

import numpy as np
import pytest

from nsbluesky.backend import get_backend
from nsbluesky.solver import kernels
from nsbluesky.solver.engines import differences, momentum
from nsbluesky.solver.engines.batched import BatchedEngine
from nsbluesky.solver.engines.pie import PieRule
from nsbluesky.solver.engines.wasp import WaspRule

COUNT = 14


def passes(rule, loops, difficult_scan, monkeypatch, *, modes, states, subpixel, poisson):
    """Return object, probe and residuals of three passes."""
    for module in (differences, momentum):
        monkeypatch.setattr(module, "loops_of", lambda *_, **__: loops)
    backend = get_backend("numpy", threads=1)
    store, state = difficult_scan(backend, modes)
    if states > 1:
        state.object = np.stack([state.object / (1 + 2 * number) ** number for number in range(states)])
        state.object[1, :25] *= -1
    engine = BatchedEngine(rule, backend, probe_start=1, batch=10, subpixel=subpixel, poisson=poisson)
    engine.initialize(state, store)
    residuals = []
    for _ in range(3):
        residuals += [engine.update(state, store, slots) for slots in (np.arange(10), np.arange(10, COUNT))]
        store.uses[:COUNT] += 1
        engine.end_pass(state, store)
        state.passes += 1
    return state.object, state.probe, np.concatenate(residuals)


@pytest.mark.parametrize("rule", [WaspRule(), PieRule("mpie", 0.1, 0.3, momentum=0.7, momentum_frames=10)])
@pytest.mark.parametrize(("modes", "states", "subpixel"), [(1, 1, 1), (3, 1, 8), (2, 2, 4)])
@pytest.mark.parametrize("poisson", [False, True])
def test_they_do_what_a_cpu_does(rule, modes, states, subpixel, poisson, loops, difficult_scan, monkeypatch):
    how = {"modes": modes, "states": states, "subpixel": subpixel, "poisson": poisson}
    expected = passes(rule, kernels, difficult_scan, monkeypatch, **how)
    found = passes(rule, loops, difficult_scan, monkeypatch, **how)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.isfinite(theirs).all()
        assert np.abs(theirs).max() > 0
        assert np.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


def test_pixels_that_no_window_sees_stay(loops):
    """Two windows at opposite corners of their bounding box."""
    canvas = np.full((1, 20, 20), 2 + 1j, np.complex64)
    corners, power = np.array([[1, 1], [13, 13]]), np.ones((4, 4), np.float32)
    terms = np.ones((2, 1, 4, 4), np.complex64)
    sums = np.zeros((1, 20, 20), np.complex64), np.zeros((1, 20, 20), np.float32)
    step = np.array([0.5, 0.5, 0, 0], np.float32)
    loops.add_and_step(canvas, 0, 20, corners, terms, power, np.ones(2, np.float32), step, True, *sums)
    changed = np.zeros((20, 20), bool)
    changed[1:5, 1:5] = changed[13:17, 13:17] = True
    assert (canvas[0][changed] == 3 + 1j).all()
    assert (canvas[0][~changed] == 2 + 1j).all()
    assert (sums[1][0] == changed).all()


def test_an_array_with_holes_is_refused(loops):
    target = np.zeros((4, 8), np.complex64)[:, ::2]
    with pytest.raises(ValueError, match=r"push: .*\(4, 4\) is not contiguous"):
        loops.push(target, target.copy(), target.copy(), np.float32(0.5))
