"""The object on the stage: phase, amplitude, or both in one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.live_parts import ShownPicture
from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.callbacks.news import number_text, numbered
from nsbluesky.viewer.colormaps import complex_colors
from nsbluesky.viewer.display import display_phase, measured_window, remove_ramp, robust_range, thin_out, to_host
from nsbluesky.viewer.panels.base import Extent, LiveImagePanel, extent_in_um

__all__ = ["ObjectPanel", "SecondEnginePanel"]

MAX_OBJECT_PX = 640
"""Larger objects are drawn with every k-th pixel, so that a redraw stays short."""


class ObjectPanel(LiveImagePanel):
    """The measured part of the object.

    Parameters
    ----------
    choice : {"phase", "amplitude", "both"}
        What is shown at first.
    """

    CHOICES = ("phase", "amplitude", "both")
    NAME = "Object"
    place = "center"

    def __init__(self, choice: str = "phase") -> None:
        super().__init__(self.NAME, "stage x (µm)", "stage y (µm)", scale_bar=True)
        self.choice = self.add_selector(
            list(self.CHOICES), "phase (rad), amplitude, or both: hue tells the phase and brightness the amplitude"
        )
        self.choice.setCurrentText(choice)
        self.choice.currentIndexChanged.connect(self.redraw)
        self.graphics.setToolTip(
            "phase: mean slope and offset removed, cyclic colours over ±π where it wraps; amplitude: relative to the "
            "probe; colours from percentile 0.5 to 99.5; grey: not measured"
        )

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """The reconstruction."""
        return (state.reconstruction,)

    def draw(self, state: LiveState) -> None:
        """Draw what is chosen."""
        (picture,) = self.parts(state)
        assert picture is not None
        image, extent = _measured(picture)
        choice = self.choice.currentText()
        self.title = f"{self.NAME} {choice}" if choice != "both" else self.NAME
        if choice == "amplitude":
            amplitude = np.abs(image)
            span = robust_range(amplitude, (0.5, 99.5))
            self.set_image(amplitude, extent, span, colors="cividis", label="amplitude (relative)")
        elif choice == "both":
            colors = complex_colors(remove_ramp(image), robust_range(np.abs(image), (0.5, 99.5)))
            self.set_image(colors, extent, (-np.pi, np.pi), colors="hue", label="phase (rad); bright: amplitude")
        else:
            phase = display_phase(image)
            self.set_image(phase.image, extent, phase.span, colors=phase.colormap, label="phase (rad)")
        which = "final" if picture.final else numbered(picture.num_frames, "frame")
        covered = f" · {100 * picture.coverage:.0f} % covered" if np.isfinite(picture.coverage) else ""
        self.set_subtitle(f"{self.about(state)}{which}{covered} · pixel {picture.pixel_size_m * 1e9:.3g} nm")

    def about(self, state: LiveState) -> str:
        """Return what the title says before all else."""
        return ""


class SecondEnginePanel(ObjectPanel):
    """The object by the second engine, to compare with the image."""

    NAME = "Second engine"

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """The reconstruction by the second engine."""
        return (state.second,)

    def about(self, state: LiveState) -> str:
        """Engine and R."""
        assert state.second is not None
        of_centre = " of the centre" if state.second.coarse else ""
        return f"{state.second.engine}: R {number_text(state.second.r_factor)}{of_centre} · "

    def why_empty(self, state: LiveState) -> str:
        """Return where one is named."""
        settings = state.run.settings if state.run is not None else None
        if settings is None or settings.second_engine:
            return super().why_empty(state)
        return "none: name one under Processing"


def _measured(picture: ShownPicture) -> tuple[npt.NDArray[np.complex64], Extent]:
    """Return the measured part of the object, thinned out where it is large, and its outer edges in µm."""
    image = thin_out(to_host(picture.object), MAX_OBJECT_PX)
    rows, columns = measured_window(image)
    x0, x1, y0, y1 = extent_in_um(picture.extent_m)
    dx, dy = (x1 - x0) / image.shape[1], (y1 - y0) / image.shape[0]
    extent = (x0 + columns.start * dx, x0 + columns.stop * dx, y0 + rows.start * dy, y0 + rows.stop * dy)
    return np.ascontiguousarray(image[rows, columns]), extent
