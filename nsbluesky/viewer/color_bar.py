"""The colours of an image from least to most, with an axis of their values.

It stands beside every image, and pyqtgraph's own is a whole plot that nobody can touch, with four axes, a view and
its menus: to make it took as long as all the rest of a panel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nsbluesky.viewer.axes import ColorAxis
from nsbluesky.viewer.display import Span
from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets, pg

__all__ = ["ColorBar"]

WIDTH_PX = 12
MARGIN_PX = 1


class ColorBar(pg.GraphicsWidget):  # type: ignore[misc]
    """A strip of colours, the highest on top, and at its right the axis.

    Attributes
    ----------
    axis : ColorAxis
    """

    def __init__(self) -> None:
        super().__init__()
        self.axis = ColorAxis("right")
        layout = QtWidgets.QGraphicsLinearLayout(QtCore.Qt.Orientation.Horizontal, self)
        layout.setContentsMargins(MARGIN_PX + WIDTH_PX, MARGIN_PX, MARGIN_PX, MARGIN_PX)
        layout.addItem(self.axis)
        self._colors = QtGui.QImage()
        self._levels = (0.0, 1.0)

    def levels(self) -> Span:
        """Return the values at both ends."""
        return self._levels

    def set_levels(self, levels: Span) -> None:
        """Write other values at the same colours."""
        low, high = (float(level) for level in levels)
        if (low, high) != self._levels:
            self._levels = low, high
            self.axis.setRange(low, high)

    def set_colors(self, colormap: Any) -> None:
        """Show the colours of a `pyqtgraph.ColorMap`."""
        colors = colormap.getLookupTable(nPts=256, alpha=True)[::-1, None]
        self._colors = pg.functions.ndarray_to_qimage(
            np.ascontiguousarray(colors), QtGui.QImage.Format.Format_RGBA8888
        ).copy()
        self.update()

    def paint(self, painter: QtGui.QPainter, *_: object) -> None:
        """Draw the colours in a frame."""
        strip = QtCore.QRectF(MARGIN_PX, MARGIN_PX, WIDTH_PX, self.size().height() - 2 * MARGIN_PX)
        painter.drawImage(strip, self._colors)
        painter.setPen(pg.mkPen(pg.getConfigOption("foreground")))
        painter.drawRect(strip)
