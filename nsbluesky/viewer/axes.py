"""Axes whose numbers and names can be read: with units, at any size, however far from 0."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from nsbluesky.viewer.display import nice_length, power_text
from nsbluesky.viewer.qt import QtCore, QtGui, pg

__all__ = ["Axis", "ColorAxis", "name_axis", "unit_of"]

LARGE = 10_000
"""From here on pyqtgraph writes six digits of a number."""
NUMBERS_APART_PX = 8
FEW_DECADES = 2.5
FEWEST_TICKS = 2
SMALLEST_POWER = 9_999.5
"""Smaller numbers are written in full at a logarithmic colour bar: 20, not 2·10¹."""
EVEN = 0.0
"""What stands for the distance of ticks at a logarithmic colour bar that are the same value apart."""
_UNIT = re.compile(r"( \([^()]+\)| · 10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)*$")
"""What is kept of an axis' name where there is no room for all of it: unit and power of ten."""


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
        finer = (level for level in levels if level[0] < spacing)  # numbers only between those of the row
        return [(spacing, 0.0), *(level for level in finer if _divides(level[0], spacing))]

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
        ticks = [10**value for value in values]
        if spacing == EVEN:
            digits = math.ceil(math.log10(ticks[-1] / (ticks[-1] - ticks[-2]))) + 1 if len(ticks) > 1 else 6
            return [f"{tick:.{digits}g}" for tick in ticks]
        powers = super().logTickStrings(values, scale, spacing)
        written = zip(ticks, powers, strict=True)
        return [f"{tick:.0f}" if 1.5 < tick < SMALLEST_POWER else power for tick, power in written]


def _divides(finer: float, spacing: float) -> bool:
    """Whether all ticks that are `spacing` apart are ticks of the finer distance too."""
    return math.isclose(spacing / finer, round(spacing / finer), rel_tol=1e-6)


def name_axis(axis: Any, label: str, exponent: int) -> None:
    """Name an axis whose numbers are divided by a power of ten; one that is named so already is not painted again."""
    text = f"{label} · {power_text(exponent)}" if exponent else label
    axis.setScale(10.0**-exponent)
    if axis.labelText != text:
        axis.setLabel(text)


def unit_of(label: str) -> str:
    """Return the unit in a name, as "rad" of "phase (rad)"; "" where it has none."""
    found = _UNIT.search(label)
    return found[0].strip(" ()") if found else ""
