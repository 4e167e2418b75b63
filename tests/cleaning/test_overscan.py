import numpy as np
import pytest

from nsbluesky.cleaning.overscan import drift_basis, drift_fit, running_median, smallest

ROWS = 480


def fitted(overscan, start_row=0, decay=None):
    basis = drift_basis(ROWS, decay)
    return basis @ (drift_fit(basis, start_row) @ overscan)


def test_a_quadratic_is_followed_exactly():
    u = np.linspace(1, 0, ROWS)[:, None]
    overscan = (3 - 8 * u + 5 * u**2) * np.array([1.0, -2.0])
    np.testing.assert_allclose(fitted(overscan.astype(np.float32)), overscan, atol=1e-4)


def test_the_start_of_the_readout_is_followed_at_any_amplitude():
    decay = -700 * np.exp(-np.arange(ROWS) / 30)
    overscan = 4 + np.outer(decay, [0.01, -0.1])
    np.testing.assert_allclose(fitted(overscan, decay=decay), overscan, atol=1e-3)
    assert np.abs(drift_basis(ROWS, decay)).max(axis=0).tolist() == [1, 1, 1, 1]
    assert drift_basis(ROWS, np.zeros(ROWS)).shape == (ROWS, 3)  # a detector without one


def test_the_fit_is_that_of_numpy():
    overscan = np.random.default_rng(0).normal(0, 3, ROWS)
    expected = np.polyval(np.polyfit(np.arange(100, ROWS), overscan[100:], 2), np.arange(ROWS))
    np.testing.assert_allclose(fitted(overscan[:, None], 100)[:, 0], expected, atol=1e-3)


def test_rows_before_the_start_do_not_count():
    overscan = np.zeros((ROWS, 1), np.float32)
    overscan[:60] = 500
    assert np.abs(fitted(overscan, 60)).max() == 0
    assert np.abs(fitted(overscan, 59)).max() > 0.5


def test_too_late_a_start_is_refused():
    with pytest.raises(ValueError, match="overscan_start_row = 478: expected at most 477"):
        drift_fit(drift_basis(ROWS), 478)


def test_running_median_follows_a_step_and_drops_outliers():
    overscan = np.zeros((1, ROWS, 2), np.float32)
    overscan[:, 200:] = 10
    overscan[0, 50:58, 1] = 1e4
    result = running_median(overscan)
    assert result.shape == overscan.shape
    expected = np.where(np.arange(ROWS) < 200, 0, 10)
    np.testing.assert_array_equal(result[0], np.stack([expected, expected], axis=1))


@pytest.mark.parametrize("count", [2, 3, 6])
def test_the_smallest_column_is_as_high_as_all_but_for_light_in_some(count):
    rng = np.random.default_rng(0)
    offset, noise = rng.normal(0, 20, (3, 1, 8)), np.array([2.0, 4.0, 0.0])
    columns = offset + noise[:, None, None] * rng.normal(0, 1, (count, 3, ROWS, 8))
    columns[0, :, ::30] += 500
    found = smallest(columns.astype(np.float32))
    assert found.dtype == np.float32
    mean = (running_median(found) - offset).mean(axis=(1, 2))
    assert (np.abs(mean) <= 0.06 * noise + 1e-5).all()
