import numpy as np
import pytest

from nsbluesky.cleaning.center import find_center

ROWS, COLUMNS = np.indices((960, 960), np.float32)


def annulus(row, column):
    radius = np.hypot(ROWS - row, COLUMNS - column)
    return np.exp(-(((radius - 55) / 20) ** 2))


@pytest.fixture
def noise():
    return np.random.default_rng(3).normal(0, 0.02, (960, 960)).astype(np.float32)


@pytest.mark.parametrize("center", [(479.5, 479.5), (476.3, 485.9), (300.0, 700.25)])
def test_center_of_a_ring_in_noise(center, noise):
    found = find_center(annulus(*center) + noise, np.ones((960, 960), bool))
    np.testing.assert_allclose(found, center, atol=0.1)


def test_light_at_the_edge_of_the_sensor_has_a_center():
    np.testing.assert_allclose(find_center(annulus(895, 64), np.ones((960, 960), bool)), (895, 64), atol=1)


def test_scattering_on_one_side_does_not_pull_the_center():
    scattered = 0.02 * (COLUMNS > 600)
    found = find_center(annulus(476.3, 485.9) + scattered, np.ones((960, 960), bool))
    np.testing.assert_allclose(found, (476.3, 485.9), atol=0.1)


def test_bad_adcs_beside_the_center_do_not_pull_it(noise):
    image, good = annulus(476.3, 485.9) + noise, np.ones((960, 960), bool)
    good[480:, 520:560] = False
    image[~good] = 1e4
    plain = (COLUMNS * np.where(good, annulus(476.3, 485.9), 0)).sum() / np.where(
        good, annulus(476.3, 485.9), 0
    ).sum()
    assert abs(plain - 485.9) > 5  # what it would be without the mirror rule
    np.testing.assert_allclose(find_center(image, good), (476.3, 485.9), atol=0.2)


def test_dark_frames_have_no_center():
    with pytest.raises(ValueError, match=r"no light.*cleaning\.center_px"):
        find_center(np.zeros((64, 64), np.float32), np.ones((64, 64), bool))


@pytest.mark.parametrize("seed", range(5))
def test_noise_has_no_center(seed):
    noise = np.random.default_rng(seed).normal(0, 0.1, (960, 960)).astype(np.float32)
    with pytest.raises(ValueError, match="no light"):
        find_center(noise, np.ones(noise.shape, bool))


def test_faint_light_in_noise_has_a_center():
    """One photon in ten pixels of a disk, under noise of as many: enough for a centre."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((960, 960))
    disk = np.hypot(rows - 470, columns - 490) < 80
    image = rng.poisson(0.1 * disk) + rng.normal(0, 0.1, disk.shape)
    np.testing.assert_allclose(find_center(image.astype(np.float32), np.ones(disk.shape, bool)), (470, 490), atol=2)


def test_all_bad_is_no_light():
    with pytest.raises(ValueError, match="no light"):
        find_center(np.ones((64, 64), np.float32), np.zeros((64, 64), bool))
