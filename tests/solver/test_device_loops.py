"""The solver's CUDA loops, compiled for the host (`host_kernels`), against those compiled for a CPU."""

from __future__ import annotations

import numpy as np
import pytest
from host_kernels import host_launch

from nsbluesky.backend import get_backend
from nsbluesky.solver import kernels
from nsbluesky.solver.device_kernels import SOURCE
from nsbluesky.solver.device_loops import DeviceLoops
from nsbluesky.solver.engines import differences, momentum
from nsbluesky.solver.engines.batched import BatchedEngine
from nsbluesky.solver.engines.pie import PieRule
from nsbluesky.solver.engines.wasp import WaspRule
from nsbluesky.solver.light import SUMS

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


@pytest.mark.parametrize(
    "rule", [WaspRule(), WaspRule(peak=0.1), PieRule("mpie", 0.1, 0.3, momentum=0.7, momentum_frames=10)]
)
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


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """The loops, in blocks of 32 threads as a GPU has them."""
    return DeviceLoops(np, host_launch(SOURCE, tmp_path_factory.mktemp("blocks"), threads=32))


def noise(rng, *shape):
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def windows(rng, count, side, shape):
    """Return the lists of some frames: which of two probes, corners that reach the rims, and weights."""
    corners = rng.integers(0, np.array(shape) - side + 1, (count, 2)).astype(np.int32)
    corners[:2] = (0, 0), np.array(shape) - side
    return rng.integers(0, 2, count).astype(np.int32), corners, rng.random(count).astype(np.float32)


def alike(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(
    ("count", "states", "modes", "side", "shape"),
    [
        (6, 1, 1, 3, (5, 5)),
        (6, 4, 1, 3, (3, 4)),
        (9, 2, 2, 7, (17, 21)),
        (9, 1, 1, 8, (9, 40)),
        (300, 1, 1, 4, (12, 13)),
    ],
)
def test_blocks_know_all_windows_that_reach_their_pixels(blocks, loops, count, states, modes, side, shape):
    """Blocks within a row, over several rows, and over the end of a state or of the canvas."""

    def stepped(of):
        rng = np.random.default_rng(count)
        objects, change = noise(rng, states, *shape), noise(rng, count, states * modes, side, side)
        power, bounds = rng.random((side, side)).astype(np.float32), np.array([0.5, 0.9], np.float32)
        passes = np.zeros_like(objects), np.zeros(objects.shape, np.float32)
        lists = windows(rng, count, side, shape)
        probes = noise(rng, 2, modes, side, side)
        of.step_object(objects, change, probes, lists, power, bounds, True, passes, (0.1, 0.2, 0.9, 0.3))
        return objects, *passes

    alike(stepped(blocks), stepped(loops))


@pytest.mark.parametrize("side", [5, 33])
def test_blocks_add_up_what_their_threads_have(blocks, loops, side):
    """Items of one block and of some, with sides that are no powers of two."""

    def sums(of):
        rng = np.random.default_rng(side)
        field, light = noise(rng, 3, 2, side, side), np.empty((3, SUMS), np.float32)
        amplitude = rng.uniform(-0.2, 3, (3, side, side)).astype(np.float32)
        of.change_fields(field, amplitude, np.ones((side, side), np.float32), 0.3, 1e-3, 0.7, False, light)
        power, of_power = np.empty((2, side, side), np.float32), np.empty((2, 2), np.float32)
        probes, weights = noise(rng, 2, 1, side, side), rng.random(2).astype(np.float32)
        of.add_power(probes, weights, power[0], of_power[0])
        objects, lists = noise(rng, 2, 40, 37), windows(rng, 3, side, (40, 37))
        of.add_to_probes(field, objects, lists, probes, power[1], of_power[1])
        return field, light, probes, power, of_power

    alike(sums(blocks), sums(loops))
