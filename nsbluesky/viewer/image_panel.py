"""ImagePanel: one image with axes in units, a colour bar that names what it shows, and a scale bar where wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.viewer.colormaps import UNMEASURED, colormap
from nsbluesky.viewer.display import Span, common_exponent, length_text, nice_length, power_text, to_host
from nsbluesky.viewer.qt import QtCore, QtWidgets, pg

__all__ = ["ImagePanel", "Panel", "ScaleBar"]


AXIS_WIDTH_PX, AXIS_HEIGHT_PX = 62, 44
"""Room for numbers and label of an axis, the same everywhere so that plots do not jump."""


class Panel(QtWidgets.QWidget):
    """A title, room for a control at its right, and one plot below.

    Parameters
    ----------
    title : str
    x_label, y_label : str
        With units.
    """

    def __init__(self, title: str, x_label: str, y_label: str) -> None:
        super().__init__()
        self.title = title
        self.title_label = QtWidgets.QLabel(title)
        font = self.title_label.font()
        font.setBold(True)
        self.title_label.setFont(font)
        self.title_label.setSizePolicy(QtWidgets.QSizePolicy.Policy.Ignored, QtWidgets.QSizePolicy.Policy.Fixed)
        self.header = QtWidgets.QHBoxLayout()
        self.header.addWidget(self.title_label, 1)
        self.graphics = pg.GraphicsLayoutWidget()
        self.graphics.setBackground(self.palette().window())
        self.graphics.ci.setContentsMargins(0, 6, 0, 6)
        self.plot = self.graphics.addPlot(row=0, col=0)
        self.plot.hideButtons()
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(4, 2, 4, 2)
        layout.setSpacing(1)
        layout.addLayout(self.header)
        layout.addWidget(self.graphics, 1)
        self.text_color = self.palette().windowText().color()
        for side, label in (("bottom", x_label), ("left", y_label)):
            axis = self.plot.getAxis(side)
            self.style_axis(axis)
            axis.setLabel(label)
        self.plot.getAxis("left").setWidth(AXIS_WIDTH_PX)
        self.plot.getAxis("bottom").setHeight(AXIS_HEIGHT_PX)

    def style_axis(self, axis: Any) -> None:
        """Draw an axis in the colours of the desktop's theme, its numbers as they are in the label's unit."""
        axis.enableAutoSIPrefix(False)
        axis.setPen(self.text_color)
        axis.setTextPen(self.text_color)
        axis.setStyle(tickTextOffset=3)

    def set_blank(self, blank: bool) -> None:
        """Leave out the numbers at the axes where there are no data that they tell about."""
        for side in ("bottom", "left"):
            self.plot.getAxis(side).setStyle(showValues=not blank)

    def set_subtitle(self, text: str) -> None:
        """Write after the title what changes with the data."""
        self.title_label.setText(f"{self.title} · {text}" if text else self.title)
        self.title_label.setToolTip(self.title_label.text())

    def add_selector(self, entries: list[str], tooltip: str) -> QtWidgets.QComboBox:
        """Put a choice at the right of the title and return it."""
        selector = QtWidgets.QComboBox()
        selector.addItems(entries)
        selector.setToolTip(tooltip)
        self.header.addWidget(selector)
        return selector


class ImagePanel(Panel):
    """An image that keeps its aspect.

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
        self.view = self.plot.getViewBox()
        self.view.setAspectLocked(True)
        self.view.invertY(row_0_on_top)
        self.view.setBackgroundColor(UNMEASURED)
        self.view.setDefaultPadding(0.0)
        self.bar = pg.ColorBarItem(width=12, interactive=False, colorMap=_pg_map("viridis"))
        self.style_axis(self.bar.axis)
        self.bar.axis.setWidth(AXIS_WIDTH_PX)
        self.bar.setImageItem(self.item)
        self.graphics.addItem(self.bar, row=0, col=1)
        self._colormap = "viridis"
        self.scale_bar = ScaleBar(self.view) if scale_bar else None
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
            (rows, columns); NaN is drawn grey.  Of a logarithmic image the log10.
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
        if colors != self._colormap:
            self._colormap = colors
            self.bar.setColorMap(_pg_map(colors))
        self.set_blank(False)
        x0, x1, y0, y1 = extent
        self.item.setImage(to_host(image), levels=span)
        self.item.setRect(QtCore.QRectF(x0, y0, x1 - x0, y1 - y0))
        exponent = 0 if log else common_exponent(span)
        self.bar.axis.setLogMode(False, log)
        self.bar.axis.setScale(10.0**-exponent)
        self.bar.axis.setLabel(f"{label} · {power_text(exponent)}" if exponent else label)
        self.bar.setLevels(span)

    def set_blank(self, blank: bool) -> None:
        """Leave out numbers, colour bar and scale bar where there is no image that they tell about."""
        super().set_blank(blank)
        if self.scale_bar is not None:
            self.scale_bar.setVisible(not blank)
        self.bar.setOpacity(0.0 if blank else 1.0)

    def show_all(self) -> None:
        """Zoom out to the whole image."""
        self.view.autoRange(padding=0.0)


def _pg_map(name: str) -> Any:
    return pg.ColorMap(np.linspace(0, 1, 256), colormap(name), name=name)


class ScaleBar(pg.GraphicsWidget):  # type: ignore[misc]
    """A bar of a round length in the lower right corner of a view in µm; its length follows the zoom."""

    MARGIN_PX, HEIGHT_PX = 10.0, 5.0

    def __init__(self, view: Any) -> None:
        super().__init__(parent=view)
        self._view = view
        self._back = QtWidgets.QGraphicsRectItem(self)
        self._back.setBrush(pg.mkBrush(0, 0, 0, 150))
        self._back.setPen(pg.mkPen(None))
        self._rect = QtWidgets.QGraphicsRectItem(self)
        self._rect.setBrush(pg.mkBrush("w"))
        self._rect.setPen(pg.mkPen(None))
        self._text = QtWidgets.QGraphicsSimpleTextItem(self)
        self._text.setBrush(pg.mkBrush("w"))
        self.length_um = 0.0
        view.sigRangeChanged.connect(self._place)
        view.sigResized.connect(self._place)

    @property
    def text(self) -> str:
        """The text at the bar."""
        return str(self._text.text())

    @property
    def width_px(self) -> float:
        """The bar's length on the screen."""
        return float(self._rect.rect().width())

    def _place(self) -> None:
        box, (x_range, _) = self._view.boundingRect(), self._view.viewRange()
        width_um = x_range[1] - x_range[0]
        if not (box.width() > 0 and width_um > 0):
            return
        self.length_um = nice_length(width_um)
        length_px = self.length_um / width_um * box.width()
        self._text.setText(length_text(self.length_um))
        text = self._text.boundingRect()
        width = max(length_px, text.width())
        center = box.right() - self.MARGIN_PX - width / 2
        top = box.bottom() - self.MARGIN_PX - self.HEIGHT_PX
        self._rect.setRect(QtCore.QRectF(center - length_px / 2, top, length_px, self.HEIGHT_PX))
        self._text.setPos(center - text.width() / 2, top - text.height() - 1)
        frame = QtCore.QRectF(center - width / 2, top - text.height(), width, text.height() + self.HEIGHT_PX)
        self._back.setRect(frame.adjusted(-4, -2, 4, 4))
