import dataclasses

import numpy as np
import pytest

from nsbluesky.cleaning.center import find_center
from nsbluesky.cleaning.clean import clean as clean_frames
from nsbluesky.cleaning.darks import DarkStatistics
from nsbluesky.cleaning.layout import LAYOUTS, assemble, by_adc, get_layout
from nsbluesky.cleaning.plan import make_plan, mean_image, window_start
from nsbluesky.settings import CleaningSettings

ENERGY_EV = 1000.0
COSMIC = LAYOUTS["cosmic"]


def clean(frames, plan, out=None):
    return clean_frames(frames, plan, out).frames


RAW = CleaningSettings(adu_per_photon=1.0, overscan="none", photon_threshold=0.0)


def no_dark(layout=COSMIC, **changes):
    """Darks of a detector without pedestal, noise and faults."""
    zeros = np.zeros(layout.shape, np.float32)
    dark = DarkStatistics(zeros, zeros, np.zeros(layout.shape, bool), np.zeros(0, int), 25)
    return dataclasses.replace(dark, **changes)


def to_raw(image, layout=COSMIC):
    """Put an image into a raw frame."""
    raw = np.zeros(layout.shape, np.uint16)
    middle = 0
    for half, (start, stop) in enumerate(layout.good_rows):
        rows = image[middle : middle + stop - start]
        columns = layout.for_half(half).data_columns
        by_adc(raw, layout)[start:stop, :, columns] = rows.reshape(len(rows), layout.adcs_per_half, -1)
        middle += stop - start
    return raw


def raw_frames(simulator, positions, first_index=0, **kwargs):
    return np.stack(
        [
            simulator.raw_frame(x, y, index=first_index + i, **({"shutter_open": True} | kwargs))
            for i, (x, y) in enumerate(positions)
        ]
    )


@pytest.mark.parametrize(("overscan", "bias"), [("quadratic", 0), ("minimum", 2e-3)])
def test_without_photons_the_mean_is_zero(simulator, dark, overscan, bias):
    settings = simulator.cleaning_settings.replace(photon_threshold=0.0, overscan=overscan)
    plan = make_plan(settings, simulator.layout, dark, simulator.center_px, energy_eV=ENERGY_EV)
    frames = raw_frames(simulator, [(0, 0)] * 16, shutter_open=False)
    means = clean(frames, plan)[:, plan.mask == 0].mean(axis=1) / 64  # photons per detector pixel
    # The darks' own mean has the noise of 25 frames, common to all 16.
    error = means.std(ddof=1) * np.sqrt(1 / 16 + 1 / 25)
    assert abs(means.mean()) < 3 * error + bias
    assert error < 2e-3  # 0.07 ADU: the bound above means something


def test_counts_are_linear_within_a_percent(simulator, dark):
    plan = make_plan(simulator.cleaning_settings, simulator.layout, dark, simulator.center_px, energy_eV=ENERGY_EV)
    good = plan.mask == 0
    expected = simulator.expected_clean(1e-7, -2e-7)[good].sum()
    for exposure_s in (0.0005, 0.002, 0.01, 0.02):
        frames = raw_frames(simulator, [(1e-7, -2e-7)] * 2, exposure_s=exposure_s)
        total = clean(frames, plan)[:, good].sum(axis=1).mean()
        assert total == pytest.approx(expected * exposure_s / 0.01, rel=0.01)


def test_a_clean_frame_is_the_truth_but_for_photon_noise(simulator, dark):
    positions = [(1e-7, -2e-7), (-3e-7, 0.0), (0.0, 4e-7)]
    frames = raw_frames(simulator, positions, first_index=50)
    plan = make_plan(simulator.cleaning_settings, simulator.layout, dark, simulator.center_px, energy_eV=ENERGY_EV)
    good = plan.mask == 0
    for (x, y), frame in zip(positions, clean(frames, plan), strict=True):
        expected = simulator.expected_clean(x, y)[good]
        bright = expected > 20
        pull = (frame[good] - expected)[bright] / np.sqrt(expected[bright])
        assert abs(pull.mean()) < 0.06
        assert 0.9 < pull.std() < 1.1
        np.testing.assert_allclose(frame[good][~bright].sum(), expected[~bright].sum(), rtol=0.03)


def test_bad_adcs_are_masked_and_zero(simulator, dark):
    plan = make_plan(simulator.cleaning_settings, simulator.layout, dark, simulator.center_px, energy_eV=ENERGY_EV)
    assert set(np.unique(plan.mask)) == {0, 0x80}
    assert 0.005 < (plan.mask == 0x80).mean() < 0.05
    frame = clean(raw_frames(simulator, [(0, 0)]), plan)[0]
    assert not frame[plan.mask != 0].any()


def test_the_center_of_the_light_is_found(simulator, dark):
    settings = simulator.cleaning_settings
    rng = np.random.default_rng(0)
    frames = raw_frames(simulator, rng.uniform(-5e-7, 5e-7, (16, 2)))
    image, good = mean_image(frames, dark, settings, simulator.layout, energy_eV=ENERGY_EV)
    assert image.shape == good.shape == (960, 960)
    np.testing.assert_allclose(find_center(image, good), simulator.center_px, atol=1.0)
    assert image[good].sum() == pytest.approx(simulator.sample.photons, rel=0.1)


@pytest.mark.parametrize("overscan", ["quadratic", "median", "none"])
def test_overscan_takes_the_drift_out(simulator, dark, overscan):
    settings = simulator.cleaning_settings.replace(photon_threshold=0.0, overscan=overscan)
    plan = make_plan(settings, simulator.layout, dark, simulator.center_px, energy_eV=ENERGY_EV)
    frames = raw_frames(simulator, [(0, 0)] * 4, first_index=300, shutter_open=False)
    columns = clean(frames, plan)[:, :50].mean(axis=1) / 64 * 34  # ADU; structure along the readout and over ADCs
    assert (columns.std() > 2) == (overscan == "none")
    if overscan != "none":
        assert columns.std() < 0.7


def drifting_frame():
    """A frame without light whose every ADC drifts by a quadratic of its own along the readout of each half."""
    frame = np.zeros(COSMIC.shape, np.float64)
    rng = np.random.default_rng(0)
    u = np.linspace(1, 0, 520)[:, np.newaxis, np.newaxis]
    for half, direction in ((slice(0, 520), 1), (slice(520, 1040), -1)):
        a, b, c = rng.uniform(20, 300, (3, 96, 1))
        by_adc(frame, COSMIC)[half] = (a + b * u + c * u**2)[::direction]
    return np.rint(frame).astype(np.uint16)


@pytest.mark.parametrize("center", [(477.5, 477.5), (300.5, 700.5)])
@pytest.mark.parametrize("gain", [0x0000, 0x8000])
def test_a_quadratic_drift_goes_whatever_the_start_of_the_readout(center, gain):
    frame = drifting_frame() | np.uint16(gain)
    blocks = by_adc(frame, COSMIC)
    for junk in (slice(0, 95), slice(945, 1040)):  # the first rows that are read, in the overscan alone
        blocks[junk, :, [0, 11]] = 0x1FFF
    bad = np.zeros(COSMIC.shape, bool)
    blocks[700, 40, 0] = 0x1FFF
    by_adc(bad, COSMIC)[700, 40, 0] = True
    settings = RAW.replace(
        overscan="quadratic", overscan_start_row=90, frame_px=832, gain_words="csxtools" if gain else "plain"
    )
    plan = make_plan(settings, COSMIC, no_dark(bad=bad), center, energy_eV=ENERGY_EV)
    assert np.abs(clean(frame[np.newaxis], plan)).max() < (4 if gain else 1)  # rounding to whole words


def test_without_darks_the_overscan_is_the_pedestal(simulator):
    settings = simulator.cleaning_settings.replace(photon_threshold=0.0)
    plan = make_plan(settings, simulator.layout, None, simulator.center_px, energy_eV=ENERGY_EV)
    frame = clean(raw_frames(simulator, [(0, 0)], shutter_open=False), plan)[0]
    assert not plan.mask.any()
    assert abs(np.median(frame)) / 64 * 34 < 10  # of a pedestal of 4096 ADU: the overscan step is 6
    along_readout = np.median(frame, axis=1) / 64 * 34
    assert np.ptp(along_readout) < 4  # of an exponential start of 530 ADU


@pytest.mark.parametrize("bin_px", [1, 2, 4, 8, 5])
@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5])
def test_the_zero_order_lies_in_the_middle_of_bin_half_n(bin_px, fraction):
    settings = RAW.replace(crop_px=400, frame_px=400 // bin_px)
    center = (470 + fraction, 490 - fraction)
    offsets = [np.indices((960, 960))[axis] - c for axis, c in enumerate(center)]
    image = np.rint(30000 * np.exp(-(offsets[0] ** 2 + offsets[1] ** 2) / (2 * 12.0**2)))
    plan = make_plan(settings, COSMIC, no_dark(), center, energy_eV=ENERGY_EV)
    frame = clean(to_raw(image)[np.newaxis], plan)[0].astype(np.float64)
    index = np.arange(settings.frame_px) - settings.frame_px // 2
    found = np.array([(frame.sum(axis=1) * index).sum(), (frame.sum(axis=0) * index).sum()]) / frame.sum()
    # whole pixels are cropped: half a pixel may remain, and what remains is known exactly
    expected = [(c - window_start(c, settings) - (bin_px - 1) / 2) / bin_px - settings.frame_px // 2 for c in center]
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.abs(found).max() <= 0.5 / bin_px + 2e-3


def test_even_bins_are_centred_between_two_pixels():
    settings = RAW.replace(crop_px=832, frame_px=104)
    start = window_start(479.5, settings)
    assert start + 52 * 8 + 3.5 == 479.5


def test_binning_sums_what_fell():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 1000, (960, 960))
    settings = RAW.replace(crop_px=480, frame_px=120)
    center = (470.5, 500.5)
    plan = make_plan(settings, COSMIC, no_dark(), center, energy_eV=ENERGY_EV)
    row, column = (window_start(c, settings) for c in center)
    expected = image[row : row + 480, column : column + 480].reshape(120, 4, 120, 4).sum(axis=(1, 3))
    np.testing.assert_allclose(clean(to_raw(image)[np.newaxis], plan)[0], expected, rtol=1e-6)


def test_bad_pixels_in_a_bin_are_made_up_for_by_the_good():
    settings = RAW.replace(crop_px=480, frame_px=120)
    center = (477.5, 477.5)
    bad_image = np.zeros((960, 960), np.uint16)
    row, column = (window_start(c, settings) for c in center)
    bad_image[row, column : column + 4] = 1  # a quarter of bin 0, 0
    bad_image[row + 4 : row + 7, column : column + 4] = 1  # three quarters of bin 1, 0
    dark = no_dark(bad=to_raw(bad_image).astype(bool))
    image = np.where(bad_image, 60000, 10)
    plan = make_plan(settings, COSMIC, dark, center, energy_eV=ENERGY_EV)
    frame = clean(to_raw(image)[np.newaxis], plan)[0]
    assert frame[0, 0] == pytest.approx(160)
    assert (plan.mask[0, 0], plan.mask[1, 0]) == (0, 0x80)
    assert frame[1, 0] == 0
    assert np.count_nonzero(plan.mask) == 1


@pytest.mark.parametrize("center", [(100.0, 900.0), (900.0, 477.5), (477.5, -10.0)])
def test_a_window_beyond_the_sensor_is_missing_there(center):
    image = np.full((960, 960), 3)
    settings = RAW.replace(crop_px=832, frame_px=104)
    plan = make_plan(settings, COSMIC, no_dark(), center, energy_eV=ENERGY_EV)
    frame = clean(to_raw(image)[np.newaxis], plan)[0]
    starts = [window_start(c, settings) for c in center]
    on = [
        np.minimum(np.maximum(960 - (s + 8 * np.arange(104)), 0), 8)
        - np.minimum(np.maximum(-(s + 8 * np.arange(104)), 0), 8)
        for s in starts
    ]
    share = np.outer(*on) / 64
    np.testing.assert_array_equal(plan.mask, np.where(share < 0.5, 0x200, 0))
    np.testing.assert_allclose(frame, np.where(share < 0.5, 0, 192), rtol=1e-5)


def test_a_window_off_the_sensor_is_refused():
    with pytest.raises(ValueError, match=r"center_px = \(2000.0, 480.0\)"):
        make_plan(RAW, COSMIC, no_dark(), (2000.0, 480.0), energy_eV=ENERGY_EV)


def test_threshold_drops_noise_and_keeps_photons_with_their_neighbours():
    image = np.full((960, 960), 9)
    image[480, 480] = 34
    settings = RAW.replace(adu_per_photon=34.0, photon_threshold=0.5, crop_px=480, frame_px=120)
    plan = make_plan(settings, COSMIC, no_dark(), (477.5, 477.5), energy_eV=ENERGY_EV)
    frame = clean(to_raw(image)[np.newaxis], plan)[0]
    assert frame.sum() == pytest.approx((34 + 8 * 9) / 34)


def test_a_hot_pixel_brings_no_neighbours_over_the_threshold():
    image = np.full((960, 960), 9)
    image[480, 480] = 60000
    bad = np.zeros((960, 960), np.uint16)
    bad[480, 480] = 1
    settings = RAW.replace(adu_per_photon=34.0, photon_threshold=0.5, crop_px=480, frame_px=120)
    dark = no_dark(bad=to_raw(bad).astype(bool))
    plan = make_plan(settings, COSMIC, dark, (477.5, 477.5), energy_eV=ENERGY_EV)
    assert not clean(to_raw(image)[np.newaxis], plan).any()


def test_gain_bits_scale_each_pixel():
    image = np.full((960, 960), 0x0100)
    image[470] = 0x8000 | 0x0100
    image[480] = 0xC000 | 0x0100
    image[490] = 0x2000 | 0x0100
    settings = RAW.replace(gain_words="csxtools", crop_px=480, frame_px=480)
    dark = no_dark(mean=np.full(COSMIC.shape, 0x00F0, np.float32))
    plan = make_plan(settings, COSMIC, dark, (480.0, 480.0), energy_eV=ENERGY_EV)
    frame = clean(to_raw(image)[np.newaxis], plan)[0]
    row = window_start(480.0, settings)
    np.testing.assert_array_equal(frame[[460 - row, 470 - row, 480 - row, 490 - row], 7], [16, 64, 128, np.nan])


def test_blocks_and_out_give_what_single_frames_give(simulator, dark):
    plan = make_plan(simulator.cleaning_settings, simulator.layout, dark, simulator.center_px, energy_eV=ENERGY_EV)
    frames = raw_frames(simulator, [(0, 0), (1e-7, 0), (0, 1e-7)])
    out = np.full((3, 104, 104), np.nan, np.float32)
    assert clean(frames, plan, out) is out
    for frame, one in zip(frames, out, strict=True):
        np.testing.assert_array_equal(clean(frame[np.newaxis], plan)[0], one)
    assert clean(frames[:0], plan).shape == (0, 104, 104)


def test_plain_images_pass_through():
    image = np.random.default_rng(0).integers(0, 500, (64, 64)).astype(np.uint16)
    settings = RAW.replace(layout="none", crop_px=64, frame_px=64)
    layout = get_layout(settings, image.shape)
    plan = make_plan(settings, layout, None, (32.0, 32.0), energy_eV=ENERGY_EV)
    np.testing.assert_array_equal(clean(image[np.newaxis], plan)[0], image)
    assert not assemble(np.zeros((64, 64)), layout).any()
