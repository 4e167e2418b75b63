"""An image means what its colours and its axes say, whatever the values are."""

from __future__ import annotations

import numpy as np
import pytest
from pytestqt.qtbot import QtBot

from nsbluesky.viewer.image_panel import ImagePanel
from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets

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


def test_the_colour_bar_has_the_colours_of_the_image_at_their_values(panel: ImagePanel) -> None:
    """A pixel at each end of the span and one in its middle, and what stands beside their numbers."""
    values = np.array([[2.0, 3.0, 4.0]])
    for colors in ("viridis", "diverging"):
        panel.set_image(np.zeros((1, 1)), EXTENT, (0.0, 1.0))
        panel.set_image(values, EXTENT, (2.0, 4.0), colors=colors)
        panel.show_all()
        QtWidgets.QApplication.processEvents()
        picture = panel.graphics.grab().toImage()

        def color_at(item: QtWidgets.QGraphicsItem, x: float, y: float) -> np.ndarray:
            point = panel.graphics.mapFromScene(item.mapToScene(x, y))
            return np.array(picture.pixelColor(point).getRgb())  # noqa: B023  # called in this turn only

        box, axis = panel.item.boundingRect(), panel.bar.axis
        for value in values[0]:
            pixel = color_at(panel.item, (value - 1.5) * box.width() / 3, box.center().y())
            y = 2 + (axis.range[1] - value) / (axis.range[1] - axis.range[0]) * (axis.height() - 4)
            assert np.abs(color_at(axis, -5, y) - pixel).max() <= 12
        assert panel.bar.levels() == (2.0, 4.0)


def test_a_right_click_opens_the_menu_of_the_view_and_the_plot(panel: ImagePanel, qtbot: QtBot) -> None:
    panel.set_image(np.zeros((4, 4)), EXTENT, (0, 1))
    middle = panel.graphics.mapFromScene(panel.view.sceneBoundingRect().center())
    for _ in range(2):
        qtbot.mouseClick(panel.graphics.viewport(), QtCore.Qt.MouseButton.RightButton, pos=middle)
        menu = QtWidgets.QApplication.activePopupWidget()
        assert isinstance(menu, QtWidgets.QMenu)
        entries = [action.text() for action in menu.actions() if action.text()]
        assert entries == ["View All", "X axis", "Y axis", "Mouse Mode", "Plot Options", "Export..."]
        menu.close()


def test_the_scale_bar_has_room_in_a_narrow_panel_with_large_letters(qtbot: QtBot) -> None:
    panel = ImagePanel("Object", "stage x (µm)", "stage y (µm)", scale_bar=True)
    qtbot.addWidget(panel)
    assert panel.scale_bar is not None
    font = panel.font()
    font.setPointSizeF(40.0)
    panel.scale_bar._text.setFont(font)
    panel.resize(200, 200)
    panel.show()
    panel.set_image(np.ones((4, 4), np.float32), EXTENT, (0.0, 1.0))
    QtWidgets.QApplication.processEvents()
    text = panel.scale_bar._text
    assert panel.view.boundingRect().contains(text.mapRectToParent(text.boundingRect()))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 3e4, ["0.1", "1", "10", "100", "1000", "10⁴"]),
        (0.5, 30, ["0.5", "1", "2", "5", "10", "20"]),
        (8e3, 3e5, ["10⁴", "2·10⁴", "5·10⁴", "10⁵", "2·10⁵"]),
        (991, 1010, ["995", "1000", "1005", "1010"]),
        (30.1, 31.9, ["30.5", "31", "31.5"]),
        (100.0001, 100.0011, ["100.0002", "100.0004", "100.0006", "100.0008", "100.001"]),
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


def test_where_nothing_was_measured_there_is_no_colour_bar(panel: ImagePanel) -> None:
    panel.set_image(np.full((4, 4), np.nan), EXTENT, (0, 1), label="rad")
    assert panel.bar.opacity() == 0
    panel.set_image(np.zeros((1, 1)), EXTENT, (0, 1), label="rad")
    assert panel.bar.opacity() == 1


def test_what_the_axis_of_a_small_plot_is_called_keeps_its_unit_and_power_of_ten(
    panel: ImagePanel, qtbot: QtBot
) -> None:
    panel.set_image(np.zeros((4, 4)), EXTENT, (0, 2e7), label="photons of the whole frame (kept)")
    panel.resize(300, 180)
    qtbot.waitUntil(lambda: "…" in panel.bar.axis.label.toPlainText(), timeout=5000)
    label = panel.bar.axis.label
    assert label.toPlainText().strip().endswith("… (kept) · 10⁷")
    assert label.toolTip() == panel.bar.axis.labelText == "photons of the whole frame (kept) · 10⁷"
    assert label.sceneBoundingRect().height() < panel.graphics.height()


def test_a_new_name_lies_in_the_middle_of_its_axis(panel: ImagePanel) -> None:
    axis = panel.bar.axis
    for label in ("rad", "phase (rad)"):
        panel.set_image(np.zeros((4, 4)), EXTENT, (0, 1), label=label)
        QtWidgets.QApplication.processEvents()
        middle = axis.mapFromScene(axis.label.sceneBoundingRect().center()).y()
        assert abs(middle - axis.size().height() / 2) < 2


def test_the_numbers_of_a_colour_bar_do_not_reach_into_its_name(panel: ImagePanel) -> None:
    panel.set_image(np.zeros((4, 4)), EXTENT, (0.999, 1.001), label="ADU")
    panel.graphics.grab()
    axis = panel.bar.axis
    QtWidgets.QApplication.processEvents()
    numbers_end = axis.style["tickLength"] + axis.style["tickTextOffset"][0]
    numbers_end += QtGui.QFontMetricsF(axis.style["tickFont"]).horizontalAdvance("1.0000")
    name = axis.label.mapRectToParent(axis.label.boundingRect()).left() + axis.label.document().documentMargin()
    assert numbers_end < name


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


@pytest.mark.parametrize("size_px", range(60, 400, 20))
def test_numbers_of_a_narrow_axis_do_not_lie_on_each_other(panel: ImagePanel, size_px: int) -> None:
    """As on a frame of 104 pixels, where 50 once stood between 40 and 60."""
    axis = panel.plot.getAxis("bottom")
    metrics = QtGui.QFontMetricsF(axis.style["tickFont"])
    (spacing, row), *finer = axis.tickValues(-0.5, 103.5, size_px)
    for finer_spacing, between in finer:
        ticks = sorted([*row, *between])
        assert np.diff(ticks) == pytest.approx(finer_spacing), "the same distance everywhere"
        row = ticks
    assert metrics.horizontalAdvance("100") < spacing / 104 * size_px
