import numba
import numpy as np
import pytest
import scipy.stats

from nsbluesky.simulation.random_loops import add_noise, poisson_image, uniform

NONE = np.zeros((0, 0), np.float32)


def normals(count, seed):
    values = np.zeros(count, np.float32)
    add_noise(values, np.ones(count, np.float32), np.uint64(seed))
    return values.astype(np.float64)


def photons(mean, seed, **kwargs):
    mean = np.asarray(mean, np.float32)
    counts, charge = np.zeros(mean.shape, np.uint32), np.zeros(mean.shape, np.float32)
    poisson_image(mean, kwargs.get("factor", 1.0), kwargs.get("transmission", NONE), np.uint64(seed), counts, charge)
    np.testing.assert_array_equal(counts, charge)
    return counts


@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_noise_is_normal(seed):
    values = normals(1_000_000, seed)
    assert scipy.stats.kstest(values, "norm").pvalue > 1e-3
    n = len(values)
    assert abs(values.mean()) < 4 / np.sqrt(n)
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs(scipy.stats.skew(values)) < 4 * np.sqrt(6 / n)
    assert abs(scipy.stats.kurtosis(values)) < 4 * np.sqrt(24 / n)


def test_noise_has_the_tails_of_a_normal_distribution():
    """Beyond the last layer of the ziggurat the numbers are drawn in another way."""
    values = np.abs(normals(10_000_000, 5))
    for limit in (3.0, 3.6541528853610088, 4.0, 4.5):
        expected = 2 * scipy.stats.norm.sf(limit) * len(values)
        assert abs(np.count_nonzero(values > limit) - expected) < 4 * np.sqrt(expected)


def test_neighbours_and_states_are_independent():
    values, others = normals(1_000_000, 3), normals(1_000_000, 4)
    limit = 4 / np.sqrt(len(values))
    for lag in (1, 2, 12, 1152):
        assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < limit
    assert abs(np.corrcoef(values, others)[0, 1]) < limit


def test_noise_has_the_given_sigma():
    sigma = np.repeat(np.array([0.0, 2.0, 50.0], np.float32), 100_000)
    values = np.full(sigma.shape, 7, np.float32)
    add_noise(values, sigma, np.uint64(1))
    assert np.all(values[:100_000] == 7)
    assert values[100_000:200_000].std() == pytest.approx(2, rel=0.01)
    assert values[200_000:].std() == pytest.approx(50, rel=0.01)


@pytest.mark.parametrize("mean", [1e-3, 0.1, 1, 5, 9.99, 10, 30, 300, 5000])
def test_counts_are_poisson(mean):
    counts = photons(np.full((1500, 2000), mean), seed=7).ravel()
    expected = scipy.stats.poisson.pmf(np.arange(counts.max() + 1), mean) * counts.size
    enough = expected > 10
    observed = np.bincount(counts)[enough]
    chi2 = np.sum((observed - expected[enough]) ** 2 / expected[enough])
    assert scipy.stats.chi2.sf(chi2, max(enough.sum() - 1, 1)) > 1e-4


def test_no_light_gives_no_photon_and_a_transmission_is_a_factor():
    mean = np.zeros((300, 400))
    assert not photons(mean, seed=1).any()
    mean[:] = 20
    transmission = np.ones(mean.shape, np.float32)
    transmission[:, :200] = 0.05
    counts = photons(mean, seed=1, factor=2.0, transmission=transmission)
    assert counts[:, :200].mean() == pytest.approx(2, rel=0.02)
    assert counts[:, 200:].mean() == pytest.approx(40, rel=0.005)


def test_uniform_numbers_fill_the_unit_interval():
    @numba.njit
    def draw(count, state):
        values = np.empty(count)
        for i in range(count):
            state, values[i] = uniform(state)
        return values

    values = draw(200_000, np.uint64(9))
    assert values.min() >= 0 and values.max() < 1
    assert scipy.stats.kstest(values, "uniform").pvalue > 1e-3
