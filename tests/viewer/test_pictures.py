"""Pictures show the object the right way up, in the right colours, with a scale bar of the right length."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from nsbluesky.viewer import pictures
from nsbluesky.viewer.colormaps import UNMEASURED, colormap
from nsbluesky.viewer.pictures import colored, draw_object, save_object_png

MARGIN, SIDE_PX = 16, 800


@pytest.fixture
def amplitude() -> np.ndarray:
    """40 × 40: dark but for a bright patch at high rows and low columns, and a hole."""
    image = np.ones((40, 40), np.complex64)
    image[30:38, 2:10] = 2
    image[20:24, 20:24] = np.nan
    return image


def object_part(page: Image.Image, head: int = MARGIN) -> np.ndarray:
    return np.asarray(page.convert("RGB"))[head : head + SIDE_PX, MARGIN : MARGIN + SIDE_PX]


def test_rows_grow_upwards_and_columns_to_the_right(amplitude: np.ndarray) -> None:
    part = object_part(draw_object(amplitude, 1e-8, "amplitude"))
    bright, dark = colormap("cividis")[-1], colormap("cividis")[0]
    np.testing.assert_array_equal(part[(39 - 34) * 20, 6 * 20], bright)
    np.testing.assert_array_equal(part[34 * 20, 6 * 20], dark)
    np.testing.assert_array_equal(part[(39 - 22) * 20 + 10, 22 * 20 + 10], UNMEASURED)


@pytest.mark.parametrize("pixel_m", [1e-8, 3.7e-9, 2e-7])
def test_the_scale_bar_has_the_length_that_it_says(
    amplitude: np.ndarray, pixel_m: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[float] = []
    text = pictures.length_text
    monkeypatch.setattr(pictures, "length_text", lambda length_um: said.append(length_um) or text(length_um))
    part = object_part(draw_object(amplitude, pixel_m, "amplitude"))
    white = (part[SIDE_PX - MARGIN - 3] == 255).all(axis=-1)
    assert white.sum() * pixel_m * 1e6 / 20 == pytest.approx(said[0], rel=0.02)


def test_the_measured_part_is_drawn_large(amplitude: np.ndarray) -> None:
    padded = np.full((100, 100), np.nan, np.complex64)
    padded[30:70, 50:90] = amplitude
    np.testing.assert_array_equal(
        np.asarray(draw_object(padded, 1e-8, "amplitude")), np.asarray(draw_object(amplitude, 1e-8, "amplitude"))
    )


def test_phase_slopes_are_removed(amplitude: np.ndarray) -> None:
    phase = np.exp(0.5j * np.abs(amplitude)).astype(np.complex64)
    sloped = phase * np.exp(1j * (0.4 * np.arange(40)[:, None] + 0.2 * np.arange(40)))
    difference = np.asarray(draw_object(phase, 1e-8), int) - np.asarray(draw_object(sloped, 1e-8), int)
    assert np.abs(difference).max() <= 3


def test_large_and_long_objects_fit() -> None:
    page = draw_object(np.ones((3000, 100), np.complex64), 1e-8, title="long")
    assert page.height < 1000
    page = draw_object(
        np.ones((2, 3), np.complex64), 1e-8, title="a title that is much longer than the picture is wide"
    )
    assert page.width > 800


def test_it_is_a_png_with_title_and_colour_bar(tmp_path: Path, amplitude: np.ndarray) -> None:
    save_object_png(tmp_path / "a.png", amplitude, 1e-8, "amplitude", title="Gold")
    with Image.open(tmp_path / "a.png") as page:
        assert page.format == "PNG"
        pixels = np.asarray(page)
    bar = pixels[36 + 1 : 36 + SIDE_PX - 1, MARGIN + SIDE_PX + MARGIN + 11]
    np.testing.assert_array_equal(bar[[0, -1]], colormap("cividis")[[-1, 0]])
    assert (pixels[:36, :200] < 128).any(), "no title"
    assert (pixels[36:, MARGIN + SIDE_PX + MARGIN + 32 :] < 128).any(), "no numbers at the colour bar"


def test_colours_of_the_ends_and_of_nan() -> None:
    rgb = colored(np.array([[-9.0, 0.0, 1.0, 9.0, np.nan]]), (0.0, 1.0), "viridis")[0]
    table = colormap("viridis")
    np.testing.assert_array_equal(rgb, [table[0], table[0], table[-1], table[-1], UNMEASURED])


def test_without_system_fonts_signs_are_spelled(amplitude: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object, **kwargs: object) -> ImageFont.FreeTypeFont:
        raise OSError("cannot open resource")

    default = ImageFont.load_default(18)
    monkeypatch.setattr(ImageFont, "load_default", lambda size: default)
    monkeypatch.setattr(ImageFont, "truetype", missing)
    assert pictures._plain("−2 µm · π", default) == "-2 um | pi"
    draw_object(amplitude, 1e-6)


@pytest.mark.parametrize(
    ("object", "pixel_m", "quantity", "message"),
    [
        (np.full((3, 3), np.nan, np.complex64), 1e-8, "phase", "at least one number"),
        (np.ones(3, np.complex64), 1e-8, "phase", "rows, columns"),
        (np.ones((3, 3), np.complex64), 0.0, "phase", "pixel in metres"),
        (np.ones((3, 3), np.complex64), np.nan, "phase", "pixel in metres"),
        (np.ones((3, 3), np.complex64), 1e-8, "real", "phase or amplitude"),
    ],
)
def test_what_cannot_be_drawn_is_told(object: np.ndarray, pixel_m: float, quantity: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_object(object, pixel_m, quantity)  # type: ignore[arg-type]


def test_it_needs_no_qt() -> None:
    code = (
        "import sys, nsbluesky.viewer.pictures; sys.exit(any('qtpy' in m or 'pyqtgraph' in m for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
