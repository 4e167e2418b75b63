"""An image means what its colours and its axes say, whatever the values are."""

from __future__ import annotations

import numpy as np
import pytest
from pytestqt.qtbot import QtBot

from nsbluesky.viewer.image_panel import ImagePanel
from nsbluesky.viewer.qt import QtGui, QtWidgets

EXTENT = (0.0, 1.0, 0.0, 1.0)
RED = (200, 30, 40)


def center_color(panel: ImagePanel) -> tuple[int, ...]:
    """What is on the screen in the middle of the image."""
    QtWidgets.QApplication.processEvents()
    middle = panel.graphics.mapFromScene(panel.item.mapToScene(panel.item.boundingRect().center()))
    color = panel.graphics.grab().toImage().pixelColor(middle)
    return color.red(), color.green(), color.blue()


@pytest.fixture
def panel(qtbot: QtBot) -> ImagePanel:
    panel = ImagePanel("Object", "stage x (µm)", "stage y (µm)")
    qtbot.addWidget(panel)
    panel.resize(300, 250)
    panel.show()
    return panel


def red_image() -> np.ndarray:
    return np.full((4, 4, 4), (*RED, 255), np.uint8)


def test_the_first_image_in_its_own_colours_is_drawn_in_them(panel: ImagePanel) -> None:
    panel.set_image(red_image(), EXTENT, (-np.pi, np.pi), colors="hue")
    assert center_color(panel) == RED


def test_own_colours_stay_where_those_of_another_panel_are_taken(panel: ImagePanel, qtbot: QtBot) -> None:
    other = ImagePanel("Other", "", "")
    qtbot.addWidget(other)
    for each in (panel, other):
        each.set_image(red_image(), EXTENT, (-np.pi, np.pi), colors="hue")
    panel.use_colors_of(other)
    assert center_color(panel) == RED


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 3e4, ["0.1", "1", "10¹", "10²", "10³", "10⁴"]),
        (0.5, 30, ["0.5", "1", "2", "5", "10¹", "2·10¹"]),
        (991, 1010, ["995", "1000", "1005", "1010"]),
        (30.1, 31.9, ["30.5", "31", "31.5"]),
    ],
)
def test_every_logarithmic_colour_bar_can_be_read(
    panel: ImagePanel, low: float, high: float, expected: list[str]
) -> None:
    span = float(np.log10(low)), float(np.log10(high))
    panel.set_image(np.linspace(*span, 16).reshape(4, 4), EXTENT, span, label="ADU", log=True)
    axis = panel.bar.axis
    ((spacing, ticks),) = axis.tickValues(*axis.range, 200)
    assert axis.tickStrings(ticks, 1.0, spacing) == expected


@pytest.mark.parametrize("place_um", [(12345.6, -8765.4), (512000.0, -250000.0)])
def test_numbers_of_a_stage_at_millimetres_can_be_told_apart(
    panel: ImagePanel, place_um: tuple[float, float]
) -> None:
    x, y = place_um
    panel.set_image(np.zeros((4, 4)), (x, x + 1, y, y + 1), (0, 1))
    panel.show_all()
    QtWidgets.QApplication.processEvents()
    panel.graphics.grab()  # what is painted tells how wide the numbers are
    QtWidgets.QApplication.processEvents()
    for side in ("bottom", "left"):
        axis = panel.plot.getAxis(side)
        metrics = QtGui.QFontMetricsF(axis.style["tickFont"])
        length = axis.width() if side == "bottom" else axis.height()
        spacing, ticks = axis.tickValues(*axis.range, length)[0]
        texts = axis.tickStrings(ticks, 1.0, spacing)
        assert len(set(texts)) == len(texts) >= 1
        widest = max(metrics.horizontalAdvance(text) for text in texts)
        if side == "bottom":
            assert widest < spacing / (axis.range[1] - axis.range[0]) * length
        else:
            assert widest + metrics.height() < axis.width()
