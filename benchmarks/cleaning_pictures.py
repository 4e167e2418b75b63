"""Pictures of one simulated frame after each step of the cleaning.

``python -m benchmarks.cleaning_pictures [FOLDER]`` writes what `docs/explanation/cleaning.md` shows.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from benchmarks.cleaning_truth import Trial, detector, on_window, trial, usual_settings
from nsbluesky.cleaning.clean import trace
from nsbluesky.cleaning.photons import ADU_PER_EV
from nsbluesky.cleaning.plan import plan_for
from nsbluesky.simulation.light import Light
from nsbluesky.viewer.colormaps import colormap

FOLDER = Path(__file__).parent.parent / "docs" / "images"
PANEL_PX = 240
BAR_PX, GAP_PX, HEAD_PX, LABEL_PX = 10, 14, 24, 64
ADU = 30.0
# A part of the window without the bright light: half of it lies in each half of the sensor.
CORNER = slice(440, 520), slice(60, 140)


@dataclass(frozen=True)
class Panel:
    """One picture with its colour bar."""

    title: str
    values: npt.NDArray[np.floating]
    span: tuple[float, float]
    unit: str
    colors: str = "cividis"
    logarithmic: bool = False


def main() -> int:
    """Write the pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    stages = _stages()
    for name, panels in {"cleaning-frame": _whole(stages), "cleaning-corner": _corner(stages)}.items():
        path = folder / f"{name}.png"
        sheet(panels, columns=4).quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1024:.0f} kB")
    return 0


def _stages() -> dict[str, npt.NDArray[np.float32]]:
    """Return the window of a frame behind a beamstop after each step, the truth, and the clean frame."""
    stop = Light(beamstop_radius_m=1.2e-3, beamstop_transmission=0.05)
    model = dataclasses.replace(detector("light"), light=stop)
    one: Trial = trial(model, 4, flux=0.1, num_frames=1, energy_eV=ADU / ADU_PER_EV)
    settings = usual_settings(one).replace(
        center_px=one.simulator.center_px, crop_px=960, frame_px=256, downsample="fourier", overscan_decay=True
    )
    assert one.simulator.layout is not None
    energy_eV = one.simulator.geometry.energy_eV
    plan = plan_for(one.words, settings, one.simulator.layout, one.dark(settings), energy_eV=energy_eV)
    exposure = one.exposures[0]
    return trace(exposure.words, plan) | {"truth": on_window(exposure.photons, plan)}


def _whole(stages: dict[str, npt.NDArray[np.float32]]) -> list[Panel]:
    """Return the whole window after each step; blocks of 8 × 8 pixels as one, for a small file."""
    adu, clean = "mean ADU of 8 by 8 px", stages["clean"]
    photons = {"unit": "photons in 8 by 8 px", "colors": "inferno", "logarithmic": True, "span": (0.5, 5e3)}
    return [
        Panel("raw words, cropped (1, 8)", _mean(stages["raw"]), (4000, 5000), adu),
        Panel("less the dark (2)", _mean(stages["dark"]), (-15, 15), adu, "diverging"),
        Panel("less the overscan's offset (3)", _mean(stages["overscan"]), (-15, 15), adu, "diverging"),
        Panel("bad pixels and ADCs out (2)", _mean(stages["bad_pixels"]), (-15, 15), adu, "diverging"),
        Panel("less the interference (4, 5)", _mean(stages["spikes"]), (-15, 15), adu, "diverging"),
        Panel("photon threshold (6)", _mean(stages["photons"]) * 64, **photons),
        Panel("divided by the beamstop (7)", _mean(stages["beamstop"]) * 64, **photons),
        Panel(
            "clean frame, 256 by 256 (9)",
            _mean(clean, 2) * 4,
            (0.5, 5e3),
            "photons in 7.5 by 7.5 px",
            "inferno",
            True,
        ),
    ]


def _corner(stages: dict[str, npt.NDArray[np.float32]]) -> list[Panel]:
    """Return pixels far from the centre after each step, and the photons that fell there."""
    part = {name: stages[name][CORNER] for name in stages if name != "clean"}
    middle = float(np.median(part["raw"]))
    names = {"dark": "less the dark", "overscan": "less the offset", "spikes": "less the interference"}
    return [
        Panel("raw words", part["raw"], (middle - 60, middle + 60), "ADU"),
        *(Panel(title, part[name], (-20, 20), "ADU", "diverging") for name, title in names.items()),
        Panel("photon threshold", part["photons"], (-0.2, 2), "photons", "inferno"),
        Panel("photons that fell", part["truth"], (-0.2, 2), "photons", "inferno"),
        Panel("difference of the two", part["photons"] - part["truth"], (-0.5, 0.5), "photons", "diverging"),
    ]


def _mean(window: npt.NDArray[np.float32], block: int = 8) -> npt.NDArray[np.float32]:
    side = len(window) // block
    means: npt.NDArray[np.float32] = window.reshape(side, block, side, block).mean(axis=(1, 3))
    return means


def sheet(panels: list[Panel], columns: int) -> Image.Image:
    """Return the panels side by side, each with its title and colour bar."""
    width, height = PANEL_PX + LABEL_PX + GAP_PX, PANEL_PX + HEAD_PX + GAP_PX
    rows = -(-len(panels) // columns)
    page = Image.new("RGB", (columns * width + GAP_PX, rows * height), "white")
    for k, panel in enumerate(panels):
        page.paste(_draw(panel), (GAP_PX + k % columns * width, k // columns * height))
    return page


def _draw(panel: Panel) -> Image.Image:
    table, font = colormap(panel.colors), ImageFont.load_default(11)
    low, high = panel.span
    values = np.asarray(panel.values, np.float64)
    if panel.logarithmic:
        low, high, values = np.log10(low), np.log10(high), np.log10(np.maximum(values, 1e-9))
    levels = np.clip((values - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    picture = Image.fromarray(table[levels]).resize((PANEL_PX, PANEL_PX), Image.Resampling.NEAREST)
    bar = Image.fromarray(np.repeat(table[::-1][:, None], BAR_PX, axis=1)).resize((BAR_PX, PANEL_PX))
    page = Image.new("RGB", (PANEL_PX + LABEL_PX + GAP_PX, PANEL_PX + HEAD_PX), "white")
    page.paste(picture, (0, HEAD_PX))
    page.paste(bar, (PANEL_PX + 4, HEAD_PX))
    draw = ImageDraw.Draw(page)
    draw.text((0, 5), panel.title, "black", font=ImageFont.load_default(13))
    for share in (0.0, 0.5, 1.0):
        level = low + share * (high - low)
        text = f"{10**level if panel.logarithmic else level:.4g}"
        draw.text((PANEL_PX + BAR_PX + 8, HEAD_PX + (1 - share) * (PANEL_PX - 12)), text, "black", font=font)
    upright = Image.new("RGB", (PANEL_PX, 14), "white")
    ImageDraw.Draw(upright).text((PANEL_PX // 2, 7), panel.unit, "black", font=font, anchor="mm")
    page.paste(upright.rotate(90, expand=True), (PANEL_PX + BAR_PX + 44, HEAD_PX))
    return page


if __name__ == "__main__":
    sys.exit(main())
