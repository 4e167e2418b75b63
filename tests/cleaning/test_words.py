import numpy as np
import pytest

from nsbluesky.cleaning.layout import LAYOUTS, by_adc
from nsbluesky.cleaning.words import (
    LOST_WORDS,
    decode_words,
    find_errors,
    find_lost_words,
    has_lost_packets,
    is_saturated,
    level_probe,
    spread_saturation,
)
from nsbluesky.settings import CleaningSettings

COSMIC = LAYOUTS["cosmic"]
WORDS = np.array([0x0123, 0x8123, 0x4123, 0xC123, 0x2000, 0xA123, 0x6123, 0xE123, 0x1FFF, 0xDFFF, 0xFFFF], np.uint16)


@pytest.mark.parametrize(
    ("gain_words", "factors", "saturated"),
    [
        ("csxtools", [1, 4, 0, 8, 0, 0, 0, 0, 1, 8, 0], [9, 10]),
        ("middle_0x4000", [1, 0, 4, 8, 0, 0, 0, 0, 1, 8, 0], [9, 10]),
        ("13_bits", None, [8, 9, 10]),
        ("plain", None, [10]),
    ],
)
def test_words(gain_words, factors, saturated):
    settings = CleaningSettings(gain_words=gain_words)
    values, found = decode_words(WORDS, gain_words)
    np.testing.assert_array_equal(values, WORDS if gain_words == "plain" else WORDS & 0x1FFF)
    if factors is None:
        assert found is None
        assert find_errors(WORDS, settings) is None
    else:
        np.testing.assert_array_equal(found, factors)
        np.testing.assert_array_equal(find_errors(WORDS, settings), np.array(factors) == 0)
    np.testing.assert_array_equal(np.flatnonzero(is_saturated(WORDS, settings)), saturated)


def test_a_lower_saturation_word():
    settings = CleaningSettings(saturation_word=60000)
    np.testing.assert_array_equal(is_saturated(np.array([59999, 60000, 65535], np.uint16), settings), [0, 1, 1])
    settings = CleaningSettings(saturation_word=0xDFF0, gain_words="13_bits")
    np.testing.assert_array_equal(is_saturated(np.array([0xDFEF, 0xDFF0, 0x1FFF], np.uint16), settings), [0, 1, 1])


def stream_places(first_clock, num_clocks):
    """Raw rows and columns of the words of all ADCs at some clocks, as packets carry them."""
    lost = np.zeros(COSMIC.shape, bool)
    for half, (start, stop) in enumerate(COSMIC.halves):
        clocks = COSMIC.clocks(half)
        hit = (clocks >= first_clock) & (clocks < first_clock + num_clocks)
        by_adc(lost, COSMIC)[start:stop] |= hit[:, np.newaxis]
    return lost


@pytest.mark.parametrize("word", LOST_WORDS)
@pytest.mark.parametrize("first_clock", [60, 61, 66, 71, 3000, 5809])
def test_a_lost_packet_is_seen_wherever_it_lies(word, first_clock):
    frame = np.random.default_rng(0).integers(4000, 4200, COSMIC.shape).astype(np.uint16)
    lost = stream_places(first_clock, 10)  # a packet of 2048 words and 192 ADCs holds ten whole clocks
    lost[:, :500] &= stream_places(first_clock, 9)[:, :500]  # and ends somewhere among the ADCs
    frame[lost] = word
    frames = np.stack([np.full(COSMIC.shape, 4096, np.uint16), frame])
    np.testing.assert_array_equal(has_lost_packets(frames, COSMIC), [False, True])
    good = np.zeros(COSMIC.shape, bool)
    for start, stop in COSMIC.good_rows:
        good[start:stop] = True
    np.testing.assert_array_equal(find_lost_words(frame, COSMIC), lost & good)


def test_single_words_that_are_0_by_themselves_are_none():
    frame = np.full(COSMIC.shape, 4096, np.uint16)
    by_adc(frame, COSMIC)[:, 17] = 0  # a dead ADC
    frame.flat[::997] = 0x2000
    assert not has_lost_packets(frame[np.newaxis], COSMIC).any()
    assert not find_lost_words(frame, COSMIC).any()


def test_images_have_no_packets():
    layout = LAYOUTS["cosmic"].__class__(8, 8, 8, (), ((0, 8),), ((0, 8),))
    assert not has_lost_packets(np.zeros((2, 8, 8), np.uint16), layout).any()


def test_random_words_are_no_frame():
    rng = np.random.default_rng(0)
    mean = np.full(COSMIC.shape, 4096, np.float32)
    frames = np.stack([mean + 300, mean, rng.integers(0, 65536, COSMIC.shape)]).astype(np.uint16)
    probe = level_probe(mean, COSMIC, CleaningSettings())
    np.testing.assert_array_equal(probe.corrupt(frames), [False, False, True])
    np.testing.assert_array_equal(probe.corrupt(frames.astype(np.uint32)), [False, False, True])  # as a GPU does it
    assert level_probe(mean, LAYOUTS["csx"], CleaningSettings()) is None


def test_saturation_spreads_to_neighbours_and_shadows():
    image = np.zeros(COSMIC.image_shape, bool)
    image[100, 55] = True
    near = spread_saturation(image, COSMIC, CleaningSettings())
    np.testing.assert_array_equal(np.argwhere(near).min(axis=0), [99, 54])
    np.testing.assert_array_equal(np.argwhere(near).max(axis=0), [101, 56])
    assert near.sum() == 9
    wide = spread_saturation(image, COSMIC, CleaningSettings(saturation_dilation_px=0, shadow_adcs=2))
    np.testing.assert_array_equal(np.flatnonzero(wide[100]), np.arange(30, 80))
    assert wide.sum() == 50
