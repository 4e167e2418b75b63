"""Propagation to the detector against analytic beams and sums in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from nsbluesky.geometry import Geometry
from nsbluesky.settings import SettingsError
from nsbluesky.solver.propagation import FarField, NearField, propagator_of

WAVELENGTH_M = 1e-10
PIXEL_M = 1e-7


def noise(*shape):
    rng = np.random.default_rng(7)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def on_detector(backend, side, spread_px, wave):
    """The field of one centred wave (N, N), centred."""
    field = NearField(backend, side, spread_px).forward(wave.astype(complex)[None, None])
    return np.fft.fftshift(field[0, 0])


@pytest.mark.parametrize(("side", "shifted"), [(16, False), (16, True), (15, True)])
@pytest.mark.parametrize("near", [False, True])
def test_the_way_back_is_inverse_and_adjoint(backend, side, shifted, near):
    propagator = NearField(backend, side, 9.0) if near else FarField(backend)
    waves, fields = noise(3, 2, side, side), noise(3, 2, side, side)[::-1].copy()
    shifts_px = np.array([[0.3, -0.5], [0.0, 0.25], [-0.4, 0.1]]) if shifted else None
    ahead = propagator.forward(waves.copy(), shifts_px)
    assert np.allclose(propagator.back(ahead.copy(), shifts_px), waves, atol=1e-12)
    back = propagator.back(fields.copy(), shifts_px)
    assert np.vdot(fields, ahead) == pytest.approx(np.vdot(back, waves), abs=1e-10)


@pytest.mark.parametrize("distance_m", [0.02, 0.2])
def test_a_gaussian_beam_gets_width_curvature_and_phase(backend, distance_m):
    """The textbook beam: w(z) = w₀·√(1 + ζ²), R(z) = z·(1 + 1/ζ²), Gouy phase atan ζ, with ζ = z/(πw₀²/λ)."""
    side, waist_m = 512, 1.5e-6
    rayleigh_m = np.pi * waist_m**2 / WAVELENGTH_M
    line = (np.arange(side) - side // 2) * PIXEL_M
    r_squared = line[:, None] ** 2 + line**2
    field = on_detector(backend, side, WAVELENGTH_M * distance_m / PIXEL_M**2, np.exp(-r_squared / waist_m**2))
    zeta = distance_m / rayleigh_m
    width_m = waist_m * np.sqrt(1 + zeta**2)
    curvature_m = distance_m * (1 + 1 / zeta**2)
    phase = np.pi * r_squared / (WAVELENGTH_M * curvature_m) - np.arctan(zeta)
    expected = waist_m / width_m * np.exp(-r_squared / width_m**2 + 1j * phase)
    assert np.abs(field - expected).max() < 1e-9


def test_diverging_light_is_parallel_light_magnified(backend):
    """A Gaussian beam from its focus to the sample and on to the detector, by the geometry's numbers alone."""
    waist_m, source_m, detector_m, side = 0.2e-6, 0.02, 0.18, 512
    geometry = Geometry(12398.4198, detector_m, 10e-7, propagation="near", source_distance_m=source_m)
    assert geometry.magnification == pytest.approx(10)
    assert geometry.effective_distance_m == pytest.approx(0.018)
    pixel_m, wavelength_m = geometry.object_pixel_m(side), geometry.wavelength_m
    assert pixel_m == pytest.approx(1e-7)
    assert geometry.object_pixel_m(2 * side, side) == pytest.approx(2e-7)  # binned
    rayleigh_m = np.pi * waist_m**2 / wavelength_m
    line = (np.arange(side) - side // 2) * pixel_m
    r_squared = line[:, None] ** 2 + line**2

    def beam(z_m, r_squared):
        q = z_m - 1j * rayleigh_m
        return np.exp(1j * np.pi * r_squared / (wavelength_m * q)) * rayleigh_m / abs(q)

    seen = beam(source_m, r_squared) * np.exp(-1j * np.pi * r_squared / (wavelength_m * source_m))
    shadow = np.abs(on_detector(backend, side, geometry.spread_px(side, pixel_m), seen)) ** 2
    magnified = np.abs(beam(source_m + detector_m, 100 * r_squared)) ** 2 * 100
    assert np.abs(shadow - magnified).max() < 1e-6 * magnified.max()


def test_a_frame_between_pixels_is_where_it_is(backend):
    """The probe is moved against a window on whole pixels, and the wave back: as if the object had been moved."""
    side, spread_px, shift = 32, 11.0, np.array([0.37, -0.21])
    f = np.fft.fftfreq(side)
    low = np.exp(-((np.hypot(f[:, None], f) / 0.08) ** 2))
    probe, image = np.fft.ifft2(np.fft.fft2(noise(2, side, side)) * low)

    def moved(wave, by):
        return np.fft.ifft2(np.fft.fft2(wave) * np.exp(-2j * np.pi * (f[:, None] * by[0] + f * by[1])))

    true = on_detector(backend, side, spread_px, probe * moved(image, -shift))
    field = NearField(backend, side, spread_px).forward((moved(probe, shift) * image)[None, None], shift[None])
    assert np.allclose(np.fft.fftshift(field[0, 0]), true, atol=1e-6 * np.abs(true).max())


def test_distances_that_alias_are_refused(backend):
    geometry = Geometry(12398.4198, 0.1, 1e-7, propagation="near")
    assert isinstance(propagator_of(backend, geometry, 1024, 1e-7), NearField)
    with pytest.raises(SettingsError, match=r"spreads a pixel of 1e-07 m over 1000 pixels: expected at most the 512"):
        propagator_of(backend, geometry, 512, 1e-7)
    assert isinstance(propagator_of(backend, geometry.replace(propagation="far"), 512, 1e-7), FarField)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"propagation": "middle"}, "propagation = 'middle': expected"),
        ({"source_distance_m": -0.05}, "source_distance_m = -0.05: expected a distance before the sample"),
        ({"source_distance_m": float("inf")}, "source_distance_m = inf"),
    ],
)
def test_geometries_that_cannot_be(changes, message):
    with pytest.raises(SettingsError, match=message):
        Geometry(1000.0, 0.1, **changes)


def test_light_that_converges_beyond_the_detector_makes_it_smaller():
    geometry = Geometry(1000.0, 0.1, propagation="near", source_distance_m=-0.2)
    assert geometry.magnification == pytest.approx(0.5) and geometry.effective_distance_m == pytest.approx(0.2)
