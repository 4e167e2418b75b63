import numpy as np

from nsbluesky.cleaning.flags import FluxMonitor, FrameFlag, weights_of
from nsbluesky.settings import CleaningSettings


def test_files_hold_the_flags_by_these_numbers():
    numbers = {"LOST_PACKETS": 1, "SATURATED": 2, "DARK": 4, "BRIGHT": 8, "CORRUPT": 16}
    assert {flag.name: flag.value for flag in FrameFlag} == numbers


def test_weights_leave_out_what_would_harm():
    flags = np.array(
        [0, FrameFlag.SATURATED, FrameFlag.LOST_PACKETS, FrameFlag.DARK, FrameFlag.BRIGHT, 17], np.uint16
    )
    np.testing.assert_array_equal(weights_of(flags), [1, 1, 1, 0, 0, 0])
    assert weights_of(flags).dtype == np.float32


def test_frames_off_the_median_are_flagged():
    monitor = FluxMonitor(CleaningSettings())
    assert not monitor.flags(np.array([100.0, 1.0, 900.0])).any()  # too few to tell
    flags = monitor.flags(np.array([110.0, 90, 100, 105, 95, 19, 501, np.nan]))
    np.testing.assert_array_equal(flags, [0, 0, 0, 0, 0, FrameFlag.DARK, FrameFlag.BRIGHT, 0])
    np.testing.assert_array_equal(monitor.flags(np.array([21.0, 470.0])), [0, 0])
