"""The live window shows what the documents say, on Qt's thread, and never holds up who feeds it."""

from __future__ import annotations

import gc
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from derived_scan import FRAME_PX, OBJECT_PIXEL_M, ORIGIN_M, RAW_SHAPE, DerivedScan
from pytestqt.qtbot import QtBot

from nsbluesky.callbacks.live_plots import LivePlots
from nsbluesky.settings import CleaningSettings, DetectorMode, PipelineSettings
from nsbluesky.viewer.live import LiveWindow
from nsbluesky.viewer.modules import Modules
from nsbluesky.viewer.panels import (
    CleanPanel,
    CorrectionsPanel,
    DarkPanel,
    FitPanel,
    LightPanel,
    LivePanel,
    LowResolutionPanel,
    ObjectPanel,
    ProbePanel,
    QualityPanel,
    RawPanel,
    SecondEnginePanel,
    SweepPanel,
)
from nsbluesky.viewer.preferences import apply_theme, preferences
from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets


@pytest.fixture
def window(live: LivePlots, qtbot: QtBot, request: pytest.FixtureRequest) -> LiveWindow:
    """A window, drawn only when a test says so (`refresh`) or lets Qt run; with `only` some panels, or all."""
    window = LiveWindow(live, interval_ms=20, panels=getattr(request, "param", None))
    qtbot.addWidget(window)
    return window


def only(*panels: type[LivePanel]) -> pytest.MarkDecorator:
    """Let the window of a test have these panels alone: all of them take half a second to make."""
    return pytest.mark.parametrize(
        "window", [panels], indirect=True, ids=[",".join(panel.__name__ for panel in panels)]
    )


def bounds_um(panel: LivePanel) -> list[float]:
    """x0, x1, y0, y1 that the image really takes in the plot."""
    rect = panel.item.mapRectToView(panel.item.boundingRect())  # type: ignore[attr-defined]
    return [rect.left(), rect.right(), rect.top(), rect.bottom()]


def test_an_empty_window_waits_and_a_run_without_data_is_named(window: LiveWindow, scan: DerivedScan) -> None:
    window.refresh()
    assert window.health.status.text() == "waiting for a run"
    assert window.health.errors.isHidden()
    scan.start()
    window.refresh()
    assert "run 01234567" in window.windowTitle()
    assert window.health.status.text().startswith("running")


@only(ObjectPanel)
def test_an_empty_panel_says_why(window: LiveWindow, scan: DerivedScan) -> None:
    title = window.panels[ObjectPanel].title_label
    scan.start()
    window.refresh()
    assert title.text() == "Object · nothing yet"
    scan.health(stage="clean", state="error", message="set cleaning.layout=cosmic")
    window.refresh()
    assert title.text() == "Object · nothing yet: see below what failed"
    scan.stop()
    window.refresh()
    assert title.text() == "Object · nothing came: see below what failed"


@only(RawPanel)
def test_raw_frame(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    frames = scan.raw(1, 2)
    window.refresh()
    panel = window.panels[RawPanel]
    np.testing.assert_allclose(panel.item.image, np.log10(frames[1]), rtol=1e-6)
    assert panel.title_label.text() == "Raw frame · frame 2"
    assert panel.bar.axis.labelText == "ADU"


@only(RawPanel, DarkPanel)
def test_raw_frame_without_dark_and_the_dark(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    mean = scan.dark_statistics()
    frames = scan.raw(1)
    panel = window.panels[RawPanel]
    panel.choice.setCurrentText("raw − dark")
    window.refresh()
    np.testing.assert_allclose(panel.item.image, np.log10(np.maximum(frames[0] - mean, 1)), rtol=1e-5)
    dark = window.panels[DarkPanel]
    np.testing.assert_array_equal(dark.item.image, mean)
    assert dark.title_label.text() == "Dark · 10 frames · 0 bad, ADCs 2"
    dark.choice.setCurrentText("deviation")
    window.refresh()
    assert (dark.item.image == 1).all()
    dark.choice.setCurrentText("bad pixels")
    window.refresh()
    assert not dark.item.image.any()
    ticks = dark.bar.axis.tickValues(*dark.bar.axis.range, 200)
    assert [place for _, places in ticks for place in places] == [0, 1], "a pixel is bad or it is not"


@only(RawPanel, DarkPanel)
def test_bad_pixels_are_grey_and_whose_darks_they_are_is_told(window: LiveWindow, scan: DerivedScan) -> None:
    scan.run.start_document["ptycho"] = scan.run.start_document["ptycho"] | {"darks_from": "fedcba9876543210"}
    scan.start()
    bad = np.zeros(RAW_SHAPE, np.uint8)
    bad[3, 4:6] = 1
    mean = np.full(RAW_SHAPE, 500, np.float32)
    scan.event("dark_statistics", mean=mean, std=mean, bad=bad, bad_adcs=np.empty(0, int), num_frames=10)
    scan.raw(1)
    panel = window.panels[RawPanel]
    window.refresh()
    assert np.isfinite(panel.item.image).all(), "what the camera gave"
    panel.choice.setCurrentText("raw − dark")
    window.refresh()
    np.testing.assert_array_equal(np.isnan(panel.item.image), bad == 1)
    assert window.panels[DarkPanel].title_label.text() == "Dark · 10 frames of run fedcba98 · 2 bad"


@only(RawPanel, DarkPanel)
def test_each_frame_is_without_the_dark_of_its_own_exposure(window: LiveWindow, scan: DerivedScan) -> None:
    scan.run.start_document["ptycho"] = scan.run.start_document["ptycho"] | {"exposures_s": [0.02, 0.1]}
    scan.start()
    bad = np.zeros(RAW_SHAPE, np.uint8)
    means = [np.full(RAW_SHAPE, level, np.float32) for level in (300, 700)]
    for exposure, mean in enumerate(means):
        told = {"mean": mean, "std": mean, "bad": bad, "bad_adcs": np.empty(0, int), "num_frames": 10}
        scan.event("dark_statistics", **told, exposure=exposure)
    panel = window.panels[RawPanel]
    panel.choice.setCurrentText("raw − dark")
    for seq_num, mean in ((5, means[0]), (6, means[1])):
        frames = scan.raw(seq_num)
        window.refresh()
        np.testing.assert_allclose(panel.item.image, np.log10(np.maximum(frames[0] - mean, 1)), rtol=1e-5)
    assert window.panels[DarkPanel].title_label.text() == "Dark · 10 frames of 100 ms · 0 bad"


def test_centre_and_crop_lie_on_the_raw_frame(live: LivePlots, qtbot: QtBot) -> None:
    """A mode of 12 columns an ADC, the first and the last of them overscan; rows 2 to 20 of each half are image."""
    mode = DetectorMode(RAW_SHAPE[0], RAW_SHAPE[1], 12, (0, 11), (2, 20))
    cleaning = CleaningSettings(detector_mode=mode, crop_px=16, frame_px=16)
    scan = DerivedScan(live, settings=PipelineSettings(cleaning=cleaning))
    window = LiveWindow(live, panels=[RawPanel])
    qtbot.addWidget(window)
    scan.start()
    scan.raw(1)
    scan.detector()  # centre at image row 19.5, column 23.25
    window.refresh()
    panel = window.panels[RawPanel]
    assert np.ravel(panel.center.getData()) == pytest.approx([23.25 + 5, 19.5 + 2])
    x, y = panel.crop.getData()
    assert (min(y), max(y)) == pytest.approx((11.5 + 2, 26.5 + 2))
    assert min(x) == pytest.approx(15.25 + 3)  # in the second ADC: three overscan columns before it
    assert max(x) == pytest.approx(30.25 + 7)  # in the fourth: seven


@only(CleanPanel)
def test_clean_frame_with_mask(window: LiveWindow, scan: DerivedScan) -> None:
    mask = np.zeros((FRAME_PX, FRAME_PX), np.uint32)
    mask[3] = 1
    scan.start()
    scan.detector(mask)
    frames = scan.clean(5)
    window.refresh()
    panel = window.panels[CleanPanel]
    good = mask == 0
    np.testing.assert_allclose(panel.item.image[good], np.log10(np.maximum(frames[0], 0.1))[good], rtol=1e-6)
    assert np.isnan(panel.item.image[~good]).all()
    assert "frame 5" in panel.title_label.text()
    assert panel.bar.axis.labelText == "photons"


@only(LowResolutionPanel)
def test_low_resolution_images_in_stage_units(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    scan.raw(*range(1, 11))
    images = scan.low_resolution(10)
    window.refresh()
    panel = window.panels[LowResolutionPanel]
    np.testing.assert_array_equal(panel.item.image, images["transmission"])
    assert bounds_um(panel) == pytest.approx([49.95, 50.55, -20.05, -19.45])
    x, y = panel.points.getData()
    np.testing.assert_allclose(np.transpose([x, y]), [np.multiply(scan.position_m(k), 1e6) for k in range(1, 11)])
    assert panel.current.getData()[0] == pytest.approx([scan.position_m(10)[0] * 1e6])
    assert panel.title_label.text() == "Low resolution · 10/36"
    panel.choice.setCurrentText("DPC y")
    window.refresh()
    np.testing.assert_array_equal(panel.item.image, images["dpc_y"])
    assert panel.bar.axis.labelText == "px"
    low, high = panel.bar.levels()
    assert (low + high) / 2 == pytest.approx(np.nanmedian(images["dpc_y"]))


@only(LowResolutionPanel)
def test_positions_are_shown_before_any_low_resolution_image(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    scan.raw(1, 2)
    window.refresh()
    panel = window.panels[LowResolutionPanel]
    assert len(panel.points.getData()[0]) == 2
    assert panel.item.image is None


@only(ObjectPanel)
def test_object_on_the_stage(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    measured = scan.reconstruction(20, 0.2)["object"][1:, 2:]
    window.refresh()
    phase = window.panels[ObjectPanel]
    pixel_um = OBJECT_PIXEL_M * 1e6
    expected = np.array([2 * pixel_um, 40 * pixel_um, pixel_um, 30 * pixel_um]) + np.repeat(ORIGIN_M, 2) * 1e6
    assert bounds_um(phase) == pytest.approx(expected.tolist())
    shown = np.exp(1j * phase.item.image) * np.conj(np.exp(1j * np.angle(measured)))
    rows, columns = np.mgrid[:29, :38]
    steps = np.angle(shown[1:] * shown[:-1].conj()).mean(), np.angle(shown[:, 1:] * shown[:, :-1].conj()).mean()
    np.testing.assert_allclose(
        np.angle(shown * np.exp(-1j * (steps[0] * rows + steps[1] * columns))).std(), 0, atol=1e-4
    )
    assert phase.bar.axis.labelText == "phase (rad)"
    assert "20 frames · 80 % covered" in phase.title_label.text()
    assert "pixel 20 nm" in phase.title_label.text()
    phase.choice.setCurrentText("amplitude")
    window.refresh()
    np.testing.assert_allclose(phase.item.image, np.abs(measured))
    assert phase.title_label.text().startswith("Object amplitude")
    phase.choice.setCurrentText("both")
    window.refresh()
    assert phase.item.image.shape == (29, 38, 4)
    assert (phase.item.image[..., 3] == 255).all()
    assert bounds_um(phase) == pytest.approx(expected.tolist())


@only(ObjectPanel)
def test_y_grows_upwards_and_x_to_the_right(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    scan.reconstruction(20, 0.2)
    window.show()
    window.refresh()
    panel = window.panels[ObjectPanel]
    on_screen = panel.item.mapToScene(QtCore.QPointF(0.5, 0.5)), panel.item.mapToScene(QtCore.QPointF(20.5, 20.5))
    assert on_screen[0].y() > on_screen[1].y()
    assert on_screen[0].x() < on_screen[1].x()


@only(ObjectPanel)
def test_the_scale_bar_is_as_long_as_it_says(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    scan.reconstruction(20, 0.2)
    window.show()
    window.refresh()
    panel = window.panels[ObjectPanel]
    bar = panel.scale_bar
    for zoom in (1.0, 0.2):
        panel.view.scaleBy((zoom, zoom))
        left = panel.view.mapViewToScene(QtCore.QPointF(50.0, -20.0)).x()
        right = panel.view.mapViewToScene(QtCore.QPointF(50.0 + bar.length_um, -20.0)).x()
        assert bar.width_px == pytest.approx(right - left, abs=0.5)
        number, unit = bar.text.split()
        assert float(number) * {"nm": 1e-3, "µm": 1.0}[unit] == pytest.approx(bar.length_um)


@only(ProbePanel)
def test_probe_modes_with_their_powers(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    probe = scan.reconstruction(20, 0.2)["probe"]
    window.refresh()
    panel = window.panels[ProbePanel]
    np.testing.assert_allclose(panel.item.image, np.hstack([np.abs(probe[0]) / 3, np.abs(probe[1])]))
    assert [label.toPlainText() for label in panel.labels if label.isVisible()] == ["90.0 %", "10.0 %"]


@only(QualityPanel)
def test_r_factor(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    scan.reconstruction(10, 0.4)
    scan.reconstruction(20, 0.25)
    panel = window.panels[QualityPanel]
    window.refresh()
    x, y = panel.curve.getData()
    assert (x.tolist(), y.tolist()) == ([10, 20], [0.4, 0.25])
    panel.choice.setCurrentText("passes")
    window.refresh()
    assert panel.curve.getData()[0].tolist() == [2.5, 2.5]
    assert panel.plot.getAxis("bottom").labelText == "passes"


@only(QualityPanel)
def test_r_of_the_centre_is_a_curve_of_its_own(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    scan.reconstruction(10, 0.04, coarse=True)
    panel = window.panels[QualityPanel]
    window.refresh()
    assert panel.title_label.text() == "Quality · R 0.040 of the centre"
    scan.reconstruction(20, 0.25)
    scan.reconstruction(30, 0.2)
    window.refresh()
    assert [curve.getData()[1].tolist() for curve in (panel.coarse, panel.curve)] == [[0.04], [0.25, 0.2]]
    assert [label.text for _, label in panel.legend.items] == ["R", "R of the centre"]


@only(SecondEnginePanel, QualityPanel, ObjectPanel)
def test_a_second_engine_has_an_image_and_a_curve_beside_the_first(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    scan.reconstruction(20, 0.2)
    panel, quality = window.panels[SecondEnginePanel], window.panels[QualityPanel]
    window.refresh()
    assert panel.item.image is None and "name one under Processing" in panel.title_label.text()
    assert [label.text for _, label in quality.legend.items] == ["R"]
    scan.second_engine("rpie", 10, 0.3, coarse=True)
    scan.second_engine("rpie", 20, 0.25)
    second = scan.second_engine("rpie", 30, 0.22)["object"][1:, 2:]
    panel.choice.setCurrentText("amplitude")
    window.refresh()
    np.testing.assert_allclose(panel.item.image, np.abs(second))
    assert panel.title_label.text().startswith("Second engine amplitude · rpie: R 0.220 · 30 frames")
    assert window.panels[ObjectPanel].title_label.text().startswith("Object phase · 20 frames")
    x, y = quality.other.getData()
    assert (x.tolist(), y.tolist()) == ([20, 30], [0.25, 0.22])
    assert [label.text for _, label in quality.legend.items] == ["R", "rpie"]
    scan.second_engine("raar", 30, 0.5)
    window.refresh()
    assert quality.other.getData()[0].tolist() == [30], "another engine begins its curve anew"


@only(QualityPanel)
def test_an_image_that_begins_anew_begins_its_curve_anew(window: LiveWindow, scan: DerivedScan) -> None:
    """What an image reached that was given up is another curve, with a name; also where it had more frames."""
    scan.start()
    for frames, r_factor in ((10, 0.4), (30, 0.3), (20, 0.25), (40, 0.2)):
        scan.reconstruction(frames, r_factor, r_held_out=r_factor)
    window.refresh()
    panel = window.panels[QualityPanel]
    assert panel.curve.getData()[0].tolist() == [20, 40] == panel.second.getData()[0].tolist()
    assert panel.earlier.getData()[0].tolist() == [10, 30]
    assert [label.text for _, label in panel.legend.items] == ["R", "held out", "earlier image"]
    for frames in (5, 50):
        scan.reconstruction(frames, 0.1)
    window.refresh()
    assert panel.curve.getData()[0].tolist() == [5, 50]
    assert panel.earlier.getData()[0].tolist() == [10, 30, 20, 40]
    assert panel.earlier.opts["connect"].tolist()[:-1] == [True, False, True], "no line leads from one to the next"


@only(QualityPanel)
def test_an_image_that_begins_anew_with_more_frames_begins_its_curve_anew(
    window: LiveWindow, scan: DerivedScan
) -> None:
    """Passes fall while frames come, for these had none; all uses together fall with the image only."""
    scan.start()
    for frames, passes in ((10, 4.0), (30, 2.0), (40, 0.5), (60, 1.0)):
        scan.reconstruction(frames, 0.3, num_passes=passes)
    window.refresh()
    panel = window.panels[QualityPanel]
    assert [item.getData()[0].tolist() for item in (panel.earlier, panel.curve)] == [[10, 30], [40, 60]]


def test_tab_passes_by_the_plots(window: LiveWindow, qtbot: QtBot) -> None:
    window.show()
    window.activateWindow()
    start = window.panels[LowResolutionPanel].choice
    start.setFocus()
    qtbot.waitUntil(start.hasFocus, timeout=5000)
    seen = []
    for _ in range(100):
        qtbot.keyClick(QtWidgets.QApplication.focusWidget(), QtCore.Qt.Key.Key_Tab)
        seen.append(QtWidgets.QApplication.focusWidget())
        if seen[-1] is start:
            break
    assert seen[-1] is start and window.panels[LowResolutionPanel].pick in seen
    assert not any(panel.graphics in seen for panel in window.panels.values())


@only(QualityPanel)
def test_a_legend_can_be_read_after_a_change_of_theme(window: LiveWindow, scan: DerivedScan) -> None:
    panel = window.panels[QualityPanel]
    assert not panel.legend.isVisible(), "there is no curve that it names"
    scan.start()
    scan.reconstruction(10, 0.4)
    window.refresh()
    assert panel.legend.isVisible()
    ((_, label),) = panel.legend.items
    try:
        for theme in ("dark", "light"):
            apply_theme(theme)  # type: ignore[arg-type]
            QtWidgets.QApplication.processEvents()
            assert panel.text_color.name() in label.item.toHtml()
    finally:
        apply_theme("system")


@only(QualityPanel)
def test_held_out_r_and_resolution_beside_it(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    scan.reconstruction(10, 0.4)
    window.refresh()
    panel = window.panels[QualityPanel]
    assert panel.second.getData()[0] is None or not len(panel.second.getData()[0])
    panel.quantity.setCurrentText("resolution")
    window.refresh()
    assert panel.title_label.text() == "Quality · not measured: see Processing"
    scan.reconstruction(20, 0.25, r_held_out=0.3, half_bit_m=24e-9, one_seventh_m=21e-9)
    scan.reconstruction(30, 0.2, r_held_out=0.28, half_bit_m=18e-9, one_seventh_m=16e-9)
    window.refresh()
    assert panel.curve.getData()[1] == pytest.approx([24, 18])
    assert panel.second.getData()[1] == pytest.approx([21, 16])
    assert panel.plot.getAxis("left").labelText == "resolution (nm)"
    assert [label.text for _, label in panel.legend.items] == ["½ bit", "1/7"]
    assert panel.title_label.text() == "Quality · 18 nm"
    assert panel.title_label.toolTip() == "Quality · 18 nm after 2.5 passes"
    panel.quantity.setCurrentText("R")
    panel.choice.setCurrentText("time")
    window.refresh()
    assert panel.second.getData()[1] == pytest.approx([0.3, 0.28])
    assert panel.curve.getData()[1] == pytest.approx([0.4, 0.25, 0.2])
    assert panel.title_label.text() == "Quality · R 0.200, held out 0.280"


@only(QualityPanel)
def test_the_correlation_of_the_halves(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    scan.reconstruction(10, 0.4)
    panel = window.panels[QualityPanel]
    panel.quantity.setCurrentText("FRC")
    window.refresh()
    assert panel.title_label.text() == "Quality · not measured: see Processing"
    assert not panel.choice.isEnabled()
    scan.reconstruction(20, 0.3, half_bit_m=18e-9)
    frequency, correlation = scan.frc()
    window.refresh()
    x, y = panel.curve.getData()
    np.testing.assert_allclose(x, 1e-6 * frequency)
    np.testing.assert_allclose(y, correlation)
    assert panel.second.getData()[1] == pytest.approx(np.full(25, 0.3))
    assert panel.plot.getAxis("bottom").labelText == "spatial frequency (1/µm)"
    assert panel.title_label.text() == "Quality · half period 18 nm"
    assert [label.text for _, label in panel.legend.items] == ["FRC", "½ bit"]
    assert set(panel.curves()) == {
        f"{name}: {axis}" for name in ("FRC", "½ bit") for axis in ("spatial frequency (1/µm)", "correlation")
    }
    panel.quantity.setCurrentText("R")
    window.refresh()
    assert panel.choice.isEnabled() and panel.plot.getAxis("bottom").labelText == "frames used"
    (_, _), (low, high) = panel.plot.getViewBox().viewRange()
    assert low <= 0 and high > 0.5, "from 0, with room for the legend"


@only(FitPanel)
def test_the_fit_of_a_frame(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    data, model = scan.fit(7, 0.081)
    window.refresh()
    panel = window.panels[FitPanel]
    assert panel.title_label.text() == "Fit · frame 7 · R 0.081"
    shown = panel.item.image
    assert shown.shape == (FRAME_PX, 2 * FRAME_PX)
    np.testing.assert_allclose(shown[1:, :FRAME_PX], np.log10(np.maximum(data[1:], 0.1)), rtol=1e-5)
    np.testing.assert_allclose(shown[:, FRAME_PX:], np.log10(np.maximum(model, 0.1)), rtol=1e-4, atol=1e-5)
    assert np.isnan(shown[0, :FRAME_PX]).all()
    assert panel.value_at(3.0, 2.0) == f"data, column 3, row 2: {max(data[2, 3], 0.1):.4g} photons"
    assert panel.value_at(FRAME_PX + 3.0, 2.0) == f"model, column 3, row 2: {model[2, 3]:.4g} photons"
    axis = panel.plot.getAxis("bottom")
    spacing, places = axis.tickValues(-0.5, 2 * FRAME_PX - 0.5, 200)[0]
    assert places == [0, 10, 16, 26]
    assert axis.tickStrings(places, 1.0, spacing) == 2 * ["0", "10"]
    panel.choice.setCurrentText("residual")
    window.refresh()
    assert axis.tickStrings([20], 1.0, spacing) == ["20"]
    assert panel.value_at(3.0, 2.0).startswith("column 3, row 2: ")
    np.testing.assert_allclose(panel.item.image[1:], (np.sqrt(model) - np.sqrt(data))[1:], rtol=1e-4, atol=1e-4)
    low, high = panel.bar.levels()
    assert low == -high and panel.bar.axis.labelText == "√photons"
    for choice, image in (("data", data), ("model", model)):
        panel.choice.setCurrentText(choice)
        window.refresh()
        assert panel.item.image.shape == image.shape
    panel.number.setValue(3)  # the solver has none of it, and tells another
    panel.redraw()
    window.refresh()
    assert panel.title_label.text().endswith("3 is not in use")


def test_a_number_that_is_not_known_is_a_dash(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    scan.fit(7, float("nan"))
    scan.reconstruction(3, float("nan"))
    scan.second_engine("rpie", 3, float("nan"))
    window.refresh()
    titles = [panel.title_label.text() for panel in window.panels.values()]
    assert "Fit · frame 7 · R –" in titles
    assert not any("nan" in text for text in [*titles, window.health.status.text()])


@only(LightPanel, QualityPanel)
def test_frames_are_counted_in_whole_numbers(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    scan.clean(1, 2)
    scan.reconstruction(2, 0.3)
    window.refresh()
    for panel in (LightPanel, QualityPanel):
        ticks = window.panels[panel].plot.getAxis("bottom").tickValues(0.8, 2.2, 300)
        assert {place % 1 for _, places in ticks for place in places} == {0}


@only(CorrectionsPanel)
def test_corrections_are_arrows_on_the_points(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    panel = window.panels[CorrectionsPanel]
    window.refresh()
    assert panel.title_label.text() == "Positions · no corrections yet"
    scan.raw(*range(1, 37))
    scan.positions(*range(1, 37))
    window.refresh()
    x, y = panel.points.getData()
    np.testing.assert_allclose(np.transpose([x, y]), [np.multiply(scan.position_m(k), 1e6) for k in range(1, 37)])
    ends = np.transpose(panel.arrows.getData()).reshape(36, 3, 2, 2)
    factor = int(panel.title_label.text().rpartition("× ")[2])
    assert factor >= 5
    shafts = ends[:, 0, 1] - ends[:, 0, 0]
    np.testing.assert_allclose(shafts, np.tile([factor * 5e-3, factor * -2e-3], (36, 1)), rtol=1e-6)
    assert np.hypot(*shafts.T).max() < 0.1  # no longer than points are apart
    np.testing.assert_allclose(
        ends[:, 1:, 0], ends[:, 0, 1][:, None].repeat(2, axis=1)
    )  # both barbs begin at the tip
    assert "error 5 nm, at most 5.4 nm · arrows × " in panel.title_label.text()


@only(CorrectionsPanel, QualityPanel)
@pytest.mark.parametrize(("wanted", "told"), [("auto", "no errors found"), ("frames", "no corrections")])
def test_what_never_came_is_not_said_to_come_yet(window: LiveWindow, live: LivePlots, wanted: str, told: str) -> None:
    settings = PipelineSettings().replace(solver__refine_positions=wanted, solver__quality_share=0.5)
    scan = DerivedScan(live, settings=settings)
    titles = [window.panels[kind].title_label for kind in (CorrectionsPanel, QualityPanel)]
    window.panels[QualityPanel].quantity.setCurrentText("FRC")
    scan.start()
    scan.reconstruction(20, 0.2)
    window.refresh()
    assert [title.text().endswith(" yet") for title in titles] == [True, True]
    scan.reconstruction(20, 0.2, final=True)
    scan.stop()
    window.refresh()
    assert [title.text() for title in titles] == [f"Positions · {told}", "Quality · the halves told none"]


@only(CorrectionsPanel)
def test_positions_that_are_not_corrected_say_where_that_is_changed(window: LiveWindow, live: LivePlots) -> None:
    DerivedScan(live, settings=PipelineSettings().replace(solver__refine_positions="none")).start()
    window.refresh()
    assert window.panels[CorrectionsPanel].title_label.text() == "Positions · not corrected: see Processing"


@only(DarkPanel)
def test_a_long_title_ends_in_dots(window: LiveWindow, scan: DerivedScan, qtbot: QtBot) -> None:
    label = window.panels[DarkPanel].title_label
    window.show()
    window.docks.show_dock("DarkPanel")
    label.setText("Dark " + 50 * "long ")
    label.setFixedWidth(120)
    qtbot.wait(20)
    rim = label.grab().toImage()
    marked = [rim.pixelColor(x, rim.height() // 2 + 4).lightness() for x in range(rim.width() - 2, rim.width())]
    assert min(marked) > 150  # nothing is cut at the rim
    assert label.text().endswith("long ")


@only(SweepPanel)
def test_defocus_sweep(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    defocus, residual = scan.sweep(accepted=False)
    window.refresh()
    panel = window.panels[SweepPanel]
    x, y = panel.curve.getData()
    np.testing.assert_allclose(x, defocus * 1e6)
    np.testing.assert_allclose(y, residual)
    assert panel.mark.value() == pytest.approx(6.0)
    assert panel.title_label.text() == "Defocus · 6 µm · confidence 0.33 · not taken"
    assert not panel.warm.isVisible()


@pytest.mark.parametrize(
    ("fits", "told"),
    [
        (True, "6 µm · probe of 3f9c21ab, 14 min ago, fits best · confidence 0.33"),
        (False, "6 µm · probe of 3f9c21ab, 14 min ago, fits no more · confidence 0.33 · taken"),
    ],
)
@only(SweepPanel)
def test_probe_of_an_earlier_run(window: LiveWindow, scan: DerivedScan, fits: bool, told: str) -> None:
    scan.start()
    scan.sweep(warm_run="3f9c21ab-2", warm_age_s=840.0, warm_residual=0.15 if fits else 0.29, warm_fits=fits)
    window.refresh()
    panel = window.panels[SweepPanel]
    assert panel.title_label.text() == f"Defocus · {told}"
    assert panel.warm.isVisible() and panel.warm.value() == (0.15 if fits else 0.29)
    panel.clear()
    assert not panel.warm.isVisible()


@only(QualityPanel)
def test_the_status_line(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    scan.reconstruction(20, 0.2)
    scan.health(num_frames=24, lost=tuple(range(2, 12)), bad=(20,))
    window.refresh()
    text = window.health.status.text()
    for part in (
        "running",
        "24 of 36 frames",
        "12.5 Hz",
        "queue 3",
        "latency 0.25 s",
        "lost 10 (2, 3, 4, 5, 6, 7, 8, 9, …)",
        "bad 1 (20)",
        "R 0.200",
    ):
        assert part in text
    scan.stop("abort")
    window.refresh()
    assert window.health.status.text().startswith("aborted")


@only(CleanPanel)
def test_why_a_run_failed_is_told(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    scan.stop("fail", "FailedStatus: the stage got no trigger")
    window.refresh()
    assert window.health.status.text().startswith("failed")
    assert window.health.errors.text() == "run failed: FailedStatus: the stage got no trigger"
    assert not window.health.errors.isHidden()


@only(CleanPanel)
def test_a_window_that_knows_no_modules_has_no_empty_table_of_them(
    window: LiveWindow, live: LivePlots, qtbot: QtBot
) -> None:
    assert "Health" not in window.docks.docks
    knowing = LiveWindow(live, modules=lambda: Modules("idle", "green"), panels=[CleanPanel])
    qtbot.addWidget(knowing)
    assert "Health" in knowing.docks.docks


@only(CleanPanel)
def test_a_failed_stage_is_red(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    scan.health("CleanFrames", "error", "wrong shape: expected (1040, 1152)", bad=(3,))
    scan.health("pipeline", "warning", "no darks: overscan alone")
    scan.health("pipeline", "ok")
    window.show()
    window.refresh()
    errors = window.health.errors
    assert errors.text() == "CleanFrames failed: wrong shape: expected (1040, 1152)"
    assert errors.isVisible()
    picture = errors.grab().toImage()
    color = QtGui.QColor(picture.pixel(picture.width() - 3, picture.height() // 2))
    assert color.red() > 150 > 3 * color.green()
    assert window.health.warning.text() == "no darks: overscan alone"


def test_a_new_run_clears_every_panel(window: LiveWindow, live: LivePlots, scan: DerivedScan) -> None:
    scan.start()
    scan.raw(1)
    scan.clean(1)
    scan.low_resolution(1)
    scan.sweep()
    scan.reconstruction(1, 0.5)
    scan.health("CleanFrames", "error", "broken")
    window.refresh()
    DerivedScan(live).start()
    window.refresh()
    for kind in (RawPanel, CleanPanel, LowResolutionPanel, ObjectPanel, ProbePanel):
        assert window.panels[kind].item.image is None
    assert not any(label.isVisible() for label in window.panels[ProbePanel].labels)
    assert window.panels[QualityPanel].curve.getData()[0] is None
    assert not window.panels[SweepPanel].mark.isVisible()
    assert window.health.errors.isHidden()


def test_only_what_changed_is_drawn(window: LiveWindow, scan: DerivedScan, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    for panel in window.panels.values():
        monkeypatch.setattr(panel, "draw", lambda state, panel=panel: drawn.append(panel.title))
    scan.start()
    scan.sweep()
    scan.clean(1)
    window.refresh()
    assert sorted(drawn) == ["Clean frame", "Defocus", "Light", "Low resolution"]
    window.refresh()
    assert len(drawn) == 4


def test_drawing_happens_by_itself_and_only_on_the_gui_thread(
    window: LiveWindow, scan: DerivedScan, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[threading.Thread] = set()
    for panel in window.panels.values():
        draw = panel.draw

        def watched(state: object, draw: object = draw) -> None:
            threads.add(threading.current_thread())
            draw(state)  # type: ignore[operator]

        monkeypatch.setattr(panel, "draw", watched)
    window.show()

    def feed() -> None:
        scan.start()
        for k in range(1, 20):
            scan.raw(k)
            scan.clean(k)
        scan.reconstruction(19, 0.3)
        scan.sweep()

    feeder = threading.Thread(target=feed)
    feeder.start()
    qtbot.waitUntil(lambda: "0.300" in window.panels[QualityPanel].title_label.text(), timeout=10_000)
    qtbot.waitUntil(lambda: "frame 19" in window.panels[CleanPanel].title_label.text(), timeout=10_000)
    feeder.join()
    assert threads == {threading.main_thread()}


def test_a_window_opened_late_shows_the_state_so_far(live: LivePlots, scan: DerivedScan, qtbot: QtBot) -> None:
    scan.start()
    frames = scan.clean(1, 2)
    scan.reconstruction(2, 0.3, final=True)
    scan.stop()
    late = LiveWindow(live, panels=[CleanPanel, ProbePanel])
    qtbot.addWidget(late)
    late.show()
    qtbot.waitUntil(lambda: late.panels[ProbePanel].item.image is not None, timeout=10_000)
    late.refresh()
    np.testing.assert_allclose(late.panels[CleanPanel].item.image, np.log10(np.maximum(frames[1], 0.1)), rtol=1e-6)
    assert late.health.status.text().startswith("finished")


@only(CleanPanel)
def test_a_blocked_window_never_blocks_the_feed(window: LiveWindow, live: LivePlots, scan: DerivedScan) -> None:
    """Qt's event loop does not run at all while 10,000 documents are fed."""
    window.show()
    scan.start()
    frame = np.ones((1, FRAME_PX, FRAME_PX), np.float32)
    at = {"x_m": np.zeros(1), "y_m": np.zeros(1), "photons": np.ones(1)}

    def feed() -> None:
        for k in range(1, 10_001):
            scan.feed(scan.run.page("clean", [k], [0.0], frame=frame, **at))

    feeder = threading.Thread(target=feed)
    feeder.start()
    feeder.join(60)
    assert not feeder.is_alive()
    window.refresh()
    assert "frame 10000" in window.panels[CleanPanel].title_label.text()


@only(CleanPanel)
def test_closing_the_window_disturbs_nobody(
    window: LiveWindow, live: LivePlots, scan: DerivedScan, qtbot: QtBot
) -> None:
    window.show()
    scan.start()
    scan.clean(1)
    window.close()
    scan.clean(2)
    scan.reconstruction(2, 0.3)
    qtbot.wait(100)
    assert window.panels[CleanPanel].item.image is None
    assert live.snapshot().errors == []
    window.show()
    qtbot.waitUntil(lambda: "frame 2" in window.panels[CleanPanel].title_label.text(), timeout=10_000)


@only(CleanPanel)
def test_collections_of_garbage_leave_out_what_was_there_when_the_window_opened(window: LiveWindow) -> None:
    """Else one of the whole heap, with all modules, holds the event loop up."""
    assert gc.get_freeze_count() == 0
    window.show()
    assert gc.get_freeze_count() > 10_000
    window.close()
    assert gc.get_freeze_count() == 0


@only(CleanPanel, RawPanel, DarkPanel)
def test_a_panel_behind_another_is_drawn_when_it_comes_to_the_front(
    window: LiveWindow, scan: DerivedScan, qtbot: QtBot
) -> None:
    window.show()
    scan.start()
    scan.dark_statistics()
    scan.clean(1)
    qtbot.waitUntil(lambda: window.panels[CleanPanel].item.image is not None, timeout=10_000)
    qtbot.wait(100)
    assert window.panels[DarkPanel].item.image is None
    qtbot.keyClick(window, QtCore.Qt.Key.Key_3)
    qtbot.waitUntil(lambda: window.panels[DarkPanel].item.image is not None, timeout=10_000)
    drawn = window.panels[CleanPanel].item.image
    scan.clean(2)
    qtbot.wait(100)
    assert window.panels[CleanPanel].item.image is drawn


@only(CleanPanel)
def test_a_frozen_window_shows_what_was(window: LiveWindow, scan: DerivedScan, qtbot: QtBot, tmp_path: Path) -> None:
    window.show()
    scan.start()
    scan.clean(1)
    title = window.panels[CleanPanel].title_label
    qtbot.waitUntil(lambda: "frame 1" in title.text(), timeout=10_000)
    qtbot.keyClick(window, QtCore.Qt.Key.Key_F)
    scan.clean(2)
    qtbot.wait(100)
    assert window.frozen and "frame 1" in title.text()
    assert window.health.frozen.isVisible()
    window.save_screenshot(tmp_path / "frozen.png")
    assert "frame 1" in title.text()
    qtbot.keyClick(window, QtCore.Qt.Key.Key_F)
    qtbot.waitUntil(lambda: "frame 2" in title.text(), timeout=10_000)
    assert not window.health.frozen.isVisible()


def test_a_window_that_is_opened_again_steers_the_processing(live: LivePlots, qtbot: QtBot) -> None:
    done: list[str] = []
    processing = SimpleNamespace(settings=PipelineSettings, do=lambda action: done.append(action) or "done")
    window = LiveWindow(live, processing=processing, panels=[CleanPanel])  # type: ignore[arg-type]
    qtbot.addWidget(window)
    window.show()
    window.close()
    window.show()
    window.docks.show_dock("Control")
    assert window.control is not None
    qtbot.waitUntil(window.control.isVisible, timeout=10_000)
    window.control.buttons["pause"].click()
    qtbot.waitUntil(lambda: window.control.answer.text() == "done", timeout=10_000)
    assert done == ["pause"]
    window.close()


def test_panels_are_where_they_were_left(live: LivePlots, qtbot: QtBot) -> None:
    panels = (CleanPanel, DarkPanel, ProbePanel, ObjectPanel)
    first = LiveWindow(live, panels=panels)
    qtbot.addWidget(first)
    first.show()
    first.docks.docks["ProbePanel"].close()
    first.docks.show_dock("DarkPanel")
    qtbot.waitUntil(lambda: first.docks.in_front("DarkPanel"), timeout=10_000)
    first.close()
    second = LiveWindow(live, panels=panels)
    qtbot.addWidget(second)
    second.show()
    qtbot.waitUntil(lambda: second.docks.in_front("DarkPanel"), timeout=10_000)
    assert second.docks.docks["ProbePanel"].isHidden()
    with qtbot.waitActive(second):
        second.activateWindow()
    qtbot.keyClick(second, QtCore.Qt.Key.Key_0, QtCore.Qt.KeyboardModifier.ControlModifier)
    qtbot.waitUntil(lambda: second.docks.in_front("CleanPanel"), timeout=10_000)
    assert not second.docks.docks["ProbePanel"].isHidden()


def test_a_second_window_has_the_tabs_of_the_first(live: LivePlots, qtbot: QtBot) -> None:
    """What is arranged twice leaves tab bars lying over the panels."""
    seen = []
    for _ in range(2):
        window = LiveWindow(live)
        qtbot.addWidget(window)
        window.show()
        bars = window.docks.findChildren(QtWidgets.QTabBar)
        seen.append(sorted((bar.x(), bar.y(), bar.count()) for bar in bars if bar.isVisible() and bar.x() >= 0))
        window.close()
    assert len(seen[0]) == 5
    assert seen[1] == seen[0]


def test_an_arrangement_that_cannot_be_read_is_left_alone(live: LivePlots, qtbot: QtBot) -> None:
    preferences().setValue("live/docks", QtCore.QByteArray(b"of another program"))
    preferences().setValue("live/size", 7)
    window = LiveWindow(live, panels=[CleanPanel, DarkPanel])
    qtbot.addWidget(window)
    window.show()
    assert all(not dock.isHidden() for dock in window.docks.docks.values())


@only(LowResolutionPanel)
def test_points_to_come_lie_where_the_scan_will_go(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    scan.raw(*range(1, 31))
    window.refresh()
    x, y = window.panels[LowResolutionPanel].coming.getData()
    expected = {scan.position_m(k) for k in range(31, 37)}
    found = {(round(a * 1e-6, 9), round(b * 1e-6, 9)) for a, b in zip(x, y, strict=True)}
    assert found == {(round(a, 9), round(b, 9)) for a, b in expected}


@only(LightPanel)
def test_the_light_of_each_frame(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    frames = scan.clean(1, 2, 3)
    scan.health(flagged=(2,))
    window.refresh()
    panel = window.panels[LightPanel]
    x, y = panel.points.getData()
    assert x.tolist() == [1, 2, 3]
    np.testing.assert_allclose(y, frames.sum(axis=(1, 2)))
    assert panel.flagged.getData()[0].tolist() == [2]
    assert panel.title_label.text().endswith("1 flagged")


@only(LowResolutionPanel, CleanPanel)
def test_place_and_value_are_read_out_under_the_mouse(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    scan.low_resolution(10)
    scan.raw(1)
    frames = scan.clean(1)
    window.refresh()
    low = window.panels[LowResolutionPanel]
    value = float(low.item.image[1, 2])
    assert low.value_at(50.2, -19.9) == f"50.200, -19.900 µm: {value:.4g} photons"
    assert low.value_at(50.5, -19.5).endswith("not measured")
    assert low.value_at(0, 0) == ""
    assert window.panels[CleanPanel].value_at(3, 5) == f"column 3, row 5: {frames[0, 5, 3]:.4g} photons"


@only(QualityPanel)
def test_light_and_dark_theme(window: LiveWindow, scan: DerivedScan) -> None:
    window.show()

    def brightness() -> int:
        QtWidgets.QApplication.processEvents()
        return int(window.panels[QualityPanel].graphics.grab().toImage().pixelColor(2, 2).lightness())

    try:
        apply_theme("dark")
        assert brightness() < 80
        assert window.panels[QualityPanel].text_color.lightness() > 180
        apply_theme("light")
        assert brightness() > 200
    finally:
        apply_theme("system")


@only(CleanPanel, SweepPanel)
def test_a_panel_that_cannot_draw_is_told_and_the_others_go_on(
    window: LiveWindow, scan: DerivedScan, caplog: pytest.LogCaptureFixture
) -> None:
    scan.start()
    scan.event("clean", frame=np.ones(5, np.float32), x_m=0.0, y_m=0.0, photons=5.0)
    scan.sweep()
    window.refresh()
    assert "cannot be drawn" in window.panels[CleanPanel].title_label.text()
    assert window.panels[SweepPanel].mark.isVisible()
    assert "Clean frame" in caplog.text


def test_screenshot(window: LiveWindow, scan: DerivedScan, tmp_path: Path) -> None:
    scan.start()
    scan.reconstruction(2, 0.3)
    path = tmp_path / "live.png"
    window.save_screenshot(path)
    picture = QtGui.QImage(str(path))
    assert (picture.width(), picture.height()) == (window.width(), window.height())
    assert picture.width() <= 1366
    assert picture.height() <= 768
    panel = window.panels[ObjectPanel].item
    assert panel.image is not None
    with pytest.raises(OSError, match="cannot write"):
        window.save_screenshot(tmp_path / "missing" / "live.png")


@only(CleanPanel)
def test_a_picture_that_the_menu_cannot_write_is_told(
    window: LiveWindow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    missing = tmp_path / "missing" / "live.png"
    monkeypatch.setattr(QtWidgets.QFileDialog, "getSaveFileName", lambda *_: (str(missing), ""))
    monkeypatch.setattr(QtWidgets.QMessageBox, "warning", lambda *texts: told.append(texts[1:]))
    window._ask_and_save()
    ((title, text),) = told
    assert title == "Save picture"
    assert str(missing) in text


@only(CleanPanel)
def test_drawing_leaves_processors_to_others(
    window: LiveWindow, scan: DerivedScan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a look that took 90 ms of the processor, the next one is 360 ms later: the share is a quarter."""
    now = {"monotonic": 100.0, "thread_time": 5.0}
    clock = SimpleNamespace(**{name: partial(now.get, name) for name in now})
    monkeypatch.setattr("nsbluesky.viewer.live.time", clock)
    scan.start()
    looked = []
    monkeypatch.setattr(window, "_take_state", lambda: looked.append(now["monotonic"]))
    for after, spent in ((0.0, 0.0), (0.1, 0.09), (0.35, 0.09), (0.37, 0.09), (0.47, 0.1), (1.46, 5.0), (1.48, 5.0)):
        now.update(monotonic=100 + after, thread_time=5 + spent)
        window._look()
    assert looked == [100.0, 100.37, 100.47, 101.48]


def test_numbers_are_written_only_where_there_are_data(window: LiveWindow, scan: DerivedScan) -> None:
    def numbered(kind: type[LivePanel]) -> bool:
        return bool(window.panels[kind].plot.getAxis("left").style["showValues"])

    scan.start()
    window.refresh()
    assert not any(numbered(kind) for kind in window.panels)
    assert not window.panels[ObjectPanel].scale_bar.isVisibleTo(window.panels[ObjectPanel].plot)
    scan.reconstruction(5, 0.3)
    window.refresh()
    shown = (ObjectPanel, ProbePanel, QualityPanel)
    assert {kind for kind in window.panels if numbered(kind)} == set(shown)
    assert window.panels[ObjectPanel].bar.opacity() == 1


@only(LowResolutionPanel)
def test_a_zoom_stays_until_the_next_run(window: LiveWindow, live: LivePlots, scan: DerivedScan) -> None:
    scan.start()
    scan.low_resolution(4)
    scan.raw(1)
    window.show()
    window.refresh()
    panel = window.panels[LowResolutionPanel]
    viewport = panel.graphics.viewport()
    middle = QtCore.QPointF(viewport.rect().center())
    turn = QtGui.QWheelEvent(
        middle,
        viewport.mapToGlobal(middle),
        QtCore.QPoint(0, 0),
        QtCore.QPoint(0, 480),
        QtCore.Qt.MouseButton.NoButton,
        QtCore.Qt.KeyboardModifier.NoModifier,
        QtCore.Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    whole = panel.view.viewRange()
    QtWidgets.QApplication.sendEvent(viewport, turn)
    zoomed = panel.view.viewRange()
    assert zoomed[0][1] - zoomed[0][0] < whole[0][1] - whole[0][0]
    again = {name: np.ones((3, 3), np.float32) for name in ("transmission", "dpc_x", "dpc_y")}
    extent = np.array([40e-6, 41e-6, -21e-6, -20e-6])
    scan.event("low_resolution", **again, extent_m=extent, illumination=np.ones((2, 2)), num_frames=9)
    window.refresh()
    assert panel.view.viewRange() == zoomed
    second = DerivedScan(live)
    second.start()
    window.refresh()
    second.raw(1)
    second.low_resolution(4)
    window.refresh()
    assert panel.view.viewRange()[0] == pytest.approx(whole[0])


def test_an_image_is_whole_however_large_its_panel_becomes(
    window: LiveWindow, scan: DerivedScan, qtbot: QtBot
) -> None:
    scan.start()
    scan.raw(*range(1, 11))
    scan.low_resolution(10)
    window.refresh()  # not shown yet: the panel has no room
    window.show()
    panel = window.panels[LowResolutionPanel]

    def share() -> float:
        (x0, x1), (y0, y1) = panel.view.viewRange()
        return max(0.6 / (x1 - x0), 0.6 / (y1 - y0))  # of the view that the image fills

    qtbot.waitUntil(lambda: share() > 0.8, timeout=10_000)
    window.docks.resizeDocks([window.docks.docks["LowResolutionPanel"]], [120], QtCore.Qt.Orientation.Vertical)
    qtbot.wait(50)
    assert share() > 0.8


@only(LowResolutionPanel)
def test_large_numbers_share_one_power_of_ten(window: LiveWindow, scan: DerivedScan) -> None:
    scan.start()
    scan.raw(1)
    photons = {name: np.linspace(9e6, 1.2e7, 9).reshape(3, 3) for name in ("transmission", "dpc_x", "dpc_y")}
    extent = np.array([0, 1e-6, 0, 1e-6])
    scan.event("low_resolution", **photons, extent_m=extent, illumination=np.ones((2, 2)), num_frames=9)
    window.refresh()
    axis = window.panels[LowResolutionPanel].bar.axis
    assert axis.labelText == "photons · 10⁷"
    assert 1e7 * axis.scale == pytest.approx(1)


@only(RawPanel)
def test_nothing_of_the_run_before_stays_on_a_panel_that_nobody_looked_at(
    window: LiveWindow, live: LivePlots
) -> None:
    before = DerivedScan(
        live, settings=PipelineSettings(cleaning=CleaningSettings(layout="none", crop_px=16, frame_px=16))
    )
    before.start()
    before.raw(1)
    before.detector()
    window.refresh()
    panel = window.panels[RawPanel]
    assert len(panel.crop.getData()[0]) and len(panel.center.data)
    panel.view.setRange(QtCore.QRectF(3, 3, 5, 5), padding=0)
    panel.view.sigRangeChangedManually.emit([True, True])
    following = DerivedScan(live)
    following.start()
    following.raw(1)
    window.refresh()
    assert panel.crop.getData()[0] is None or not len(panel.crop.getData()[0]), "the crop of the run before"
    assert not len(panel.center.data)
    assert panel.view.viewRange()[0][1] > 40, "shown whole again"
