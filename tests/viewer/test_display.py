"""What is drawn is what was measured: ranges, logarithms, phases and lengths."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbluesky.viewer.display import (
    common_exponent,
    count_text,
    display_phase,
    half_period_text,
    length_text,
    log10_image,
    log10_range,
    measured_window,
    mode_powers,
    nice_length,
    photons_text,
    power_text,
    probe_mosaic,
    remove_ramp,
    robust_range,
    symmetric_range,
    thin_out,
    to_host,
)


def ramp(shape: tuple[int, int], row: float, column: float) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.exp(1j * (row * rows + column * columns)).astype(np.complex64)


def test_the_range_of_zeros_begins_at_zero() -> None:
    assert robust_range(np.zeros((3, 3))) == (0.0, 1.0)
    assert robust_range(np.full((3, 3), 1000.0)) == (999.0, 1001.0)


def test_what_float32_rounds_is_no_contrast() -> None:
    noise = np.linspace(-1e-7, 1e-7, 100, dtype=np.float32).reshape(10, 10)
    assert robust_range(1 + noise) == pytest.approx((0.999, 1.001), abs=1e-6)
    assert display_phase(np.exp(1j * noise)).span == (0.0, 1.0)


def test_an_image_without_light_is_drawn_in_the_darkest_colour() -> None:
    for floor in (0.01, 0.5, 1.0):
        low = math.log10(floor)
        dark = log10_image(np.zeros((3, 3)), floor)
        assert log10_range(dark, floor, (1.0, 99.9)) == pytest.approx((low, low + 1))
    lit = log10_image(np.array([[0.1, 10.0]]), 0.01)
    assert log10_range(lit, 0.01, (0.0, 100.0)) == (-1.0, 1.0)


def test_one_photon_is_one() -> None:
    assert [photons_text(count) for count in (1.2, 2.0, 3e7)] == ["1 photon", "2 photons", "3.00·10⁷ photons"]


def test_robust_range_leaves_out_outliers_and_what_is_not_measured() -> None:
    image = np.linspace(0, 1, 1001, dtype=np.float32)
    image[0], image[1] = np.nan, 1e6
    low, high = robust_range(image)
    assert 0 < low < 0.02
    assert 0.98 < high < 1


@pytest.mark.parametrize("image", [np.full((3, 3), np.nan), np.full((3, 3), 5.0), np.zeros((2, 2)), np.empty((0, 0))])
def test_a_range_is_never_empty(image: np.ndarray) -> None:
    low, high = robust_range(image)
    assert low < high


def test_symmetric_range_is_centred_on_the_median() -> None:
    image = np.array([[1.0, 2.0, 3.0, 11.0, np.nan]])
    low, high = symmetric_range(image)
    assert (low + high) / 2 == pytest.approx(2.5)
    assert high >= 10.5


def test_log10_has_a_floor() -> None:
    np.testing.assert_allclose(log10_image(np.array([[-5, 0, 1, 1000]]), floor=0.1), [[-1, -1, 0, 3]])
    assert log10_image(np.array([[65535]], np.uint16), floor=1.0).dtype == np.float32


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-math.pi, math.pi))
def test_slope_and_offset_go_and_structure_stays(row: float, column: float, offset: float) -> None:
    structure = np.zeros((24, 32))
    structure[8:12, 10:20] = 0.6
    structure -= structure.mean()
    shown = np.angle(
        remove_ramp(np.exp(1j * (structure + offset)).astype(np.complex64) * ramp((24, 32), row, column))
    )
    assert shown[10, 15] - shown[2, 2] == pytest.approx(0.6, abs=1e-3)
    assert np.angle(np.exp(1j * shown).sum()) == pytest.approx(0, abs=1e-3)


def test_what_is_not_measured_stays_so_and_does_no_harm() -> None:
    image = ramp((20, 20), 0.3, -0.2)
    image[:5] = np.nan
    shown = display_phase(image)
    assert np.isnan(shown.image[:5]).all()
    np.testing.assert_allclose(shown.image[5:], 0, atol=1e-4)


def test_a_phase_that_wraps_is_drawn_on_the_circle() -> None:
    rows, columns = np.mgrid[-50:50, -50:50]
    wrapped = display_phase(np.exp(0.3j * np.hypot(rows, columns)).astype(np.complex64))
    assert wrapped.wrapped
    assert (wrapped.colormap, wrapped.span) == ("cyclic", (-math.pi, math.pi))
    weak = display_phase(np.exp(0.01j * np.hypot(rows, columns)).astype(np.complex64))
    assert not weak.wrapped
    assert weak.colormap == "viridis"
    assert weak.span[1] - weak.span[0] < 1


def test_nothing_measured_can_be_drawn() -> None:
    shown = display_phase(np.full((4, 4), np.nan, np.complex64))
    assert not shown.wrapped
    assert shown.span[0] < shown.span[1]


def test_measured_window() -> None:
    image = np.full((6, 8), np.nan)
    image[2, 3] = image[4, 5] = 1
    assert measured_window(image) == (slice(2, 5), slice(3, 6))
    assert measured_window(np.full((6, 8), np.nan)) == (slice(0, 6), slice(0, 8))


def test_thin_out_keeps_small_images_and_makes_views() -> None:
    image = np.arange(2500).reshape(25, 100)
    assert thin_out(image, 100) is not None
    assert thin_out(image, 100).shape == (25, 100)
    assert thin_out(image, 40).shape == (9, 34)
    assert np.shares_memory(thin_out(image, 40), image)


def test_powers_and_mosaic_of_modes() -> None:
    probe = np.zeros((3, 4, 4), np.complex64)
    probe[0, 1, 1], probe[1, 2, 2] = 3j, 1
    np.testing.assert_allclose(mode_powers(probe), [0.9, 0.1, 0])
    mosaic = probe_mosaic(probe)
    assert mosaic.shape == (8, 8)
    assert (mosaic[1, 1], mosaic[2, 6], np.nansum(mosaic)) == (1, 1, 2)
    assert np.isnan(mosaic[4:, 4:]).all()  # no fourth mode
    np.testing.assert_array_equal(mode_powers(np.zeros((1, 2, 2), np.complex64)), [0])


@given(st.floats(1e-9, 1e9))
def test_a_scale_bar_is_round_and_fits(width: float) -> None:
    length = nice_length(width, share=0.3)
    assert 0.1 * width < length <= 0.3 * width * 1.001
    leading = length / 10 ** math.floor(math.log10(length) + 1e-9)
    assert any(math.isclose(leading, digit, rel_tol=1e-6) for digit in (1, 2, 5))


@pytest.mark.parametrize(("length_um", "text"), [(0.5, "500 nm"), (0.002, "2 nm"), (1, "1 µm"), (20.0, "20 µm")])
def test_lengths_are_written_for_people(length_um: float, text: str) -> None:
    assert length_text(length_um) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0.0, "0"), (950.4, "950"), (9999.0, "9999"), (math.nan, "no"), (11_100_000.0, "1.11·10⁷")]
)
def test_counts_are_written_for_people(count: float, text: str) -> None:
    assert count_text(count) == text


@pytest.mark.parametrize(
    ("resolution_m", "is_pixel", "text"),
    [(18.2e-9, False, "18.2 nm"), (11.1e-9, True, "11.1 nm, the pixel"), (math.inf, False, "not resolved")],
)
def test_a_resolution_says_where_it_is_a_bound(resolution_m: float, is_pixel: bool, text: str) -> None:
    assert half_period_text(resolution_m, is_pixel=is_pixel) == text


def test_arrays_on_a_device_are_fetched() -> None:
    class OnDevice:
        def get(self) -> np.ndarray:
            return np.arange(3)

    np.testing.assert_array_equal(to_host(OnDevice()), [0, 1, 2])


@pytest.mark.parametrize(
    ("span", "exponent"), [((0.0, 1.0), 0), ((0.0, 0.0), 0), ((-2e7, 1e6), 7), ((1e-5, 3e-5), -5), ((0, 9999.0), 0)]
)
def test_long_numbers_get_an_exponent(span: tuple[float, float], exponent: int) -> None:
    assert common_exponent(span) == exponent


def test_powers_are_written_for_people() -> None:
    assert power_text(-12) == "10⁻¹²"
