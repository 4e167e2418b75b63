"""Frames that lie elsewhere than told are moved, and no others: two halves of their pixels have to agree."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks.bench_contest import solver_for
from benchmarks.bench_misfits import _small_object
from benchmarks.simulated_scans import simulated_scan
from nsbluesky.settings import SettingsError, SolverSettings
from nsbluesky.solver.light import PHOTON_NOISE
from nsbluesky.solver.places import Places
from nsbluesky.solver.scattering import (
    FIRST_PAUSE,
    LEAST_PART,
    LEAST_SCATTER_PX,
    LONGEST_PAUSE,
    LOOKED_AT,
    Scatter,
    ScatterLooks,
    scatter_of_halves,
    some_of,
)
from nsbluesky.solver.sensitivity import Sensitivity, measure_halves, measure_sensitivity

WRONG = Scatter(px=LEAST_SCATTER_PX, part=LEAST_PART)
RIGHT = (Scatter(px=0.99 * LEAST_SCATTER_PX, part=1.0), Scatter(px=1.0, part=0.99 * LEAST_PART))


def halves_of(rng, steps_px, error_px=0.05):
    """Two halves of frames that tell these steps (n, 2), each with an error of its own that photons explain."""
    count, information = len(steps_px), PHOTON_NOISE / error_px**2
    curvature = np.tile(information * np.eye(3), (count, 1, 1))
    none, one, three = np.zeros(count), np.ones(count), np.zeros((count, 3))
    halves = []
    for _ in range(2):
        told = np.zeros((count, 3))
        told[:, :2] = steps_px + error_px * rng.normal(size=(count, 2))
        misfit, pixels = 100 * PHOTON_NOISE * one, 100 * one
        halves.append(Sensitivity(curvature, information * told, misfit, pixels, three, none, one, three[:, :2]))
    return tuple(halves)


def places_of(count):
    return np.stack(np.divmod(np.arange(count), 20), axis=1).astype(float)


def test_a_scatter_is_found_beneath_errors_that_are_larger(rng):
    steps = 0.3 * rng.normal(size=(400, 2))
    found = scatter_of_halves(places_of(400), halves_of(rng, steps, error_px=0.6))
    assert found.px == pytest.approx(0.3, abs=0.06)
    assert found.part > 0.55


def test_errors_alone_are_no_scatter(rng):
    found = [scatter_of_halves(places_of(400), halves_of(rng, np.zeros((400, 2)), error_px=1.0)) for _ in range(20)]
    assert max(scatter.px for scatter in found) < 0.3  # of errors of 1
    assert not any(scatter.matters for scatter in found)


def test_what_is_linear_in_the_place_is_not_counted(rng):
    places = places_of(400)
    turned = 0.05 * places @ np.array([[0, 1], [-1, 0.2]])
    assert scatter_of_halves(places, halves_of(rng, turned)).px < 0.02


def test_a_few_frames_that_lie_elsewhere_do_not_stand_for_all(rng):
    steps = np.zeros((400, 2))
    steps[:100] = rng.normal(size=(100, 2))
    found = scatter_of_halves(places_of(400), halves_of(rng, steps, error_px=0.3))
    assert found.px > LEAST_SCATTER_PX and not found.matters


def test_the_halves_of_a_frame_are_the_whole(difficult_scan, backend):
    for compiled in (True, False):
        store, state = difficult_scan(backend, 2)
        slots = np.arange(14)
        whole = measure_sensitivity(backend, state, store, slots, 4, compiled=compiled)
        halves = measure_halves(backend, state, store, slots, 4, compiled=compiled)
        for field in dataclasses.fields(Sensitivity):
            told, parts = getattr(whole, field.name), [getattr(half, field.name) for half in halves]
            if field.name == "steps_px":
                assert all(np.array_equal(part, told) for part in parts)
            else:
                scale = np.abs(told).max()
                assert np.allclose(parts[0] + parts[1], told, rtol=2e-4, atol=2e-5 * scale), field.name


@pytest.mark.parametrize("compiled", [True, False])
def test_even_and_odd_rows_are_the_halves(difficult_scan, backend, compiled):
    """What is masked of one half changes the other one by nothing."""
    store, state = difficult_scan(backend, 1)
    before = measure_halves(backend, state, store, np.arange(14), 4, compiled=compiled)
    store.good[1::2] = 0
    even, odd = measure_halves(backend, state, store, np.arange(14), 4, compiled=compiled)
    assert np.array_equal(even.misfit, before[0].misfit) and np.array_equal(even.gradient, before[0].gradient)
    assert not odd.pixels.any() and not odd.misfit.any() and before[1].misfit.all()


def test_two_looks_in_a_row_have_to_tell():
    looks = ScatterLooks()
    for passes, scatter in enumerate([WRONG, RIGHT[0], WRONG, RIGHT[1], WRONG]):
        looks.take(scatter, passes)
        assert not looks.found
    looks.take(WRONG, 5)
    assert looks.found and not looks.due(1000)


def test_looks_are_rare_where_they_tell_nothing():
    looks, at = ScatterLooks(), []
    for passes in range(1, 200):
        if looks.due(passes):
            at.append(passes)
            looks.take(RIGHT[0], passes)
    pauses = np.diff([0, *at])
    assert pauses[0] == FIRST_PAUSE and pauses[-1] == LONGEST_PAUSE
    assert (pauses[1:] >= pauses[:-1]).all()
    looks.take(WRONG, 200)
    assert looks.due(200 + FIRST_PAUSE), "one that told something is followed soon"


def test_looks_go_on_from_what_they_told():
    looks, other = ScatterLooks(), ScatterLooks()
    looks.take(WRONG, 3)
    other.restore(looks.contents())
    other.take(WRONG, 6)
    assert other.found
    other.begin()
    assert not other.found and other.due(FIRST_PAUSE) and not other.due(FIRST_PAUSE - 1)


def test_a_look_is_at_frames_of_the_whole_scan():
    few, many = np.arange(5, 55), np.arange(10 * LOOKED_AT)
    assert np.array_equal(some_of(few), few)
    some = some_of(many)
    assert len(np.unique(some)) == LOOKED_AT and some[0] == 0 and some[-1] >= many[-1] - 10
    assert len(some_of(few[:0])) == 0


def solved(scan, backend, told_m, **settings):
    chosen = {"modes": 1, "sweep_frames": 0, "find_orientation": False} | settings
    solver = solver_for(scan.frames, scan.geometry, backend, **chosen)
    solver.add_frames(np.arange(len(scan.frames)), scan.frames, told_m)
    solver.finish()
    while not solver.finished:
        solver.step(0.0)
    return solver


def shaken(scan, rng, pixels=0.5):
    error_m = pixels * scan.geometry.object_pixel_m(64)
    return scan.translations_m + error_m * rng.normal(size=scan.translations_m.shape)


@pytest.fixture(scope="module")
def told_defocus():
    scan = simulated_scan(64, 10, 1e5)
    return dataclasses.replace(scan, geometry=scan.geometry.replace(optic__defocus_m=scan.defocus_m))


def test_nobody_has_to_say_that_positions_are_wrong(told_defocus, backend, rng):
    told_m = shaken(told_defocus, rng)
    ways = [{"refine_positions": how, "passes_final": 30} for how in ("auto", "frames", "none")]
    found, asked, left = (solved(told_defocus, backend, told_m, **way) for way in ways)
    assert found.refinement.places.scatter_px == pytest.approx(0.5, abs=0.15)
    assert found.state.r_factor < 1.03 * asked.state.r_factor < 0.8 * left.state.r_factor


def test_right_positions_are_not_even_measured(told_defocus, backend):
    solver = solved(told_defocus, backend, told_defocus.translations_m, passes_final=15)
    assert SolverSettings().refine_positions == "auto"
    assert solver.refinement.places.rounds == 0
    assert not solver.frames.corrections_px(solver.frames.active).any()


def test_a_small_object_on_a_clear_field_moves_no_frames(backend):
    """Places of frames that see nothing wander, once they may: 9 of these were lost, and the error was 0.017."""
    scan = simulated_scan(64, 12, 1e7, sample=_small_object(8))
    scan = dataclasses.replace(scan, geometry=scan.geometry.replace(optic__defocus_m=scan.defocus_m))
    solver = solved(scan, backend, scan.translations_m, passes_final=30)
    assert solver.refinement.places.rounds == 0 and not solver.rejected


def test_a_new_image_is_looked_at_anew(told_defocus, backend, rng):
    solver = solved(told_defocus, backend, shaken(told_defocus, rng), passes_final=12)
    places = solver.refinement.places
    assert places.are_corrected
    solver.refinement.reset(solver.frames)
    assert not places.are_corrected and not solver.frames.corrections_px(solver.frames.active).any()


def test_several_states_have_the_positions_they_are_told(backend):
    settings = SolverSettings(object_modes=2)
    assert not Places(settings, backend).look_is_due(100)
    with pytest.raises(SettingsError, match="auto or none"):
        settings.replace(refine_positions="frames")
