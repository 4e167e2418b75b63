import numpy as np
import pytest

from nsbluesky.geometry import Optic, wavelength_m
from nsbluesky.simulation.optics import far_field, near_field, zone_plate_probe

OPTIC = Optic(diameter_m=240e-6, outer_zone_m=60e-9, central_stop_m=110e-6)
GEOMETRY = {"energy_eV": 1000.0, "pixel_m": 11e-9, "frame_px": 104}


def probe(**changes):
    return zone_plate_probe(OPTIC.replace(**changes), **GEOMETRY, photons=1e7)


def frequency_radius():
    q = (np.arange(104) - 52) / (104 * 11e-9)
    return np.hypot(q[:, None], q)


def test_far_field_is_unitary_and_centred():
    wave = np.random.default_rng(0).normal(size=(2, 9, 9)) + 1j
    np.testing.assert_allclose(near_field(far_field(wave)), wave)
    assert np.sum(np.abs(far_field(wave)) ** 2) == pytest.approx(np.sum(np.abs(wave) ** 2))
    flat = np.abs(far_field(np.ones((8, 8))))
    assert np.unravel_index(flat.argmax(), flat.shape) == (4, 4)


def test_probe_has_the_photons_asked_for():
    assert probe().dtype == np.complex64
    assert np.sum(np.abs(probe()) ** 2) == pytest.approx(1e7, rel=1e-5)


def test_the_pupil_is_the_zone_plate_s_annulus():
    amplitude = np.abs(far_field(probe(defocus_m=12e-6)))
    radius, outer = frequency_radius(), 1 / (2 * 60e-9)
    inner, pixel = outer * 110 / 240, 1 / (104 * 11e-9)
    assert amplitude[(radius > outer + pixel) | (radius < inner - pixel)].max() < 1e-3 * amplitude.max()
    lit = amplitude[(radius < outer - pixel) & (radius > inner + pixel)]
    np.testing.assert_allclose(lit, lit[0], rtol=1e-4)


def test_in_focus_the_probe_is_smallest_and_in_the_middle():
    sharp = np.abs(probe()) ** 2
    assert np.unravel_index(sharp.argmax(), sharp.shape) == (52, 52)
    assert all(np.max(np.abs(probe(defocus_m=z)) ** 2) < sharp.max() for z in (-5e-6, 5e-6))


@pytest.mark.parametrize("defocus_m", [8e-6, -8e-6])
def test_defocus_has_the_sign_of_fresnel_propagation(defocus_m):
    phase = np.angle(far_field(probe(defocus_m=defocus_m)) * np.conj(far_field(probe())))
    radius = frequency_radius()
    lit = np.abs(far_field(probe())) > 1
    expected = -np.pi * wavelength_m(1000.0) * defocus_m * radius**2
    np.testing.assert_allclose(np.exp(1j * phase[lit]), np.exp(1j * expected[lit]), atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diameter_m": 0.0}, "diameter_m"),
        ({"outer_zone_m": 10e-9}, r"outer_zone_m = 1e-08.*pixel"),
        ({"defocus_m": 100e-6}, "half of the probe's field"),
    ],
)
def test_probes_that_cannot_be_sampled_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        probe(**changes)
