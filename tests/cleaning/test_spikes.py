import numpy as np
import pytest

from nsbluesky.cleaning.layout import LAYOUTS, assemble, by_adc
from nsbluesky.cleaning.spike_loops import remove_spikes_compiled
from nsbluesky.cleaning.spikes import (
    LEAST_BACKGROUND,
    NO_LINES,
    InterferenceLines,
    background_sequences,
    find_lines,
    remove_spikes,
    remove_spikes_fourier,
    spike_fits,
)

COSMIC = LAYOUTS["cosmic"]
FREQUENCIES = np.array([0.0731234567, 0.2113377, 0.40123])
NOISE_ADU, PHOTON_ADU = 3.0, 30.0
PARTS = [(slice(5, 485), slice(0, 480)), (slice(555, 1035), slice(480, 960))]
ALL_GOOD = np.zeros((0, 0), np.uint8)


def interference(rng, amplitudes, frequencies=FREQUENCIES):
    """A raw frame of lines whose phase is random; amplitudes (192 ADCs, lines)."""
    frame = np.zeros(COSMIC.shape, np.float32)
    for frequency, amplitude in zip(frequencies, amplitudes.T, strict=True):
        phase = rng.uniform(0, 2 * np.pi)
        for half, (start, stop) in enumerate(COSMIC.halves):
            wave = np.sin(2 * np.pi * frequency * COSMIC.clocks(half) + phase)
            by_adc(frame, COSMIC)[start:stop] += wave[:, np.newaxis] * amplitude.reshape(2, 96)[half, :, np.newaxis]
    return frame


def noise(rng, shape=COSMIC.shape):
    return NOISE_ADU * rng.standard_normal(shape, np.float32)


@pytest.fixture(scope="module")
def amplitudes():
    return np.random.default_rng(1).uniform(1, 6, (192, 3))


@pytest.fixture(scope="module")
def darks(amplitudes):
    rng = np.random.default_rng(2)
    frames = [4096.5 + noise(rng) + interference(rng, amplitudes) for _ in range(6)]
    return np.stack(frames).astype(np.uint16)


@pytest.fixture(scope="module")
def lines(darks):
    sequences = background_sequences(
        darks, np.full(COSMIC.shape, 4096, np.float32), np.zeros(COSMIC.shape, bool), COSMIC, PHOTON_ADU
    )
    return find_lines(sequences, 6.0)


def window_with_light(amplitudes, rate, seed=3):
    """A window (1, 960, 960) in ADU, and the interference in it; each photon shared with the pixel on its right."""
    rng = np.random.default_rng(seed)
    wave = interference(rng, amplitudes)
    photons = PHOTON_ADU * rng.poisson(rate, (960, 960)).astype(np.float32)
    share = rng.uniform(0, 0.5, photons.shape).astype(np.float32)
    charge = photons * (1 - share)
    charge[:, 1:] += (photons * share)[:, :-1]
    return (assemble(wave + noise(rng), COSMIC) + charge)[np.newaxis], assemble(wave, COSMIC)[np.newaxis]


def fits_of(lines):
    return spike_fits(lines, COSMIC, PARTS, adu_per_photon=PHOTON_ADU, noise_adu=NOISE_ADU)


def suppression_dB(before, after):
    return -20 * np.log10(after.std() / before.std())


def test_lines_are_found_far_below_a_bin(lines, amplitudes):
    assert len(lines) == len(FREQUENCIES)
    order = np.argsort(lines.frequencies)
    clocks = 480 * 12
    np.testing.assert_allclose(lines.frequencies[order], FREQUENCIES, rtol=0, atol=0.005 / clocks)
    np.testing.assert_allclose(lines.amplitudes_adu[order], np.sqrt((amplitudes**2).mean(axis=0)), rtol=0.1)


def test_a_weak_line_is_found(amplitudes):
    rng = np.random.default_rng(5)
    sequences = noise(rng, (384, 5760)) + np.sin(2 * np.pi * 0.123456 * np.arange(5760)).astype(np.float32) * 0.2
    found = find_lines(sequences, 6.0)
    np.testing.assert_allclose(found.frequencies, [0.123456], atol=0.02 / 5760)


@pytest.mark.parametrize("seed", range(5))
def test_no_lines_are_found_in_noise(seed):
    assert len(find_lines(noise(np.random.default_rng(seed), (200, 5760)), 6.0)) == 0
    assert len(find_lines(np.zeros((0, 5760), np.float32), 6.0)) == 0


def test_what_repeats_row_by_row_is_no_interference():
    rng = np.random.default_rng(6)
    wave = np.sin(2 * np.pi * 0.123456 * np.arange(5760)).astype(np.float32) + np.tile(np.arange(12) < 5, 480)
    sequences = noise(rng, (200, 5760)) + wave
    assert len(find_lines(sequences, 6.0)) > 1
    np.testing.assert_allclose(find_lines(sequences, 6.0, 12).frequencies, [0.123456], atol=0.02 / 5760)


def test_lines_are_found_under_light_and_drift(darks, lines):
    rng = np.random.default_rng(4)
    frames = darks[:2].astype(np.float32)
    rows = np.linspace(0, 1, 520, dtype=np.float32)[:, np.newaxis, np.newaxis]
    for start, stop in COSMIC.halves:
        by_adc(frames[0], COSMIC)[start:stop] += 20 * rows**2
    blocks = by_adc(frames, COSMIC)
    blocks[..., COSMIC.data_columns] += PHOTON_ADU * rng.poisson(0.05, blocks[..., COSMIC.data_columns].shape)
    blocks[:, 400:600, 40:50] += 3000
    bad = np.zeros(COSMIC.shape, bool)
    by_adc(bad, COSMIC)[:520, 3] = True
    by_adc(frames, COSMIC)[:, :520, 3] += 500 * rng.standard_normal((520, 12))
    sequences = background_sequences(
        frames.clip(0, 65535).astype(np.uint16), np.full(COSMIC.shape, 4096, np.float32), bad, COSMIC, PHOTON_ADU
    )
    found = find_lines(sequences, 6.0)
    np.testing.assert_allclose(np.sort(found.frequencies), FREQUENCIES, atol=0.02 / 5760)
    assert len(lines) == len(found)


@pytest.mark.parametrize("rate", [0.0, 0.003, 0.1])
def test_suppression_without_bias(lines, amplitudes, rate):
    window, wave = window_with_light(amplitudes, rate)
    clean = window.copy()
    remove_spikes(clean, fits_of(lines))
    left = clean - window + wave
    assert suppression_dB(wave, left) > 28
    assert abs(left.mean()) < 1e-3
    # what the light is taken for must not depend on it
    lit = window > PHOTON_ADU / 2
    assert not lit.any() or abs(left[lit].mean()) < 0.02


def test_an_adc_full_of_light_keeps_its_values(lines, amplitudes):
    window, wave = window_with_light(amplitudes, 0.0)
    window[:, :480, 400:410] += 1000
    window[:, :400, 300:310] += 1000  # some background is left, at the late end alone
    clean = window.copy()
    remove_spikes(clean, fits_of(lines))
    np.testing.assert_array_equal(clean[:, :480, 400:410], window[:, :480, 400:410])
    assert suppression_dB(wave, np.delete(clean - window + wave, np.s_[400:410], axis=2)) > 28


def test_bad_pixels_tell_nothing(lines, amplitudes):
    window, wave = window_with_light(amplitudes, 0.0)
    good = np.random.default_rng(0).random((960, 960)) > 0.3
    window *= good
    clean = window.copy()
    remove_spikes(clean, fits_of(lines), good)
    assert suppression_dB(wave, (clean - window + wave)[:, good]) > 28
    unaware = window.copy()
    remove_spikes(unaware, fits_of(lines))
    assert suppression_dB(wave, (unaware - window + wave)[:, good]) < 20


def test_no_lines_change_nothing(amplitudes):
    window, _ = window_with_light(amplitudes, 0.0)
    clean = window.copy()
    assert fits_of(NO_LINES) == ()
    remove_spikes(clean, fits_of(NO_LINES))
    np.testing.assert_array_equal(clean, window)


@pytest.mark.parametrize("parts", [PARTS, [(slice(100, 450), slice(7, 357))]])
@pytest.mark.parametrize("rate", [0.0, 0.05])
@pytest.mark.parametrize("with_bad", [False, True])
def test_compiled_loops_agree(lines, amplitudes, parts, rate, with_bad):
    window, _ = window_with_light(amplitudes, rate)
    window[:, :480, 400:410] += 1000
    window[:, :300, 200:220] += 1000
    good = np.random.default_rng(0).random((960, 960)) > 0.1 if with_bad else None
    fits = spike_fits(lines, COSMIC, parts, adu_per_photon=PHOTON_ADU, noise_adu=NOISE_ADU)
    expected, compiled = window.copy(), window.copy()
    remove_spikes(expected, fits, good)
    for fit in fits:
        usable = ALL_GOOD if good is None else good[fit.image_rows].view(np.uint8)
        remove_spikes_compiled(
            compiled[0, fit.image_rows],
            usable,
            fit.row_basis,
            fit.column_basis,
            *fit.pairs(),
            fit.limits_adu,
            LEAST_BACKGROUND,
        )
    np.testing.assert_allclose(compiled, expected, atol=1e-3)


def test_fourier_filter_takes_out_most(amplitudes):
    window, wave = window_with_light(amplitudes, 0.003)
    clean = window.copy()
    remove_spikes_fourier(clean, COSMIC, PARTS, limit_adu=PHOTON_ADU, sigmas=6.0)
    assert suppression_dB(wave, clean - window + wave) > 12
    quiet = noise(np.random.default_rng(0), (1, 960, 960))
    clean = quiet.copy()
    remove_spikes_fourier(clean, COSMIC, PARTS, limit_adu=PHOTON_ADU, sigmas=6.0)
    assert (clean - quiet).std() < 0.05


def test_lines_are_sorted_by_strength(lines):
    assert isinstance(lines, InterferenceLines)
    assert len(lines.frequencies) == len(lines.amplitudes_adu) == len(lines)
