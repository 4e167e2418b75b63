"""Whole reconstructions offline: of a simulated scan, and of measured data."""

from __future__ import annotations

import bz2
import functools
import io
from pathlib import Path

import numpy as np
import pytest

from nsbluesky.geometry import Geometry, Optic, wavelength_m
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.engines import ENGINES
from nsbluesky.solver.quality import contrast_correlation
from nsbluesky.solver.reconstruct import reconstruct

STAR = Path(__file__).parents[1] / "data" / "siemens_star" / "siemens-star-small.npz.bz2"
ENERGY_EV, DETECTOR_PIXEL_M, OBJECT_PIXEL_M = 8800.0, 75e-6, 10e-9  # a self-consistent choice; the file has none


def small_settings(**changes):
    return SolverSettings(**{"modes": 1, "sweep_frames": 0, "passes_final": 12} | changes)


def geometry_of(scan):
    """The scan's geometry with the detector distance that gives its object pixel of 10 nm."""
    given = scan.geometry.replace(optic__defocus_m=scan.defocus_m)
    return given.replace(detector_distance_m=48 * given.pixel_size_m * 10e-9 / given.wavelength_m)


def test_a_scan_with_its_true_probe(scan, backend):
    told = []
    result = reconstruct(
        scan.frames,
        scan.translations_m,
        None,
        geometry_of(scan),
        small_settings(),
        backend,
        passes=8,
        probe=scan.probe[0],
        progress=lambda *values: told.append(values),
    )
    assert result.sweep is None and result.rejected == {}
    assert len(result.r_factors) == 8 and result.r_factors[-1] < 0.97 * result.r_factors[0]  # noise is what is left
    assert told == [(n + 1, 8, r) for n, r in enumerate(result.r_factors)]
    assert result.picture.num_frames == len(scan.frames)
    assert contrast_correlation(result.picture.object, scan.object) > 0.9


@pytest.mark.parametrize("algorithm", sorted(ENGINES))
def test_every_algorithm_reconstructs(scan, backend, algorithm):
    settings = small_settings(algorithm=algorithm, passes_final=40)
    result = reconstruct(scan.frames, scan.translations_m, None, geometry_of(scan), settings, backend)
    assert contrast_correlation(result.picture.object, scan.object, margin_px=8) > 0.85


def test_frames_of_weight_0_are_left_out(scan, backend, rng):
    """Frames of noise ruin the image, and do nothing to it where their weight is 0."""
    frames, weights = scan.frames.copy(), np.ones(len(scan.frames))
    weights[::7] = 0
    noise = rng.permuted(frames[::7].reshape(weights[::7].size, -1), axis=1)
    frames[::7] = 3 * noise.reshape(frames[::7].shape)

    def image(**given):
        given["probe"] = scan.probe[0]
        return reconstruct(frames, scan.translations_m, None, geometry_of(scan), small_settings(), backend, **given)

    clean = image(weights=weights)
    assert clean.picture.num_frames == np.count_nonzero(weights)
    assert contrast_correlation(clean.picture.object, scan.object) > 0.9
    assert contrast_correlation(image().picture.object, scan.object) < 0.8
    with pytest.raises(ValueError, match="weights of shape"):
        image(weights=weights[1:])
    with pytest.raises(ValueError, match="weights above 0"):
        image(weights=0 * weights)


@pytest.mark.parametrize("weight", [0, 1])
def test_one_wrong_position_does_no_harm(scan, backend, weight):
    """Also where it is that of the first frame, from which the others would be too far away."""
    places_m, weights = scan.translations_m.copy(), np.ones(len(scan.frames))
    places_m[0], weights[0] = 1.0, weight
    settings = small_settings(passes_final=2)
    result = reconstruct(scan.frames, places_m, None, geometry_of(scan), settings, backend, weights=weights)
    assert list(result.rejected) == [0] and result.picture.num_frames == len(scan.frames) - 1


def test_frames_and_positions_must_fit(scan, backend):
    with pytest.raises(ValueError, match="crop them to squares"):
        reconstruct(np.zeros((2, 4, 5)), np.zeros((2, 2)), None, geometry_of(scan), small_settings(), backend)
    with pytest.raises(ValueError, match="frames of 1 × 1 pixels: expected at least 4"):
        reconstruct(np.ones((2, 1, 1)), np.zeros((2, 2)), None, geometry_of(scan), small_settings(), backend)
    with pytest.raises(ValueError, match="none of the 2 frames"):
        reconstruct(np.zeros((2, 48, 48)), np.zeros((2, 2)), None, geometry_of(scan), small_settings(), backend)
    with pytest.raises(ValueError, match="probe of shape"):
        reconstruct(
            scan.frames,
            scan.translations_m,
            None,
            geometry_of(scan),
            small_settings(),
            backend,
            probe=np.ones((4, 4)),
        )


@functools.cache
def read_star():
    with bz2.open(STAR) as file:
        contents = np.load(io.BytesIO(file.read()))
    frames = np.fft.fftshift(contents["data"][0], axes=(1, 2))
    return frames, contents["scan"][0, :, ::-1].astype(float) * OBJECT_PIXEL_M


@pytest.fixture
def star():
    return read_star()


def star_geometry(optic):
    distance_m = OBJECT_PIXEL_M * 128 * DETECTOR_PIXEL_M / wavelength_m(ENERGY_EV)
    return Geometry(ENERGY_EV, distance_m, DETECTOR_PIXEL_M, optic)


@pytest.mark.nightly
def test_the_measured_star_without_any_prior(star, backend):
    frames, translations_m = star
    settings = SolverSettings(modes=2, passes_final=30, sweep_passes=5)
    result = reconstruct(frames, translations_m, None, star_geometry(Optic()), settings, backend)
    assert result.sweep.accepted
    assert result.picture.r_factor <= 0.16


def test_the_measured_star_from_an_optic_with_a_wrong_defocus(star, backend):
    """The star's own probe is not used: the mean pattern and a sweep over a few depths of field start it."""
    frames, translations_m = star
    optic = Optic(diameter_m=180e-6, outer_zone_m=70e-9, defocus_m=80e-6)
    settings = SolverSettings(
        modes=1, passes_final=10, sweep_frames=60, sweep_range=0.75, sweep_candidates=7, sweep_passes=4
    )
    result = reconstruct(frames, translations_m, None, star_geometry(optic), settings, backend)
    assert 95e-6 < result.sweep.defocus_m < 125e-6
    assert result.picture.r_factor < 0.19
    assert result.picture.num_frames == 516


def test_the_quality_that_was_asked_for_is_told(scan, backend):
    settings = SolverSettings(modes=1, sweep_frames=0, held_out=0.02, quality_share=1.0)
    given = scan.frames, scan.translations_m, None, scan.geometry, settings, backend
    quality = reconstruct(*given, passes=6).quality
    assert 0 < quality.r_held_out < 1 and quality.half_bit_m > 0
