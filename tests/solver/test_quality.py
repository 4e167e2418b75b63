"""Quality figures on images whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from nsbluesky.solver.quality import align, contrast_correlation, frc, nrmse, r_factor


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(3)
    rows, columns = np.fft.fftfreq(120)[:, None], np.fft.fftfreq(140)[None]
    envelope = np.exp(-((np.hypot(rows, columns) / 0.1) ** 2))
    images = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(120, 140))) * envelope).real for _ in range(2)]
    absorption, phase = (image / np.abs(image).max() for image in images)
    return (0.8 + 0.2 * absorption) * np.exp(1j * phase)


def moved(truth, shift, ramp, scale):
    """The truth from row 20 + shift[0] and column 30 + shift[1] on, with a ramp and a scale."""
    rows, columns = np.fft.fftfreq(truth.shape[0])[:, None], np.fft.fftfreq(truth.shape[1])[None]
    there = np.fft.ifft2(np.fft.fft2(truth) * np.exp(2j * np.pi * (rows * shift[0] + columns * shift[1])))
    part = there[20:90, 30:105]
    y, x = np.indices(part.shape)
    return part * np.exp(1j * (ramp[0] * y + ramp[1] * x)) * scale


def test_align_undoes_shift_ramp_and_scale(truth):
    image = moved(truth, (0.37, -2.61), (0.03, -0.05), 2.5 * np.exp(1.1j))
    image[:5, :7] = np.nan
    aligned = align(image, truth)
    assert aligned.shift_px == pytest.approx((20.37, 27.39), abs=0.02)
    assert aligned.ramp_rad == pytest.approx((0.03, -0.05), abs=1e-3)
    assert abs(aligned.scale) == pytest.approx(1 / 2.5, rel=0.01)
    assert np.isnan(aligned.image[:5, :7]).all() and np.isnan(aligned.truth[:5, :7]).all()
    assert nrmse(aligned.image, aligned.truth) < 0.02
    assert np.nanmean(np.abs(aligned.image - aligned.truth)) < 0.02


def test_an_image_larger_than_the_truth(truth):
    aligned = align(truth, truth[30:90, 40:100])
    assert aligned.shift_px == pytest.approx((-30, -40), abs=0.02)
    known = np.isfinite(aligned.image)
    assert known.sum() == 60 * 60
    assert np.allclose(aligned.image[known], aligned.truth[known], atol=0.02)


def test_contrast_correlation_scores_contrast_not_brightness(truth):
    good = moved(truth, (0.0, 0.0), (0.02, 0.0), 1.0)
    assert contrast_correlation(good, truth) > 0.99
    rng = np.random.default_rng(0)
    blank = 1 + 1e-3 * (rng.normal(size=good.shape) + 1j * rng.normal(size=good.shape))
    assert contrast_correlation(blank, truth) < 0.35
    contrast = good - good.mean()
    size = np.abs(contrast).std()
    noisy = good + size * (rng.normal(size=good.shape) + 1j * rng.normal(size=good.shape))
    assert 0.3 < contrast_correlation(noisy, truth) < 0.9


def test_align_needs_a_known_pixel(truth):
    with pytest.raises(ValueError, match="no known pixel"):
        align(np.full((10, 10), np.nan + 0j), truth)


def test_nrmse_of_a_known_error(truth):
    rng = np.random.default_rng(1)
    noise = rng.normal(size=truth.shape) + 1j * rng.normal(size=truth.shape)
    noise *= 0.1 * np.linalg.norm(truth) / np.linalg.norm(noise)
    assert nrmse(truth + noise, truth) == pytest.approx(0.1, rel=0.02)
    assert nrmse(3j * truth, truth) == pytest.approx(0, abs=1e-9)


def test_tiles_forgive_slow_drift(truth):
    y = np.indices(truth.shape)[0]
    drifted = truth * np.exp(1j * 0.6 * np.sin(y / 60))
    assert nrmse(drifted, truth, tile_px=20) < 0.4 * nrmse(drifted, truth)


def test_frc_finds_where_noise_begins(truth):
    """Two images that share the frequencies below 1/(8 pixels) only."""
    rng = np.random.default_rng(2)
    shape = (256, 256)
    rows, columns = np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None]
    common = np.fft.fft2(rng.normal(size=shape)) * (np.hypot(rows, columns) < 1 / 8)
    noise = [np.fft.fft2(rng.normal(size=shape)) * (np.hypot(rows, columns) >= 1 / 8) for _ in range(2)]
    result = frc(*(np.fft.ifft2(common + n).real for n in noise), pixel_m=5e-9)
    assert result.resolution_m == pytest.approx(4 * 5e-9, rel=0.05)  # half a period of 8 pixels
    low = result.frequency_1_m < 0.11 / 5e-9
    assert (result.correlation[low] > 0.95).all()
    assert np.abs(result.correlation[result.frequency_1_m > 0.14 / 5e-9]).mean() < 0.15
    assert result.one_seventh == pytest.approx(0.1429, abs=1e-4)
    assert result.frequency_1_m.max() == pytest.approx(0.5 / 5e-9, rel=0.02)
    for line, found_m in ((result.half_bit, result.resolution_m), (1 / 7, result.one_seventh_resolution_m)):
        excess = result.correlation - line
        first = int(np.argmax(excess < 0))
        crossing = np.interp(0, excess[[first, first - 1]], result.frequency_1_m[[first, first - 1]])
        assert found_m == pytest.approx(0.5 / crossing)


def test_frc_of_equal_images_and_of_noise(truth):
    assert frc(truth, truth, 1e-8).resolution_m == 1e-8
    rng = np.random.default_rng(4)
    assert frc(rng.normal(size=(128, 128)), rng.normal(size=(128, 128)), 1e-8).resolution_m > 2e-8


def test_what_one_image_lacks_counts_as_the_mean_and_means_do_not_count(truth):
    hole = np.zeros(truth.shape, bool)
    hole[40:60, 30:70] = True
    other = truth + 0.1 * np.random.default_rng(5).normal(size=truth.shape)
    filled = (np.where(hole, image[~hole].mean(), image) for image in (truth, other))
    found = frc(np.where(hole, np.nan, truth + 7), other - 2j, 1e-8).correlation
    np.testing.assert_allclose(found, frc(*filled, 1e-8).correlation, atol=1e-9)
    assert (found[:8] > 0.9).all()


def test_blank_images_do_not_correlate(truth):
    blank = np.zeros((32, 32))
    found = frc(blank, blank, 1e-8)
    assert not found.correlation.any() and found.resolution_m == np.inf
    assert nrmse(blank, truth[:32, :32]) == 1


def test_half_bit_threshold_is_the_published_one(truth):
    result = frc(truth[:120, :120], truth[:120, :120], 1.0, taper=0)
    radius = np.hypot(np.fft.fftfreq(120)[:, None], np.fft.fftfreq(120)[None]) * 120
    count = (np.rint(radius) == 5).sum()
    expected = (0.2071 + 1.9102 / np.sqrt(count)) / (1.2071 + 0.9102 / np.sqrt(count))
    assert result.half_bit[4] == pytest.approx(expected)


@pytest.mark.parametrize("parts", [(np.s_[:], np.s_[1:]), (np.s_[:7], np.s_[:7]), (np.s_[0], np.s_[0])])
def test_frc_refuses_unequal_and_small_images(truth, parts):
    with pytest.raises(ValueError, match="expected two equal ones of at least 8"):
        frc(truth[parts[0]], truth[parts[1]], 1.0)


def test_r_factor_uses_good_pixels():
    amplitude = np.array([[1.0, 2.0], [4.0, 100.0]])
    model = np.array([[1.5, 2.0], [3.0, 0.0]])
    assert r_factor(model, amplitude, [[1, 1], [1, 0]]) == pytest.approx(1.5 / 7)


@pytest.mark.parametrize("shape", [(91, 93), (64, 65), (33, 80)])
def test_every_ring_of_an_frc_has_pixels_enough(shape):
    """Of an odd side the corners at the Nyquist frequency are no ring of their own."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    found = frc(image, image + 0.1 * rng.normal(size=shape), 1e-8)
    assert len(found.correlation) == min(shape) // 2
    assert found.half_bit[-1] < 0.4
    assert np.all(np.diff(found.frequency_1_m) > 0)
