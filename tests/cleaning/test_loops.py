"""The compiled cleaning against the reference, step by step and all together."""

import numpy as np
import pytest
from numba import typeof

from nsbluesky.cleaning.clean import clean, clean_reference
from nsbluesky.cleaning.darks import DarkStatistics
from nsbluesky.cleaning.layout import LAYOUTS, by_adc
from nsbluesky.cleaning.loops import CompiledCleaning, can_compile
from nsbluesky.cleaning.plan import make_plan
from nsbluesky.cleaning.row_tables import row_tables
from nsbluesky.cleaning.spikes import NO_LINES, InterferenceLines
from nsbluesky.settings import CleaningSettings

ADU = 30.0
LINES = InterferenceLines(np.array([0.0731234567, 0.2113377]), np.array([3.0, 4.0]))
SMALL = CleaningSettings(adu_per_photon=ADU, crop_px=480, frame_px=120)


def raw_frames(layout, n=3, seed=0):
    rng = np.random.default_rng(seed)
    frames = 4096 + rng.normal(0, 3, (n, *layout.shape)) + ADU * rng.poisson(0.2, (n, *layout.shape))
    frames[:, layout.rows // 2 - 40 : layout.rows // 2 + 40, 500:600] += 900
    frames += np.linspace(0, 20, layout.rows)[:, None]
    clocks = np.arange(layout.rows)[:, None] * layout.columns_per_adc + np.arange(layout.columns_per_adc)
    wave = np.tile(4 * np.sin(2 * np.pi * LINES.frequencies[0] * clocks), layout.adcs_per_half)
    return (frames + wave).astype(np.uint16)


def darks(layout, seed=1, with_bad=True, lines=NO_LINES, gain_steps=None):
    rng = np.random.default_rng(seed)
    bad = np.zeros(layout.shape, bool)
    if with_bad:
        by_adc(bad, layout)[: layout.rows // 2, 45] = True
        bad.flat[rng.integers(0, bad.size, 500)] = True
    mean = (4096 + rng.normal(0, 20, layout.shape)).astype(np.float32)
    return DarkStatistics(mean, np.full(layout.shape, 3, np.float32), bad, np.zeros(0, int), 25, lines, gain_steps)


def rounding(settings, frames):
    """Return five standard deviations of what rounding of pixels makes of a binned one behind a beamstop.

    Raw pixels of thousands of ADU, pedestal and all, are rounded by half a unit of their last place; which way, with
    fused products, depends on the processor.  The beamstop's transmission magnifies that, which the other bounds, by
    the clean image, do not know.
    """
    if settings.beamstop_transmission == 1:
        return 0.0
    of_pixel = np.spacing(np.float32(frames.max() / settings.adu_per_photon)) / 2
    return 5 * of_pixel * settings.crop_px / settings.frame_px / settings.beamstop_transmission


def assert_agree(
    settings, center=(479.5, 479.5), layout="cosmic", frames=None, lines=None, with_bad=True, gain_steps=None
):
    layout = LAYOUTS[layout]
    frames = raw_frames(layout) if frames is None else frames
    dark = darks(layout, with_bad=with_bad, lines=lines or NO_LINES, gain_steps=gain_steps)
    plan = make_plan(settings, layout, dark, center, energy_eV=900.0)
    assert can_compile(plan)
    expected, compiled = np.empty((2, len(frames), plan.frame_px, plan.frame_px), np.float32)
    clean_reference(frames, plan, expected)
    doubtful = CompiledCleaning.of(plan)(frames, compiled).doubtful
    assert np.abs(expected).max() > 10
    tolerance = 2e-6 * np.abs(expected).max() + 1e-4 + rounding(settings, frames)
    if lines is not None:  # a pixel at the limit of the background goes either way as well
        tolerance = 0.05
    differ = np.abs(compiled - expected) > tolerance
    # A value within its rounding error of the threshold goes either way, and brings its neighbours along.
    flips = 0.0 if settings.photons != "threshold" else 0.05 if plan.resampling is not None else 1e-4
    assert differ.mean() <= flips
    assert np.abs(compiled - expected).max() < 0.01 * np.abs(expected).max() + 1
    return doubtful


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"overscan": "none"},
        {"overscan": "median"},
        {"overscan": "minimum"},
        {"overscan_decay": True},
        {"subtract_dark": False},
        {"gain_words": "13_bits"},
        {"frame_px": 480},
        {"frame_px": 240},
        {"frame_px": 160},
        {"frame_px": 96},
        {"downsample": "fourier", "frame_px": 100, "lag_filter": "gaussian"},
        {"downsample": "fourier", "frame_px": 100},
        {"downsample": "fourier", "crop_px": 479, "frame_px": 128},
        {"beamstop_radius_m": 1e-3, "beamstop_transmission": 0.1},
    ],
    ids=str,
)
def test_each_step_agrees(changes):
    assert not assert_agree(SMALL.replace(**changes)).any()
    assert not assert_agree(SMALL.replace(**{**changes, "photons": "none"})).any()


@pytest.mark.parametrize("center", [(100.0, 900.0), (900.0, 60.0), (479.5, 479.5), (-10.0, 480.0)])
@pytest.mark.parametrize("downsample", ["rebin", "fourier"])
def test_windows_over_the_sensors_edge_agree(center, downsample):
    beamstop = {"beamstop_radius_m": 2e-3, "beamstop_transmission": 0.5} if downsample == "rebin" else {}
    assert_agree(SMALL.replace(crop_px=832, frame_px=104, downsample=downsample, **beamstop), center)


@pytest.mark.parametrize("layout", ["csx", "csx_overscan", "full_frame", "cosmic_10_11"])
def test_layouts_agree(layout):
    assert_agree(SMALL, layout=layout, center=(400.0, 500.0))


@pytest.mark.parametrize("with_bad", [True, False])
@pytest.mark.parametrize("changes", [{}, {"downsample": "fourier", "frame_px": 100, "overscan": "median"}], ids=str)
def test_with_interference_agrees(changes, with_bad):
    settings = SMALL.replace(spikes="lines", **changes)
    assert_agree(settings, lines=LINES, with_bad=with_bad)


@pytest.mark.parametrize("gain_words", ["csxtools", "middle_0x4000"])
def test_gain_words_agree(gain_words):
    layout = LAYOUTS["cosmic"]
    frames = raw_frames(layout)
    middle = 0x8000 if gain_words == "csxtools" else 0x4000
    frames[:, 460:480, 300:400] |= middle
    frames[:, 560:580, 300:400] |= 0xC000
    assert not assert_agree(SMALL.replace(gain_words=gain_words), frames=frames).any()
    steps = np.random.default_rng(3).uniform(-200, 0, (2, *layout.shape)).astype(np.float32)
    assert_agree(SMALL.replace(gain_words=gain_words), frames=frames, gain_steps=steps)
    frames[1, 570, 302] |= 0x2000
    frames[2, 570, 303] = 0xC000 ^ middle  # a gain that there is not
    with_error = assert_agree(SMALL.replace(gain_words=gain_words), frames=frames, with_bad=False)
    np.testing.assert_array_equal(with_error, [False, True, True])


def test_a_flat_field_agrees(tmp_path):
    flat = np.random.default_rng(0).uniform(0.8, 1.2, (960, 960)).astype(np.float32)
    np.save(tmp_path / "flat.npy", flat)
    assert_agree(SMALL.replace(flat_field=str(tmp_path / "flat.npy")))
    assert_agree(SMALL.replace(flat_field=str(tmp_path / "flat.npy"), spikes="lines"), lines=LINES)


def test_saturated_words_are_told_unless_the_pixel_is_bad():
    layout = LAYOUTS["cosmic"]
    frames = raw_frames(layout, 4)
    bad = darks(layout).bad
    row, column = 555, 610
    assert not bad[row, column]
    stuck = np.argwhere(bad[500:540, 500:700])[0] + (500, 500)
    frames[1, row, column] = 0xFFFF
    frames[2, stuck[0], stuck[1]] = 0xFFFF
    np.testing.assert_array_equal(assert_agree(SMALL, frames=frames), [False, True, False, False])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_blocks_do_not_change_the_result(threads):
    layout = LAYOUTS["cosmic"]
    frames = raw_frames(layout, 5)
    frames = np.concatenate([frames] * 4)[:19]
    plan = make_plan(
        SMALL.replace(spikes="lines"), layout, darks(layout, lines=LINES), (479.5, 479.5), energy_eV=900.0
    )
    expected = clean(frames[:5], plan).frames
    result = clean(frames, plan, threads=threads).frames
    for k in range(len(frames)):
        np.testing.assert_array_equal(result[k], expected[k % 5])


def test_what_is_not_compiled_goes_through_the_reference():
    layout = LAYOUTS["cosmic"]
    for changes in ({"photons": "counting"}, {"spikes": "fourier"}):
        plan = make_plan(SMALL.replace(**changes), layout, darks(layout), (479.5, 479.5), energy_eV=900.0)
        assert not can_compile(plan)
        frames = raw_frames(layout, 1)
        expected = np.empty((1, 120, 120), np.float32)
        clean_reference(frames, plan, expected)
        np.testing.assert_array_equal(clean(frames, plan).frames, expected)
        assert expected.max() > 10


def test_bad_pixels_need_no_loops_of_their_own():
    """What is compiled for arrays of other types takes seconds: the first scan after a warm-up without bad pixels."""
    layout = LAYOUTS["cosmic"]
    plans = (
        make_plan(SMALL, layout, darks(layout, with_bad=bad), (479.5, 479.5), energy_eV=900.0)
        for bad in (False, True)
    )
    of_good, of_bad = (row_tables(plan) for plan in plans)
    assert len(of_good.bad_columns) == 0 < len(of_bad.bad_columns)
    assert typeof(of_good) == typeof(of_bad)
