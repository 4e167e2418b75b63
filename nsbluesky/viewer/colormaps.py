"""Colour maps that are even in lightness and readable for colour-blind people, as tables of 256 colours.

The same tables serve the windows and the pictures that are written without Qt.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["COLORMAPS", "UNMEASURED", "colormap", "complex_colors"]

UNMEASURED = (180, 180, 180)
"""Neutral grey for what was not measured; no colour map comes near it."""

# Every 15.9375th colour of three well-known maps (dedicated to the public domain, CC0); what lies between is
# interpolated to within 7 of 255.
_ANCHORS = {
    "viridis": (
        "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21908c 1f9f88 27ad81 3ebc74 5cc863 82d34d aadc32 "
        "d5e21a fde725"
    ),
    "inferno": (
        "000004 0b0724 210c4a 3d0965 56106e 70196e 89226a a32c61 bb3654 d14545 e35932 f1721e f98c0a fcaa0f f9c932 "
        "f2e865 fcffa4"
    ),
    "cividis": (
        "00204d 002c69 05366e 2d426c 414d6b 52596c 61646f 6f7073 7c7c78 8b8779 9b9477 aca174 bcaf6f cebc68 e0cb5e "
        "f2da50 ffea46"
    ),
}
COLORMAPS = (*_ANCHORS, "diverging", "cyclic", "hue")
"""Names that `colormap` knows: three for magnitudes, "diverging" around zero, "cyclic" for wrapped phases, and "hue"
for the phases of `complex_colors`, at one lightness."""

_BLUE_HUE, _ORANGE_HUE = np.deg2rad(255.0), np.deg2rad(55.0)


@cache
def colormap(name: str) -> npt.NDArray[np.uint8]:
    """Return the (256, 3) uint8 table of a colour map of `COLORMAPS`; read-only, it is shared."""
    if name in _ANCHORS:
        table = _from_anchors(_ANCHORS[name])
    elif name == "diverging":
        table = _two_hues(np.linspace(-1, 1, 256), dark=0.35, light=0.96, ends_chroma=0.13)
    elif name == "cyclic":
        table = _two_hues(np.linspace(-1, 1, 256), dark=0.22, light=0.94, ends_chroma=0.0)
    elif name == "hue":
        table = _hues(np.linspace(-np.pi, np.pi, 256), np.ones(256))
    else:
        raise ValueError(f"colour map {name!r}: expected one of {', '.join(COLORMAPS)}")
    table.setflags(write=False)
    return table


def complex_colors(image: npt.NDArray[np.complexfloating[Any]], span: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Return RGBA (rows, columns, 4): hue is the phase, brightness the amplitude from `span`; NaN is transparent.

    Amplitudes at and below the lower end keep a third of the brightness, so that their phase can be seen.
    """
    measured = np.isfinite(image)
    amplitude = np.clip((np.abs(np.where(measured, image, 0)) - span[0]) / (span[1] - span[0]), 0, 1)
    colors = np.zeros((*image.shape, 4), np.uint8)
    colors[..., :3] = _hues(np.angle(np.where(measured, image, 1)), 1 / 3 + 2 / 3 * amplitude)
    colors[..., 3] = np.where(measured, 255, 0)
    return colors


def _hues(phase: npt.NDArray[Any], brightness: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return a circle of hues at even pace in OKLab, of one lightness at each brightness; (…, 3)."""
    chroma = 0.12 * brightness
    return _oklab_to_srgb(0.75 * brightness, chroma * np.cos(phase), chroma * np.sin(phase))


def _from_anchors(text: str) -> npt.NDArray[np.uint8]:
    anchors = np.array([list(bytes.fromhex(code)) for code in text.split()], dtype=np.float64)
    at = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(at, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def _two_hues(t: npt.NDArray[np.float64], *, dark: float, light: float, ends_chroma: float) -> npt.NDArray[np.uint8]:
    """Go from dark blue over near white (t = 0) to dark orange, at an even pace in OKLab lightness.

    Parameters
    ----------
    t : ndarray
        −1 … 1.
    dark, light : float
        OKLab lightness at the ends and in the middle.
    ends_chroma : float
        Chroma at the ends; 0 lets both ends be the same grey, so that the map closes.
    """
    distance = np.abs(t)
    lightness = light + (dark - light) * distance
    chroma = ends_chroma * distance + (0.13 - ends_chroma / 2) * np.sin(np.pi * distance)
    hue = np.where(t < 0, _BLUE_HUE, _ORANGE_HUE)
    return _oklab_to_srgb(lightness, chroma * np.cos(hue), chroma * np.sin(hue))


def _oklab_to_srgb(
    lightness: npt.NDArray[np.float64], a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    """Convert OKLab to 8-bit sRGB (…, 3), clipped to the gamut (B. Ottosson, "A perceptual color space", 2020)."""
    cones = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(np.tensordot(to_rgb, cones**3, axes=1), 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.moveaxis((255 * encoded).round(), 0, -1), dtype=np.uint8)
