"""Figures of two reconstructions beside one another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nsbluesky.cxi import compare
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


def test_what_only_one_of_them_has_is_left_out_in_either_order() -> None:
    rng = np.random.default_rng(0)
    whole = np.exp(1j * rng.normal(0, 0.5, (80, 80)))
    part = (slice(20, 70), slice(14, 74))

    def image(rows: slice, columns: slice) -> Any:
        values = whole[rows, columns]
        centre = (0.5 * (columns.start + columns.stop) * 1e-8, 0.5 * (rows.start + rows.stop) * 1e-8)
        mask = np.zeros(values.shape, np.uint32)
        return SimpleNamespace(object=values, mask=mask, pixel_m=1e-8, center_m=centre)

    large, small = image(slice(0, 80), slice(0, 80)), image(*part)
    for first, second, expected_px in (
        (large, small, (14, 70, 20, 70)),  # the rim of the first is not compared, which is 10 pixels wide
        (small, large, (24, 64, 30, 60)),
    ):
        found = compare_images(first, second)
        np.testing.assert_allclose(np.array(found.extent_m) / 1e-8, expected_px, atol=0.5)
        assert (
            found.first.shape
            == found.second.shape
            == (expected_px[3] - expected_px[2], expected_px[1] - expected_px[0])
        )
        np.testing.assert_allclose(found.first, found.second, atol=1e-3)


def test_two_with_hardly_a_common_pixel_are_refused_in_either_order() -> None:
    whole = np.exp(1j * np.random.default_rng(0).normal(0, 0.5, (64, 64)))
    large, small = (
        SimpleNamespace(object=a, mask=np.zeros(a.shape, np.uint32), pixel_m=1e-8, center_m=(0.0, 0.0))
        for a in (whole, whole[20:26, 20:26])
    )
    for pair in ((large, small), (small, large)):
        with pytest.raises(CxiError, match="cannot be compared"):
            compare_images(*pair)  # type: ignore[arg-type]


def test_two_with_no_common_pixel_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = np.full((20, 20), np.nan + 0j)
    monkeypatch.setattr(compare, "align", lambda *_: SimpleNamespace(image=nothing, truth=nothing))
    image: Any = SimpleNamespace(object=np.ones((40, 40)), mask=np.zeros((40, 40)), pixel_m=1e-8, center_m=(0.0, 0.0))
    with pytest.raises(CxiError, match="no pixel in common"):
        compare_images(image, image)
