"""Frames of detectors that count photons: wide or signed words, gaps between modules, dead pixels, no darks."""

import numpy as np
import pytest

from nsbluesky.cleaning.clean import clean
from nsbluesky.cleaning.darks import DarkAccumulator
from nsbluesky.cleaning.flags import FrameFlag
from nsbluesky.cleaning.layout import get_layout
from nsbluesky.cleaning.plan import center_and_mean, make_plan
from nsbluesky.settings import CleaningSettings, SettingsError

SIDE = 64
CENTER = 30.0
ENERGY_EV = 9000.0
SETTINGS = CleaningSettings(
    layout="none", subtract_dark=False, adu_per_photon=1.0, photons="none", crop_px=SIDE, frame_px=SIDE
)
LAYOUT = get_layout(SETTINGS, (SIDE, SIDE))
DTYPES = ["u1", "u2", "u4", "u8", "i4"]


def light(count=4, brightest=200.0):
    """Return photons (n, SIDE, SIDE) about `CENTER`."""
    distance = np.hypot(*(np.indices((SIDE, SIDE)) - CENTER))
    return np.random.default_rng(0).poisson(brightest * np.exp(-((distance / 6) ** 2)), (count, SIDE, SIDE))


def with_gap(photons, dtype):
    """Return words with a gap between modules and a dead pixel beside the middle."""
    words = photons.astype(dtype)
    nothing = -1 if words.dtype.kind == "i" else np.iinfo(words.dtype).max
    words[:, :, 12:16] = words[:, 33, 40] = nothing
    return words


def plan_of(frames, settings=SETTINGS):
    center, mean = center_and_mean(frames, settings, LAYOUT, None, energy_eV=ENERGY_EV)
    return make_plan(settings, LAYOUT, None, (32.0, 32.0), energy_eV=ENERGY_EV, mean=mean), center


@pytest.mark.parametrize("dtype", DTYPES)
def test_gaps_and_dead_pixels_are_masked_and_everything_else_is_exact(dtype):
    photons = light(brightest=100.0)
    frames = with_gap(photons, dtype)
    plan, center = plan_of(frames)
    np.testing.assert_allclose(center, CENTER, atol=0.2)
    cleaned = clean(frames, plan)
    gap = np.zeros((SIDE, SIDE), bool)
    gap[:, 12:16] = gap[33, 40] = True
    np.testing.assert_array_equal(plan.mask != 0, gap)
    np.testing.assert_array_equal(cleaned.frames, np.where(gap, 0, photons))
    assert not cleaned.flags.any()


def test_counts_beyond_16_bits_are_exact_and_not_saturated():
    frames = with_gap(light(), "u4")
    frames[1, 30, 30], frames[2, 31, 31] = 70_000, 0x3FFFF
    plan, _ = plan_of(frames)
    cleaned = clean(frames, plan)
    assert (cleaned.frames[1, 30, 30], cleaned.frames[2, 31, 31]) == (70_000, 0x3FFFF)
    np.testing.assert_array_equal(cleaned.frames, np.where(plan.mask == 0, frames, 0))
    assert not cleaned.flags.any()


@pytest.mark.parametrize(("limit", "full"), [(4095, 4095), (100_000, 100_000), (0, 2**32 - 1)])
def test_counters_that_end_before_their_words_saturate_there(limit, full):
    frames = with_gap(light(), "u4")
    frames[2, 20, 20], frames[1, 20, 20] = full, full - 1 if full < 2**31 else 90_000
    plan, _ = plan_of(frames, SETTINGS.replace(saturation_word=limit, saturation_dilation_px=0))
    cleaned = clean(frames, plan)
    assert cleaned.flags.tolist() == [0, 0, int(FrameFlag.SATURATED), 0]
    assert np.argwhere(np.isnan(cleaned.frames)).tolist() == [[2, 20, 20]]
    assert cleaned.frames[1, 20, 20] == frames[1, 20, 20]


def test_a_pixel_that_measures_in_some_exposure_is_none_that_never_does():
    frames = with_gap(light(), "u2")
    silent = np.zeros((SIDE, SIDE), bool)
    _, mean = center_and_mean(frames, SETTINGS, LAYOUT, None, energy_eV=ENERGY_EV, silent=silent)
    assert np.isfinite(mean).all()


def test_a_mask_of_ones_own(tmp_path):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[40:44, 7] = 1
    np.save(tmp_path / "mask.npy", mask)
    settings = SETTINGS.replace(bad_pixels=str(tmp_path / "mask.npy"))
    frames = light().astype(np.uint32)
    frames[:, 40:44, 7] = 60_000  # hot pixels, which would draw the centre
    plan, center = plan_of(frames, settings)
    np.testing.assert_array_equal(plan.mask != 0, mask != 0)
    np.testing.assert_allclose(center, CENTER, atol=0.2)
    np.save(tmp_path / "mask.npy", mask[1:])
    with pytest.raises(SettingsError, match=r"bad_pixels = .* \(63, 64\): expected \(64, 64\)"):
        plan_of(frames, settings)


def test_darks_of_wide_words_do_not_wrap():
    darks = DarkAccumulator(LAYOUT)
    frames = np.full((3, SIDE, SIDE), 2, np.int32)
    frames[:, 5, 5] = 0x10000
    darks.add(frames)
    mean = darks.result(SETTINGS).mean
    assert (mean[0, 0], mean[5, 5]) == (2, 0xFFFF)
