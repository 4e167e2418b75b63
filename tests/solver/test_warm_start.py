"""A scan that begins with the probe another one ended with: sharp at once, and nothing lost where that is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_scan import PIXEL_M, SIDE, Scan, finished, object_error, simulate

from nsbluesky.geometry import Optic, oriented
from nsbluesky.solver import sweep
from nsbluesky.solver.good_probe import is_good
from nsbluesky.solver.start import centred_on, propagated

SWEEP = {"sweep_frames": 60, "sweep_candidates": 7, "sweep_passes": 2, "find_orientation": False}
EARLY = 40
"""Frames before there is a sweep."""
BATCHES = 60


@pytest.fixture(scope="module")
def second() -> Scan:
    """Another sample under the same light as `scan`."""
    return simulate(seed=6)


@pytest.fixture(scope="module")
def ended(scan, backend) -> Any:
    """The solver of the first scan, at its end; its optic was told wrong."""
    solver = solver_of(scan, backend)
    add(solver, scan, len(scan.frames))
    return finished(solver)


@pytest.fixture(scope="module")
def probe(ended) -> Any:
    return ended.picture().probe


def depth_m(scan):
    return 4 * scan.geometry.optic.outer_zone_m**2 / scan.geometry.wavelength_m


def solver_of(scan, backend, **settings):
    """A solver whose optic is told with no defocus, which is wrong by two depths of field."""
    return scan.solver(backend, **SWEEP | settings)


def add(solver, scan, stop):
    slots = slice(len(solver.frames), stop)
    solver.add_frames(scan.seq_nums[slots], scan.frames[slots], scan.translations_m[slots])


def work(solver, batches=BATCHES):
    for _ in range(batches):
        solver.step(0.0)


def streamed(solver, scan):
    """The error with a part of the frames, whether the image goes on after the sweep, and the error at the end."""
    add(solver, scan, EARLY)
    work(solver)
    early = object_error(solver, scan)
    add(solver, scan, len(scan.frames))
    while solver.sweep is None or solver.is_searching:
        solver.step(0.0)
    goes_on = int(solver.frames.uses[:EARLY].min()) > 0  # else no frame was used since
    finished(solver)
    return early, goes_on, object_error(solver, scan)


@pytest.fixture(scope="module")
def cold(second, backend):
    """A solver without a probe at its end, and what `streamed` tells of it."""
    solver = solver_of(second, backend)
    return solver, *streamed(solver, second)


def test_right_probe_is_sharp_at_once_and_goes_on_undisturbed(second, backend, probe, cold):
    without, cold_early, cold_went_on, cold_end = cold
    warm = solver_of(second, backend)
    warm.offer(probe)
    early, went_on, end = streamed(warm, second)
    assert went_on and not cold_went_on
    assert warm.is_warm and warm.sweep.warm_fits and not without.is_warm
    assert warm.sweep.warm_residual < warm.sweep.residual.min()
    assert early < 0.6 * cold_early
    assert end < 1.1 * cold_end


@pytest.mark.parametrize("depths", [-5, 2, pytest.param(5, marks=pytest.mark.nightly)])
def test_wrong_probe_is_noticed_and_costs_nothing_in_the_end(second, backend, probe, cold, depths):
    without, *_, cold_end = cold
    wrong = solver_of(second, backend)
    wrong.offer(propagated(probe, depths * depth_m(second), second.geometry.wavelength_m, PIXEL_M))
    *_, went_on, end = streamed(wrong, second)
    assert not went_on and not wrong.is_warm and not wrong.sweep.warm_fits
    assert wrong.sweep.warm_residual > wrong.sweep.residual.min()
    assert wrong.sweep.defocus_m == without.sweep.defocus_m
    assert end < 1.1 * cold_end


@pytest.mark.parametrize("case", ["noise", pytest.param("a point", marks=pytest.mark.nightly), "its conjugate"])
def test_nonsense_costs_nothing_in_the_end(second, backend, probe, case):
    rng = np.random.default_rng(0)
    nonsense = np.zeros_like(probe)
    if case == "noise":
        nonsense[:] = rng.normal(size=probe.shape) + 1j * rng.normal(size=probe.shape)
    elif case == "a point":
        nonsense[0, 3, 5] = 1
    else:
        nonsense[:] = 1e9 * probe.conj()
    solver = solver_of(second, backend)
    solver.offer(nonsense)
    *_, goes_on, end = streamed(solver, second)
    assert not goes_on and not solver.is_warm and solver.rejected == {}
    assert end < 0.02


def test_more_light_other_modes_and_another_place_on_the_detector(second, backend, probe):
    """The pattern lies two pixels lower and three further left, and is four times as bright; one mode is wanted."""
    moved = Scan(
        np.roll(4 * second.frames, (2, -3), (1, 2)),
        second.translations_m,
        second.object,
        second.probe,
        second.geometry,
        second.defocus_m,
    )
    warm = solver_of(moved, backend, modes=1, most_modes=1)
    warm.offer(np.stack([probe[0], 0.01 * probe[0], 0.01 * probe[0]]))
    add(warm, moved, EARLY)
    work(warm)
    assert warm.state.probe.shape == (1, *([SIDE // 2] * 2 if warm.is_coarse else [SIDE] * 2))
    early = object_error(warm, second)
    straight = solver_of(second, backend, modes=1, most_modes=1)
    straight.offer(probe)
    add(straight, second, EARLY)
    work(straight)
    assert early < 1.1 * object_error(straight, second)
    add(warm, moved, len(moved.frames))
    finished(warm)
    assert warm.is_warm and warm.sweep.warm_fits


def test_the_ramp_follows_the_pattern(second, probe):
    mean = np.fft.ifftshift(second.frames.mean(axis=0))
    for shift in ((0, 0), (3, -2)):
        centred = centred_on(probe, np.roll(mean, shift, (0, 1)))
        far = np.roll(np.abs(np.fft.fft2(centred)).sum(axis=0), (-shift[0], -shift[1]), (0, 1))
        expected = np.abs(np.fft.fft2(centred_on(probe, mean))).sum(axis=0)
        np.testing.assert_allclose(far, expected, atol=2e-2 * far.max())
        assert np.linalg.norm(centred) == pytest.approx(np.linalg.norm(probe), rel=1e-5)


@pytest.mark.parametrize("known", [{"sweep_frames": 0}, {"defocus_m": 1e-6}])
def test_where_no_sweep_judges_it_it_is_not_used(second, backend, probe, known):
    with_probe, without = solver_of(second, backend, **known), solver_of(second, backend, **known)
    with_probe.offer(probe)
    for solver in (with_probe, without):
        add(solver, second, EARLY)
        work(solver)
    assert not with_probe.is_warm
    np.testing.assert_array_equal(with_probe.state.object, without.state.object)


def test_an_unknown_optic_need_not_wait_for_the_sweep(second, backend, probe):
    geometry = second.geometry.replace(optic=Optic().to_dict())
    unknown = Scan(second.frames, second.translations_m, second.object, second.probe, geometry, second.defocus_m)
    cold, warm = solver_of(unknown, backend), solver_of(unknown, backend)
    warm.offer(probe)
    for solver in (cold, warm):
        add(solver, unknown, EARLY)
        work(solver)
    assert cold.state is None and warm.state is not None
    bad = solver_of(unknown, backend)
    bad.offer(propagated(probe, 5 * depth_m(second), second.geometry.wavelength_m, PIXEL_M))
    for solver in (cold, bad):
        add(solver, unknown, len(unknown.frames))
        finished(solver)
    assert not bad.is_warm
    assert object_error(bad, second) < 1.1 * object_error(cold, second)


def test_where_no_sweep_is_sure_a_wrong_probe_gives_way_to_the_optic(second, backend, probe, monkeypatch):
    monkeypatch.setattr(sweep, "ACCEPTED_CONFIDENCE", 1.0)
    monkeypatch.setattr(sweep, "ACCEPTED_DEVIATIONS", np.inf)
    right = second.geometry.replace(optic__defocus_m=second.defocus_m)
    second = Scan(second.frames, second.translations_m, second.object, second.probe, right, second.defocus_m)
    solver = solver_of(second, backend)
    solver.offer(propagated(probe, 5 * depth_m(second), second.geometry.wavelength_m, PIXEL_M))
    *_, went_on, end = streamed(solver, second)
    assert not went_on and not solver.is_warm and not solver.sweep.accepted
    assert end < 0.1


def test_all_frames_at_once(second, backend, probe):
    """No image is there before the sweep: the winner of the sweep is it."""
    solver = solver_of(second, backend)
    solver.offer(probe)
    add(solver, second, len(second.frames))
    finished(solver)
    assert solver.is_warm and solver.sweep.warm_fits
    assert object_error(solver, second) < 0.1


def test_frames_that_lie_wrong_are_turned_and_the_probe_is_tried_again(second, backend, probe):
    flipped = Scan(
        oriented(second.frames, 1), second.translations_m, second.object, second.probe, second.geometry, 0.0
    )
    solver = solver_of(flipped, backend, find_orientation=True)
    solver.offer(probe)
    add(solver, flipped, len(flipped.frames))
    finished(solver)
    assert solver.frame_orientation == 1
    assert solver.is_warm and solver.sweep.warm_fits
    assert object_error(solver, second) < 0.1


def test_a_checkpoint_has_the_probe_and_what_became_of_it(second, backend, probe, tmp_path):
    first = solver_of(second, backend)
    first.offer(probe)
    add(first, second, len(second.frames))
    work(first, 30)
    assert first.is_searching and first.is_warm
    first.save(tmp_path / "c")
    other = solver_of(second, backend)
    other.load(tmp_path / "c")
    other.add_frames(second.seq_nums, second.frames, second.translations_m)
    assert other.is_warm
    finished(other)
    assert other.is_warm and other.sweep.warm_fits
    other.save(tmp_path / "d")
    third = solver_of(second, backend)
    third.load(tmp_path / "d")
    assert third.is_warm and third.sweep.warm_residual == other.sweep.warm_residual


def test_a_probe_that_does_not_fit_is_refused(second, backend, probe):
    solver = solver_of(second, backend)
    with pytest.raises(ValueError, match=r"probe of shape \(2, 24, 24\): expected \(modes, 48, 48\)"):
        solver.offer(np.ones((2, 24, 24)))
    add(solver, second, 5)
    with pytest.raises(ValueError, match="offer a probe before add_frames"):
        solver.offer(probe)


# ---- which probes are worth keeping


def test_a_settled_image_leaves_a_good_probe(ended):
    assert is_good(ended)


@pytest.mark.parametrize("case", ["few frames", "wrong positions", "no sweep", "not settled", "rejected"])
def test_others_do_not(scan, backend, case):
    changes = {"no sweep": {"sweep_frames": 0}}.get(case, {})
    solver = solver_of(scan, backend, **changes)
    places_m, frames = scan.translations_m.copy(), scan.frames.copy()
    if case == "wrong positions":
        places_m += np.random.default_rng(0).normal(size=places_m.shape) * 3 * PIXEL_M
    if case == "rejected":
        frames[::3] = 0
    count = 50 if case == "few frames" else len(frames)
    solver.add_frames(scan.seq_nums[:count], frames[:count], places_m[:count])
    if case == "not settled":
        while solver.sweep is None:
            solver.step(0.0)
    else:
        finished(solver)
    assert not is_good(solver)
