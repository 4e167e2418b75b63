"""The starting probe and the search for its defocus."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from nsbluesky.geometry import Geometry, Optic
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.modes import orthogonal_modes
from nsbluesky.solver.orientation import Orientation
from nsbluesky.solver.probe_search import ProbeSearch
from nsbluesky.solver.start import defocus_candidates_m, numerical_aperture, starting_probe, with_modes
from nsbluesky.solver.sweep import judge

WAVELENGTH_M, PIXEL_M, SIDE = 1.24e-9, 10e-9, 64
Q = np.fft.fftfreq(SIDE, PIXEL_M)


def disc(aperture, center=(0, 0)):
    """A uniform far-field disc whose centre lies `center` pixels off the zero frequency."""
    step = 1 / (SIDE * PIXEL_M)
    radius = np.hypot(Q[:, None] - center[0] * step, Q[None] - center[1] * step)
    return 100.0 * (radius < aperture / WAVELENGTH_M)


def test_the_aperture_is_the_optics_or_else_the_patterns():
    assert numerical_aperture(disc(0.01), Optic(outer_zone_m=50e-9), WAVELENGTH_M, PIXEL_M) == pytest.approx(0.0124)
    assert numerical_aperture(disc(0.02, (2, -3)), Optic(), WAVELENGTH_M, PIXEL_M) == pytest.approx(0.02, rel=0.05)


def test_candidates_lie_around_the_optics_defocus():
    known = Optic(outer_zone_m=50e-9, defocus_m=30e-6)
    found = defocus_candidates_m(0.0124, known, WAVELENGTH_M, SIDE * PIXEL_M, 5.0, 21)
    depth_m = WAVELENGTH_M / 0.0124**2
    assert len(found) == 21 and found[10] == pytest.approx(30e-6)
    assert np.diff(found) == pytest.approx(np.full(20, 0.5 * depth_m))
    assert defocus_candidates_m(0.0124, known, WAVELENGTH_M, SIDE * PIXEL_M, 5.0, 1).tolist() == [30e-6]


def test_without_an_optic_the_search_goes_as_far_as_the_window():
    window_m = 200 * PIXEL_M
    found = defocus_candidates_m(0.02, Optic(), WAVELENGTH_M, window_m, 1.0, 5)
    assert found.max() == pytest.approx(0.4 * window_m / 0.02)
    assert np.diff(found).max() <= 0.5 * WAVELENGTH_M / 0.02**2 * 1.001
    assert len(found) % 2 == 1


def test_the_starting_probe_has_the_patterns_amplitude_and_the_defocus_phase():
    mean, defocus_m = disc(0.02), 40e-6
    probe = starting_probe(mean, defocus_m, WAVELENGTH_M, PIXEL_M, 1, 5000.0)
    assert probe.shape == (1, SIDE, SIDE) and probe.dtype == np.complex64
    assert (np.abs(probe) ** 2).sum() == pytest.approx(5000, rel=1e-4)
    field = np.fft.fft2(np.fft.ifftshift(probe[0]))
    bright = mean > 0
    assert np.abs(field[bright]).std() < 1e-3 * np.abs(field[bright]).mean()
    assert np.abs(field[~bright]).max() < 1e-3 * np.abs(field[bright]).mean()
    expected = np.exp(-1j * np.pi * WAVELENGTH_M * defocus_m * (Q[:, None] ** 2 + Q[None] ** 2))
    relative = field[bright] / expected[bright]
    assert np.allclose(relative / relative[0], 1, atol=1e-3)


def test_a_pattern_off_centre_gives_a_centred_probe():
    probe = starting_probe(disc(0.02, (6, -5)), 10e-6, WAVELENGTH_M, PIXEL_M, 1, 1.0)[0]
    power = np.abs(probe) ** 2
    rows, columns = np.indices(power.shape)
    assert (power * rows).sum() == pytest.approx(SIDE / 2, abs=0.2)
    assert (power * columns).sum() == pytest.approx(SIDE / 2, abs=0.2)


def test_missing_modes_are_weak_and_others_are_kept():
    first = starting_probe(disc(0.02), 40e-6, WAVELENGTH_M, PIXEL_M, 1, 1.0)
    probe = with_modes(first, 3, 100.0)
    power = (np.abs(probe) ** 2).sum(axis=(1, 2))
    assert power.sum() == pytest.approx(100, rel=1e-4)
    assert power[1:] / power[0] == pytest.approx([0.05, 0.05], rel=1e-3)
    assert abs(np.vdot(probe[1], probe[2])) < 1e-2 * power[1]
    again = with_modes(probe, 2, 100.0)
    assert len(again) == 2 and np.allclose(again[1] / again[0].max(), probe[1] / probe[0].max(), atol=1e-5)


def test_orthogonal_modes_are_the_same_light():
    rng = np.random.default_rng(0)
    probe = (rng.normal(size=(3, 16, 16)) + 1j * rng.normal(size=(3, 16, 16))).astype(np.complex64)
    probe[1] += 2 * probe[0]
    modes = orthogonal_modes(np, probe)
    flat = modes.reshape(3, -1)
    gram = flat.conj() @ flat.T
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-4 * np.abs(gram).max()
    assert (np.diff(np.diag(gram).real) < 0).all()
    before = np.einsum("kij,klm->ijlm", probe.conj(), probe)  # mutual intensity: all that incoherent light is
    after = np.einsum("kij,klm->ijlm", modes.conj(), modes)
    assert np.allclose(before, after, atol=1e-4 * np.abs(before).max())


def test_a_clear_minimum_is_accepted_and_noise_is_not():
    candidates = np.linspace(-1e-4, 1e-4, 21)
    flat = 0.3 + 1e-3 * np.random.default_rng(1).normal(size=21)
    assert not judge(candidates, flat).accepted
    deep = flat.copy()
    deep[6] = 0.2
    found = judge(candidates, deep)
    assert found.accepted and found.defocus_m == candidates[6]
    assert found.confidence == pytest.approx(1 - 0.2 / np.median(deep))
    faint = flat.copy()
    faint[6] = 0.28  # little lower than the others, but far outside their scatter
    assert judge(candidates, faint).accepted


def test_a_sweep_that_tells_nothing_is_made_again_over_twice_as_many_frames(backend):
    geometry = Geometry(1000.0, 0.1)
    search = ProbeSearch(SolverSettings(sweep_frames=24), geometry, backend, 1e-6)
    assert not search.is_due(23, False) and search.is_due(23, True) and search.is_due(24, False)
    vague = judge(np.arange(5.0), np.ones(5))
    for count, comes_again in ((24, True), (48, True), (96, False)):
        assert len(search.frames_for_sweep(np.arange(200))) == count
        search.sweep = vague
        assert search.sweeps_wanted == search.is_due(2 * count, False) == comes_again
        assert not search.is_due(2 * count - 1, True)
    search.begin_anew()
    assert search.is_due(24, False) and len(search.frames_for_sweep(np.arange(10))) == 10
    search.sweep = dataclasses.replace(vague, accepted=True)
    assert not search.is_due(200, True)
    known = {"sweep_frames": 0}, {"defocus_m": 1e-6}
    near = dataclasses.replace(geometry, propagation="near")
    unasked = {"find_orientation": False}
    for settings, place in ((known[0], geometry), (known[1], geometry), (known[0], near), (unasked, near)):
        assert not ProbeSearch(SolverSettings(**settings), place, backend, 1e-6).is_due(200, True)


def test_how_shadows_move_is_looked_at_until_it_is_certain(backend):
    """In the near field, with twice as many frames each time; the defocus is none of its business."""
    search = ProbeSearch(
        SolverSettings(sweep_frames=24, defocus_m=1e-6), Geometry(1000.0, 0.1, propagation="near"), backend, 1e-6
    )
    for count, comes_again in ((24, True), (48, True), (96, False)):
        assert search.is_due(count, False) and not search.begins_warm
        assert len(search.frames_for_sweep(np.arange(200))) == count
        search.orientation = Orientation(0, 0.0, certain=False)
        assert search.sweeps_wanted == comes_again
    search.begin_anew()
    assert search.is_due(24, False)
    search.orientation = Orientation(5, 0.9, certain=True)
    assert not search.sweeps_wanted
