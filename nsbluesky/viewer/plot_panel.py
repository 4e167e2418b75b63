"""Panel: a title, room for controls at its right, and one plot with axes in units."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.viewer.axes import Axis, name_axis
from nsbluesky.viewer.display import common_exponent
from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets, pg

__all__ = ["AXIS_WIDTH_PX", "ElidedLabel", "Panel"]

AXIS_WIDTH_PX, AXIS_HEIGHT_PX = 54, 36
"""Room for numbers and label of an axis, the same everywhere so that plots do not jump."""

AXIS_FONT_PT = 8.5
HEADER_HEIGHT_PX = 26
FONT_PT = 9.0
"""What these sizes are meant for; with a larger font of the desktop they grow."""
LEGEND_ALPHA = 200
"""Of what lies behind a legend, a little shines through."""


class ElidedLabel(QtWidgets.QLabel):
    """A line that ends in "…" where there is no room for all of it."""

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        """Write as much as there is room for."""
        painter = QtGui.QPainter(self)
        text = self.fontMetrics().elidedText(self.text(), QtCore.Qt.TextElideMode.ElideRight, self.width())
        painter.setPen(self.palette().windowText().color())
        painter.drawText(self.rect(), QtCore.Qt.AlignmentFlag.AlignVCenter, text)


class _View(pg.ViewBox):  # type: ignore[misc]
    """Makes its menu when it is first asked for: a window has dozens of views, and few are ever asked."""

    def __init__(self) -> None:
        super().__init__(enableMenu=False)

    def menuEnabled(self) -> bool:
        """Return that there is one."""
        return True

    def getMenu(self, event: object) -> Any:
        """Return it for a click on the view."""
        self.setMenuEnabled(True)
        return super().getMenu(event)

    def getContextMenus(self, event: object) -> Any:
        """Return its entries for the menu of something in the view."""
        self.setMenuEnabled(True)
        return super().getContextMenus(event)


class Panel(QtWidgets.QWidget):
    """A title, room for a control at its right, and one plot below.

    Parameters
    ----------
    title : str
    x_label, y_label : str
        With units.

    Attributes
    ----------
    header : QWidget
        Title and controls; a dock takes it as its title bar.
    font_scale : float
        How much larger than usual the desktop's font is, and with it the axes; 1 where it is not.
    """

    def __init__(self, title: str, x_label: str, y_label: str) -> None:
        super().__init__()
        self.title = title
        self.font_scale = max(1.0, self.font().pointSizeF() / FONT_PT)
        self.title_label = ElidedLabel(title)
        font = self.title_label.font()
        font.setBold(True)
        self.title_label.setFont(font)
        self.title_label.setSizePolicy(QtWidgets.QSizePolicy.Policy.Ignored, QtWidgets.QSizePolicy.Policy.Fixed)
        self.title_label.setTextFormat(QtCore.Qt.TextFormat.PlainText)
        self.header = QtWidgets.QWidget()
        self._controls = QtWidgets.QHBoxLayout(self.header)
        self._controls.setContentsMargins(4, 1, 2, 1)
        self._controls.setSpacing(4)
        self._controls.addWidget(self.title_label, 1)
        self.header.setFixedHeight(round(self.font_scale * HEADER_HEIGHT_PX))
        self.graphics = pg.GraphicsLayoutWidget()
        self.graphics.ci.setContentsMargins(0, 7, 2, 7)  # half a number at both ends of a colour bar
        self.graphics.setMinimumSize(120, 90)
        self.graphics.setFocusPolicy(QtCore.Qt.FocusPolicy.ClickFocus)  # there is nothing to do by keys alone
        axes = {side: Axis(side) for side in ("bottom", "left")}
        self.plot = self.graphics.addPlot(row=0, col=0, axisItems=axes, viewBox=_View())
        self.plot.hideButtons()
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.header)
        layout.addWidget(self.graphics, 1)
        self.text_color = self.palette().windowText().color()
        self._legend: Any = None
        self._axes = [self.plot.getAxis(side) for side in ("bottom", "left")]
        for axis, label in zip(self._axes, (x_label, y_label), strict=True):
            self.style_axis(axis)
            axis.setLabel(label)
        self.plot.getAxis("left").setWidth(self.font_scale * AXIS_WIDTH_PX)
        self.plot.getAxis("bottom").setHeight(self.font_scale * AXIS_HEIGHT_PX)
        self.use_palette()

    def changeEvent(self, event: QtCore.QEvent) -> None:
        """Follow a change between light and dark."""
        super().changeEvent(event)
        if event.type() == QtCore.QEvent.Type.PaletteChange:
            self.use_palette()

    def use_palette(self) -> None:
        """Take the colours of the theme."""
        if hasattr(self, "_axes"):  # Qt tells of the palette while the panel is made, too
            self.text_color = self.palette().windowText().color()
            self.graphics.setBackground(self.palette().window().color())
            for axis in self._axes:
                self._color_axis(axis)
            if self._legend is not None:
                self._color_legend()

    def add_legend(self) -> Any:
        """Put a legend into the upper right corner of the plot, and return it."""
        self._legend = self.plot.addLegend(offset=(-5, 5))
        self._color_legend()
        return self._legend

    def _color_legend(self) -> None:
        back = QtGui.QColor(self.palette().window().color())
        back.setAlpha(LEGEND_ALPHA)
        self._legend.setBrush(pg.mkBrush(back))
        self._legend.setLabelTextColor(self.text_color)
        for _, label in self._legend.items:  # pyqtgraph writes those that are there with the next text only
            label.setText(label.text)

    def style_axis(self, axis: Any) -> None:
        """Draw an axis in the colours of the theme, its numbers as they are in the label's unit."""
        axis.enableAutoSIPrefix(False)
        font = self.font()
        font.setPointSizeF(self.font_scale * AXIS_FONT_PT)
        axis.setStyle(tickTextOffset=3, tickFont=font, tickLength=4)  # ticks point outwards: data stay free
        axis.label.setFont(font)
        self._color_axis(axis)
        if axis not in self._axes:
            self._axes.append(axis)

    def _color_axis(self, axis: Any) -> None:
        axis.setPen(self.text_color)
        axis.setTextPen(self.text_color)

    def set_blank(self, blank: bool) -> None:
        """Leave out axes and legend where there are no data that they tell about."""
        if self._legend is not None:
            self._legend.setVisible(not blank)
        for side in ("bottom", "left"):
            axis = self.plot.getAxis(side)
            if axis.style["showValues"] == blank:  # set anew, even as it is, it is laid out and painted again
                axis.setStyle(showValues=not blank)
            axis.setOpacity(0.0 if blank else 1.0)

    def label_axis(self, side: str, label: str, values: npt.NDArray[Any] | None = None) -> None:
        """Name an axis; large or small `values` share one power of ten, which the label tells.

        Parameters
        ----------
        side : {"bottom", "left"}
        label : str
            With unit.
        values : ndarray, optional
            What is drawn along it.
        """
        known = np.empty(0) if values is None else values[np.isfinite(values)]
        exponent = common_exponent((float(known.min()), float(known.max()))) if len(known) else 0
        axis = self.plot.getAxis(side)
        name_axis(axis, label, exponent)

    def set_subtitle(self, text: str) -> None:
        """Write after the title what changes with the data."""
        self.title_label.setText(f"{self.title} · {text}" if text else self.title)
        self.title_label.setToolTip(self.title_label.text())

    def add_selector(self, entries: list[str], tooltip: str) -> QtWidgets.QComboBox:
        """Put a choice at the right of the title and return it."""
        selector = QtWidgets.QComboBox()
        selector.addItems(entries)
        selector.setToolTip(tooltip)
        self.add_control(selector)
        return selector

    def add_control(self, control: QtWidgets.QWidget) -> None:
        """Put a control at the right of the title."""
        self._controls.addWidget(control)

    def add_button(self, text: str, tooltip: str, *, checkable: bool = False) -> QtWidgets.QToolButton:
        """Put a button at the right of the title and return it."""
        button = QtWidgets.QToolButton()
        button.setText(text)
        button.setToolTip(tooltip)
        button.setCheckable(checkable)
        self.add_control(button)
        return button

    def picture(self) -> tuple[npt.NDArray[Any], float] | None:
        """Return the image that is shown and its pixel in µm (NaN where it lies on no stage); None without one."""
        return None

    def curves(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return the columns of the curves that are shown, by axis label and name."""
        columns: dict[str, npt.NDArray[np.float64]] = {}
        for item in self.plot.listDataItems():
            x, y = item.getData()
            if x is not None and len(x):
                for axis, values in zip(self._axes, (x, y), strict=True):
                    name = f"{item.name()}: {axis.labelText}" if item.name() else axis.labelText
                    columns[name] = np.asarray(values, np.float64)
        return columns
