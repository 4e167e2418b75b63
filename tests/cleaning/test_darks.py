import numpy as np
import pytest

from nsbluesky.cleaning.darks import DarkAccumulator, RollingDarks
from nsbluesky.cleaning.layout import FCCDLayout, by_adc
from nsbluesky.cleaning.words import LOST_WORDS
from nsbluesky.settings import CleaningSettings

SETTINGS = CleaningSettings()
LAYOUT = FCCDLayout(80, 96, 12, (0, 11), ((0, 40), (40, 80)), ((2, 38), (42, 78)))


@pytest.fixture
def darks():
    rng = np.random.default_rng(5)
    pedestal = np.repeat(rng.normal(4096, 20, (2, 1, 8)), 40, axis=1).reshape(80, 8)
    frames = np.repeat(pedestal, 12, axis=1) + rng.normal(0, 3, (25, *LAYOUT.shape))
    return np.rint(frames).astype(np.uint16)


def result(frames, layout=LAYOUT):
    accumulator = DarkAccumulator(layout)
    accumulator.add(frames)
    return accumulator.result(SETTINGS)


def test_mean_and_std_are_those_of_numpy(darks):
    dark = result(darks)
    np.testing.assert_allclose(dark.mean, darks.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(dark.std, darks.std(axis=0, ddof=1, dtype=np.float64), rtol=1e-5)
    assert dark.num_frames == 25
    assert dark.mean.dtype == dark.std.dtype == np.float32


def test_nothing_is_bad_in_a_good_detector(darks):
    dark = result(darks)
    assert not dark.bad.any()
    assert len(dark.bad_adcs) == 0


def test_blocks_of_any_size_give_the_same(darks):
    accumulator = DarkAccumulator(LAYOUT)
    for block in np.split(darks, [1, 8, 8, 20]):
        accumulator.add(block)
    np.testing.assert_array_equal(accumulator.result(SETTINGS).std, result(darks).std)


def test_sums_are_exact_for_the_largest_words():
    frames = np.full((300, *LAYOUT.shape), 65535, np.uint16)
    frames[0, 10, 10] = 65534
    dark = result(frames)
    assert dark.std[10, 10] == pytest.approx(np.sqrt(1 / 300), rel=1e-5)
    assert dark.std.sum() == dark.std[10, 10]


def test_noisy_and_stuck_pixels_are_bad(darks):
    darks[::2, 20, 30] += 130
    darks[:, 60, 50] = 4100
    assert set(zip(*np.nonzero(result(darks).bad), strict=True)) == {(20, 30), (60, 50)}


@pytest.mark.parametrize("first", range(5))
def test_two_frames_condemn_no_good_pixel_and_no_good_adc(simulator, first):
    """Though each ADC drifts, and many pixels have the same value twice."""
    layout = simulator.layout
    accumulator = DarkAccumulator(layout)
    for index in (first, first + 5):
        accumulator.add(simulator.raw_frame(0, 0, shutter_open=False, index=10_000 + index)[np.newaxis])
    dark = accumulator.result(SETTINGS)
    assert set(dark.bad_adcs) == set(simulator.truth()["bad_adcs"])
    assert dark.bad.mean() < 1.1 * simulator.truth()["bad"].mean()


@pytest.mark.parametrize("adc", [0, 7, 8, 13])
@pytest.mark.parametrize("fault", ["noise", "loud", "dead", "shift"])
def test_bad_adcs_are_found(darks, adc, fault):
    half, column = divmod(adc, 8)
    block = by_adc(darks, LAYOUT)[:, 40 * half : 40 * half + 40, column]
    rng = np.random.default_rng(1)
    match fault:
        case "noise":  # six times the normal, the mildest of a real frame
            block[...] = np.rint(rng.normal(4096, 18, block.shape))
        case "loud":
            block[...] = np.rint(rng.normal(4096, 150, block.shape))
        case "dead":
            block[...] = 4096
        case "shift":
            block += 600
    dark = result(darks)
    np.testing.assert_array_equal(dark.bad_adcs, [adc])
    expected = np.zeros(LAYOUT.shape, bool)
    by_adc(expected, LAYOUT)[40 * half : 40 * half + 40, column] = True
    np.testing.assert_array_equal(dark.bad, expected)


def test_junk_outside_the_good_rows_condemns_no_adc(darks):
    darks[:, [0, 1, 38, 39, 40, 41, 78, 79]] = 0
    assert len(result(darks).bad_adcs) == 0


def test_a_photon_counter_without_noise_is_no_fault():
    dark = result(np.zeros((5, *LAYOUT.shape), np.uint16))
    assert not dark.bad.any()


@pytest.mark.parametrize("num", [0, 1])
def test_too_few_frames_find_no_fault(darks, num):
    dark = result(darks[:num])
    assert dark.num_frames == num
    assert not dark.bad.any() and not dark.std.any()
    np.testing.assert_array_equal(dark.mean, darks[0] if num else 0)


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 80, 80), np.uint16), np.zeros((80, 96), np.uint16), np.zeros((2, 80, 96), np.float32)]
)
def test_wrong_frames_are_refused(frames):
    with pytest.raises(ValueError, match="expected \\(n, 80, 96\\) integers"):
        DarkAccumulator(LAYOUT).add(frames)


@pytest.mark.parametrize(("gain_words", "middle"), [("csxtools", 0x8000), ("middle_0x4000", 0x4000)])
def test_each_gain_has_darks_of_its_own(darks, gain_words, middle):
    accumulator = DarkAccumulator(LAYOUT, gain_words)
    accumulator.add((darks[:7] - np.uint16(240)) | np.uint16(0xC000))
    accumulator.add(darks)
    accumulator.add((darks[:5] - np.uint16(120)) | np.uint16(middle))
    dark = accumulator.result(SETTINGS.replace(gain_words=gain_words))
    np.testing.assert_allclose(dark.mean, darks.mean(axis=0), rtol=1e-6)
    assert dark.num_frames == 25 and accumulator.num_frames == 37
    assert dark.gain_steps is not None
    np.testing.assert_allclose(dark.gain_steps[0], darks[:5].mean(axis=0) - 120 - dark.mean, atol=1e-3)
    np.testing.assert_allclose(dark.gain_steps[1], darks[:7].mean(axis=0) - 240 - dark.mean, atol=1e-3)
    assert not dark.bad.any()


def test_constant_bits_above_the_value_are_no_part_of_it(darks):
    accumulator = DarkAccumulator(LAYOUT, "13_bits")
    accumulator.add(darks | np.uint16(0xC000))
    dark = accumulator.result(SETTINGS.replace(gain_words="13_bits"))
    np.testing.assert_allclose(dark.mean, darks.mean(axis=0), rtol=1e-6)
    assert dark.gain_steps is None


def test_newer_darks_replace_older_ones(darks):
    rolling = RollingDarks(LAYOUT, SETTINGS.replace(rolling_darks=10))
    rolling.add(darks[:15])
    rolling.add(darks[15:])
    assert rolling.has_news
    np.testing.assert_array_equal(rolling.result().mean, result(darks).mean)
    assert not rolling.has_news

    rolling.add(darks[:6] + np.uint16(20))  # too few alone: with the older ones
    assert rolling.result().num_frames == 31
    rolling.add(darks[:6] + np.uint16(20))  # enough together
    newest = rolling.result()
    assert newest.num_frames == 12
    np.testing.assert_allclose(newest.mean, darks[:6].mean(axis=0) + 20, rtol=1e-6)
    np.testing.assert_array_equal(newest.std > 0, (darks[:6] != darks[0]).any(axis=0))
    rolling.add(darks)
    assert rolling.result().num_frames == 25


# Packets can be told from single words where there are ADCs enough.
WIDE = FCCDLayout(80, 192, 12, (0, 11), ((0, 40), (40, 80)), ((2, 38), (42, 78)))


def wide(darks):
    return np.concatenate([darks, darks[:, :, ::-1]], axis=2)


@pytest.mark.parametrize("word", LOST_WORDS)
def test_lost_packets_do_not_count(darks, word):
    darks = wide(darks)
    whole = result(darks, WIDE)
    seen = np.ones(darks.shape, bool)
    for k in range(0, 20, 2):  # whole rows of all ADCs, as packets are
        seen[k, 10 + k : 14 + k] = False
    damaged = np.where(seen, darks, np.uint16(word))
    dark = result(damaged, WIDE)
    told = np.ma.masked_array(darks.astype(float), ~seen)
    np.testing.assert_allclose(dark.mean, told.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(dark.std, told.std(axis=0, ddof=1), rtol=1e-4)
    np.testing.assert_array_equal(dark.bad, whole.bad)
    assert dark.num_frames == 25


def test_a_pixel_that_was_lost_in_all_darks_but_one_is_bad(darks):
    darks = wide(darks)
    darks[1:, 10:14] = 0
    dark = result(darks, WIDE)
    assert dark.bad[10:14].all() and np.count_nonzero(dark.bad) == 4 * 192


@pytest.mark.parametrize("blocks", [[], [1], [3, 8], [5]])
def test_what_is_no_dark_frame_is_left_out(darks, blocks):
    rng = np.random.default_rng(3)
    without = np.delete(darks, [4, 12], axis=0)
    darks[[4, 12]] = rng.integers(0, 2**16, (2, *LAYOUT.shape))
    accumulator = DarkAccumulator(LAYOUT)
    for block in np.split(darks, blocks):
        accumulator.add(block)
    dark = accumulator.result(SETTINGS)
    np.testing.assert_array_equal(dark.mean, result(without).mean)
    assert (dark.num_frames, dark.num_left_out) == (23, 2)


def test_lost_packets_and_lines_in_rolling_darks(darks):
    settings = SETTINGS.replace(spikes="lines", rolling_darks=30)
    rolling = RollingDarks(WIDE, settings)
    darks = wide(darks)
    damaged = darks.copy()
    damaged[:, 10:14] = 0
    for batch in (damaged, darks):
        rolling.add(batch)
        dark = rolling.result()
    np.testing.assert_allclose(dark.mean[10:14], darks[:, 10:14].mean(axis=0), rtol=1e-6)
    assert dark.num_frames == 50 and not dark.bad.any()
