import numpy as np
import pytest

from nsbluesky.cleaning.resample import (
    bins_before_fourier,
    filling,
    fourier_resampling,
    rebin,
    resample,
    share_of_area,
)


def band_limited(crop, center, lags, seed=0):
    """A pattern of a few random lags (cycles per window) about a centre, and the same at any other place."""
    rng = np.random.default_rng(seed)
    waves = [(0, 0, 500.0, 0.0)] + [
        (*rng.integers(-lags, lags + 1, 2), *rng.uniform([1, 0], [20, 2 * np.pi])) for _ in range(30)
    ]

    def at(rows, columns):
        return sum(
            a * np.cos(2 * np.pi / crop * (v * (rows[:, None] - center[0]) + u * (columns - center[1])) + p)
            for v, u, a, p in waves
        )

    return at


@pytest.mark.parametrize("bin_px", [1, 2, 4])
@pytest.mark.parametrize("center", [(192.0, 192.0), (193.3, 190.6)])
def test_a_band_limited_pattern_is_sampled_exactly_about_its_centre(bin_px, center):
    crop, side = 384, 64
    pattern = band_limited(crop, center, lags=18)
    pixels = np.arange(crop)
    window = pattern(pixels, pixels).astype(np.float32)
    bins = rebin(window[None], crop // bin_px)
    frame = resample(bins, fourier_resampling(crop, side, center, bin_px))[0]
    ratio = crop / side
    rows, columns = (c + (np.arange(side) - side // 2) * ratio for c in center)
    np.testing.assert_allclose(frame, pattern(rows, columns) * ratio**2, rtol=1e-3)
    assert frame.sum() == pytest.approx(window.sum(), rel=1e-5)


@pytest.mark.parametrize(("crop", "side"), [(960, 256), (479, 128), (100, 99), (64, 64), (90, 30)])
def test_sums_are_kept_at_any_ratio(crop, side):
    windows = np.random.default_rng(0).poisson(0.3, (2, crop, crop)).astype(np.float32)
    size = bins_before_fourier(crop, side)
    assert crop % size == 0
    assert size <= max(1, crop / (1.5 * side))
    plan = fourier_resampling(crop, side, ((crop - 1) / 2, (crop - 1) / 2), size)
    frames = resample(rebin(windows, crop // size), plan)
    assert frames.shape == (2, side, side)
    assert frames.dtype == np.float32
    np.testing.assert_allclose(frames.sum(axis=(1, 2)), windows.sum(axis=(1, 2)), rtol=1e-4)


def test_light_outside_the_band_goes_and_rings_little():
    windows = np.zeros((1, 256, 256), np.float32)
    windows[0, 128, 128] = 1
    frame = resample(windows, fourier_resampling(256, 64, (128, 128)))[0]
    assert frame[32, 32] == frame.max() > 0.5
    assert frame.min() > -0.1
    assert abs(frame[:20]).max() < 0.02


@pytest.mark.parametrize(("crop", "side"), [(12, 4), (10, 4), (7, 3), (5, 5)])
def test_shares_of_area(crop, side):
    rng = np.random.default_rng(0)
    good = rng.integers(0, 2, (crop, crop))
    fine = np.kron(good, np.ones((side, side)))  # pixels of crop·side: every coarse pixel is a whole block of them
    expected = fine.reshape(side, crop, side, crop).mean(axis=(1, 3))
    np.testing.assert_allclose(share_of_area(good, side), expected, atol=1e-12)


def test_rows_are_filled_between_neighbours():
    good = np.ones((4, 6), bool)
    good[0, 2:4] = good[1, :2] = good[1, 5] = False
    good[2] = False
    good[3, 1] = False
    fillable = np.ones_like(good)
    fillable[3, 1] = False
    windows = np.arange(24, dtype=np.float32).reshape(1, 4, 6)
    windows[0, ~good] = -9
    windows[0, 0, 4] = 8
    filling(good, fillable).fill(windows)
    np.testing.assert_allclose(windows[0, 0], [0, 1, 1 + 7 / 3, 1 + 14 / 3, 8, 5])
    np.testing.assert_allclose(windows[0, 1], [8, 8, 8, 9, 10, 10])
    np.testing.assert_allclose(windows[0, 2], [(8 + 18) / 2, 8, (8 + 20) / 2, (9 + 21) / 2, 16, 16.5])
    assert windows[0, 3, 1] == -9


def test_a_gaussian_rings_less_than_a_soft_disk():
    windows = np.zeros((1, 256, 256), np.float32)
    windows[0, 128, 128] = 1
    disk, gaussian = (
        resample(windows, fourier_resampling(256, 64, (128.0, 128.0), lag_filter=name))[0]
        for name in ("soft_disk", "gaussian")
    )
    assert gaussian.sum() == pytest.approx(disk.sum(), rel=1e-5)
    assert gaussian.min() > -1e-3 > disk.min()
    assert gaussian.max() < disk.max()
