"""A simulated raw frame has the statistics of a real one; each is measured on raw frames alone.

The ranges are those of a raw frame of the COSMIC Fast CCD and of public documents about the detector.
"""

import dataclasses

import numpy as np
import pytest
import scipy.optimize

from nsbluesky.cleaning.layout import LAYOUTS, by_adc
from nsbluesky.simulation.charge import share_charge
from nsbluesky.simulation.fccd_detector import SimulatedDetector
from nsbluesky.simulation.fccd_electronics import Gain
from nsbluesky.simulation.presets import get_preset

LAYOUT = LAYOUTS["cosmic"]
ROWS = np.arange(520)
PLATEAU = slice(400, 510)


def raw_dark(name, index=0, seed=0):
    """Return a raw frame, both halves from the outer edge on: (half, row, ADC, column as in the frame)."""
    detector = SimulatedDetector(get_preset(name), energy_eV=930.0, seed=seed)
    exposure = detector.expose(None, index=index)
    assert not exposure.lost_packets.size and not exposure.corrupted
    blocks = by_adc(exposure.words.astype(float), LAYOUT)
    return np.stack([blocks[:520], blocks[520:][::-1]])


@pytest.fixture(scope="module", params=["none", "light"])
def frame(request):
    return raw_dark(request.param)


@pytest.fixture(scope="module")
def heavy():
    return raw_dark("heavy", index=2)


def profile(half):
    """Return a half's level along the readout, (rows,): the median of the ADCs."""
    return np.median(half[:, :, 1:11].mean(axis=2), axis=1)


def noise_of_adcs(half):
    """Return each ADC's standard deviation on the plateau, (ADCs,), bad pixels aside."""
    values = half[PLATEAU, :, 1:11]
    rows = ROWS[PLATEAU]
    fit = np.polynomial.polynomial.polyfit(rows, np.median(values, axis=2), 2)
    values = values - np.polynomial.polynomial.polyval(rows, fit).T[..., None]
    return 1.4826 * np.median(np.abs(values - np.median(values, axis=0)), axis=(0, 2))


@pytest.mark.parametrize("half", [0, 1])
def test_the_readout_starts_on_a_rail_and_decays(frame, half):
    level = profile(frame[half])
    amplitude = level[5:40].mean() - level[PLATEAU].mean()
    on_the_rail = np.abs(level - level[5:40].mean()) < 0.03 * amplitude
    assert 50 <= np.flatnonzero(~on_the_rail)[0] <= 110

    def decay(row, plateau, start, time_constant):
        return plateau + start * np.exp(-(row - 120) / time_constant)

    rows = ROWS[120:510]
    (plateau, _, time_constant), _ = scipy.optimize.curve_fit(decay, rows, level[rows], (4096, 300, 80))
    assert 85 <= time_constant <= 93
    assert 0.125 < (level[5:40].mean() - plateau) / plateau < 0.135


@pytest.mark.parametrize("half", [0, 1])
def test_the_plateau_is_a_quadratic(half):
    level = profile(raw_dark("none")[half])[PLATEAU]
    fit = np.polynomial.Polynomial.fit(ROWS[PLATEAU], level, 2)
    assert np.abs(level - fit(ROWS[PLATEAU])).max() < 5e-4 * level.mean()
    assert np.ptp(level) < 5e-3 * level.mean()


def test_the_pedestal_is_4096_with_half_a_percent_between_adcs(frame):
    pedestals = np.median(frame[:, PLATEAU, :, 1:11], axis=(1, 3))
    assert np.median(pedestals) == pytest.approx(4096, rel=0.005)
    deviation = 1.4826 * np.median(np.abs(pedestals - np.median(pedestals)))  # bad ADCs do not count
    assert deviation / 4096 == pytest.approx(0.005, rel=0.25)


def test_overscan_lies_slightly_below_the_data(frame):
    step = np.median(frame[:, PLATEAU, :, 1:11].mean(axis=(1, 3)) - frame[:, PLATEAU][..., [0, 11]].mean(axis=(1, 3)))
    assert 2 < step < 12


@pytest.mark.parametrize("name", ["none", "light", "heavy"])
def test_read_noise_is_two_to_five_adu(name):
    """From the difference of two frames, drift and lines of interference taken out."""
    difference = ((raw_dark(name, index=2) - raw_dark(name, index=3)) / np.sqrt(2))[0, PLATEAU]
    values = difference.swapaxes(0, 1).reshape(96, -1)
    clocks = np.arange(values.shape[1])
    terms = [np.ones(len(clocks)), clocks / len(clocks), (clocks / len(clocks)) ** 2]
    for frequency in get_preset(name).electronics.interference.cycles_per_clock:
        terms += [np.cos(2 * np.pi * frequency * clocks), np.sin(2 * np.pi * frequency * clocks)]
    design = np.stack(terms, axis=1)
    values = values - (design @ np.linalg.lstsq(design, values.T, rcond=None)[0]).T
    noise = np.median(1.4826 * np.median(np.abs(values), axis=1))
    assert 2 <= noise <= 5
    assert noise == pytest.approx(get_preset(name).electronics.read_noise, rel=0.05)


def test_six_or_seven_bad_adcs_stand_side_by_side(heavy):
    noise = np.concatenate([noise_of_adcs(half) for half in heavy])
    ratio = noise / np.median(noise)
    bad = np.flatnonzero(ratio > 4)
    assert len(bad) in (6, 7)
    np.testing.assert_array_equal(np.diff(bad), 1)
    assert ratio[bad].min() >= 6 and ratio[bad].max() <= 60


def test_one_bad_adc_is_shifted(heavy):
    levels = np.median(heavy[:, PLATEAU, :, 1:11], axis=(1, 3)).ravel()
    shifted = np.flatnonzero(np.abs(levels - np.median(levels)) > 0.05 * np.median(levels))
    assert len(shifted) == 1
    assert noise_of_adcs(heavy[shifted[0] // 96])[shifted[0] % 96] > 30


def test_rows_in_the_middle_are_blank_and_the_outer_ones_junk(heavy):
    for half in heavy:
        assert not half[512:519].any()
        assert half[511].all()
        typical = np.median(half[PLATEAU].std(axis=(1, 2)))
        assert half[[0, 519]].std(axis=(1, 2)).min() > 10 * typical


@pytest.mark.parametrize("name", ["light", "heavy"])
def test_interference_is_a_few_narrow_lines_along_the_readout(name):
    model = get_preset(name)
    lines, (low, high) = model.electronics.interference.cycles_per_clock, model.electronics.interference.amplitude_adu
    values = raw_dark(name, index=2)[0, 300:500]
    values = values - values.mean(axis=0) - values.mean(axis=2, keepdims=True) + values.mean(axis=(0, 2))[:, None]
    series = values.swapaxes(0, 1).reshape(96, -1)
    spectrum = np.abs(np.fft.rfft(series, axis=1)) * 2 / series.shape[1]
    frequency = np.fft.rfftfreq(series.shape[1])
    typical = np.median(spectrum, axis=0)
    strong = frequency[typical > 6 * np.median(typical)]
    for line in lines:
        assert np.abs(strong - line).min() < 1e-3
        peak = spectrum[:, np.abs(frequency - line) < 1e-3].max(axis=1)
        assert low < np.median(peak) < high


@pytest.mark.parametrize(("energy_eV", "expected_adu"), [(930.0, 31.6), (800.0, 27.2)])
def test_a_photon_is_0_034_adu_per_ev(energy_eV, expected_adu):
    """From the distance of the peaks of no photon and of one, in pixels of an ADC."""
    detector = SimulatedDetector(get_preset("none"), energy_eV=energy_eV)
    photons = np.full(LAYOUT.image_shape, 0.3, np.float32)
    lit = detector.expose(photons, index=0).words.astype(float)
    darks = np.mean([detector.expose(None, index=1 + k).words for k in range(8)], axis=0)
    light = by_adc(lit - darks, LAYOUT)[100:480, :, 1:11]
    light = light - np.median(light, axis=(0, 2), keepdims=True)
    none, one = np.abs(light) < 10, np.abs(light - expected_adu) < 10
    assert light[one].mean() - light[none].mean() == pytest.approx(expected_adu, rel=0.02)
    assert one.sum() / none.sum() == pytest.approx(0.3, rel=0.05)  # Poisson


@pytest.mark.parametrize(("gain", "low", "high"), [("x2", 0.0085, 0.0115), ("x1", 0.004, 0.0045)])
def test_adu_per_ev_of_the_lower_gains(gain, low, high):
    """From the excess of an even light over the dark."""
    model = get_preset("none")
    electronics = dataclasses.replace(model.electronics, gain=Gain(words="csxtools", setting=gain))
    detector = SimulatedDetector(dataclasses.replace(model, electronics=electronics), energy_eV=930.0)
    lit = detector.expose(np.full(LAYOUT.image_shape, 200, np.float32), index=0)
    dark = detector.expose(None, index=1)
    excess = [(e.words & 0x1FFF).astype(float) for e in (lit, dark)]
    light = by_adc(excess[0] - excess[1], LAYOUT)[100:480, :, 1:11].mean()
    per_eV = light / (lit.photons.mean() * 930)
    assert low * 0.99 < per_eV < high


def test_the_charge_of_a_photon_lies_on_two_by_two_pixels_at_most():
    photons = np.zeros((64, 64), np.uint32)
    photons[4::8, 4::8] = 1
    cloud_px = get_preset("heavy").charge.cloud_px
    charge = share_charge(photons, cloud_px, np.random.default_rng(0))
    patches = charge.reshape(8, 8, 8, 8).swapaxes(1, 2).reshape(64, 8, 8) > 0
    rows, columns = patches.any(axis=2).sum(axis=1), patches.any(axis=1).sum(axis=1)
    assert rows.max() == columns.max() == 2
    assert (rows * columns > 1).mean() > 0.2
    assert charge.sum() == pytest.approx(64, rel=1e-5)
