"""PNG pictures: of objects, drawn without Qt, and of windows as they are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from nsbluesky.viewer.colormaps import UNMEASURED, colormap
from nsbluesky.viewer.display import (
    Span,
    display_phase,
    length_text,
    measured_window,
    nice_length,
    robust_range,
    thin_out,
    to_host,
)
from nsbluesky.whole_file import naming

__all__ = ["colored", "draw_object", "save_object_png", "save_window_png"]

IMAGE_PX = 800
"""Longest side of the drawn object; smaller ones are enlarged without smoothing, pixel by pixel."""
MAX_SOURCE_PX = 4096
MARGIN, BAR_WIDTH, FONT_PX = 16, 22, 18
PERCENTILES = (0.5, 99.5)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def colored(image: npt.NDArray[Any], span: Span, colors: str) -> npt.NDArray[np.uint8]:
    """Return RGB (rows, columns, 3) of an image; NaN becomes neutral grey, values beyond `span` its ends."""
    measured = np.isfinite(image)
    scaled = (np.where(measured, image, span[0]) - span[0]) * (255 / (span[1] - span[0]))
    rgb = colormap(colors)[np.clip(scaled.round(), 0, 255).astype(np.uint8)]
    rgb[~measured] = UNMEASURED
    return rgb


def draw_object(
    object: npt.NDArray[np.complexfloating[Any]],
    pixel_m: float,
    quantity: Literal["phase", "amplitude"] = "phase",
    title: str | None = None,
) -> Image.Image:
    """Draw an object with scale bar and colour bar; see `save_object_png`.

    Raises
    ------
    ValueError
        For another quantity, an object that is not two-dimensional or holds nothing, or a pixel that is no length.
    """
    image = to_host(object)
    if image.ndim != 2 or not np.isfinite(image).any():
        raise ValueError(f"object of shape {image.shape}: expected (rows, columns) with at least one number")
    if not (math.isfinite(pixel_m) and pixel_m > 0):
        raise ValueError(f"pixel_m = {pixel_m}: expected the object's pixel in metres")
    pixel_um = pixel_m * 1e6
    image = image[measured_window(image)]
    width_um = image.shape[1] * pixel_um
    image = thin_out(image, MAX_SOURCE_PX)
    if quantity == "phase":
        phase = display_phase(image)
        values, span, colors = phase.image, phase.span, phase.colormap
        label = "phase (rad), slope and offset removed"
        shown = "−π to π, wrapped" if phase.wrapped else "colours: percentiles {:g} to {:g}".format(*PERCENTILES)
    elif quantity == "amplitude":
        values = np.abs(image)
        span, colors, label = robust_range(values, PERCENTILES), "cividis", "amplitude (relative)"
        shown = "colours: percentiles {:g} to {:g}".format(*PERCENTILES)
    else:
        raise ValueError(f"quantity {quantity!r}: expected phase or amplitude")
    picture = _enlarged(Image.fromarray(colored(values, span, colors)[::-1]))
    _draw_scale_bar(picture, width_um)
    return _framed(picture, span, colors, f"{label} · {shown}", title)


def save_object_png(
    path: str | Path,
    object: npt.NDArray[np.complexfloating[Any]],
    pixel_m: float,
    quantity: Literal["phase", "amplitude"] = "phase",
    title: str | None = None,
) -> None:
    """Write a PNG of an object with a scale bar and a colour bar; needs neither Qt nor a screen.

    The measured part is drawn, y upwards as on the stage (row 0 at the bottom), grey where nothing was measured.  Of
    a phase the mean slope and offset, which ptychography cannot tell, are removed.  Colours go from percentile 0.5
    to 99.5, for a phase that wraps over the whole circle.

    Parameters
    ----------
    path : path
    object : ndarray
        (rows, columns) complex, NaN where unmeasured.
    pixel_m : float
        Pixel of the object in metres.
    quantity : {"phase", "amplitude"}
    title : str, optional
        Line above the picture.

    Raises
    ------
    ValueError
        As `draw_object`.
    OSError
        If the file cannot be written.
    """
    picture = draw_object(object, pixel_m, quantity, title)
    with naming(Path(path)):
        picture.save(path, "PNG")


def save_window_png(path: str | Path, window: Any) -> None:
    """Write a Qt window as it is drawn now to a PNG file.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    if not window.grab().save(str(path), "PNG"):
        raise OSError(f"cannot write {path}: expected a file in a folder that exists and is writable")


def _enlarged(picture: Image.Image) -> Image.Image:
    longest = max(picture.size)
    if longest <= IMAGE_PX:
        factor = IMAGE_PX // longest
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    scale = IMAGE_PX / longest
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BOX)


def _font() -> Font:
    """Return a font with Greek and signs where the system has one; Pillow's own knows neither."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", FONT_PX)
    except OSError:
        return ImageFont.load_default(FONT_PX)


def _plain(text: str, font: Font) -> str:
    """Spell out what a font cannot write."""
    if isinstance(font, ImageFont.FreeTypeFont) and font.getname()[0] == "DejaVu Sans":
        return text
    for sign, spelled in (("µ", "u"), ("−", "-"), ("π", "pi"), ("·", "|")):
        text = text.replace(sign, spelled)
    return text


def _draw_scale_bar(picture: Image.Image, width_um: float) -> None:
    """Draw a white bar of a round length on a dark ground into the lower right corner."""
    font = _font()
    length_um = nice_length(width_um)
    length_px = length_um / width_um * picture.width
    text = _plain(length_text(length_um), font)
    draw = ImageDraw.Draw(picture, "RGBA")
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width = max(length_px, right - left)
    center, base = picture.width - MARGIN - width / 2, picture.height - MARGIN
    text_top = base - 10 - (bottom - top) - 6
    draw.rectangle((center - width / 2 - 7, text_top - 7, center + width / 2 + 7, base + 7), fill=(0, 0, 0, 150))
    draw.rectangle((center - length_px / 2, base - 6, center + length_px / 2, base), fill="white")
    draw.text((center - (left + right) / 2, text_top - top), text, font=font, fill="white")


def _framed(picture: Image.Image, span: Span, colors: str, label: str, title: str | None) -> Image.Image:
    """Put title, colour bar with numbers, and what the colours mean around a picture."""
    font = _font()
    measure = ImageDraw.Draw(picture)
    ticks = [(value, _plain(text, font)) for value, text in _ticks(span)]
    label = _plain(label, font)
    title = _plain(title, font) if title else ""
    tick_width = math.ceil(max(measure.textlength(text, font=font) for _, text in ticks))
    head = 2 * FONT_PX if title else MARGIN
    bar_left = MARGIN + picture.width + MARGIN
    width = bar_left + BAR_WIDTH + 10 + tick_width + MARGIN
    width = max([width] + [math.ceil(measure.textlength(text, font=font)) + 2 * MARGIN for text in (label, title)])
    page = Image.new("RGB", (width, head + picture.height + 2 * FONT_PX), "white")
    page.paste(picture, (MARGIN, head))
    table = np.repeat(colormap(colors)[::-1, None], BAR_WIDTH, axis=1)
    page.paste(Image.fromarray(table).resize((BAR_WIDTH, picture.height)), (bar_left, head))
    draw = ImageDraw.Draw(page)
    draw.rectangle((bar_left, head, bar_left + BAR_WIDTH - 1, head + picture.height - 1), outline="black")
    for value, text in ticks:
        y = head + (span[1] - value) / (span[1] - span[0]) * (picture.height - 1)
        draw.line((bar_left + BAR_WIDTH, y, bar_left + BAR_WIDTH + 5, y), fill="black")
        y = min(max(y, head + FONT_PX / 2), head + picture.height - FONT_PX / 2)
        draw.text((bar_left + BAR_WIDTH + 9, y), text, font=font, fill="black", anchor="lm")
    draw.text((MARGIN, FONT_PX), title, font=font, fill="black", anchor="lm")
    draw.text((MARGIN, head + picture.height + FONT_PX), label, font=font, fill="black", anchor="lm")
    return page


def _ticks(span: Span) -> list[tuple[float, str]]:
    """Return round values within a span and how they are written."""
    if span == (-math.pi, math.pi):
        return [(-math.pi, "−π"), (-math.pi / 2, "−π/2"), (0.0, "0"), (math.pi / 2, "π/2"), (math.pi, "π")]
    step = nice_length(span[1] - span[0], share=0.25)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    values = np.arange(math.ceil(span[0] / step), math.floor(span[1] / step) + 1) * step
    return [(float(value), f"{value + 0.0:.{decimals}f}".replace("-", "−")) for value in values]
