"""Exposures of a point: combined when the last one is there, whatever comes again."""

from __future__ import annotations

import numpy as np
import pytest

from nsbluesky.callbacks.point_exposures import CleanFrame, PointExposures


def exposure(photons: float, time: float) -> CleanFrame:
    return CleanFrame(np.full((2, 2), photons, np.float32), 0, time, 1e-6 * time, 2e-6)


def test_a_point_is_combined_with_its_last_exposure() -> None:
    points = PointExposures((0.1, 0.01))
    assert points.add(3, exposure(100, 5.0)) == {}
    ((number, frame),) = points.add(4, exposure(10, 6.0)).items()
    assert number == 2 and (frame.time, frame.x_m) == (6.0, 6e-6)
    assert frame.frame == pytest.approx(np.full((2, 2), 100))
    assert points.rest() == {}


def test_of_a_point_that_is_taken_again_the_whole_one_stands() -> None:
    points = PointExposures((0.1, 0.01))
    assert points.add(1, exposure(100, 1.0)) == {}
    assert points.add(2, exposure(10, 2.0)).keys() == {1}
    assert points.add(2, exposure(10, 3.0)) == {}, "in the same block or later"
    assert points.rest() == {}


def test_a_point_without_its_longest_exposure_is_in_photons_of_that_one() -> None:
    points = PointExposures((0.1, 0.01))
    assert points.add(2, exposure(10, 1.0)) == {}
    (frame,) = points.rest().values()
    assert frame.frame == pytest.approx(np.full((2, 2), 100))
