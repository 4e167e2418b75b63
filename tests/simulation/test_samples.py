import dataclasses

import numpy as np
import pytest
from PIL import Image

from nsbluesky.simulation.optics import far_field
from nsbluesky.simulation.samples import from_picture, gold_balls


@pytest.fixture(scope="module")
def gold():
    return gold_balls()


def test_gold_balls_fit_the_detector_exactly(gold):
    assert gold.pixel_m == pytest.approx(11.128e-9, rel=1e-4)
    assert gold.energy_eV == pytest.approx(1000, rel=1e-3)
    assert gold.detector_px == 832
    assert gold.geometry.object_pixel_m(832) == pytest.approx(gold.pixel_m, rel=1e-9)
    assert gold.probe.shape == (2, 104, 104)
    assert gold.photons == pytest.approx(1.13e7, rel=0.01)


def test_gold_ball_light_is_centred_on_the_zero_order(gold):
    intensity = np.sum(np.abs(far_field(gold.probe)) ** 2, axis=0)
    index = np.arange(104) - 52
    assert abs((intensity.sum(axis=1) * index).sum() / intensity.sum()) < 0.01
    assert abs((intensity.sum(axis=0) * index).sum() / intensity.sum()) < 0.01


def test_the_optic_of_gold_balls_makes_their_annulus(gold):
    intensity = np.abs(far_field(gold.probe[0])) ** 2
    q = np.arange(104) - 52
    radius = np.hypot(q[:, None], q)
    edge = 104 * gold.pixel_m / (2 * gold.optic.outer_zone_m)
    hole = edge * gold.optic.central_stop_m / gold.optic.diameter_m
    inside = (radius < edge + 1) & (radius > hole - 1)
    assert intensity[inside].sum() / intensity.sum() > 0.95
    assert 0.2 < intensity[np.abs(radius - edge) < 0.5].mean() / intensity.max() < 0.7
    assert 0.2 < intensity[np.abs(radius - hole) < 0.5].mean() / intensity.max() < 0.7


def test_the_defocus_of_gold_balls_is_that_of_their_phase(gold):
    wave = far_field(gold.probe[0])
    q = (np.arange(104) - 52) / (104 * gold.pixel_m)
    candidates = np.linspace(-20e-6, 20e-6, 161)
    # the sum over a flat wavefront is largest; the probe's place in its window is a ramp, which a transform finds
    flatness = [
        np.abs(
            far_field(
                wave * np.abs(wave) * np.exp(1j * np.pi * gold.geometry.wavelength_m * z * (q[:, None] ** 2 + q**2))
            )
        ).max()
        for z in candidates
    ]
    assert candidates[np.argmax(flatness)] == pytest.approx(gold.optic.defocus_m, abs=1e-6)


def test_the_window_moves_with_the_sign_rule(gold):
    marked = np.ones((300, 280), np.complex64)
    row, column = 150, 140
    marked[row + 31, column - 17] = 0.5
    sample = dataclasses.replace(gold, object=marked, origin_px=(float(row), float(column)))
    window, rest = sample.window(-17 * gold.pixel_m, 31 * gold.pixel_m)
    assert window[52, 52] == 0.5
    assert np.count_nonzero(window != 1) == 1
    np.testing.assert_allclose(rest, 0, atol=1e-9)
    window, rest = sample.window(-16.7 * gold.pixel_m, 31.2 * gold.pixel_m)
    assert window[52, 52] == 0.5
    np.testing.assert_allclose(rest, (0.2, 0.3), atol=1e-6)


def test_beyond_the_object_there_is_nothing(gold):
    window, _ = gold.window(1.0, -1.0)
    np.testing.assert_array_equal(window, 1)
    corner, _ = gold.window(304.6 * gold.pixel_m, 304.6 * gold.pixel_m)
    np.testing.assert_array_equal(corner[:53, :53], gold.object[-53:, -53:])
    np.testing.assert_array_equal(corner[60:], 1)


def test_a_part_of_a_pixel_is_exact_for_band_limited_waves():
    n = 64
    grid = np.arange(n) - n // 2
    probe = np.exp(-(grid[:, None] ** 2 + grid**2) / (2 * 4.0**2)).astype(np.complex64)
    y, x = np.indices((200, 200))

    def transmission(rows, columns):
        return np.exp(0.4j * np.sin(rows / 3) * np.cos(columns / 4 + 1)).astype(np.complex64)

    sample = dataclasses.replace(
        gold_balls(), object=transmission(y, x), probe=probe[None], origin_px=(100.0, 100.0), pixel_m=1.0
    )
    row, column = 100 + 3.37 + grid[:, None], 100 - 7.81 + grid
    expected = np.abs(far_field(probe * transmission(row, column)))
    found = np.abs(far_field(sample.exit_waves(-7.81, 3.37)[0]))
    assert np.abs(found - expected).max() < 2e-5 * expected.max()
    unshifted = np.abs(far_field(sample.exit_waves(-8, 3)[0]))
    assert np.abs(unshifted - expected).max() > 1e-2 * expected.max()


def test_a_picture_becomes_a_sample(tmp_path):
    picture = np.full((60, 90), 255, np.uint8)
    picture[:20, :30] = 0
    path = tmp_path / "picture.png"
    Image.fromarray(picture).save(path)
    sample = from_picture(path, field_px=180, absorption=0.2, phase_rad=0.8)
    assert sample.object.shape == (120, 180) == sample.field_px
    np.testing.assert_allclose(sample.object[10, 10], np.exp(-0.2 - 0.8j), rtol=1e-5)
    np.testing.assert_allclose(sample.object[100, 150], 1, rtol=1e-5)
    assert sample.detector_px == 832
    assert sample.scan_range_m == pytest.approx((180 * sample.pixel_m, 120 * sample.pixel_m))
    np.testing.assert_array_equal(
        sample.object, from_picture(picture, field_px=180, absorption=0.2, phase_rad=0.8).object
    )


def test_colours_become_grey():
    picture = np.random.default_rng(0).random((40, 50, 3))
    assert from_picture(picture).object.shape == (160, 200)


@pytest.mark.parametrize("picture", [np.zeros(5), np.full((4, 4), np.nan), np.zeros((0, 3))])
def test_what_is_no_picture_is_refused(picture):
    with pytest.raises(ValueError, match="expected finite values"):
        from_picture(picture)


def test_shapes_are_checked(gold):
    with pytest.raises(ValueError, match="modes, N, N"):
        dataclasses.replace(gold, probe=gold.probe[0])
