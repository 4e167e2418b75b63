"""Colour maps are even in lightness, so that equal steps look equal."""

from __future__ import annotations

import numpy as np
import pytest

from nsbluesky.viewer.colormaps import COLORMAPS, UNMEASURED, colormap, complex_colors


def lightness(table: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB colours."""
    linear = np.where(table / 255 <= 0.04045, table / 255 / 12.92, ((table / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return 116 * np.cbrt(np.maximum(luminance, 0.008856)) - 16


@pytest.mark.parametrize("name", COLORMAPS)
def test_tables_are_complete_and_cannot_be_changed(name: str) -> None:
    table = colormap(name)
    assert (table.shape, table.dtype) == ((256, 3), np.uint8)
    assert not table.flags.writeable
    assert len(np.unique(table, axis=0)) > 200


@pytest.mark.parametrize("name", COLORMAPS)
def test_no_value_looks_as_if_it_was_not_measured(name: str) -> None:
    table = colormap(name).astype(float)
    as_light = table[np.abs(lightness(table) - lightness(np.array(UNMEASURED, float))) < 8]
    assert (np.ptp(as_light, axis=1) > 50).all(), "as light, it has a colour"


@pytest.mark.parametrize("name", ["viridis", "inferno", "cividis"])
def test_magnitudes_grow_lighter_at_an_even_pace(name: str) -> None:
    steps = np.diff(lightness(colormap(name))[::16])
    assert (steps >= 0).all()
    assert steps[2:].max() < 1.6 * steps[2:].min()


@pytest.mark.parametrize("name", ["diverging", "cyclic"])
def test_both_sides_of_zero_are_equally_dark_and_of_other_hue(name: str) -> None:
    table = colormap(name).astype(float)
    np.testing.assert_allclose(lightness(table[:120]), lightness(table[:-121:-1]), atol=5)
    blue, orange = table[64], table[-65]
    assert blue[2] > blue[0] + 40
    assert orange[0] > orange[2] + 40


def test_the_cyclic_map_closes() -> None:
    table = colormap("cyclic").astype(int)
    assert np.abs(table[0] - table[-1]).max() <= 3


def test_an_unknown_map_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of viridis"):
        colormap("jet")


def test_hue_tells_the_phase_and_brightness_the_amplitude() -> None:
    hues = colormap("hue")
    assert np.ptp(lightness(hues.astype(float))) < 12
    phases = np.linspace(-np.pi, np.pi, 256)
    drawn = complex_colors(2 * np.exp(1j * phases)[None], (1.0, 2.0))
    np.testing.assert_allclose(drawn[0, :, :3].astype(int), hues.astype(int), atol=2)
    image = np.array([[0.0, 1.0, 1.5, 2.0, 9.0, np.nan]], np.complex64)
    colors = complex_colors(image, (1.0, 2.0))
    brightness = lightness(colors[0, :5, :3].astype(float))
    assert brightness[0] == brightness[1] < brightness[2] < brightness[3] == brightness[4]
    assert colors[0, :, 3].tolist() == [255] * 5 + [0]
