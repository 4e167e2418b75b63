import numpy as np
import pytest
import scipy.ndimage

from nsbluesky.cleaning.photons import CLUSTER_NOISE, adu_per_photon, count_photons, counting_threshold, keep_photons
from nsbluesky.settings import CleaningSettings

NOISE = 0.1


def test_adu_per_photon_comes_from_settings_or_energy():
    assert adu_per_photon(CleaningSettings(adu_per_photon=31.5), 930) == 31.5
    assert adu_per_photon(CleaningSettings(), 1000) == pytest.approx(34)


def test_neighbours_of_a_photon_are_kept():
    values = np.random.default_rng(0).normal(0, 1, (3, 17, 23)).astype(np.float32)
    expected = scipy.ndimage.maximum_filter(values, (1, 3, 3), mode="constant", cval=-np.inf) > 2
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(keep_photons(values, 2), expected)


def test_the_threshold_of_counting_balances_false_and_lost_photons():
    rng = np.random.default_rng(0)
    noise = 0.3
    for rate in (0.003, 0.03, 0.3):
        threshold = counting_threshold(noise, rate)
        photons = rng.poisson(rate, 4_000_000)
        photons = photons[photons < 2] == 1
        values = photons + noise * rng.standard_normal(photons.size, np.float32)
        false, lost = (values > threshold)[~photons].sum(), (values <= threshold)[photons].sum()
        assert false == pytest.approx(lost, rel=0.1)
    assert counting_threshold(0.05, 0.1) == pytest.approx(0.5, abs=0.01)
    assert (np.diff(counting_threshold(0.3, np.array([1e-3, 1e-2, 1e-1, 0.5]))) < 0).all()


def shared(photons, rng):
    """Each photon's charge at a random place of a pixel, spread over up to 2 × 2 pixels."""
    charge = np.zeros(photons.shape, np.float32)
    for row, column in np.argwhere(photons):
        for _ in range(photons[row, column]):
            y, x = rng.uniform(-0.25, 0.25, 2)
            down, right = np.sign([y, x]).astype(int)
            for i, share_y in ((0, 1 - abs(y)), (down, abs(y))):
                for j, share_x in ((0, 1 - abs(x)), (right, abs(x))):
                    charge[row + i, column + j] += share_y * share_x
    return charge


@pytest.mark.parametrize("rate", [0.003, 0.01])
def test_shared_photons_are_counted_whole(rate):
    rng = np.random.default_rng(1)
    photons = np.zeros((600, 600), int)
    photons[4:-4, 4:-4] = rng.random((592, 592)) < rate
    values = shared(photons, rng) + NOISE * rng.standard_normal(photons.shape)
    threshold = float(counting_threshold(CLUSTER_NOISE * NOISE, rate))
    counted = count_photons(values[None].astype(np.float32), NOISE, threshold, 0.5)[0]
    assert counted.sum() == pytest.approx(photons.sum(), rel=0.02)
    whole = counted == np.rint(counted)
    assert counted[~whole].sum() < 0.1 * counted.sum()
    assert (scipy.ndimage.maximum_filter(counted, 3)[photons > 0] > 0).mean() > 0.93
    # most of them at their own pixel: the others lie on an edge
    assert (counted[photons > 0] > 0.9).mean() > 0.85


def test_dense_light_keeps_plain_values():
    rng = np.random.default_rng(2)
    photons = rng.poisson(3.0, (1, 100, 100))
    values = (photons + NOISE * rng.standard_normal(photons.shape)).astype(np.float32)
    counted = count_photons(values, NOISE, 0.6, 0.5)
    assert counted.sum() == pytest.approx(photons.sum(), rel=1e-3)
    assert (counted == values).mean() > 0.9


def test_noise_alone_gives_fewer_photons_than_there_are():
    values = NOISE * np.random.default_rng(3).standard_normal((4, 500, 500)).astype(np.float32)
    false = count_photons(values, NOISE, float(counting_threshold(CLUSTER_NOISE * NOISE, 1e-4)), 0.5).sum()
    assert false < 1e-4 * values.size  # the photons that this threshold is for
