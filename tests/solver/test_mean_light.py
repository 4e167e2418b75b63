"""What the darkest pixels tell of a background, without an image."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import benchmarks.simulated_scans as scans
from benchmarks.object_errors import errors
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.coarse import CentralHalf
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.mean_light import LEAST_FRAMES, dark_light, mean_light
from nsbluesky.solver.propagation import NearField
from nsbluesky.solver.refinement import Refinement

SIDE = 64


@pytest.fixture(scope="module")
def light() -> scans.SimulatedScan:
    """Frames without noise."""
    return scans.simulated_scan(SIDE, 12, 1e12)


def counted(expected, photons, background, seed=5):
    """Return frames of so many photons through the sample, with a background as a part of them, and what it is."""
    expected = expected / expected.mean() * photons / SIDE**2
    told = background * float(expected.mean())
    return np.random.default_rng(seed).poisson(expected + told).astype(np.float32), told


def solved(backend, frames, translations_m, geometry, passes):
    solver = IncrementalSolver(
        SolverSettings(passes_final=passes),
        frame_px=SIDE,
        pixel_m=geometry.object_pixel_m(SIDE),
        geometry=geometry,
        backend=backend,
    )
    solver.add_frames(np.arange(len(frames)), frames, translations_m)
    solver.finish()
    while not solver.finished:
        solver.step(0.0)
    return solver


def store_of(backend, frames, propagator=None):
    store = FrameStore(SIDE, backend, propagator)
    for number, frame in enumerate(frames):
        store.put([number], frame[None], np.array([0, number]), 1.0, np.zeros(2))
    return store


@pytest.mark.parametrize("photons", [1e4, 1e6])
@pytest.mark.parametrize("part", [0.2, 0.5, 2.0, 10.0])
def test_it_is_told_without_an_image(backend, light, photons, part):
    frames, told = counted(light.frames, photons, part)
    store = store_of(backend, frames)
    found = dark_light(store, store.active)
    assert 0.7 * told < found.background < 1.1 * told
    assert found.mean >= 0.95 * told
    assert dark_light(CentralHalf(store), store.active) == found


@pytest.mark.parametrize("photons", [3e2, 1e3, 1e4, 1e6])
def test_speckle_is_none(backend, light, photons):
    for seed in range(6):
        store = store_of(backend, counted(light.frames, photons, 0.0, seed)[0])
        assert dark_light(store, store.active).background == 0


def test_what_speckle_might_leave_as_well_is_none(backend, light):
    store = store_of(backend, counted(light.frames, 1e6, 0.03)[0])
    assert dark_light(store, store.active).background == 0


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_light_in_another_unit_is_told_as_well(backend, light, part):
    """As in files whose brightest pixel is 1: it scatters by less than counted photons would."""
    frames, told = counted(light.frames, 1e6, part)
    unit = 1 / float(frames.max())
    store = store_of(backend, frames * np.float32(unit))
    assert dark_light(store, store.active).background == pytest.approx(told * unit, rel=0.15)


def test_a_sample_that_scatters_all_over_the_detector_is_none(backend, light):
    """Here the darkest pixels have a good part of the mean light."""
    rng = np.random.default_rng(1)
    objects = np.exp(2j * rng.normal(size=(80, SIDE, SIDE)))
    exit_waves = light.probe * objects
    frames, _ = counted(np.abs(np.fft.fftshift(np.fft.fft2(exit_waves), axes=(1, 2))) ** 2, 1e6, 0.0)
    store = store_of(backend, frames)
    found = dark_light(store, store.active)
    assert found.mean > 0.3 * frames.mean()
    assert found.background == 0


def test_masked_and_missing_pixels_tell_nothing(backend, light):
    frames, told = counted(light.frames, 1e6, 0.5)
    frames[:, :9] = 0  # masked
    frames[2:, 20:29], frames[:2, 20:29] = np.nan, 0  # of two frames alone
    frames[::3, 40:49] = np.nan  # of most of them
    store = store_of(backend, frames)
    store.set_good((np.arange(SIDE) >= 9)[:, None] & np.ones(SIDE, bool))
    assert dark_light(store, store.active).background == pytest.approx(told, rel=0.1)


def test_where_nothing_can_be_told_there_is_none(backend, light):
    frames, _ = counted(light.frames, 1e6, 0.5)
    few = store_of(backend, frames[: LEAST_FRAMES - 1])
    near = store_of(backend, frames, NearField(backend, SIDE, 30.0))
    masked = store_of(backend, frames)
    masked.set_good(np.zeros((SIDE, SIDE), bool))
    for store in (few, near, masked):
        assert dark_light(store, np.arange(len(store))).background == 0


def test_what_an_image_begins_with_is_without_it(backend, light):
    frames, told = counted(light.frames, 1e6, 2.0)
    store = store_of(backend, frames)
    found = mean_light(store, store.active, with_background=True)
    assert found.background == pytest.approx(told, rel=0.05)
    assert found.photons == pytest.approx(1e6, rel=0.1)
    assert found.pattern.sum() == pytest.approx(found.photons, rel=0.02)
    as_it_is = mean_light(store, store.active, with_background=False)
    assert (as_it_is.background, as_it_is.photons) == (0, pytest.approx(3e6, rel=0.01))


def test_it_stays_while_places_come_first(backend, light, monkeypatch):
    """What rounds find at wrong places is not to be believed; an image that began without one has none."""
    monkeypatch.setattr(Refinement, "_places_come_first", True)
    frames, told = counted(light.frames, 1e6, 0.5)
    store = store_of(backend, frames)
    refinement, found = Refinement(SolverSettings(), backend), dark_light(store, store.active).background
    kept = [refinement._background(store, store.active, None, before) for before in (0.0, 0.5 * told, 3 * told)]
    assert kept == [0, 0.5 * told, found]


def test_an_image_under_twice_its_light(backend, light):
    """It ended at 0.9: defocus was looked for, and the image begun, as if there were none."""
    frames, told = counted(light.frames, 1e6, 2.0)
    found = solved(backend, frames, light.translations_m, light.geometry, passes=30)
    assert found.state.background == pytest.approx(told, rel=0.05)
    assert errors(found.picture().object, light.object, 10).whole < 0.1


def test_light_that_hardly_scatters_is_given_back(backend, monkeypatch):
    """A cone wider than the detector lights all of it, and a weak object hardly changes that: the sweep tells."""
    monkeypatch.setattr(scans, "OUTER", 0.8)
    probe = scans.zone_plate_probe(SIDE, 28.8, 0.0)
    frames_a_line, step = 16, 5
    corners = [(step * i, step * j) for i in range(frames_a_line) for j in range(frames_a_line)]
    rng = np.random.default_rng(1)
    blurred = gaussian_filter(rng.normal(size=(SIDE + step * frames_a_line,) * 2), 1.5)
    sample = np.exp(0.3j * blurred / blurred.std())
    waves = np.stack([probe * sample[r : r + SIDE, c : c + SIDE] for r, c in corners])
    frames, _ = counted(np.abs(np.fft.fftshift(np.fft.fft2(waves), axes=(1, 2))) ** 2, 1e6, 0.0)
    store = store_of(backend, frames)
    assert dark_light(store, store.active).background > 0.2 * frames.mean()
    geometry = scans.simulated_scan(SIDE, 2, 1e3).geometry
    translations_m = np.array([(c, r) for r, c in corners]) * scans.PIXEL_M
    found = solved(backend, frames, translations_m, geometry, passes=20)
    assert found.state.background < 0.03 * frames.mean()  # begun with it, the image had a third after as many passes
