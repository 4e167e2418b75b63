"""The diffraction fit: a frame beside what object and probe say it should have been."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.live_parts import Fit
from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.callbacks.news import number_text
from nsbluesky.viewer.display import log10_image, robust_range, to_host
from nsbluesky.viewer.panels.base import LiveImagePanel, pixel_extent
from nsbluesky.viewer.qt import QtWidgets, Signal

__all__ = ["FitPanel", "residual"]

FLOOR_PHOTONS = 0.1
NEWEST = 0
LAST_FRAME = 10**9
BOTH = "data | model"


def residual(fit: Fit) -> npt.NDArray[np.float32]:
    """Return √model − √data, in √photons, whose noise is the same everywhere: about ½; NaN where unmeasured."""
    data, model = to_host(fit.data), to_host(fit.model)
    return np.asarray(np.sqrt(model) - np.sqrt(np.maximum(data, 0)), np.float32)


class FitPanel(LiveImagePanel):
    """Data, model and residual of one frame; a number chooses the frame, 0 the newest."""

    CHOICES = (BOTH, "data", "model", "residual")
    place = "left top"

    frame_chosen = Signal(int)
    """The frame to be shown from now on, 0 for the newest."""

    def __init__(self) -> None:
        super().__init__("Fit", "column (px)", "row (px)", row_0_on_top=True)
        self._data_px = 0
        self.choice = self.add_selector(list(self.CHOICES), "the frame, its model, or √model − √data")
        self.choice.currentIndexChanged.connect(self.redraw)
        self.number = QtWidgets.QSpinBox()
        self.number.setRange(NEWEST, LAST_FRAME)
        self.number.setSpecialValueText("newest")
        self.number.setKeyboardTracking(False)
        self.number.setMaximumWidth(70)
        self.number.setToolTip("number of the frame; a click on a point of the low-resolution image chooses it too")
        self.number.valueChanged.connect(self.frame_chosen.emit)
        self.add_control(self.number)
        self.graphics.setToolTip(
            "photons per pixel, logarithmic, masked pixels grey in the data; residual: √model − √data (√photons), "
            "where photon noise is about ½"
        )

    def parts(self, state: LiveState) -> tuple[Any, ...]:
        """The fit."""
        return (state.fit,)

    def draw(self, state: LiveState) -> None:
        """Draw what is chosen."""
        fit = state.fit
        assert fit is not None
        self._data_px = fit.data.shape[1] if self.choice.currentText() == BOTH else 0
        self.plot.getAxis("bottom").count_anew(self._data_px)
        if self.choice.currentText() == "residual":
            image = residual(fit)
            limit = max(abs(edge) for edge in robust_range(image))
            self.set_image(image, pixel_extent(image), (-limit, limit), colors="diverging", label="√photons")
        else:
            self._draw_photons(to_host(fit.data), to_host(fit.model))
        wanted = self.number.value()
        instead = f" · {wanted} is not in use" if wanted not in (NEWEST, fit.seq_num) else ""
        self.set_subtitle(f"frame {fit.seq_num} · R {number_text(fit.r_factor)}{instead}")

    def pixel_text(self, column: int, row: int) -> str:
        """Write which pixel that is; data and model side by side count their own columns."""
        if not self._data_px:
            return super().pixel_text(column, row)
        name = "data" if column < self._data_px else "model"
        return f"{name}, {super().pixel_text(column % self._data_px, row)}"

    def _draw_photons(self, data: npt.NDArray[np.float32], model: npt.NDArray[np.float32]) -> None:
        """Draw data, model or both on one scale, so that they can be compared."""
        chosen = {"data": [data], "model": [model]}.get(self.choice.currentText(), [data, model])
        image = log10_image(np.hstack(chosen), FLOOR_PHOTONS)
        high = max(robust_range(log10_image(data, FLOOR_PHOTONS), (0.0, 100.0))[1], 1.0)
        floor = float(np.log10(FLOOR_PHOTONS))
        self.set_image(image, pixel_extent(image), (floor, high), colors="inferno", label="photons", log=True)
