"""What the readout makes of charge, against what its settings say; the levels of a real frame are tested apart."""

import dataclasses

import numpy as np
import pytest

from nsbluesky.cleaning.layout import LAYOUTS, assemble, by_adc
from nsbluesky.simulation.faults import DetectorFaults
from nsbluesky.simulation.fccd_electronics import ELECTRON_EV, GAIN_BITS, Electronics, Gain, Readout
from nsbluesky.simulation.interference import Interference

LAYOUT = LAYOUTS["cosmic"]
NO_FAULTS = DetectorFaults(bad_adcs=0, hot_pixels=0, stuck_pixels=0)
QUIET = Electronics(drift=0, read_noise=0, decay_jitter=0)
ENERGY_EV = 1000.0
ADU_PER_PHOTON = 34.0


def readout(electronics=QUIET, faults=NO_FAULTS, seed=0):
    return Readout(LAYOUT, electronics, faults, (480.0, 480.0), ENERGY_EV, np.random.default_rng(seed))


def read(source, charge=None, seed=1, **kwargs):
    return source.read(charge, np.random.default_rng(seed), **kwargs)


def quiet(**changes):
    return dataclasses.replace(QUIET, **changes)


@pytest.fixture(scope="module")
def charge():
    return np.random.default_rng(0).poisson(3.0, LAYOUT.image_shape).astype(np.float32)


def test_a_photon_is_so_many_adu_in_its_own_pixel(charge):
    source = readout()
    light = read(source, charge).astype(int) - read(source)
    image = assemble(light, LAYOUT)
    np.testing.assert_allclose(image, charge * ADU_PER_PHOTON, atol=1)  # both words are rounded
    assert (image == charge * ADU_PER_PHOTON).mean() > 0.999
    assert light.sum() == image.sum()  # and no light elsewhere


def test_read_noise_is_new_in_every_frame():
    source = readout(quiet(read_noise=4.0))
    frames = np.stack([read(source, seed=k) for k in range(12)]).astype(float)
    assert np.sqrt(frames.var(axis=0, ddof=1).mean()) == pytest.approx(np.sqrt(16 + 1 / 12), rel=0.002)
    first, second = (frames[k] - frames.mean(axis=0) for k in (0, 1))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1] + 1 / 11) < 0.005
    np.testing.assert_array_equal(read(source, seed=3), frames[3])


def test_drift_is_a_quadratic_of_its_own_per_adc_and_frame():
    source = readout(quiet(drift=20.0))
    difference = read(source, seed=2).astype(float) - read(source, seed=1)
    for rows in LAYOUT.halves:
        levels = by_adc(difference, LAYOUT)[slice(*rows)].mean(axis=2)
        row = np.arange(len(levels))
        fit = np.polynomial.polynomial.polyval(row, np.polynomial.polynomial.polyfit(row, levels, 2)).T
        assert np.abs(levels - fit).max() < 1.0  # rounding
        assert 20 < levels.std(axis=1).mean() < 80


def test_interference_has_the_amplitudes_that_the_truth_tells():
    source = readout(quiet(interference=Interference((0.0527, 0.1713), (1.0, 6.0))))
    difference = read(source, seed=5).astype(float) - readout(seed=0).fixed_levels
    for half, rows in enumerate(LAYOUT.halves):
        clocks = LAYOUT.clocks(half).ravel()
        values = by_adc(difference, LAYOUT)[slice(*rows)].swapaxes(0, 1).reshape(96, -1)
        for line, frequency in enumerate((0.0527, 0.1713)):
            amplitude = np.abs(values @ np.exp(-2j * np.pi * frequency * clocks)) * 2 / len(clocks)
            np.testing.assert_allclose(amplitude, source.amplitudes[half, :, line], atol=0.05)
    assert source.amplitudes.min() >= 1 and source.amplitudes.max() <= 6


def test_dark_current_is_charge_and_noise_where_light_falls():
    source = readout(quiet(dark_current_hz=1e5, read_noise=3.0))
    frames = [np.stack([read(source, seed=k, exposure_s=s) for k in range(10)]).astype(float) for s in (0.0, 0.1)]
    electrons, adu = 1e4, 0.034 * ELECTRON_EV
    level = assemble(frames[1].mean(axis=0) - frames[0].mean(axis=0), LAYOUT)
    assert level.mean() == pytest.approx(electrons * adu, rel=1e-3)
    variance = assemble(frames[1].var(axis=0, ddof=1), LAYOUT).mean()
    assert variance == pytest.approx(9 + 1 / 12 + electrons * adu**2, rel=0.01)
    overscan = by_adc(frames[1] - frames[0], LAYOUT)[..., list(LAYOUT.overscan_columns)]
    assert abs(overscan.mean()) < 0.1


def test_sensitivity_differs_between_adcs():
    source = readout(quiet(sensitivity_spread=0.05))
    charge = np.full(LAYOUT.image_shape, 50, np.float32)
    light = by_adc(read(source, charge).astype(float) - read(source), LAYOUT)[..., LAYOUT.data_columns]
    adus = np.stack([light[slice(*rows)].mean(axis=(0, 2)) for rows in LAYOUT.good_rows]) / 50
    np.testing.assert_allclose(adus, source.adu_per_photon, atol=0.02)
    assert adus.std() / adus.mean() == pytest.approx(0.05, rel=0.2)


@pytest.mark.parametrize("words", ["csxtools", "middle_0x4000"])
def test_bright_pixels_go_on_to_a_lower_gain(words):
    charge = np.linspace(0, 850, 960 * 960, dtype=np.float32).reshape(960, 960)
    source = readout(quiet(gain=Gain(words=words)))
    image = assemble(read(source, charge), LAYOUT)
    pedestal = assemble(source.fixed_levels, LAYOUT)
    seen = set()
    for bits, divisor, factor in zip(GAIN_BITS[words], (1, 4, 8), (1.0, 0.97, 0.94), strict=True):
        here = (image & 0xE000) == bits
        seen.add(int(here.sum()))
        level = (image[here] & 0x1FFF) - pedestal[here] * factor
        np.testing.assert_allclose(level * divisor, charge[here] * ADU_PER_PHOTON, atol=1.01 * divisor)
    assert 0 not in seen
    assert (image[charge * ADU_PER_PHOTON + pedestal < 7700] & 0xC000 == 0).all()


@pytest.mark.parametrize(("setting", "divisor", "bits"), [("x8", 1, 0), ("x2", 4, 0x8000), ("x1", 8, 0xC000)])
def test_a_gain_can_be_set_for_all_pixels(setting, divisor, bits):
    charge = np.full(LAYOUT.image_shape, 60, np.float32)
    source = readout(quiet(gain=Gain(words="csxtools", setting=setting)))
    frame, dark = read(source, charge), read(source)
    assert np.all(frame & 0xC000 == bits) and np.all(dark & 0xC000 == bits)
    light = assemble((frame & 0x1FFF).astype(int) - (dark & 0x1FFF), LAYOUT)
    np.testing.assert_allclose(light, 60 * ADU_PER_PHOTON / divisor, atol=1)


def test_thirteen_bits_stand_under_constant_ones():
    charge = np.full(LAYOUT.image_shape, 20, np.float32)
    charge[0, 0] = 1000
    source = readout(quiet(gain=Gain(words="13_bits")))
    image = assemble(read(source, charge), LAYOUT)
    assert np.all(image & 0xE000 == 0xC000)
    assert image[0, 0] == 0xDFFF
    plain = assemble(read(readout(), charge), LAYOUT)
    np.testing.assert_array_equal(image[1:] & 0x1FFF, plain[1:])


def test_words_end_at_the_largest():
    charge = np.full(LAYOUT.image_shape, 5000, np.float32)
    assert assemble(read(readout(), charge), LAYOUT).min() == 0xFFFF
    assert assemble(read(readout(quiet(largest_word=0x6FFF)), charge), LAYOUT).min() == 0x6FFF


def test_error_bits_come_by_chance():
    frame = read(readout(quiet(gain=Gain(words="csxtools", error_chance=1e-3))))
    assert (frame & 0x2000 != 0).mean() == pytest.approx(1e-3, rel=0.15)


def test_full_pixels_pull_down_the_adcs_two_to_either_side():
    charge = np.zeros(LAYOUT.image_shape, np.float32)
    charge[100, 503:506] = 800  # of ADC 50
    electronics = quiet(shadow_adu=3.0)
    frame = read(readout(electronics), charge, full_well=800.0).astype(int) - read(readout(electronics))
    row = by_adc(frame, LAYOUT)[105]
    np.testing.assert_array_equal(row[[48, 52]], -9)
    assert not row[[47, 49, 51, 53]].any()
    assert not np.delete(frame, 105, axis=0).any()


def test_faults_are_where_the_truth_says():
    faults = DetectorFaults(bad_adcs=3, bad_adc_noise=(20, 60), hot_pixels=40, stuck_pixels=30)
    source = readout(dataclasses.replace(QUIET, read_noise=3.0), faults)
    frames = np.stack([read(source, seed=k) for k in range(16)]).astype(float)
    std, found = frames.std(axis=0, ddof=1), source.fault_map
    np.testing.assert_array_equal((std > 25) | (std == 0), found.bad)
    np.testing.assert_array_equal(np.sort(found.stuck), np.flatnonzero(std.ravel() == 0))
    for adc, factor in zip(found.bad_adcs, found.adc_noise, strict=True):
        noise = by_adc(std, LAYOUT)[slice(*LAYOUT.halves[adc // 96]), adc % 96]
        assert np.median(noise) == pytest.approx(3 * factor, rel=0.05)


@pytest.mark.parametrize(
    ("name", "value"), [("words", "14_bits"), ("setting", "x4"), ("switch_adu", 9000.0), ("error_chance", -1.0)]
)
def test_an_impossible_gain_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} = "):
        Gain(**{name: value})
