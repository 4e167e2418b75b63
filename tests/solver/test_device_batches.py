"""Whole batches as on a GPU, with kernels compiled for the host, against the loops of a CPU."""

from __future__ import annotations

import numpy as np
import pytest
from small_scan import finished, object_error

from nsbluesky.backend import BackendError, get_backend
from nsbluesky.solver.engines import batched
from nsbluesky.solver.engines.batched import BatchedEngine
from nsbluesky.solver.engines.device_batches import DeviceBatches
from nsbluesky.solver.engines.pie import PieRule
from nsbluesky.solver.engines.wasp import WaspRule

COUNT = 14
RULES = [WaspRule(), PieRule("mpie", 0.1, 0.3, momentum=0.7, momentum_frames=10)]


@pytest.fixture
def on_device(loops, monkeypatch):
    """A function that lets engines do whole batches; what it returns grows with each of them."""

    def switch():
        used = []

        class Counted(DeviceBatches):
            def run(self, *arguments):
                used.append(arguments[-1])
                return super().run(*arguments)

        monkeypatch.setattr(
            batched, "device_batches", lambda backend, *arguments: Counted(backend, loops, *arguments)
        )
        return used

    return switch


def passes(rule, backend, difficult_scan, *, modes=2, states=1, subpixel=4, poisson=False, corrected=True, count=3):
    """Return object, probe, residuals and light sums of some passes over frames with all sorts of corrections."""
    store, state = difficult_scan(backend, modes)
    xp = backend.xp
    if corrected:
        store.flux[:COUNT] = np.linspace(0.8, 1.2, COUNT)
        store.backgrounds[3:6] = 0.4
        held_out = np.arange(24 * 24).reshape(24, 24) % 7
        good = np.fft.fftshift(backend.to_numpy(store.good)) > 0
        store.set_good(good, np.where(held_out < 3, held_out, -1))
    state.object, state.probe = backend.from_numpy(state.object), backend.from_numpy(state.probe)
    if states > 1:
        state.object = xp.stack([state.object / (1 + 2 * number) ** number for number in range(states)])
        state.object[1, :25] *= -1
    engine = BatchedEngine(rule, backend, probe_start=1, batch=10, subpixel=subpixel, poisson=poisson)
    engine.initialize(state, store)
    residuals, light = [], []
    for _ in range(count):
        for slots in (np.arange(10), np.arange(10, COUNT)):
            told = engine.begin_update(state, store, slots)
            residuals.append(told.residual)
            light.append(told.light)
        store.uses[:COUNT] += 1
        engine.end_pass(state, store)
        state.passes += 1
    found = backend.to_numpy(state.object), backend.to_numpy(state.probe)
    return *found, np.concatenate(residuals), np.concatenate(light)


def same(found, expected, rtol=1e-3):
    for ours, theirs in zip(found, expected, strict=True):
        assert np.isfinite(theirs).all()
        assert np.abs(theirs).max() > 0
        assert np.allclose(ours, theirs, rtol=rtol, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize(("modes", "states", "subpixel"), [(1, 1, 1), (3, 1, 8), (2, 2, 4)])
@pytest.mark.parametrize("poisson", [False, True])
def test_they_do_what_a_cpu_does(rule, modes, states, subpixel, poisson, on_device, difficult_scan):
    how = {"modes": modes, "states": states, "subpixel": subpixel, "poisson": poisson}
    backend = get_backend("numpy", threads=1)
    expected = passes(rule, backend, difficult_scan, **how)
    used = on_device()
    same(passes(rule, backend, difficult_scan, **how), expected)
    assert used == 2 * [False] + 4 * [True]  # with the probe


def test_what_varies_is_not_taken(on_device, difficult_scan):
    """A probe that varies from frame to frame, and double precision, go the other way."""
    backend = get_backend("numpy", threads=1)
    used = on_device()
    store, state = difficult_scan(backend, 1)
    state.variation = np.zeros((2, 24, 24), np.complex64)
    engine = BatchedEngine(WaspRule(), backend, probe_start=0, batch=10, subpixel=4)
    engine.initialize(state, store)
    engine.update(state, store, np.arange(10))
    assert not used


def test_a_whole_reconstruction_runs_on_them(on_device, scan):
    """From the central half to whole frames, with half-sets, flux and sweep: all arrays are as they must be."""
    backend = get_backend("numpy", threads=1)
    settings = {"sweep_frames": 40, "sweep_candidates": 3, "sweep_passes": 2, "passes_final": 12}

    def run(**changes):
        solver = scan.solver(backend, **settings, **changes)
        solver.geometry = scan.geometry.replace(optic__defocus_m=scan.defocus_m)
        for first in range(0, len(scan.frames), 30):
            part = slice(first, first + 30)
            solver.add_frames(scan.seq_nums[part], scan.frames[part], scan.translations_m[part])
            for _ in range(20):
                solver.step(0.0)
        was_coarse = solver.is_coarse
        return finished(solver), was_coarse

    expected, _ = run()
    used = on_device()
    for changes in ({}, {"half_precision_frames": True}):
        used.clear()
        found, was_coarse = run(**changes)
        assert was_coarse and not found.is_coarse and used
        assert found.state.r_factor == pytest.approx(expected.state.r_factor, rel=0.05)
        assert object_error(found, scan) == pytest.approx(object_error(expected, scan), rel=0.2)


@pytest.mark.gpu
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize(("modes", "states", "subpixel"), [(1, 1, 1), (3, 1, 8), (2, 2, 4)])
def test_a_gpu_does_what_a_cpu_does(rule, modes, states, subpixel, difficult_scan):
    """Directly at first, then as graphs."""
    try:
        backend = get_backend("cupy")
    except BackendError as error:
        pytest.skip(str(error))
    how = {"modes": modes, "states": states, "subpixel": subpixel, "count": 8}
    expected = passes(rule, get_backend("numpy", threads=1), difficult_scan, **how)
    same(passes(rule, backend, difficult_scan, **how), expected, rtol=1e-2)
