"""Compiled loops against the same steps over arrays."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbluesky.backend import get_backend
from nsbluesky.solver import amplitude_loops, kernels
from nsbluesky.solver.amplitude_arrays import roots_of, sums_of
from nsbluesky.solver.engines.batched import BatchedEngine
from nsbluesky.solver.engines.pie import PieRule
from nsbluesky.solver.engines.wasp import WaspRule
from nsbluesky.solver.light import SUMS
from nsbluesky.solver.shifts import largest_nearby

COUNT = 14


def complex_noise(rng, shape):
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


@pytest.mark.parametrize("modes", [1, 3])
@pytest.mark.parametrize(
    "rule", [WaspRule(), WaspRule(peak=0.1), PieRule("rpie", 0.1, 0.3), PieRule("epie", 1.0, 1.0)]
)
@pytest.mark.parametrize(("threads", "subpixel"), [(1, 2), (2, 1), (2, 8)])
@pytest.mark.parametrize("poisson", [False, True])
def test_compiled_loops_do_what_the_arrays_do(rule, modes, threads, subpixel, poisson, difficult_scan):
    found = []
    backend = get_backend("numpy", threads=threads)
    for compiled in (False, True):
        store, state = difficult_scan(backend, modes)
        engine = BatchedEngine(
            rule, backend, probe_start=1, batch=10, subpixel=subpixel, poisson=poisson, compiled=compiled
        )
        engine.initialize(state, store)
        residuals = []
        for _ in range(3):
            residuals += [engine.update(state, store, slots) for slots in (np.arange(10), np.arange(10, COUNT))]
            engine.end_pass(state, store)
            state.passes += 1
        found.append((state.object, state.probe, np.concatenate(residuals)))
    for arrays, loops in zip(*found, strict=True):
        assert loops.dtype == arrays.dtype
        assert np.allclose(loops, arrays, rtol=1e-3, atol=1e-4 * np.abs(arrays).max())


def test_compiled_loops_keep_double_precision():
    rng = np.random.default_rng(4)
    probe, canvas = complex_noise(rng, (2, 8, 8)).astype(complex), complex_noise(rng, (12, 12)).astype(complex)
    corners = np.array([[0, 0], [3, 4]])
    waves = np.empty((2, 2, 8, 8), complex)
    probes = np.stack([probe, 2 * probe])
    kernels.multiply_windows(canvas[None], probes, np.array([0, 1]), corners, waves)
    assert np.abs(waves[1] - 2 * probe * canvas[3:11, 4:12]).max() < 1e-14
    amplitude, good = rng.random((2, 8, 8)), np.ones((8, 8))
    model = np.sqrt((np.abs(waves) ** 2).sum(axis=1) + 0.5)
    expected = waves * ((amplitude - model) / (model + 1e-6))[:, None]
    told = np.empty((2, SUMS))
    kernels.change_fields(waves, amplitude, good, 0.5, 1e-6, 1.0, False, told)
    assert np.abs(waves - expected).max() < 1e-13
    terms = (
        abs(amplitude - model),
        (amplitude - model) ** 2,
        good + 0 * model,
        model**2 - 0.5,
        amplitude**2 - model**2,
    )
    for found, term in zip(told.T, terms, strict=True):
        assert found == pytest.approx(term.sum(axis=(1, 2)), rel=1e-12)


@pytest.mark.parametrize(("side", "poisson"), [(8, False), (8, True), (15, False)])  # odd: waves are not aligned
def test_frames_one_after_the_other_are_as_step_after_step(side, poisson):
    backend = get_backend("numpy", threads=1)
    transforms = backend.compiled_transforms(side, np.complex64)
    if transforms is None:
        pytest.skip("no pyFFTW")
    rng = np.random.default_rng(side)
    objects, probes = complex_noise(rng, (2, 20, 20)), complex_noise(rng, (2, 3, side, side))
    which, corners = np.array([0, 1, 1]), np.array([[0, 5], [3, 1], [4, 4]])
    amplitude, good = rng.random((3, side, side), np.float32), (rng.random((side, side)) < 0.9).astype(np.float32)
    weights = rng.random(3, np.float32)
    numbers = np.float32(0.25), np.float32(1e-3), np.float32(1 / side)
    waves, light = np.empty((2, 3, 6, side, side), np.complex64), np.empty((2, 3, SUMS), np.float32)
    terms = np.empty((2, 3, 2, side, side), np.complex64)
    numerators, denominators = np.zeros((2, *probes.shape), np.complex64), np.zeros((2, side, side), np.float32)

    kernels.multiply_windows(objects, probes, which, corners, waves[0])
    fields = backend.fft2(waves[0], unitary=False)
    kernels.change_fields(fields, amplitude, good, *numbers, poisson, light[0])
    waves[0] = backend.ifft2(fields, unitary=False)
    sums = (True, numerators[0], denominators[0])
    kernels.back_project(waves[0], probes, which, objects, corners, weights, terms[0], *sums)

    places, detector = (objects, probes, which, corners), (amplitude, good, *numbers, poisson)
    sums = (True, numerators[1], denominators[1])
    kernels.use_frames(transforms, *places, waves[1], *detector, light[1], weights, terms[1], *sums)
    for steps, frames in (waves, light, terms, numerators, denominators):
        assert np.abs(steps - frames).max() < 1e-5 * np.abs(steps).max()


def test_loops_without_fftw_do_the_same(difficult_scan, monkeypatch):
    found = []
    for library in ("fftw", "scipy"):
        if library == "scipy":
            monkeypatch.setitem(sys.modules, "pyfftw", None)  # as if it were not installed
        backend = get_backend("numpy", threads=2)
        assert library == "fftw" or backend.compiled_transforms(8, np.complex64) is None
        store, state = difficult_scan(backend, 2)
        engine = BatchedEngine(WaspRule(), backend, probe_start=0, batch=COUNT, subpixel=4)
        engine.initialize(state, store)
        residuals = [engine.update(state, store, np.arange(COUNT)) for _ in range(3)]
        found.append((state.object, state.probe, np.concatenate(residuals)))
    for fast, plain in zip(*found, strict=True):
        assert np.allclose(fast, plain, rtol=1e-3, atol=1e-4 * np.abs(plain).max())


def test_a_window_off_the_canvas_is_refused(difficult_scan):
    backend = get_backend("numpy", threads=1)
    store, state = difficult_scan(backend, 1)
    state.object = state.object[:40]
    engine = BatchedEngine(WaspRule(), backend, probe_start=1, batch=COUNT)
    engine.initialize(state, store)
    with pytest.raises(IndexError, match="lie off the canvas"):
        engine.update(state, store, np.arange(COUNT))


@pytest.mark.parametrize("side", [12, 13, 15])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_frames_taken_in_by_compiled_loops_are_those_of_the_arrays(side, kind):
    rng = np.random.default_rng(side)
    photons = rng.normal(20.0, 30.0, (3, side, side)).astype(kind)
    photons[1, 3, 4], photons[1, 0, side - 1], photons[2, 5, 5] = np.nan, np.inf, -np.inf
    good = (rng.random((side, side)) < 0.8).astype(kind)
    roots, sums = np.empty_like(photons), np.empty((3, 4))
    assert amplitude_loops.take_roots(photons, roots)
    expected = roots_of(np, photons)
    assert expected.dtype == kind and (expected == -1).sum() == 3
    np.testing.assert_array_equal(roots, expected)
    amplitude_loops.sum_amplitudes(roots, good, sums)
    np.testing.assert_allclose(sums, sums_of(np, roots, good), rtol=1e-12)
    assert not amplitude_loops.take_roots(np.abs(rng.normal(size=(1, side, side))), roots[:1])


@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 100))
def test_the_largest_value_nearby(height, width, seed):
    image = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    found = kernels.largest_nearby(image, np.empty_like(image))
    np.testing.assert_array_equal(found, largest_nearby(np, image))
    around = [np.roll(image, (down, right), (0, 1)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    np.testing.assert_array_equal(found, np.max(around, axis=0))


def test_spectra_are_turned_on_the_way_there_and_back():
    rng = np.random.default_rng(6)
    spectrum, lines = complex_noise(rng, (2, 6, 6)), complex_noise(rng, (3, 2, 6))
    turns = lines[:, 0, None, :, None] * lines[:, 1, None, None, :]
    turned = np.empty((3, 2, 6, 6), np.complex64)
    kernels.spread_lines(spectrum, lines, turned)
    assert np.allclose(turned, spectrum * turns, rtol=1e-5, atol=1e-6)
    spectra, total = complex_noise(rng, turned.shape), complex_noise(rng, spectrum.shape)
    kernels.gather_lines(spectra, lines, total)
    assert np.allclose(total, (spectra * turns).sum(axis=0), rtol=1e-4, atol=1e-5)
