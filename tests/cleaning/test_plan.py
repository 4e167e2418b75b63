"""Plans: what bad input they refuse, and what single frames that are not whole come out as."""

import dataclasses

import numpy as np
import pytest

from nsbluesky.cleaning.clean import clean, trace
from nsbluesky.cleaning.darks import DarkAccumulator, DarkStatistics
from nsbluesky.cleaning.flags import FrameFlag
from nsbluesky.cleaning.layout import LAYOUTS, by_adc, get_layout
from nsbluesky.cleaning.plan import check_darks, make_plan, plan_for
from nsbluesky.settings import CleaningSettings, SettingsError
from nsbluesky.simulation.fccd_electronics import Gain
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.frame_faults import FrameFaults
from nsbluesky.simulation.presets import get_preset
from nsbluesky.simulation.samples import gold_balls

COSMIC = LAYOUTS["cosmic"]
SETTINGS = CleaningSettings(adu_per_photon=30.0, crop_px=480, frame_px=120)
CENTER = (479.5, 479.5)


@pytest.fixture(scope="module")
def frames(simulator):
    places = np.random.default_rng(0).uniform(-5e-7, 5e-7, (6, 2)).tolist()
    return np.stack([simulator.raw_frame(x, y, shutter_open=True, index=500 + k) for k, (x, y) in enumerate(places)])


def flat_dark(level=4096.0, std=3.0):
    shape = COSMIC.shape
    mean = np.full(shape, level, np.float32)
    return DarkStatistics(mean, np.full(shape, std, np.float32), np.zeros(shape, bool), np.zeros(0, int), 25)


def flat_frame(photons=10):
    frame = np.full(COSMIC.shape, 4096, np.uint16)
    for half, (start, stop) in enumerate(COSMIC.halves):
        by_adc(frame, COSMIC)[start:stop, :, COSMIC.for_half(half).data_columns] += 30 * photons
    return frame


# ---- what cannot be cleaned


def test_overscan_columns_that_hold_light_are_refused(simulator, dark, frames):
    wrong = simulator.cleaning_settings.replace(layout="cosmic_10_11")
    darks = DarkAccumulator(LAYOUTS["cosmic_10_11"])
    for k in range(5):
        darks.add(simulator.raw_frame(0, 0, shutter_open=False, index=k)[None])
    with pytest.raises(SettingsError, match=r"overscan_columns = \(10, 11\) hold light, columns 0, 11 hold none"):
        plan_for(frames, wrong, LAYOUTS["cosmic_10_11"], darks.result(wrong), energy_eV=1000.0)
    plan_for(frames, simulator.cleaning_settings, COSMIC, dark, energy_eV=1000.0)


def test_a_window_that_is_mostly_off_the_sensor_is_refused():
    """As the Fast CCD's is for frames of another detector, of which an image would be made all the same."""
    settings = CleaningSettings(layout="none", adu_per_photon=1.0)
    frames = np.full((2, 100, 104), 5, np.uint16)
    with pytest.raises(SettingsError, match=r"crop_px = 832 with frames of 100 × 104: .*set cleaning.crop_px=100 "):
        plan_for(frames, settings, get_layout(settings, (100, 104)), None, energy_eV=1000.0)
    settings = settings.replace(crop_px=208)
    plan_for(frames, settings, get_layout(settings, (100, 104)), None, energy_eV=1000.0)


def test_overscan_is_checked_beside_pixels_that_switch_their_gain():
    model = get_preset("none")
    model = dataclasses.replace(model, electronics=dataclasses.replace(model.electronics, gain=Gain("csxtools")))
    simulator = FrameSimulator(gold_balls(), detector=model)
    frames = simulator.raw_frame(0, 0, shutter_open=True, index=9)[None]
    assert (frames & 0xC000).any()
    settings = simulator.cleaning_settings
    darks = DarkAccumulator(COSMIC, "csxtools")
    for k in range(4):
        darks.add(simulator.raw_frame(0, 0, shutter_open=False, index=k)[None])
    dark = darks.result(settings)
    plan_for(frames, settings, COSMIC, dark, energy_eV=1000.0)
    with pytest.raises(SettingsError, match=r"overscan_columns = \(10, 11\) hold light"):
        plan_for(frames, settings, LAYOUTS["cosmic_10_11"], dark, energy_eV=1000.0)


def test_darks_that_never_change_are_refused(frames):
    """A camera that is off or froze gives the same words again and again; noise in a few pixels is not enough."""
    frozen = flat_dark(std=0.0)
    frozen.std[:200] = 3
    with pytest.raises(ValueError, match="same value in all 25 dark frames: expected read noise"):
        plan_for(frames, SETTINGS, COSMIC, frozen, energy_eV=900.0)
    check_darks(flat_dark(), COSMIC)
    check_darks(dataclasses.replace(frozen, num_frames=1), COSMIC)  # one frame cannot tell
    check_darks(None, COSMIC)


@pytest.mark.parametrize("columns", [(10, 11), (0, 1)])
def test_other_places_of_the_overscan(columns):
    """The bottom half is stored turned, so its overscan lies at the other end of each ADC."""
    name = f"cosmic_{columns[0]}_{columns[1]}"
    layout = LAYOUTS[name]
    rng = np.random.default_rng(0)
    frame = 4096 + rng.normal(0, 3, (1, *layout.shape))
    drift = 40 * np.linspace(1, 0, 520)[:, None, None] ** 2
    photons = rng.poisson(5, layout.image_shape)
    for half, (start, stop) in enumerate(layout.halves):
        by_adc(frame[0], layout)[start:stop] += drift if half == 0 else drift[::-1]
        first, last = layout.good_rows[half]
        rows = photons[:480] if half == 0 else photons[480:]
        columns_here = layout.for_half(half).data_columns
        by_adc(frame[0], layout)[first:last, :, columns_here] += 30 * rows.reshape(480, 96, 10)
    settings = SETTINGS.replace(layout=name, crop_px=960, frame_px=960, photons="none")
    plan = make_plan(settings, layout, flat_dark(), CENTER, energy_eV=900.0)
    clean_frame = clean(frame.astype(np.uint16), plan).frames[0]
    row, column = plan.start
    expected = np.zeros((960, 960))
    expected[: 960 - row, : 960 - column] = photons[row:, column:]
    inside = plan.mask == 0
    assert abs((clean_frame - expected)[inside].mean()) < 0.02 + 0.5 / 30
    assert (clean_frame - expected)[inside].std() < 0.12


def test_darks_of_which_nothing_can_be_used_are_refused(frames):
    dead = dataclasses.replace(flat_dark(), bad=np.ones(COSMIC.shape, bool))
    with pytest.raises(ValueError, match="not one pixel of the window can be used: check the dark frames"):
        make_plan(SETTINGS, COSMIC, dead, CENTER, energy_eV=900.0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 1000, 1152), np.uint16), r"raw frames \(2, 1000, 1152\) uint16: expected \(n, 1040, 1152\)"),
        (np.zeros((2, 1040, 1152), np.float32), "expected .* integers"),
        (np.zeros((1040, 1152), np.uint16), "raw frames"),
    ],
)
def test_frames_of_another_kind_are_refused(bad, message):
    plan = make_plan(SETTINGS, COSMIC, flat_dark(), CENTER, energy_eV=900.0)
    with pytest.raises(ValueError, match=message):
        clean(bad, plan)


def test_a_flat_field_without_numbers_is_refused(tmp_path):
    np.save(tmp_path / "flat.npy", np.full((960, 960), np.nan))
    with pytest.raises(SettingsError, match="flat_field"):
        make_plan(SETTINGS.replace(flat_field=str(tmp_path / "flat.npy")), COSMIC, None, CENTER, energy_eV=900.0)


# ---- frames that are not whole


def test_saturated_pixels_are_unknown_and_their_neighbours_as_well():
    frames = np.stack([flat_frame(), flat_frame()])
    frames[1, 600, 605] = 0xFFFF
    plan = make_plan(SETTINGS.replace(frame_px=480), COSMIC, flat_dark(), CENTER, energy_eV=900.0)
    result = clean(frames, plan)
    np.testing.assert_array_equal(result.flags, [0, FrameFlag.SATURATED])
    np.testing.assert_allclose(result.frames[0], 10, atol=0.01)
    unknown = np.argwhere(np.isnan(result.frames[1]))
    assert len(unknown) == 9
    np.testing.assert_array_equal(np.ptp(unknown, axis=0), [2, 2])
    np.testing.assert_allclose(result.frames[1][np.isfinite(result.frames[1])], 10, atol=0.01)


@pytest.mark.parametrize("word", [0x0000, 0x2000])
@pytest.mark.parametrize("overscan", ["quadratic", "median"])
def test_lost_packets_are_unknown_and_the_rest_is_right(word, overscan):
    frame = flat_frame().astype(np.int64)
    u = np.linspace(1, 0, 520)[:, None]
    for (start, stop), way in zip(COSMIC.halves, (1, -1), strict=True):
        frame[start:stop] += np.rint((50 * u**2)[::way]).astype(int)
    whole = frame.astype(np.uint16)
    hurt = whole.copy()
    hurt[300:340] = word
    plan = make_plan(SETTINGS.replace(overscan=overscan), COSMIC, flat_dark(), CENTER, energy_eV=900.0)
    result = clean(np.stack([whole, hurt]), plan)
    np.testing.assert_array_equal(result.flags, [0, FrameFlag.LOST_PACKETS])
    unknown = np.isnan(result.frames[1])
    assert unknown.any(axis=1).sum() == unknown.all(axis=1).sum() in (9, 10, 11)
    np.testing.assert_allclose(result.frames[1][~unknown], result.frames[0][~unknown], rtol=0.005)


def test_an_error_bit_takes_one_pixel_of_a_bin():
    frame = flat_frame()
    frame[600, 605] |= 0x2000
    settings = SETTINGS.replace(gain_words="csxtools")
    plan = make_plan(settings, COSMIC, flat_dark(), CENTER, energy_eV=900.0)
    result = clean(frame[None], plan)
    assert result.flags[0] == FrameFlag.LOST_PACKETS
    assert np.isfinite(result.frames).all()  # fifteen of sixteen pixels speak for it
    np.testing.assert_allclose(result.frames, 160, atol=0.05)


def test_random_words_are_corrupt_and_unknown():
    frames = np.stack([flat_frame(), np.random.default_rng(0).integers(0, 65536, COSMIC.shape).astype(np.uint16)])
    plan = make_plan(SETTINGS, COSMIC, flat_dark(), CENTER, energy_eV=900.0)
    result = clean(frames, plan)
    assert result.flags[0] == 0
    assert result.flags[1] & FrameFlag.CORRUPT
    assert np.isnan(result.frames[1]).all()


@pytest.mark.parametrize("downsample", ["rebin", "fourier"])
def test_fourier_and_rebin_agree_about_what_is_unknown(downsample):
    frame = flat_frame()
    frame[300:340] = 0
    frame[600, 605] = 0xFFFF
    plan = make_plan(SETTINGS.replace(downsample=downsample), COSMIC, flat_dark(), CENTER, energy_eV=900.0)
    result = clean(frame[None], plan)
    assert result.flags[0] == FrameFlag.LOST_PACKETS | FrameFlag.SATURATED
    unknown = np.isnan(result.frames[0])
    assert 9 * 120 < unknown.sum() < 14 * 120
    np.testing.assert_allclose(result.frames[0][~unknown], 160, rtol=0.05)


def test_every_frame_with_lost_packets_or_random_words_is_flagged():
    faults = FrameFaults(lost_packets=0.5, packet_run=3, corrupted=0.1)
    model = dataclasses.replace(get_preset("light"), frame_faults=faults)
    simulator = FrameSimulator(gold_balls(), seed=3, detector=model)
    darks = DarkAccumulator(COSMIC)
    calm = FrameSimulator(gold_balls(), seed=3, detector="light")
    for k in range(5):
        darks.add(calm.raw_frame(0, 0, shutter_open=False, index=k)[None])
    exposures = [simulator.exposure(0, 0, shutter_open=True, index=100 + k) for k in range(24)]
    settings = simulator.cleaning_settings
    plan = plan_for(
        np.stack([e.words for e in exposures]), settings, COSMIC, darks.result(settings), energy_eV=1000.0
    )
    flags = clean(np.stack([e.words for e in exposures]), plan).flags
    hurt = np.array([bool(len(e.lost_packets)) or e.corrupted for e in exposures])
    assert 5 < hurt.sum() < 24
    np.testing.assert_array_equal(flags != 0, hurt)


# ---- step by step


def test_trace_shows_every_step(simulator, dark, frames):
    settings = simulator.cleaning_settings.replace(beamstop_radius_m=1e-4, beamstop_transmission=0.5)
    plan = make_plan(settings, COSMIC, dark, simulator.center_px, energy_eV=1000.0)
    stages = trace(frames[0], plan)
    assert list(stages) == ["raw", "dark", "overscan", "bad_pixels", "spikes", "photons", "beamstop", "clean"]
    assert {a.shape for name, a in stages.items() if name != "clean"} == {(832, 832)}
    assert np.median(stages["raw"]) == pytest.approx(4096, abs=100)
    assert abs(np.median(stages["dark"])) > abs(np.median(stages["overscan"]))
    np.testing.assert_array_equal(stages["clean"], clean(frames[:1], plan).frames[0])
    middle = stages["beamstop"][400:432, 400:432].sum() / stages["photons"][400:432, 400:432].sum()
    assert 1.0 < middle <= 2.0


def test_the_plan_finds_centre_and_interference():
    simulator = FrameSimulator(gold_balls(), seed=5, detector="light")
    darks = DarkAccumulator(COSMIC)
    for k in range(8):
        darks.add(simulator.raw_frame(0, 0, shutter_open=False, index=k)[None])
    frames = np.stack([simulator.raw_frame(0, 0, shutter_open=True, index=50 + k) for k in range(4)])
    settings = simulator.cleaning_settings
    dark = darks.result(settings)
    plan = plan_for(frames, settings, COSMIC, dark, energy_eV=1000.0)
    np.testing.assert_allclose(plan.center, simulator.center_px, atol=2)
    true = np.sort(simulator.truth()["interference_cycles_per_clock"])
    np.testing.assert_allclose(np.sort(dark.lines.frequencies), true, atol=1e-5)
    assert len(plan.spikes) == 2
