"""What is known of object and probe is held, where it is true it helps, and without empty places nothing happens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from small_scan import PIXEL_M, SIDE, object_error, smooth_image, solved

from nsbluesky.backend import BackendError, get_backend
from nsbluesky.geometry import Optic
from nsbluesky.settings import SettingsError, SolverSettings
from nsbluesky.solver.constraints import (
    Constraints,
    pupil_shape,
    radius_shape,
    with_amplitude_below,
    with_phase_sign,
)
from nsbluesky.solver.engines import ENGINES
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.vacuum import find_vacuum

WINDOW_M = SIDE * PIXEL_M


def sample(shape, rng, empty=0.4):
    """A sample that is empty in part, absorbs elsewhere and has a negative phase."""
    values = smooth_image(shape, rng)
    low, high = np.quantile(values, empty), values.max()
    return np.exp(-(0.4 + 1.2j) * np.clip((values - low) / (high - low), 0, 1))


@pytest.fixture(scope="module")
def holes(scan):
    """A scan of such a sample with 1e5 photons a frame."""
    rng = np.random.default_rng(12)
    truth = sample(scan.object.shape, rng)
    probe = scan.probe[0] * np.sqrt(1e5 / np.sum(np.abs(scan.probe) ** 2))
    corners = np.rint(scan.translations_m[:, ::-1] / PIXEL_M - SIDE / 2).astype(int)
    corners -= corners.min(axis=0)
    frames = np.empty_like(scan.frames)
    for frame, (row, column) in zip(frames, corners, strict=True):
        wave = probe * truth[row : row + SIDE, column : column + SIDE]
        frame[...] = rng.poisson(np.abs(np.fft.fftshift(np.fft.fft2(wave, norm="ortho"))) ** 2)
    return dataclasses.replace(scan, frames=frames, object=truth, probe=probe[None])


def with_ramp(image, amplitude=1.3, phase=2.0, steps=(0.03, -0.05)):
    rows, columns = np.indices(image.shape)
    return (amplitude * image * np.exp(1j * (phase + steps[0] * rows + steps[1] * columns))).astype(np.complex64)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_empty_beam_is_found_under_noise_scale_phase_and_ramp(noise, sign):
    rng = np.random.default_rng(1)
    image = sample((90, 110), rng)
    image = with_ramp(image if sign < 0 else image.conj())
    image += 1.3 * noise * (rng.normal(size=image.shape) + 1j * rng.normal(size=image.shape))
    found = find_vacuum(image, np.ones(image.shape, bool), sign)
    assert found.amplitude == pytest.approx(1.3, rel=0.03)
    expected = with_ramp(np.ones(image.shape))
    turn = np.angle(found.wave(np, image.shape) * expected.conj())
    assert np.abs(turn).max() < 0.07
    assert found.part > 0.3
    assert find_vacuum(image, np.ones(image.shape, bool)).amplitude == found.amplitude


def test_without_empty_places_there_is_none_or_one_that_bounds_nothing():
    rng = np.random.default_rng(2)
    rough = 1 + 0.5 * (rng.normal(size=(60, 60)) + 1j * rng.normal(size=(60, 60)))
    everywhere = np.ones((60, 60), bool)
    assert find_vacuum(rough.astype(np.complex64), everywhere, -1) is None
    rising = np.linspace(0.1, 1, 3600).reshape(60, 60).astype(np.complex64)
    found = find_vacuum(rising, everywhere)
    assert found is None or found.amplitude * (1 + found.noise) > 0.98
    assert find_vacuum(np.ones((60, 60), np.complex64), ~everywhere) is None


def test_bounds_are_projections():
    rng = np.random.default_rng(3)
    image = (rng.normal(size=(40, 40)) + 1j * rng.normal(size=(40, 40))).astype(np.complex64)
    below = with_amplitude_below(np, image, 0.7)
    assert np.abs(below).max() <= 0.7 * (1 + 1e-6)
    assert np.allclose(below[np.abs(image) < 0.7], image[np.abs(image) < 0.7], atol=1e-6)
    assert np.allclose(np.angle(below), np.angle(image), atol=1e-5)
    for sign in (-1, 1):
        held = with_phase_sign(np, image, sign)
        phase = sign * np.angle(image)
        wrong = (phase < 0) & (phase > -np.pi / 2)
        assert (held[~wrong] == image[~wrong]).all() and 100 < np.count_nonzero(wrong) < 1500
        assert np.allclose(held[wrong], np.abs(image[wrong]) * np.cos(phase[wrong]), atol=1e-6)


def test_an_object_within_its_bounds_is_left_and_one_beyond_is_brought_back(backend, difficult_scan):
    store, _ = difficult_scan(backend, 1)
    image = with_ramp(sample((50, 47), np.random.default_rng(4)))
    probe = np.ones((1, 24, 24), np.complex64)
    geometry = simple_geometry()
    constraints = Constraints(
        SolverSettings(object_most=1.0, object_phase="negative"), geometry, backend, 24 * PIXEL_M
    )
    state = SolverState(image.copy(), probe.copy())
    constraints.hold_object(state, store)
    assert constraints.vacuum is not None
    assert np.linalg.norm(state.object - image) < 0.02 * np.linalg.norm(image)
    spoilt = image.copy()
    spoilt[20:22, 20:22] *= 3
    spoilt[24, 24] *= np.exp(0.6j - 1j * np.angle(sample((50, 47), np.random.default_rng(4))[24, 24]))
    state.object = spoilt.copy()
    constraints.hold_object(state, store)
    assert np.abs(state.object[20:22, 20:22]).max() < 1.35
    relative = np.angle(state.object / with_ramp(np.ones(image.shape)))
    assert relative[24, 24] < 0.05


def test_the_empty_beam_is_remembered_for_some_passes_and_by_a_checkpoint(backend, difficult_scan, monkeypatch):
    store, _ = difficult_scan(backend, 1)
    state = SolverState(with_ramp(sample((50, 47), np.random.default_rng(4))), np.ones((1, 24, 24), np.complex64))
    settings, window_m = SolverSettings(object_most=1.0), 24 * PIXEL_M
    constraints, other = (Constraints(settings, simple_geometry(), backend, window_m) for _ in range(2))
    constraints.hold_object(state, store)
    known = constraints.vacuum
    monkeypatch.setattr("nsbluesky.solver.constraints.find_vacuum", lambda *_: None)
    for _ in range(2):
        state.object[20:22, 20:22] *= 3
        constraints.hold_object(state, store)
        assert np.abs(state.object[20:22, 20:22]).max() < 1.35
        assert constraints.vacuum == known
    other.restore(constraints.contents())
    for held in (constraints, other):
        held.hold_object(state, store)
        assert held.vacuum == known
        held.hold_object(state, store)
        assert held.vacuum is None


@pytest.mark.parametrize("change", ["grown canvas", "begun anew"])
def test_the_empty_beam_of_another_image_is_not_remembered(backend, difficult_scan, monkeypatch, change):
    store, _ = difficult_scan(backend, 1)
    state = SolverState(with_ramp(sample((50, 47), np.random.default_rng(4))), np.ones((1, 24, 24), np.complex64))
    constraints = Constraints(SolverSettings(object_most=1.0), simple_geometry(), backend, 24 * PIXEL_M)
    constraints.hold_object(state, store)
    assert constraints.vacuum is not None
    monkeypatch.setattr("nsbluesky.solver.constraints.find_vacuum", lambda *_: None)
    if change == "begun anew":
        constraints.reset()
    else:
        state.object, state.origin_px = np.pad(state.object, (3, 3)), (-3, -3)
    before = state.object.copy()
    constraints.hold_object(state, store)
    assert constraints.vacuum is None
    np.testing.assert_array_equal(state.object, before)


def simple_geometry():
    from nsbluesky.geometry import Geometry

    return Geometry(1000.0, 0.05, 30e-6, Optic(diameter_m=100e-6, outer_zone_m=40e-9, central_stop_m=35e-6))


@pytest.mark.parametrize("settings", [{"object_most": 1.0}, {"object_phase": "negative"}])
def test_a_true_bound_makes_an_image_better(holes, backend, settings):
    free, held = solved(holes, backend, passes_final=25), solved(holes, backend, passes_final=25, **settings)
    assert held.constraints.vacuum is not None and free.constraints.vacuum is None
    assert object_error(held, holes) < 0.99 * object_error(free, holes)
    held.start_with(held.state.probe)
    assert held.constraints.vacuum is None, "that of an image which was begun anew"


@pytest.mark.parametrize("algorithm", sorted(set(ENGINES) - {"mpie"}))  # its last batch leaves too much noise
def test_every_engine_is_held(holes, backend, algorithm):
    held = solved(
        holes,
        backend,
        algorithm=algorithm,
        passes_final=15,
        coarse_uses=0,
        object_most=1.0,
        probe_radius_m=15 * PIXEL_M,
    )
    vacuum = held.constraints.vacuum
    lit = np.abs(held.state.object)[SIDE // 2 : -SIDE // 2, SIDE // 2 : -SIDE // 2]
    assert vacuum is not None and lit.max() <= vacuum.amplitude * (1 + vacuum.noise) * (1 + 1e-5)
    edge = np.hypot(*(np.indices((SIDE, SIDE)) - SIDE // 2)) > 16.5 + 1e-6
    assert not held.state.probe[:, edge].any()


def test_the_supports_are_where_the_light_is(scan, backend):
    """Of the true probe nothing is lost in its pupil, of noise most; on the central half they are the same."""
    geometry = scan.geometry.replace(optic__central_stop_m=35e-6)  # 0.35 of its diameter
    constraints = Constraints(SolverSettings(probe_pupil=True), geometry, backend, WINDOW_M)
    inside = np.fft.fftshift(pupil_shape(SIDE, WINDOW_M, geometry.optic))
    probe = scan.probe.astype(np.complex64)
    far = np.fft.fftshift(np.abs(np.fft.fft2(probe[0])) ** 2)
    assert (far * inside).sum() > 0.999 * far.sum()
    assert inside[SIDE // 2, SIDE // 2] == 0 and inside.mean() < 0.5
    state = SolverState(np.ones((60, 60), np.complex64), probe.copy())
    constraints.hold_probe(state)
    assert np.sum(np.abs(state.probe) ** 2) > 0.999 * np.sum(np.abs(probe) ** 2)
    half = np.fft.fftshift(pupil_shape(SIDE // 2, WINDOW_M, geometry.optic))
    assert np.allclose(half, inside[SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4], atol=1e-6)
    assert np.allclose(
        radius_shape(SIDE // 2, WINDOW_M, 0.1e-6), radius_shape(SIDE, WINDOW_M, 0.1e-6)[::2, ::2], atol=1e-6
    )


def test_the_pupil_follows_a_pattern_that_is_off_the_centre(scan, backend):
    geometry = scan.geometry.replace(optic__central_stop_m=35e-6)
    constraints = Constraints(SolverSettings(probe_pupil=True), geometry, backend, WINDOW_M)
    line = np.arange(SIDE) - SIDE // 2
    ramp = np.exp(2j * np.pi * (3 * line[:, None] - 5 * line) / SIDE)
    state = SolverState(np.ones((60, 60), np.complex64), (scan.probe * ramp).astype(np.complex64))
    state.variation = state.probe * np.complex64(0.1j)
    constraints.hold_probe(state)
    assert np.sum(np.abs(state.probe) ** 2) > 0.995 * np.sum(np.abs(scan.probe) ** 2)
    assert np.allclose(state.variation, 0.1j * state.probe, atol=1e-5 * np.abs(state.probe).max())


def test_off_is_off(scan, backend):
    """Nothing is computed, nothing is copied."""
    state = SolverState(np.ones((60, 60), np.complex64), scan.probe.astype(np.complex64))
    kept = state.object, state.probe
    constraints = Constraints(SolverSettings(), scan.geometry, backend, WINDOW_M)
    constraints.hold_probe(state)
    constraints.hold_object(state, None)
    assert (state.object, state.probe) == kept or (state.object is kept[0] and state.probe is kept[1])


def test_a_right_support_does_no_harm_and_a_probe_noise_less(holes, backend):
    geometry = holes.geometry.replace(optic__central_stop_m=35e-6)
    stopped = dataclasses.replace(holes, geometry=geometry)
    free, held = (
        solved(stopped, backend, passes_final=25),
        solved(stopped, backend, passes_final=25, probe_pupil=True),
    )
    assert object_error(held, holes) < 1.02 * object_error(free, holes)
    far = [np.abs(np.fft.fft2(s.state.probe[0])) ** 2 for s in (free, held)]
    dark = pupil_shape(SIDE, WINDOW_M, geometry.optic) == 0
    noise = [f[dark].sum() / f.sum() for f in far]
    assert noise[1] < 0.01 * noise[0]


def test_what_cannot_be_held_is_said(scan, backend):
    with pytest.raises(SettingsError, match=r"probe_pupil = True, but the geometry tells of no optic"):
        Constraints(
            SolverSettings(probe_pupil=True), scan.geometry.replace(optic__outer_zone_m=0.0), backend, WINDOW_M
        )
    with pytest.raises(SettingsError, match=r"probe_radius_m = 3e-07: expected less than half of a window, 2\.4e-07"):
        scan.solver(backend, probe_radius_m=3e-7)
    for wrong in ({"object_most": -1.0}, {"probe_radius_m": -1e-7}):
        with pytest.raises(SettingsError, match="≥ 0 \\(0: no bound\\)"):
            SolverSettings(**wrong)
    solver = scan.solver(backend)
    with pytest.raises(SettingsError, match="half of a window"):
        solver.configure(solver.settings.replace(probe_radius_m=0.05))
    assert solver.settings.probe_radius_m == 0


@pytest.mark.gpu
def test_numpy_and_cupy_hold_the_same(difficult_scan):
    found = []
    for name in ("numpy", "cupy"):
        try:
            backend = get_backend(name)
        except BackendError as problem:
            pytest.skip(str(problem))
        store, state = difficult_scan(backend, 2)
        image = with_ramp(sample((50, 47), np.random.default_rng(4)))
        image[20:25, 20:25] *= 2
        state.object, state.probe = backend.from_numpy(image), backend.from_numpy(state.probe)
        settings = SolverSettings(
            object_most=1.0, object_phase="negative", probe_pupil=True, probe_radius_m=8 * PIXEL_M
        )
        constraints = Constraints(settings, simple_geometry(), backend, 24 * PIXEL_M)
        constraints.hold_probe(state)
        constraints.hold_object(state, store)
        found.append([backend.to_numpy(state.object), backend.to_numpy(state.probe)])
    for host, device in zip(*found, strict=True):
        assert np.allclose(host, device, atol=1e-3 * np.abs(host).max())
