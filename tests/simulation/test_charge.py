import numpy as np
import pytest

from nsbluesky.simulation.charge import SINGLE_PHOTONS, Charge, bloom, share_charge


def shared(photons, cloud_px=0.4, seed=0):
    return share_charge(np.asarray(photons, np.uint32), cloud_px, np.random.default_rng(seed))


@pytest.mark.parametrize("most", [3, 1000])
def test_no_charge_is_lost(most):
    photons = np.zeros((60, 80), np.uint32)
    photons[1:-1, 1:-1] = np.random.default_rng(1).integers(0, most, (58, 78))
    assert shared(photons).sum(dtype=np.float64) == pytest.approx(photons.sum(), rel=1e-5)


def test_a_photon_reaches_at_most_two_by_two_pixels():
    photons = np.zeros((200, 200), np.uint32)
    photons[2::5, 2::5] = 1
    spots = shared(photons).reshape(40, 5, 40, 5).swapaxes(1, 2)
    assert spots.min() >= 0
    np.testing.assert_allclose(spots.sum(axis=(2, 3)), 1, rtol=1e-5)
    hit = spots > 0
    assert hit.any(axis=3).sum(axis=2).max() == 2
    assert hit.any(axis=2).sum(axis=2).max() == 2
    alone = (hit.sum(axis=(2, 3)) == 1).mean()
    assert alone == pytest.approx((1 - 0.4) ** 2, abs=0.05)


@pytest.mark.parametrize("photons", [1, SINGLE_PHOTONS, SINGLE_PHOTONS + 1, 400])
def test_mean_and_variance_are_those_of_a_square_cloud(photons):
    """The same for photons drawn one by one and for sums."""
    width, image = 0.6, np.zeros((600, 600), np.uint32)
    image[2::5, 2::5] = photons
    spots = shared(image, width).astype(np.float64).reshape(120, 5, 120, 5).swapaxes(1, 2).reshape(-1, 5, 5)
    edge, corner = width / 8, (width / 8) ** 2
    kept = 1 - 2 * edge
    edge_square = width / 24 * (1 - 4 * edge + 2 * width / 24)
    for row, column, mean, square in (
        (1, 2, edge * kept, edge_square),
        (2, 3, edge * kept, edge_square),
        (3, 3, corner, (width / 24) ** 2),
    ):
        values, sigma = spots[:, row, column] / photons, np.sqrt((square - mean**2) / photons)
        assert values.mean() == pytest.approx(mean, abs=4 * sigma / np.sqrt(len(values)))
        assert values.std() == pytest.approx(sigma, rel=0.1)
    assert spots[:, 2, 2].mean() / photons == pytest.approx(kept**2, rel=0.01)


def test_without_a_cloud_every_pixel_keeps_its_own():
    assert Charge().cloud_px == 0
    with pytest.raises(ValueError, match=r"cloud_px = 1\.5"):
        Charge(cloud_px=1.5)
    with pytest.raises(ValueError, match=r"full_well_photons = -1"):
        Charge(full_well_photons=-1)


def test_what_a_pixel_cannot_hold_flows_along_its_column():
    charge = np.full((40, 30), 10, np.float32)
    charge[20, 7] = 1000
    before = charge.copy()
    bloom(charge, 100.0)
    assert charge.max() <= 100
    assert charge.sum(dtype=np.float64) == pytest.approx(before.sum(), rel=1e-6)
    others = np.arange(30) != 7
    np.testing.assert_array_equal(charge[:, others], before[:, others])
    np.testing.assert_array_equal(charge[15:26, 7], 100)  # 900 / 2 fill five pixels of 90 on either side
    np.testing.assert_array_equal(charge[[14, 26], 7], 10)


def test_an_image_below_the_full_well_stays_as_it_is():
    charge = np.random.default_rng(0).uniform(0, 99, (20, 20)).astype(np.float32)
    before = charge.copy()
    bloom(charge, 100.0)
    np.testing.assert_array_equal(charge, before)


def test_charge_runs_off_the_edge():
    charge = np.zeros((3, 1), np.float32)
    charge[0] = 1000
    bloom(charge, 100.0)
    np.testing.assert_array_equal(charge[:, 0], 100)
