"""Figures of two reconstructions beside one another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nsbluesky.cxi.compare import Comparison, compare_images
from nsbluesky.cxi.layout import CxiError


def test_phases_are_relative_to_the_mean_of_both_and_amplitudes_as_they_are() -> None:
    first_rad, second_rad = np.array([-0.3, 0.3, 0.1, -0.1]), np.array([0.2, -0.2, 0.4, -0.4])
    images: list[Any] = [np.exp(1j * (2 + first_rad)), 3 * np.exp(1j * (2 + second_rad))]
    rims = [np.nan, 9], [9, np.nan]  # known in one of them only
    images = [np.append(image, rim).reshape(3, 2) for image, rim in zip(images, rims, strict=True)]
    both = Comparison(None, 1.0, images[0], images[1], (0, 1, 0, 1))  # type: ignore[arg-type]
    np.testing.assert_allclose(both.phases, [first_rad, second_rad], atol=1e-12)
    np.testing.assert_allclose(both.amplitudes, [[1] * 4, [3] * 4])
    np.testing.assert_allclose(both.difference[:2], images[0][:2] - images[1][:2])
    assert np.isnan(both.difference[2]).all()


@pytest.mark.parametrize("pixels_m", [(25e-9, 25.1e-9), (25.1e-9, 25e-9)])
def test_other_pixels_are_refused(pixels_m: tuple[float, float]) -> None:
    first, second = (SimpleNamespace(pixel_m=pixel_m) for pixel_m in pixels_m)
    with pytest.raises(CxiError, match="expected the same"):
        compare_images(first, second)  # type: ignore[arg-type]
