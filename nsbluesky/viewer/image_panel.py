"""ImagePanel: one image with axes in units, a colour bar that names what it shows, and a scale bar where wanted."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from nsbluesky.viewer.colormaps import UNMEASURED, colormap
from nsbluesky.viewer.display import Span, common_exponent, length_text, nice_length, power_text, to_host
from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets, pg

__all__ = ["ElidedLabel", "ImagePanel", "Panel", "ScaleBar"]


AXIS_WIDTH_PX, AXIS_HEIGHT_PX = 54, 36
"""Room for numbers and label of an axis, the same everywhere so that plots do not jump."""

AXIS_FONT_PT = 8.5
HEADER_HEIGHT_PX = 26
FONT_PT = 9.0
"""What these sizes are meant for; with a larger font of the desktop they grow."""
LARGE = 10_000
"""From here on pyqtgraph writes six digits of a number."""
NUMBERS_APART_PX = 8
FEW_DECADES = 2.5
FEWEST_TICKS = 2
EVEN = 0.0
"""What stands for the distance of ticks at a logarithmic colour bar that are the same value apart."""
_UNIT = re.compile(r"( \([^()]+\)| · 10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)*$")
"""What is kept of an axis' name where there is no room for all of it: unit and power of ten."""
OWN_COLORS = (0, 255)
"""Levels of an image in its own colours."""
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


class Axis(pg.AxisItem):  # type: ignore[misc]
    """An axis whose numbers can be told apart, however far from 0 they are: as on a stage at millimetres.

    Attributes
    ----------
    whole : bool
        There is nothing between whole numbers, as of frames.
    """

    whole = False
    _period = 0

    def count_anew(self, period: int) -> None:
        """Count two images side by side, each `period` wide, from 0 both; 0 where there is one."""
        if period != self._period:
            self._period = period
            self.picture = None
            self.update()

    def tickValues(self, low: float, high: float, size: float) -> list[tuple[float, list[float]]]:
        """Return the distances and places of ticks."""
        levels: list[tuple[float, list[float]]] = super().tickValues(low, high, size)
        if not self._period:
            return levels
        last = max(self._period - levels[0][0] / 2, 1)  # further on is no room for a number before the next 0
        found: dict[float, float] = {}
        for spacing, _ in levels:
            for place in np.add.outer((0, self._period), np.arange(0, last, spacing)).ravel().tolist():
                if low <= place <= high:
                    found.setdefault(place, spacing)
        return [(spacing, [place for place, of in found.items() if of == spacing]) for spacing, _ in levels]

    def setLabel(self, *args: Any, **kwargs: Any) -> None:
        """Name the axis, and put the name into its middle."""
        super().setLabel(*args, **kwargs)
        self.resizeEvent()

    def labelString(self) -> str:
        """Return the name as HTML, shortened to the length of the axis; its unit and power of ten stay."""
        unit = _UNIT.search(self.labelText)[0]  # type: ignore[index]  # there may be nothing, and that is found
        name = self.labelText.removesuffix(unit)
        metrics = QtGui.QFontMetricsF(self.label.font())
        length = self.width() if self.orientation in ("bottom", "top") else self.height()
        room = length - metrics.horizontalAdvance(unit)
        short = metrics.elidedText(name, QtCore.Qt.TextElideMode.ElideRight, max(room, 0.0))
        return str(super().labelString()).replace(self.labelText, f"{short}{unit}") if self.labelText else ""

    def resizeEvent(self, event: object = None) -> None:
        """Write as much of the name as there is room for, all of it under the mouse."""
        if self.label is not None:
            self.label.setHtml(self.labelString())
            self.label.setToolTip(self.labelText)
        super().resizeEvent(event)

    def tickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:
        """Write the numbers, large ones in full too; the axis grows where they reach into its label."""
        if self._period:
            values = [value % self._period for value in values]
        texts: list[str] = super().tickStrings(values, scale, spacing)
        if not self.logMode and any(abs(value * scale) >= LARGE for value in values):
            places = max(0, math.ceil(-math.log10(spacing * scale)))
            texts = [f"{value * scale:.{places}f}" for value in values]
        if texts and self.orientation in ("left", "right"):
            width = self._widest(texts) + self.label.boundingRect().height() + NUMBERS_APART_PX / 2
            if width > self.width():
                self.setWidth(width)
        return texts

    def tickSpacing(self, low: float, high: float, size: float) -> list[tuple[float, float]]:
        """Return distances between ticks, in a row so large that the numbers have room."""
        levels = super().tickSpacing(low, high, size)
        if self.whole:
            levels = [level for level in levels if level[0] >= 1.0] or [(1.0, 0.0)]
        if self.logMode or self.orientation not in ("bottom", "top") or not high > low:
            return levels  # type: ignore[no-any-return]
        spacing, power = levels[0][0], 10.0 ** math.floor(math.log10(levels[0][0]))
        for wider in (factor * power for factor in (1, 2, 5, 10, 20, 50, 100) if factor * power > spacing):
            widest = self._widest(self.tickStrings([low, high], 1.0, spacing))
            if widest + NUMBERS_APART_PX <= spacing / (high - low) * size:
                break
            spacing = wider
        return [(spacing, 0.0), *(level for level in levels if level[0] < spacing)]

    def _widest(self, texts: list[str]) -> float:
        metrics = QtGui.QFontMetricsF(self.style["tickFont"] or self.font())
        return max(metrics.horizontalAdvance(text) for text in texts)


class ColorAxis(Axis):
    """The axis of a colour bar."""

    def logTickValues(self, low: float, high: float, *_: object) -> list[tuple[float, list[float]]]:
        """Return ticks at powers of ten; where they are few, also at 2 and 5 of each.

        Where even these are too few to read a value, as for darks, ticks are at round values instead.
        """
        factors = (1, 2, 5) if high - low < FEW_DECADES else (1,)
        powers = range(math.floor(low), math.ceil(high) + 1)
        ticks = [power + math.log10(factor) for power in powers for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        first, last = 10.0**low, 10.0**high
        if len(ticks) >= FEWEST_TICKS or not last > first:
            return [(1.0, ticks)]
        step = nice_length(last - first)
        return [(EVEN, [math.log10(k * step) for k in range(math.ceil(first / step), math.floor(last / step) + 1)])]

    def logTickStrings(self, values: list[float], scale: float, spacing: float) -> list[str]:
        """Write ticks of `logTickValues`."""
        if spacing == EVEN:
            return [f"{10**value:.6g}" for value in values]
        return super().logTickStrings(values, scale, spacing)  # type: ignore[no-any-return]


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
        axes = {side: Axis(side) for side in ("bottom", "left")}
        self.plot = self.graphics.addPlot(row=0, col=0, axisItems=axes)
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
        """Leave out the axes where there are no data that they tell about."""
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
        _name(axis, label, exponent)

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
        self.bar = pg.ColorBarItem(width=12, interactive=False, colorMap=_pg_map("viridis"))
        self.graphics.addItem(self.bar, row=0, col=1)
        self.bar.setAxisItems({"right": ColorAxis("right")})
        self.bar.axis = self.bar.getAxis("right")
        self.bar.axis.unlinkFromView()
        self.style_axis(self.bar.axis)
        self.bar.axis.setWidth(self.font_scale * AXIS_WIDTH_PX)
        self.bar.setImageItem(self.item)
        self._colormap = "viridis"
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
        if colors != self._colormap:
            self._colormap = colors
            self.bar.setColorMap(_pg_map(colors))
        self.set_blank(False)
        self._log, self._label = log, label
        x0, x1, y0, y1 = extent
        own_colors = image.ndim == 3
        self.item.setImage(to_host(image), levels=OWN_COLORS if own_colors else span)
        if own_colors:  # pyqtgraph gives a first image the levels of its colour bar
            self.item.setLevels(OWN_COLORS)
        rect = QtCore.QRectF(x0, y0, x1 - x0, y1 - y0)
        self.item.setRect(rect)
        self._back.setRect(rect)
        exponent = 0 if log else common_exponent(span)
        if self.bar.axis.logMode != log:
            self.bar.axis.setLogMode(False, log)
        _name(self.bar.axis, label, exponent)
        if self.bar.levels() != tuple(span):
            self.bar.setLevels(span, update_items=not own_colors)

    def use_colors_of(self, other: ImagePanel) -> None:
        """Let each colour mean the same value as on another panel that shows the same quantity."""
        if (self._colormap, self._label, self._log) == (other._colormap, other._label, other._log):
            span = other.bar.levels()
            _name(self.bar.axis, self._label, 0 if self._log else common_exponent(span))
            self.bar.setLevels(span, update_items=self.item.image is None or self.item.image.ndim == 2)

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
        found = _UNIT.search(self._label)
        return found[0].strip(" ()") if found and found[0] and not self._log else self.value_label

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


def _name(axis: Any, label: str, exponent: int) -> None:
    """Name an axis whose numbers are divided by a power of ten; one that is named so already is not painted again."""
    text = f"{label} · {power_text(exponent)}" if exponent else label
    axis.setScale(10.0**-exponent)
    if axis.labelText != text:
        axis.setLabel(text)
