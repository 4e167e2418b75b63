"""Scan patterns: shape, order, density and seed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from nsbluesky.trajectories import JITTER, PATTERNS, make_trajectory


def test_raster_is_centred_and_goes_to_and_fro() -> None:
    points = make_trajectory("raster", (2, 3), 0.5)
    expected = [(-0.5, -0.25), (0.0, -0.25), (0.5, -0.25), (0.5, 0.25), (0.0, 0.25), (-0.5, 0.25)]
    np.testing.assert_allclose(points, expected, atol=1e-12)


def test_jitter_is_small_seeded_and_not_zero() -> None:
    raster, jittered = (make_trajectory(p, (20, 30), 0.1, seed=3) for p in ("raster", "jittered_raster"))
    shift = jittered - raster
    assert np.max(np.abs(shift)) <= JITTER * 0.1
    assert np.all(np.std(shift, axis=0) > 0.5 * JITTER * 0.1)
    np.testing.assert_array_equal(jittered, make_trajectory("jittered_raster", (20, 30), 0.1, seed=3))
    assert not np.array_equal(jittered, make_trajectory("jittered_raster", (20, 30), 0.1, seed=4))


@pytest.mark.parametrize("pattern", ["spiral", "fermat"])
def test_spirals_fill_the_area_of_the_raster_with_its_density(pattern: str) -> None:
    points = make_trajectory(pattern, (20, 40), 0.1)
    assert len(points) == pytest.approx(800, rel=0.1)
    assert np.all(np.abs(points) <= [2.0 + 1e-9, 1.0 + 1e-9])
    assert np.all(np.ptp(points, axis=0) >= [3.7, 1.7]), "the whole area is covered"
    nearest = cKDTree(points).query(points, k=2)[0][:, 1]
    assert np.median(nearest) == pytest.approx(0.1, rel=0.25)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_rows_are_y_and_columns_are_x(pattern: str) -> None:
    spread = np.ptp(make_trajectory(pattern, (8, 24), 0.1), axis=0)
    assert spread[0] > 2 * spread[1]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_step_scales_the_pattern(pattern: str) -> None:
    np.testing.assert_allclose(
        make_trajectory(pattern, (6, 7), 0.3), 3 * make_trajectory(pattern, (6, 7), 0.1), atol=1e-12
    )


@pytest.mark.parametrize(
    ("pattern", "shape", "step_um", "message"),
    [
        ("hexagons", (3, 3), 0.1, "jittered_raster"),
        ("raster", (0, 3), 0.1, "at least one row"),
        ("raster", (3, 3, 3), 0.1, "two whole numbers"),
        ("raster", 3, 0.1, "two whole numbers"),
        ("raster", (3, 3), 0.0, "positive"),
        ("raster", (3, 3), float("nan"), "positive"),
        ("spiral", (1, 1), 0.1, "larger shape"),
        ("raster", (100_000, 1000), 0.1, "at most 1000000 points"),
    ],
)
def test_wrong_arguments(pattern: str, shape: tuple[int, int], step_um: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_trajectory(pattern, shape, step_um)


@pytest.mark.parametrize("seed", [-1, 1.5, "a", None, float("nan"), float("inf")])
def test_a_seed_that_is_none(seed: float) -> None:
    with pytest.raises(ValueError, match=r"seed = .*expected a whole number from 0 on"):
        make_trajectory("jittered_raster", (3, 3), 0.1, seed=seed)
