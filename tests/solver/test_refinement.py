"""Positions that the stage tells wrong are found; right ones are left alone."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
from small_scan import simulate

from benchmarks.simulated_scans import simulated_scan
from nsbluesky.backend import get_backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.engines.batched import BatchedEngine
from nsbluesky.solver.engines.wasp import WaspRule
from nsbluesky.solver.frame_steps import steps_and_errors
from nsbluesky.solver.held_out import predictions
from nsbluesky.solver.light import PHOTON_NOISE, LightSums
from nsbluesky.solver.places import Places, bad_fits, correlation_of, is_confirmed, misfits_around
from nsbluesky.solver.positions import NO_DISTORTION, Distortion, fit_distortion, shrunk
from nsbluesky.solver.propagation import NearField
from nsbluesky.solver.reconstruct import reconstruct
from nsbluesky.solver.refinement import Refinement
from nsbluesky.solver.sensitivity import measure_sensitivity


def finished(solver):
    solver.finish()
    while not solver.finished:
        solver.step(0.0)
    return solver


def solved(scan, backend, translations_m, **settings):
    solver = scan.solver(
        backend, **{"refine_positions": "frames", "refine_flux": True} | settings, told_m=scan.defocus_m
    )
    solver.add_frames(scan.seq_nums, scan.frames, translations_m)
    return finished(solver)


def errors_px(solver, scan):
    """What is wrong with the positions (n, 2), apart from translation and linear terms, which no data tell well."""
    _, found_m = solver.positions()
    wrong = (found_m - scan.translations_m) / solver.pixel_m
    basis = np.concatenate([np.ones((len(wrong), 1)), scan.translations_m * 1e6], axis=1)
    return wrong - basis @ np.linalg.lstsq(basis, wrong, rcond=None)[0]


def rms(values):
    return float(np.sqrt(np.mean(values**2)))


@pytest.fixture(scope="module")
def shaken_m(scan):
    """Positions with errors of 1 pixel rms along each axis."""
    rng = np.random.default_rng(8)
    return scan.translations_m + rng.normal(size=scan.translations_m.shape) * 1e-8


def test_positions_are_found_and_the_image_gains(scan, backend, shaken_m):
    refined = solved(scan, backend, shaken_m, passes_final=30)
    left = solved(scan, backend, shaken_m, passes_final=30, refine_positions="none")
    assert rms(errors_px(left, scan)) == pytest.approx(1, abs=0.1)
    inner = np.abs(scan.translations_m - scan.translations_m.mean(axis=0)).max(axis=1) < 1.7e-7
    assert rms(errors_px(refined, scan)[inner]) < 0.25
    assert np.median(np.abs(errors_px(refined, scan))) < 0.2
    assert refined.state.r_factor < 0.8 * left.state.r_factor
    assert refined.refinement.places.scatter_px == pytest.approx(1, abs=0.2)


def test_small_errors_do_not_make_positions_swing(scan, backend):
    """Steps that go too far, once the object follows, left 0.26 pixels of these 0.3."""
    wrong_m = np.random.default_rng(8).normal(size=scan.translations_m.shape) * 3e-9
    solver = solved(scan, backend, scan.translations_m + wrong_m, passes_final=30)
    assert np.median(np.abs(errors_px(solver, scan))) < 0.06


def test_positions_that_are_refined_no_more_are_not_on_their_way(backend):
    places = Places(SolverSettings(refine_positions="frames"), backend)
    steps = np.array([[0.3, 0.0], [0.0, 0.2]])
    for _ in range(2):
        places._adapt_overshoot(np.arange(2), steps)
    assert places.move_on
    places.configure(SolverSettings(refine_positions="none"))
    assert not places.move_on


def test_steps_in_a_row_are_compared():
    steps = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert correlation_of(steps, 3 * steps) == pytest.approx(1)
    assert correlation_of(steps, -steps) == pytest.approx(-1)
    assert correlation_of(steps, steps[::-1]) == 0
    assert correlation_of(steps[:0], steps[:0]) == correlation_of(0 * steps, steps) == 0


def test_right_positions_are_left_alone(scan, backend):
    refined = solved(scan, backend, scan.translations_m, passes_final=12)
    left = solved(scan, backend, scan.translations_m, passes_final=12, refine_positions="none")
    assert refined.refinement.places.rounds > 0
    assert rms(errors_px(refined, scan)) < 0.1
    assert refined.state.r_factor < 1.02 * left.state.r_factor


def test_a_frame_that_comes_again_begins_where_it_is_told_to_lie(scan, backend, shaken_m):
    solver = solved(scan, backend, shaken_m, passes_final=10)
    assert rms(solver.frames.corrections_px(solver.frames.active)) > 0.2
    solver.add_frames(scan.seq_nums[:3], scan.frames[:3], scan.translations_m[:3])
    assert np.allclose(solver.positions()[1][:3], scan.translations_m[:3], rtol=0, atol=1e-13)


@pytest.mark.parametrize(("modes", "near"), [(1, False), (2, False), (2, True)])
def test_the_loops_agree_with_arrays_and_differences(difficult_scan, backend, modes, near):
    def scan():
        store, state = difficult_scan(backend, modes)
        if near:
            store.propagator = NearField(backend, store.frame_px, 10.0)
        return store, state

    store, state = scan()
    slots = np.arange(14)
    compiled, arrays = (measure_sensitivity(backend, state, store, slots, 4, compiled=c) for c in (True, False))
    for field in dataclasses.fields(compiled):
        a, b = getattr(compiled, field.name), getattr(arrays, field.name)
        assert np.allclose(a, b, rtol=2e-4, atol=1e-4 * np.abs(b).max()), field.name
    step = 0.01
    for axis in range(2):
        moved = []
        for sign in (-1, 1):
            store, state = scan()
            store.shifts_px[:14] = np.rint(store.shifts_px[:14] * 4) / 4
            store.shifts_px[:14, axis] += sign * step
            moved.append(measure_sensitivity(backend, state, store, slots, 1000).misfit)
        slope = -(moved[1] - moved[0]) / (2 * step) / 2
        assert np.allclose(arrays.gradient[:, axis], slope, rtol=0.02, atol=0.02 * np.abs(slope).max())


@pytest.mark.parametrize("fftw", [True, False])
@pytest.mark.parametrize(
    ("subpixel", "states", "bends"),
    [(1, 1, 0), (2, 1, 0), (16, 1, 2), (2, 3, 0)],  # all frames share a probe, some do, none does
)
def test_the_loops_agree_with_arrays_whatever_moves(difficult_scan, monkeypatch, fftw, subpixel, states, bends):
    if not fftw:
        monkeypatch.setitem(sys.modules, "pyfftw", None)  # as if it were not installed
    backend = get_backend("numpy", threads=2)
    store, state = difficult_scan(backend, 2)
    rng = np.random.default_rng(1)
    if states > 1:
        state.object = state.object * np.array([1, 0.5, 0.2j], np.complex64)[:, None, None]
    if bends:
        state.variation = 0.3 * state.probe[:1] * np.exp(1j * rng.normal(size=(bends, 24, 24))).astype(np.complex64)
        store.variation[:14, :bends] = rng.normal(size=(14, bends))
    slots = np.array([9, 3, 12, 0, 1, 2, 13, 4])
    compiled, arrays = (
        measure_sensitivity(backend, state, store, slots, subpixel, positions=states == 1, compiled=c)
        for c in (True, False)
    )
    for field in dataclasses.fields(compiled):
        a, b = getattr(compiled, field.name), getattr(arrays, field.name)
        assert np.allclose(a, b, rtol=2e-4, atol=1e-4 * np.abs(b).max()), field.name


@pytest.mark.parametrize("compiled", [True, False])
def test_flux_alone_needs_no_derivatives(difficult_scan, backend, compiled):
    store, state = difficult_scan(backend, 2)
    full, lean = (
        measure_sensitivity(backend, state, store, np.arange(14), 4, positions=positions, compiled=compiled)
        for positions in (True, False)
    )
    for name in ("light", "excess", "misfit", "pixels", "background"):
        assert np.allclose(getattr(lean, name), getattr(full, name), rtol=1e-6), name
    assert not lean.gradient[:, :2].any() and not lean.curvature[:, :2].any()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("poisson", [True, False])
def test_a_pass_tells_of_light_what_a_look_does(difficult_scan, backend, compiled, poisson):
    store, state = difficult_scan(backend, 2)
    store.flux[3], store.backgrounds[5], state.background = 1.3, 0.2, 0.0
    slots = np.array([7, 3, 5, 0, 11])
    seen = measure_sensitivity(backend, state, store, slots, 4, positions=False)
    engine = BatchedEngine(
        WaspRule(), backend, probe_start=0, batch=5, subpixel=4, poisson=poisson, compiled=compiled
    )
    engine.initialize(state, store)
    answer = engine.begin_update(state, store, slots)
    told = LightSums.of(answer.light)
    np.testing.assert_allclose(told.residual, answer.residual, rtol=1e-6)
    for name in ("misfit", "pixels", "light", "excess"):
        wanted = getattr(seen, name)
        np.testing.assert_allclose(getattr(told, name), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_a_search_finds_the_place_of_a_frame(scan, backend):
    solver = solved(scan, backend, scan.translations_m, passes_final=10, refine_positions="none")
    moves = np.array([[0, 0], [2, 0], [0, -2], [10_000, 0]])
    misfits = misfits_around(backend, solver.state, solver.frames, 60, moves)
    assert np.argmin(misfits) == 0 and misfits[3] == np.inf


def test_a_search_compares_with_the_model_there(difficult_scan, backend):
    store, state = difficult_scan(backend, 2)
    moves = np.array([[0, 0], [1, -1]])
    found = misfits_around(backend, state, store, 3, moves)
    for move, misfit in zip(moves, found, strict=True):
        moved, _ = difficult_scan(backend, 2)
        moved.corners_px[3] += move
        ((intensity, amplitude),) = predictions(backend, state, moved, [3], 10_000)
        usable = (backend.to_numpy(moved.good) > 0) & (backend.to_numpy(amplitude) >= 0)
        expected = np.abs(backend.to_numpy(amplitude) - np.sqrt(backend.to_numpy(intensity)))[usable].sum()
        assert misfit == pytest.approx(expected, rel=1e-3)


def test_errors_of_steps_are_those_of_photons_at_least(difficult_scan, backend):
    store, state = difficult_scan(backend, 1)
    found = measure_sensitivity(backend, state, store, np.arange(14), 4)
    good, photons, bad = (
        steps_and_errors(dataclasses.replace(found, misfit=factor * PHOTON_NOISE * found.pixels))[1]
        for factor in (0.5, 1, 2)
    )
    np.testing.assert_allclose(good, photons)
    np.testing.assert_allclose(bad, 2 * photons)


def test_rounds_that_find_nothing_come_less_often(difficult_scan, backend, monkeypatch):
    store, state = difficult_scan(backend, 1)
    store.uses[:14] = 100
    settings = SolverSettings(refine_positions="none", refine_flux=True, refine_background=False)
    refinement, rounds = Refinement(settings, backend), []
    monkeypatch.setattr(Refinement, "_scale", lambda *_: rounds.append(state.passes))
    for state.passes in range(1, 33):
        if refinement.due(state):
            store.light_sums[:14] = 1.0
            refinement.take_flux(store, state)
            assert not store.light_sums[:14].any()
    assert rounds == [1, 3, 7, 15, 23, 31]
    refinement.configure(settings)
    refinement.flux_scatter = 0.1  # as a round that finds something has it
    for state.passes in (33, 34, 35):
        assert refinement.due(state)
        store.light_sums[:14] = 1.0
        refinement.take_flux(store, state)


def test_an_image_that_begins_anew_has_its_rounds_anew(difficult_scan, backend):
    """The background waits for the first rounds of every image, not of the first one alone."""
    store, state = difficult_scan(backend, 1)
    store.uses[:14] = 100
    refinement = Refinement(SolverSettings(refine_positions="frames"), backend)
    for state.passes in range(1, 4):
        assert not any(refinement.round(state, store, store))
    assert refinement.places.rounds > 0
    refinement.reset(store)
    assert refinement.places.rounds == 0


def test_a_look_at_places_that_has_to_wait_makes_no_other_round(difficult_scan, backend, monkeypatch):
    """As on the central halves of frames, where there is none."""
    store, state = difficult_scan(backend, 1)
    store.uses[:14] = 100
    refinement, taken = Refinement(SolverSettings(refine_background=False), backend), []
    monkeypatch.setattr(Refinement, "_scale", lambda *_: taken.append(state.passes))
    for state.passes in range(1, 9):
        assert refinement.due(state) or state.passes < 3
        if refinement.is_of_flux_alone(state.passes):
            store.light_sums[:14] = 1.0
            refinement.take_flux(store, state)
        else:
            assert not list(refinement.round(state, store, store))
    assert taken == [1, 3, 7]


def test_a_distortion_is_told_from_scatter():
    rng = np.random.default_rng(4)
    places = rng.uniform(0, 200, (300, 2))
    matrix = np.array([[0.02, 0.01], [-0.01, -0.015]])
    sigma = rng.uniform(0.05, 0.5, 300)
    covariance = sigma[:, None, None] ** 2 * np.eye(2)
    true = rng.normal(size=(300, 2)) * 0.7
    noise = rng.normal(size=(300, 2)) * sigma[:, None]
    distortion, rest, scatter = fit_distortion(places, (places - 90) @ matrix.T + 5 + true + noise, covariance)
    assert np.allclose(distortion.matrix, matrix, atol=0.002)
    assert np.sqrt(scatter) == pytest.approx(0.7, abs=0.06)
    error, shrunk_error = rest - true, shrunk(rest, covariance, scatter) - true
    assert rms(shrunk_error) < rms(error)
    assert distortion.scale == pytest.approx((1.02, 0.985), abs=0.002)
    assert distortion.rotation_rad == pytest.approx(-0.01, abs=0.002)
    assert distortion.shear_rad == pytest.approx(0, abs=0.002)


def test_errors_explain_all_scatter_of_right_positions():
    rng = np.random.default_rng(5)
    covariance = 0.3**2 * np.broadcast_to(np.eye(2), (400, 2, 2))
    _, rest, scatter = fit_distortion(rng.uniform(0, 100, (400, 2)), rng.normal(size=(400, 2)) * 0.3, covariance)
    assert np.sqrt(scatter) < 0.1
    assert rms(shrunk(rest, covariance, scatter)) < 0.05
    assert not shrunk(rest, covariance, 0.0).any()
    assert not NO_DISTORTION.at(rest).any()


def test_a_distortion_of_the_whole_scan_is_put_right(scan, backend):
    """3 % in scale and 0.02 rad, told by frames whose own positions stay as they are."""
    centre = scan.translations_m.mean(axis=0)
    turned = (scan.translations_m - centre) @ np.array([[1.03, 0.02], [-0.02, 1.03]]).T + centre
    refined = solved(scan, backend, turned, passes_final=40, refine_positions="global")
    left = solved(scan, backend, turned, passes_final=40, refine_positions="none")
    _, found_m = refined.positions()
    wrong = (found_m - scan.translations_m) / refined.pixel_m
    assert rms((turned - scan.translations_m) / refined.pixel_m - 0) > 0.4
    assert rms(wrong - wrong.mean(axis=0)) < 0.2
    assert refined.state.r_factor < 0.95 * left.state.r_factor


def test_a_distance_that_is_a_little_wrong_is_found(scan, backend):
    """Object and probe grow into it, so that each round tells a small part of it only."""
    centre = scan.translations_m.mean(axis=0)
    wider = 1.01 * (scan.translations_m - centre) + centre
    solver = solved(scan, backend, wider, passes_final=60, refine_positions="global")
    assert solver.refinement.places.distortion.scale == pytest.approx((1 / 1.01, 1 / 1.01), abs=0.002)


def test_a_distortion_that_shrinks_from_round_to_round_is_not_believed():
    """As a probe that has not settled mimics it; the numbers are of a scan of 36 frames at right positions."""
    mimicked = [0.0213, 0.0150, 0.0094, 0.0051, 0.0022]
    found = [0.021, 0.026, 0.028, 0.0285, 0.0283]
    for sizes, believed in ((mimicked, False), (found, True)):
        told = [np.array([[0.8 * size, 0.0], [0.0, size]]) for size in sizes]
        assert [is_confirmed(told[k : k + 3]) for k in range(3)] == [believed] * 3
        assert not is_confirmed(told[:2])
    assert not is_confirmed([sign * np.eye(2) for sign in (0.02, -0.02, 0.02)])


def test_a_distortion_moves_the_far_end():
    distortion = Distortion(((0.1, 0.0), (0.0, 0.0)), (10.0, 10.0))
    assert np.allclose(distortion.at(np.array([[10.0, 50.0], [20.0, 0.0]])), [[0, 0], [1, 0]])


def test_frames_that_stand_out_fit_badly():
    assert bad_fits(np.array([1.0, 1.1, 0.9, 1.05, 0.95, 4.0])).tolist() == [5]


def test_garbage_that_is_withdrawn_leaves_an_image(scan, backend):
    """All refinement and half-sets on; frames with one hot pixel of 1e9 photons among them until the scan is over."""
    rng = np.random.default_rng(0)
    bad = rng.choice(len(scan.frames), 12, replace=False)
    frames = scan.frames.copy()
    frames[bad] = 0
    frames[bad, 5, 5] = 1e9
    settings = {"refine_positions": "frames", "refine_flux": True, "quality_share": 0.5, "leave_out_pixels": False}
    solver = scan.solver(backend, passes_final=30, **settings)
    for first in range(0, len(frames), 8):
        part = slice(first, first + 8)
        solver.add_frames(scan.seq_nums[part], frames[part], scan.translations_m[part])
        for _ in range(10):
            solver.step(0.0)
    solver.finish()
    for _ in range(60):
        solver.step(0.0)
    spoilt = solver.state.r_factor
    solver.withdraw(scan.seq_nums[bad])
    while not solver.finished:
        solver.step(1.0)
    assert np.isfinite(solver.state.object).all() and np.isfinite(solver.state.probe).all()
    assert spoilt > 1
    assert solver.state.r_factor < 0.24  # 0.222 of a scan that never had them


def flickering(photons, flux_sigma, rng):
    """A simulated scan whose frames have another flux each, and ln flux relative to its mean."""
    scan = simulate(photons=photons, lines=14, seed=7)
    told = np.exp(flux_sigma * rng.normal(size=len(scan.frames)))
    frames = rng.poisson(scan.frames * told[:, None, None]) if flux_sigma else scan.frames
    return dataclasses.replace(scan, frames=frames.astype(np.float32)), np.log(told / told.mean())


def test_the_flux_of_each_frame_is_found(backend, rng):
    scan, told = flickering(1e5, 0.1, rng)
    solver = solved(scan, backend, scan.translations_m, refine_positions="none", passes_final=30)
    found = np.log(solver.frames.flux[: len(told)])
    assert rms(found - told) < 0.03
    assert solver.refinement.flux_scatter == pytest.approx(0.1, rel=0.2)


def test_the_background_of_each_frame_is_found(backend, rng):
    scan = simulate(photons=1e5, lines=14, seed=7)
    mean = 0.2 * float(scan.frames.mean())
    told = mean * (1 + 0.3 * rng.normal(size=len(scan.frames)).clip(-2, 2))
    scan = dataclasses.replace(scan, frames=scan.frames + rng.poisson(told[:, None, None], scan.frames.shape))
    solver = solved(scan, backend, scan.translations_m, refine_positions="none", refine_background=True)
    found = solver.state.background + solver.frames.backgrounds[: len(told)]
    assert solver.state.background == pytest.approx(told.mean(), rel=0.15)
    assert rms(found - found.mean() - told + told.mean()) < 0.3 * told.std()


def test_a_bright_background_makes_no_frame_another_than_it_was(backend, rng):
    """While the model has none of it yet, frames seem to differ in background and flux, and to fit no others."""
    scan = simulate(photons=1e6, lines=14, seed=7)
    told = 0.5 * float(scan.frames.mean())
    scan = dataclasses.replace(scan, frames=scan.frames + rng.poisson(told, scan.frames.shape))
    settings = {"refine_positions": "none", "refine_background": True, "passes_final": 40}
    solver = solved(scan, backend, scan.translations_m, **settings)
    assert solver.state.background == pytest.approx(told, rel=0.05)
    assert solver.frames.backgrounds[: len(scan.frames)].std() < 0.05 * told
    assert solver.frames.flux[: len(scan.frames)].std() < 0.02
    assert solver.rejected == {}


def test_wrong_positions_are_not_taken_for_a_background(backend, rng):
    """What a rough object lacks of dark speckles, at wrong places, looks like one, which then keeps them wrong."""
    scan = simulated_scan(64, 10, 1e6)
    told_m = scan.translations_m + rng.normal(size=scan.translations_m.shape) * 1e-8
    geometry = scan.geometry.replace(optic__defocus_m=scan.defocus_m)
    settings = SolverSettings(modes=1, sweep_frames=0, refine_positions="frames")
    found = reconstruct(scan.frames, told_m, None, geometry, settings, backend, passes=20)
    assert found.picture.r_factor < 0.1  # 0.16 and more with a background


@pytest.mark.parametrize("photons", [1e3, 1e4])
def test_a_steady_flux_is_left_alone_where_photons_are_few(backend, rng, photons):
    """Amplitudes would tell darker parts of the sample for frames with less light, round by round."""
    scan, _ = flickering(photons, 0.0, rng)
    solver = solved(scan, backend, scan.translations_m, refine_positions="none", passes_final=40)
    assert rms(np.log(solver.frames.flux[: len(scan.frames)])) < 0.5 / np.sqrt(photons)
