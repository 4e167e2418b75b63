"""Which positions can be on one canvas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nsbluesky.solver.intake import reachable, valid_weights

FAR_PX = 1e6


@pytest.mark.parametrize("known", [None, np.array([[0, 0], [5, 5]])])
def test_a_wrong_position_keeps_out_neither_frames_in_use_nor_those_that_wait(known: Any) -> None:
    places = np.array([[30.0, 30], [FAR_PX, 30], [32, 35], [31, 29], [-FAR_PX, FAR_PX], [np.nan, 3], [33, 30]])
    weights = np.array([1.0, 1, 1, 0, 0, 1, 0.5])
    found = reachable(places, 48, known, weights)
    assert found.tolist() == [True, False, True, True, False, False, True]
    order = np.random.default_rng(0).permutation(len(places))
    np.testing.assert_array_equal(reachable(places[order], 48, known, weights[order]), found[order])


def test_a_scan_that_goes_on_and_on_is_reachable_all_along() -> None:
    """Frames by frames in a row, each next to the one before: a long canvas, but of many frames."""
    places = np.stack([np.zeros(400), 20.0 * np.arange(400)], axis=1)
    assert reachable(places, 48).all()
    assert reachable(places[:0], 48).shape == (0,)


def test_weights_are_parts() -> None:
    np.testing.assert_array_equal(valid_weights([0.5, -1, 2, np.nan, np.inf, -np.inf]), [0.5, 0, 1, 0, 0, 0])
