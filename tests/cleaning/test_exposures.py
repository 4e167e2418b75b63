import numpy as np
import pytest

from nsbluesky.cleaning.exposures import combine_exposures
from nsbluesky.cleaning.flags import FrameFlag

NONE = np.zeros(2, np.uint16)


def test_photons_are_those_of_the_longest_exposure():
    rate = np.random.default_rng(0).uniform(1, 50, (8, 8)).astype(np.float32)
    frames = np.stack([rate, rate * 10])
    combined, flags = combine_exposures(frames, NONE, [0.001, 0.01])
    np.testing.assert_allclose(combined, rate * 10, rtol=1e-6)
    assert combined.dtype == np.float32
    assert flags == 0


def test_the_short_one_stands_in_where_the_long_one_is_saturated():
    rng = np.random.default_rng(1)
    rate = np.full((400, 400), 3.0)
    frames = np.stack([rng.poisson(rate * 10), rng.poisson(rate)]).astype(np.float32)
    frames[0, 100:200] = np.nan
    combined, flags = combine_exposures(frames, np.array([FrameFlag.SATURATED, 0], np.uint16), [0.01, 0.001])
    assert flags == 0
    assert combined[100:200].mean() == pytest.approx(30, rel=0.02)
    # together they are better than the long one alone: 33 counts in the place of 30
    assert combined[:100].var() == pytest.approx(30 * 10 / 11, rel=0.03)
    assert combined[100:200].var() == pytest.approx(300, rel=0.03)


def test_one_exposure_that_measured_enough_is_a_frame():
    """The long one was saturated almost everywhere, the short one on one pixel."""
    frames = np.full((2, 8, 8), 4, np.float32)
    frames[0] = frames[1, 3, 3] = np.nan
    saturated, corrupt = int(FrameFlag.SATURATED), int(FrameFlag.CORRUPT)
    combined, together = combine_exposures(frames, np.array([saturated | corrupt, saturated], np.uint16), (1.0, 0.1))
    assert np.isnan(combined).sum() == 1 and together == saturated
    _, together = combine_exposures(frames, np.full(2, saturated | corrupt, np.uint16), (1.0, 0.1))
    assert together == saturated | corrupt


def test_what_no_exposure_measured_stays_unknown():
    frames = np.ones((2, 4, 4), np.float32)
    frames[:, 1, 2] = np.nan
    combined, flags = combine_exposures(frames, np.full(2, FrameFlag.SATURATED, np.uint16), [0.01, 0.001])
    np.testing.assert_array_equal(np.argwhere(np.isnan(combined)), [[1, 2]])
    assert flags == FrameFlag.SATURATED


@pytest.mark.parametrize("times", [[0.01], [0.01, 0.0], [0.01, -0.1]])
def test_times_that_cannot_be_are_refused(times):
    with pytest.raises(ValueError, match="exposures_s"):
        combine_exposures(np.ones((2, 4, 4), np.float32), NONE, times)
