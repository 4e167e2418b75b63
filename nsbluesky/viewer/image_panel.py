"""ImagePanel: one image with axes in units, a colour bar that names what it shows, and a scale bar where wanted."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from nsbluesky.viewer.axes import name_axis, unit_of
from nsbluesky.viewer.color_bar import ColorBar
from nsbluesky.viewer.colormaps import UNMEASURED, colormap
from nsbluesky.viewer.display import Span, common_exponent, to_host
from nsbluesky.viewer.plot_panel import AXIS_WIDTH_PX, Panel
from nsbluesky.viewer.qt import QtCore, QtWidgets, pg
from nsbluesky.viewer.scale_bar import ScaleBar

__all__ = ["ImagePanel"]

OWN_COLORS = (0, 255)
"""Levels of an image in its own colours."""


class ImagePanel(Panel):
    """An image that keeps its aspect; under the mouse stand place and value.

    Parameters
    ----------
    title, x_label, y_label : str
        With units.
    row_0_on_top : bool
        True for detector frames; False (default) lets y grow upwards, as on the stage.
    scale_bar : bool
        Draw a scale bar; the axes are in µm.
    """

    def __init__(
        self, title: str, x_label: str, y_label: str, *, row_0_on_top: bool = False, scale_bar: bool = False
    ) -> None:
        super().__init__(title, x_label, y_label)
        self.item = pg.ImageItem(axisOrder="row-major")
        self.plot.addItem(self.item)
        self._back = QtWidgets.QGraphicsRectItem()
        self._back.setBrush(pg.mkBrush(UNMEASURED))
        self._back.setPen(pg.mkPen(None))
        self._back.setZValue(-10)
        self._back.hide()
        self.plot.addItem(self._back, ignoreBounds=True)
        self.view = self.plot.getViewBox()
        self.view.setAspectLocked(True)
        self.view.invertY(row_0_on_top)
        self.view.setDefaultPadding(0.0)
        self.bar = ColorBar()
        self.graphics.addItem(self.bar, row=0, col=1)
        self.style_axis(self.bar.axis)
        self.bar.axis.setWidth(self.font_scale * AXIS_WIDTH_PX)
        self._colormap = ""
        self._use_colors("viridis")
        self._log = False
        self._label = ""
        self.scale_bar = ScaleBar(self.view) if scale_bar else None
        self.readout = QtWidgets.QLabel(self.graphics)
        self.readout.setStyleSheet("background: rgba(0, 0, 0, 170); color: white; padding: 1px 4px;")
        self.readout.setAttribute(QtCore.Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.readout.hide()
        self.graphics.scene().sigMouseMoved.connect(self._read_out)
        self.set_blank(True)

    def set_image(
        self,
        image: npt.NDArray[Any],
        extent: tuple[float, float, float, float],
        span: Span,
        *,
        colors: str = "viridis",
        label: str = "",
        log: bool = False,
    ) -> None:
        """Draw an image.

        Parameters
        ----------
        image : ndarray
            (rows, columns); NaN is drawn grey.  Of a logarithmic image the log10.  (rows, columns, 3) uint8 is drawn
            in its own colours.
        extent : (float, float, float, float)
            Outer edges x0, x1, y0, y1 in the axes' unit; row 0 lies at y0.
        span : (float, float)
            Values at the ends of the colour map.
        colors : str
            Name in `nsbluesky.viewer.colormaps`.
        label : str
            What the colours mean, with unit.
        log : bool
            Write powers of ten at the colour bar.
        """
        self._use_colors(colors)
        self.set_blank(False)
        self._log, self._label = log, label
        x0, x1, y0, y1 = extent
        own_colors = image.ndim == 3
        image = to_host(image)
        self.item.setImage(image, levels=OWN_COLORS if own_colors else span)
        rect = QtCore.QRectF(x0, y0, x1 - x0, y1 - y0)
        self.item.setRect(rect)
        self._back.setRect(rect)
        if not np.isfinite(image).any():
            self.bar.setOpacity(0.0)  # there is no value that it tells about
        exponent = 0 if log else common_exponent(span)
        if self.bar.axis.logMode != log:
            self.bar.axis.setLogMode(False, log)
        name_axis(self.bar.axis, label, exponent)
        self.bar.set_levels(span)

    def use_colors_of(self, other: ImagePanel) -> None:
        """Let each colour mean the same value as on another panel that shows the same quantity."""
        if (self._colormap, self._label, self._log) == (other._colormap, other._label, other._log):
            span = other.bar.levels()
            name_axis(self.bar.axis, self._label, 0 if self._log else common_exponent(span))
            self.bar.set_levels(span)
            if self.item.image is not None and self.item.image.ndim == 2:
                self.item.setLevels(span)

    def _use_colors(self, name: str) -> None:
        if name != self._colormap:
            self._colormap = name
            self.bar.set_colors(_pg_map(name))
            self.item.setColorMap(_pg_map(name))

    def clear_image(self) -> None:
        """Show no image."""
        self.item.clear()
        self.set_blank(True)

    def set_blank(self, blank: bool) -> None:
        """Leave out numbers, colour bar and scale bar where there is no image that they tell about."""
        super().set_blank(blank)
        if self.scale_bar is not None:
            self.scale_bar.setVisible(not blank)
        self._back.setVisible(not blank)
        self.bar.setOpacity(0.0 if blank else 1.0)
        if blank:
            self.readout.hide()

    def show_all(self) -> None:
        """Zoom out to the whole image."""
        self.view.autoRange(padding=0.0)

    def picture(self) -> tuple[npt.NDArray[Any], float] | None:
        """Return the image that is shown and its pixel in µm."""
        if self.item.image is None:
            return None
        rows = self.item.image.shape[0]
        pixel_um = self._back.rect().height() / rows if self.scale_bar is not None else np.nan
        return self.item.image, pixel_um

    @property
    def value_label(self) -> str:
        """What the numbers of `picture` are, with unit."""
        return f"log₁₀ {self._label}" if self._log else self._label

    @property
    def unit(self) -> str:
        """The unit of these numbers alone: "rad" of "phase (rad)"."""
        return self.value_label if self._log else unit_of(self._label) or self.value_label

    def values_along(
        self, start: tuple[float, float], stop: tuple[float, float]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return distance (axes' unit) and value (linear between pixels) along a line, where it was measured."""
        image, rect = self.item.image, self._back.rect()
        if image is None or image.ndim == 3 or rect.isEmpty():
            return np.empty(0), np.empty(0)
        scale = np.array([image.shape[1] / rect.width(), image.shape[0] / rect.height()])
        ends = (np.array([start, stop]) - (rect.left(), rect.top())) * scale - 0.5
        count = int(np.ceil(np.hypot(*(ends[1] - ends[0])))) + 1
        part = np.linspace(0, 1, count)
        columns, rows = (ends[0] + part[:, None] * (ends[1] - ends[0])).T
        values = map_coordinates(image.astype(np.float64), [rows, columns], order=1, mode="nearest")
        height, width = image.shape
        inside = (columns >= -0.5) & (columns <= width - 0.5) & (rows >= -0.5) & (rows <= height - 0.5)
        known = inside & np.isfinite(values)
        return part[known] * float(np.hypot(*np.subtract(stop, start))), values[known]

    def value_at(self, x: float, y: float) -> str:
        """Return place and value of the pixel at a point of the plot, for people; "" outside."""
        rect, image = self._back.rect(), self.item.image
        if image is None or not rect.contains(x, y):
            return ""
        column = min(int((x - rect.left()) / rect.width() * image.shape[1]), image.shape[1] - 1)
        row = min(int((y - rect.top()) / rect.height() * image.shape[0]), image.shape[0] - 1)
        place = f"{x:.3f}, {y:.3f} µm" if self.scale_bar is not None else self.pixel_text(column, row)
        if image.ndim == 3:
            return place
        value = float(image[row, column])
        if not np.isfinite(value):
            return f"{place}: not measured"
        return f"{place}: {10**value if self._log else value:.4g} {self._label}"

    def pixel_text(self, column: int, row: int) -> str:
        """Write which pixel that is."""
        return f"column {column}, row {row}"

    def _read_out(self, point: QtCore.QPointF) -> None:
        inside = self.view.sceneBoundingRect().contains(point)
        at = self.view.mapSceneToView(point)
        text = self.value_at(at.x(), at.y()) if inside else ""
        self.readout.setText(text)
        self.readout.adjustSize()
        self.readout.move(round(self.font_scale * AXIS_WIDTH_PX), 4)
        self.readout.setVisible(bool(text))


@functools.cache
def _pg_map(name: str) -> Any:
    return pg.ColorMap(np.linspace(0, 1, 256), colormap(name), name=name)
