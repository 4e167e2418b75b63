import numpy as np
import pytest
import scipy.ndimage

from nsbluesky.cleaning.photons import adu_per_photon, keep_photons
from nsbluesky.settings import CleaningSettings


def test_adu_per_photon_comes_from_settings_or_energy():
    assert adu_per_photon(CleaningSettings(adu_per_photon=31.5), 930) == 31.5
    assert adu_per_photon(CleaningSettings(), 1000) == pytest.approx(34)


def test_neighbours_of_a_photon_are_kept():
    values = np.random.default_rng(0).normal(0, 1, (3, 17, 23)).astype(np.float32)
    expected = scipy.ndimage.maximum_filter(values, (1, 3, 3), mode="constant", cval=-np.inf) > 2
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(keep_photons(values, 2), expected)
