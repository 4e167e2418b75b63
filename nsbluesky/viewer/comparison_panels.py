"""What two reconstructions of one sample have in common, pixel by pixel: the other one, difference, correlation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.news import number_text, numbered
from nsbluesky.cxi.compare import Comparison
from nsbluesky.viewer.display import robust_range
from nsbluesky.viewer.image_panel import ImagePanel
from nsbluesky.viewer.panels.base import extent_in_um
from nsbluesky.viewer.panels.colors import CENTER_COLOR
from nsbluesky.viewer.qt import QtCore, pg

__all__ = ["CorrelationPanel", "DifferencePanel", "pearson"]

HINT = "compare with another file (Ctrl+D)"
BINS = 96


def pearson(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Return the linear correlation of two rows of numbers; NaN where one of them does not vary."""
    a, b = first - first.mean(), second - second.mean()
    norm = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / norm if norm > 0 else float("nan")


class DifferencePanel(ImagePanel):
    """This file's object minus the other's, on the stage."""

    CHOICES = ("|difference|", "phase", "amplitude")

    def __init__(self) -> None:
        super().__init__("Difference", "stage x (µm)", "stage y (µm)", scale_bar=True)
        self.choice = self.add_selector(
            list(self.CHOICES), "size of the complex difference, or the difference of phases or amplitudes"
        )
        self.choice.currentIndexChanged.connect(self._draw)
        self.graphics.setToolTip(
            "this object minus the other one, which was moved onto it and given its scale and phase; relative to an "
            "amplitude of 1, phases in rad; grey: not known in both"
        )
        self._compared: Comparison | None = None
        self.set_subtitle(HINT)

    def show_comparison(self, compared: Comparison, name: str) -> None:
        """Draw a comparison with the file of that name."""
        self._compared = compared
        self.set_subtitle(f"to {name}")
        self._draw()
        self.show_all()

    def _draw(self) -> None:
        compared = self._compared
        if compared is None:
            return
        choice = self.choice.currentText()
        if choice == "phase":
            image, label = np.angle(compared.first * compared.second.conj()), "phase (rad)"
        elif choice == "amplitude":
            image, label = np.abs(compared.first) - np.abs(compared.second), "amplitude (relative)"
        else:
            image, label = np.abs(compared.difference), "|difference|"
        low, high = robust_range(image)
        limit = max(abs(low), abs(high))
        span, colors = ((0.0, high), "viridis") if choice == "|difference|" else ((-limit, limit), "diverging")
        extent = extent_in_um(compared.extent_m)
        self.set_image(image.astype(np.float32), extent, span, colors=colors, label=label)


class CorrelationPanel(ImagePanel):
    """How often pixels have one value here and another value there: on the line where both agree."""

    CHOICES = ("phase", "amplitude")
    UNITS: tuple[str, ...] = ("phase (rad)", "amplitude (relative)")

    def __init__(self) -> None:
        super().__init__("Correlation", "this file", "the other")
        self.choice = self.add_selector(list(self.CHOICES), "what is compared pixel by pixel")
        self.choice.currentIndexChanged.connect(self._draw)
        self.line = pg.PlotCurveItem(pen=pg.mkPen(CENTER_COLOR, width=1.5, style=QtCore.Qt.PenStyle.DashLine))
        self.line.setZValue(1)
        self.plot.addItem(self.line, ignoreBounds=True)
        self.graphics.setToolTip("pixels of each pair of values, logarithmic; dashed: equal values; r: correlation")
        self._compared: Comparison | None = None
        self.correlation = float("nan")
        self.set_subtitle(HINT)

    def show_comparison(self, compared: Comparison) -> None:
        """Draw a comparison."""
        self._compared = compared
        self._draw()
        self.show_all()

    def values(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the values (n,) of the pixels here and there."""
        assert self._compared is not None
        return self._compared.phases if self.choice.currentIndex() == 0 else self._compared.amplitudes

    def _draw(self) -> None:
        if self._compared is None:
            return
        first, second = self.values()
        low, high = robust_range(np.concatenate([first, second]), (0.1, 99.9))
        counts, _, _ = np.histogram2d(second, first, BINS, ((low, high), (low, high)))
        with np.errstate(divide="ignore"):
            image = np.where(counts > 0, np.log10(counts), np.nan).astype(np.float32)
        span = (0.0, max(float(np.nanmax(image, initial=0.0)), 1.0))
        self.set_image(image, (low, high, low, high), span, colors="viridis", label="pixels", log=True)
        self.line.setData([low, high], [low, high])
        unit = self.UNITS[self.choice.currentIndex()]
        self.plot.getAxis("bottom").setLabel(f"this file: {unit}")
        self.plot.getAxis("left").setLabel(f"the other: {unit}")
        self.correlation = pearson(first, second)
        self.set_subtitle(f"r {number_text(self.correlation)} over {numbered(len(first), 'pixel')}")
