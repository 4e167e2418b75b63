"""The CXI window shows what the file holds."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from pytestqt.qtbot import QtBot

from nsbluesky.cli import main
from nsbluesky.conversion.frames import ConversionError
from nsbluesky.cxi import CxiError, CxiFile, read_cxi, validate, write_raw_cxi
from nsbluesky.viewer.cxi_window import CxiWindow
from nsbluesky.viewer.export import EXPORTS, export_panel
from nsbluesky.viewer.image_panel import ImagePanel
from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets

FRAME_PX, COUNT, PIXEL_M = 12, 30, 25e-9
EXPERIMENT = {"energy_eV": 930.0, "detector_distance_m": 0.1, "pixel_size_m": 240e-6}


@pytest.fixture
def frames(rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(9, (COUNT, FRAME_PX, FRAME_PX)).astype(np.float32)


@pytest.fixture
def translation_m(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-1e-6, 1e-6, (COUNT, 2))


@pytest.fixture
def picture(rng: np.random.Generator) -> np.ndarray:
    picture = (rng.random((20, 30)) + 0.5).astype(np.complex64)
    picture[:4] = np.nan
    return picture


@pytest.fixture
def clean_file(tmp_path: Path, frames: np.ndarray, translation_m: np.ndarray, picture: np.ndarray) -> Path:
    path = tmp_path / "clean.cxi"
    mask = np.zeros((FRAME_PX, FRAME_PX))
    mask[:, 2], mask[:, 3] = 1, 0x1000  # the second code counts as good
    probe = np.ones((2, FRAME_PX, FRAME_PX), np.complex64) * np.array([2, 1])[:, None, None]
    with CxiFile.create(path, **EXPERIMENT, frame_shape=frames.shape[1:], mask=mask) as cxi:
        cxi.append(frames, translation_m)
        cxi.write_image(picture, probe, PIXEL_M, errors=[0.5, 0.3], center_m=(1e-6, -2e-6))
    return path


@pytest.fixture
def window(clean_file: Path, qtbot: QtBot) -> CxiWindow:
    window = CxiWindow(clean_file)
    qtbot.addWidget(window)
    return window


def test_slider_and_keys_browse_frames_and_points(
    window: CxiWindow, frames: np.ndarray, translation_m: np.ndarray, qtbot: QtBot
) -> None:
    window.show()
    assert "frame 1 of 30" in window.status.text()
    window.slider.setValue(7)
    qtbot.keyClick(window.slider, QtCore.Qt.Key.Key_Right)
    shown, good = window.frame_panel.item.image, np.arange(FRAME_PX) != 2
    np.testing.assert_allclose(shown[:, good], np.log10(np.maximum(frames[8], 0.1))[:, good], rtol=1e-6)
    assert np.isnan(shown[:, 2]).all()
    x, y = window.positions.current.getData()
    np.testing.assert_allclose([x[0], y[0]], translation_m[8] * 1e6)
    assert "frame 9 of 30" in window.status.text()
    assert f"x {translation_m[8, 0] * 1e6:.3f} µm" in window.status.text()
    qtbot.keyClick(window.slider, QtCore.Qt.Key.Key_End)
    assert "frame 30 of 30" in window.status.text()
    # keys, whatever was clicked last
    Key = QtCore.Qt.Key
    for widget in (window.positions.graphics, window.image_panels[0].choice, window):  # type: ignore[attr-defined]
        window.slider.setValue(3)
        qtbot.keyClick(widget, Key.Key_Right)
        assert window.slider.value() == 4
    for key, value in ((Key.Key_End, 29), (Key.Key_Left, 28), (Key.Key_Home, 0), (Key.Key_PageDown, 1)):
        qtbot.keyClick(window.positions.graphics, key)
        assert window.slider.value() == value
    qtbot.keyClick(window, Key.Key_Right, QtCore.Qt.KeyboardModifier.ControlModifier)
    assert window.slider.value() == 1


@pytest.mark.parametrize("of_darks", [True, False], ids=["none", "darks only"])
def test_a_file_is_shown_whose_raw_frames_are_gone(clean_file: Path, qtbot: QtBot, of_darks: bool) -> None:
    class Gone:
        def frame(self, seq_num: int) -> np.ndarray:
            raise ConversionError("raw.h5 is not there")

        def darks(self, count: int) -> np.ndarray:
            if of_darks:
                raise ConversionError("raw.h5 is not there")
            return np.zeros((3, 8, 8), np.uint16)

    window = CxiWindow(clean_file, Gone())
    qtbot.addWidget(window)
    assert "frame 1 of 30" in window.status.text()
    assert window.raw_panel is not None
    assert window.raw_panel.title_label.text() == "Raw frame · raw.h5 is not there"
    assert (window.dark_panel is None) == of_darks


def test_what_the_file_holds(
    window: CxiWindow, frames: np.ndarray, translation_m: np.ndarray, picture: np.ndarray
) -> None:
    # the experiment
    for part in ("930 eV", "100 mm", "12 × 12 pixels of 240 µm", "12 masked", "clean file"):
        assert part in window.status.text()
    # all points, and the mean frame
    np.testing.assert_allclose(np.transpose(window.positions.points.getData()), translation_m * 1e6)
    shown, good = window.mean_panel.item.image, np.arange(FRAME_PX) != 2
    np.testing.assert_allclose(shown[:, good], np.log10(frames.mean(axis=0))[:, good], rtol=1e-5)
    assert np.isnan(shown[:, ~good]).all()
    assert window.mean_panel.title == "Mean of all frames"
    # every measured pixel of the picture is counted
    edges, counts = window.histogram.steps.getData()
    assert counts.sum() == np.isfinite(picture).sum()
    assert len(edges) == len(counts) + 1
    assert window.histogram.title_label.text() == "Histogram · mean 0, σ 0 rad · Object phase"
    # the picture lies on the stage
    phase, amplitude, probe = window.image_panels
    np.testing.assert_allclose(amplitude.item.image, np.abs(picture[4:]))
    rect = amplitude.item.mapRectToView(amplitude.item.boundingRect())
    edges_um = [1 - 0.375, 1 + 0.375, -2 - 0.25 + 4 * 0.025, -2 + 0.25]
    assert [rect.left(), rect.right(), rect.top(), rect.bottom()] == pytest.approx(edges_um)
    assert phase.title_label.text() == "Object phase · final · pixel 25 nm"
    assert amplitude.title_label.text() == "Object amplitude · final · pixel 25 nm"
    assert [label.toPlainText() for label in probe.labels[:2]] == ["80.0 %", "20.0 %"]
    assert window.errors.curve.getData()[1].tolist() == [0.5, 0.3]
    ticks = window.errors.plot.getAxis("bottom").tickValues(0.9, 2.1, 300)
    assert {place for _, places in ticks for place in places} == {1, 2}
    window.errors.show_errors(np.array([0.5, np.nan]))
    assert window.errors.title_label.text() == "Error · – at the end"


def test_the_mean_frame_of_the_file_is_taken_where_it_has_one(
    clean_file: Path, frames: np.ndarray, qtbot: QtBot
) -> None:
    with h5py.File(clean_file, "r+") as file:
        name = "entry_1/instrument_1/source_1/illumination_intensities"
        if name in file:
            del file[name]
        file[name] = np.full((FRAME_PX, FRAME_PX), 100, np.float32)
    window = CxiWindow(clean_file)
    qtbot.addWidget(window)
    np.testing.assert_allclose(window.mean_panel.item.image[:, 3:], 2, rtol=1e-6)


def test_a_file_without_a_picture_and_with_gaps_in_a_frame(
    tmp_path: Path, frames: np.ndarray, translation_m: np.ndarray, qtbot: QtBot
) -> None:
    path = tmp_path / "frames.cxi"
    frames[0, 5] = np.nan
    with CxiFile.create(path, **EXPERIMENT, frame_shape=frames.shape[1:]) as cxi:
        cxi.append(frames, translation_m)
    window = CxiWindow(path)
    qtbot.addWidget(window)
    assert [panel.title_label.text().split(" · ")[1] for panel in window.image_panels] == ["none in this file"] * 3
    assert window.errors.title_label.text() == "Error · none in this file"
    assert window.frame_panel.item.image is not None
    counted = f"{np.nansum(frames[0]):.0f} photons"
    assert window.frame_panel.title_label.text() == f"Clean frame · frame 1 · {counted}"


def test_a_file_without_frames_yet(tmp_path: Path, qtbot: QtBot) -> None:
    path = tmp_path / "empty.cxi"
    CxiFile.create(path, **EXPERIMENT, frame_shape=(FRAME_PX, FRAME_PX)).close()
    window = CxiWindow(path)
    qtbot.addWidget(window)
    assert "no frames" in window.status.text()
    qtbot.waitUntil(lambda: window.low_resolution.title_label.text() == "Low resolution · no frames", timeout=20_000)
    assert window.frame_panel.title_label.text() == "Clean frame · none in this file"
    assert window.histogram.steps.getData()[0] is None


def test_a_raw_file_with_its_darks(tmp_path: Path, rng: np.random.Generator, qtbot: QtBot) -> None:
    path = tmp_path / "raw.cxi"
    raw, darks = rng.integers(1000, 3000, (4, 20, 24)).astype(np.uint16), np.full((3, 20, 24), 500, np.uint16)
    write_raw_cxi(path, raw, darks, np.zeros((4, 2)), **EXPERIMENT)
    window = CxiWindow(path)
    qtbot.addWidget(window)
    np.testing.assert_allclose(window.frame_panel.item.image, np.log10(raw[0]), rtol=1e-6)
    window.frame_panel.choice.setCurrentText("raw − dark")
    np.testing.assert_allclose(window.frame_panel.item.image, np.log10(raw[0] - 500.0), rtol=1e-6)
    assert window.dark_panel is not None
    assert window.dark_panel.title_label.text() == "Dark · 3 frames · 0 bad"
    assert "raw file" in window.status.text()
    assert window.histogram.title_label.text().endswith(" log₁₀ ADU · Raw frame")


def test_each_exposure_of_a_raw_file_has_its_darks(tmp_path: Path, rng: np.random.Generator, qtbot: QtBot) -> None:
    """One exposure of the first point is missing: which exposure a frame is does not follow from its number."""
    path = tmp_path / "raw.cxi"
    raw = rng.integers(1000, 3000, (5, 20, 24)).astype(np.uint16)
    darks = np.repeat(np.array([500, 700] * 2, np.uint16), 480).reshape(4, 20, 24)
    translation_m = np.array([[0, 0], [1, 0], [1, 0], [2, 0], [2, 0]]) * 1e-6
    write_raw_cxi(path, raw, darks, translation_m, **EXPERIMENT, number_exposures=2, exposure_order="0.1,0.01")
    window = CxiWindow(path)
    qtbot.addWidget(window)
    assert window.mean_panel.title == "Mean of all frames of the first exposure"
    np.testing.assert_allclose(window.mean_panel.item.image, np.log10(raw[[0, 1, 3]].mean(axis=0)), rtol=1e-5)
    window.frame_panel.choice.setCurrentText("raw − dark")
    assert window.dark_panel is not None
    for index, pedestal in enumerate((500, 500, 700, 500, 700)):
        window.slider.setValue(index)
        np.testing.assert_allclose(window.frame_panel.item.image, np.log10(raw[index] - float(pedestal)), rtol=1e-6)
        assert window.dark_panel.title_label.text() == "Dark · 2 frames · 0 bad"
        np.testing.assert_allclose(window.dark_panel.item.image, pedestal)


def test_a_file_that_is_none_has_one_clear_error(tmp_path: Path, qtbot: QtBot) -> None:
    path = tmp_path / "text.cxi"
    path.write_text("not HDF5")
    with pytest.raises(CxiError, match=r"text\.cxi"):
        CxiWindow(path)
    with pytest.raises(CxiError):
        CxiWindow(tmp_path / "missing.cxi")


def test_screenshot_and_close(window: CxiWindow, tmp_path: Path) -> None:
    window.save_screenshot(tmp_path / "cxi.png")
    assert QtGui.QImage(str(tmp_path / "cxi.png")).width() == window.width() <= 1366
    bars = [bar for bar in window.docks.findChildren(QtWidgets.QTabBar) if bar.count() > 1 and bar.isVisible()]
    counts = sorted(bar.count() for bar in bars)
    assert counts == [2, 3, 3, 3, 4], "tabs of earlier arrangements would lie across the title of the object"
    window.close()
    window.show_frame(3)
    assert "cannot be read" in window.status.text()


def test_ctrl_c_closes_a_window_that_is_idle(
    clean_file: Path, qtbot: QtBot, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        (shown,) = [w for w in QtWidgets.QApplication.topLevelWidgets() if isinstance(w, CxiWindow) and w.isVisible()]
        shown.destroyed.connect(lambda: gone.append(shown))
        threading.Timer(0.1, signal.raise_signal, [signal.SIGINT]).start()  # while Qt waits, and no Python runs

    gone: list[CxiWindow] = []
    QtCore.QTimer.singleShot(0, interrupt)
    assert main(["view", str(clean_file)]) == 0
    assert len(gone) == 1 and signal.getsignal(signal.SIGINT) is before
    assert "Traceback" not in capsys.readouterr().err


def test_a_line_profile(window: CxiWindow, picture: np.ndarray, qtbot: QtBot) -> None:
    with qtbot.waitActive(window):
        window.show()
        window.activateWindow()
    amplitude, profile = window.panels["Object amplitude"], window.profile
    assert isinstance(amplitude, ImagePanel)
    y = -2 - 0.25 + 10.5 * 0.025  # the middle of row 10
    profile.draw_on(amplitude, [(1 - 0.375 + 0.0125, y), (1 + 0.375 - 0.0125, y)])
    distance, values = profile.curve.getData()
    np.testing.assert_allclose(values, np.abs(picture[10]), rtol=1e-5)
    np.testing.assert_allclose(distance, np.arange(30) * 0.025, atol=1e-9)
    qtbot.keyClick(window, QtCore.Qt.Key.Key_L)
    assert profile.is_on(window.panels["Object phase"])  # type: ignore[arg-type]
    qtbot.keyClick(window, QtCore.Qt.Key.Key_L)
    assert profile.curve.getData()[0] is None


def test_corrected_positions_are_arrows(tmp_path: Path, rng: np.random.Generator, qtbot: QtBot) -> None:
    path = tmp_path / "refined.cxi"
    told_m = 1e-6 * np.array([[0, 0], [1, 0], [0, 1], [1, 1]], float)
    moved_m = told_m + 1e-9 * np.array([[6, 8], [0, 0], [np.nan, np.nan], [-3, 4]])
    with CxiFile.create(path, **EXPERIMENT, frame_shape=(FRAME_PX, FRAME_PX)) as cxi:
        cxi.append(np.ones((4, FRAME_PX, FRAME_PX), np.float32), told_m)
        image = np.ones((20, 20), np.complex64)
        cxi.write_image(image, np.ones((1, FRAME_PX, FRAME_PX), np.complex64), PIXEL_M, translation_m=moved_m)
    window = CxiWindow(path)
    qtbot.addWidget(window)
    assert window.positions.title_label.text() == "Positions · moved 5 nm (≤ 10 nm) · arrows × 50"
    x, y = window.positions.arrows.getData()
    assert len(x) == 6 * 3, "three strokes for each known frame"
    assert (x[1] - x[0], y[1] - y[0]) == pytest.approx((0.3, 0.4))
    window.close()


def test_compare_with_another_file(tmp_path: Path, rng: np.random.Generator, qtbot: QtBot) -> None:
    def write(path: Path, image: np.ndarray, pixel_m: float = PIXEL_M) -> Path:
        with CxiFile.create(path, **EXPERIMENT, frame_shape=(FRAME_PX, FRAME_PX)) as cxi:
            cxi.append(np.ones((1, FRAME_PX, FRAME_PX), np.float32), np.zeros((1, 2)))
            cxi.write_image(image, np.ones((1, FRAME_PX, FRAME_PX), np.complex64), pixel_m)
        return path

    image = (rng.random((64, 64)) + 0.5).astype(np.complex64)
    first = write(tmp_path / "a.cxi", image)
    noise = 0.05 * rng.normal(size=image.shape)
    second = write(tmp_path / "b.cxi", (1j * (image + noise)).astype(np.complex64))
    opened = CxiWindow(first)
    qtbot.addWidget(opened)
    compared = opened.compared
    opened.compare(second)
    _, correlation = compared.frc.curve.getData()
    assert 0.9 < correlation.mean() < 1
    assert "half period" in compared.frc.title_label.text()
    shown = compared.difference.item.image
    assert np.nanmedian(shown) < 0.1
    rect = compared.difference.item.mapRectToView(compared.difference.item.boundingRect())
    half_um = (64 / 2 - 10) * 0.025  # without the rim that is not compared
    assert [rect.left(), rect.right(), rect.top(), rect.bottom()] == pytest.approx([-half_um, half_um] * 2)
    compared.difference.choice.setCurrentText("amplitude")
    assert compared.difference.bar.levels()[0] == -compared.difference.bar.levels()[1]
    assert abs(np.nanmean(compared.difference.item.image)) < 0.02
    compared.difference.choice.setCurrentText("phase")
    assert np.nanstd(compared.difference.item.image) < 0.1
    again = opened.reload()
    qtbot.addWidget(again)
    assert again.compared.other.title_label.text() == compared.other.title_label.text(), "it is compared as before"
    assert compared.difference.bar.axis.labelText.startswith("phase (rad)")
    compared.correlation.choice.setCurrentText("amplitude")
    here, there = compared.correlation.values()
    assert len(here) == 44 * 44
    assert compared.correlation.correlation == pytest.approx(np.corrcoef(here, there)[0, 1])
    assert f"r {compared.correlation.correlation:.3f} over 1936 pixels" in compared.correlation.title_label.text()
    assert compared.correlation.correlation > 0.95
    counts = 10 ** compared.correlation.item.image[np.isfinite(compared.correlation.item.image)]
    assert 0.97 * 1936 < counts.sum() <= 1936
    np.testing.assert_allclose(compared.other.item.image.shape, (64, 64))
    assert compared.other.title_label.text().endswith("b.cxi")
    for choice in ("phase", "amplitude"):
        for panel in (opened.image_panels[0], compared.other):
            panel.choice.setCurrentText(choice)  # type: ignore[attr-defined]
        assert compared.other.bar.levels() == opened.image_panels[0].bar.levels(), "a colour is one value in both"
        assert compared.other.item.levels.tolist() == list(compared.other.bar.levels())
    opened.show()
    phase, other = opened.image_panels[0], compared.other
    before = phase.view.viewRange()
    assert before[0][1] - before[0][0] < 4  # the object fills its panel, beside the other one
    phase.view.setRange(QtCore.QRectF(-0.3, -0.3, 0.6, 0.6), padding=0)
    phase.view.sigRangeChangedManually.emit([True, True])
    (x0, x1), (y0, y1) = other.view.viewRange()
    assert (x0 + x1) / 2 == pytest.approx(0, abs=0.01) and min(x1 - x0, y1 - y0) == pytest.approx(0.6, rel=0.7)
    with pytest.raises(CxiError, match="pixels of 25 and 30 nm"):
        opened.compare(write(tmp_path / "c.cxi", image, 30e-9))
    small = CxiWindow(write(tmp_path / "d.cxi", image[:18, :18]))
    qtbot.addWidget(small)
    with pytest.raises(CxiError, match="cannot be compared"):
        small.compare(first)
    opened.close()


def test_export(window: CxiWindow, picture: np.ndarray, tmp_path: Path) -> None:
    window.show()
    panel, out = window.panels["Object amplitude"], tmp_path / "out"
    export_panel(out.with_suffix(".csv"), window.errors)
    assert out.with_suffix(".csv").read_text().splitlines() == ["pass,error metric", "1.0,0.5", "2.0,0.3"]
    export_panel(out.with_suffix(".npy"), panel)
    np.testing.assert_allclose(np.load(out.with_suffix(".npy")), np.abs(picture[4:]))
    export_panel(out.with_suffix(".tif"), panel)
    with Image.open(out.with_suffix(".tif")) as image:  # on the stage, row 0 has the largest y
        np.testing.assert_allclose(np.asarray(image)[::-1], np.abs(picture[4:]), rtol=1e-6)
    export_panel(out.with_suffix(".png"), panel)
    with Image.open(out.with_suffix(".png")) as image:
        assert image.width == 2 * panel.graphics.width()
        assert len(image.convert("RGB").getcolors(2**24)) > 50
    # what is wrong is told
    with pytest.raises(ValueError, match=r"expected a name that ends in .png, .tif, .npy, .csv"):
        export_panel(tmp_path / "out.jpg", window.errors)
    with pytest.raises(ValueError, match="Error shows no image"):
        export_panel(tmp_path / "out.npy", window.errors)
    with pytest.raises(ValueError, match="FRC shows no curves"):
        export_panel(tmp_path / "out.csv", window.compared.frc)
    with pytest.raises(OSError, match="cannot write"):
        export_panel(tmp_path / "missing" / "out.png", window.errors)


def test_the_menu_asks_for_files(
    window: CxiWindow, clean_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a panel
    chosen = str(tmp_path / "curve"), EXPORTS[".csv"]
    monkeypatch.setattr(QtWidgets.QFileDialog, "getSaveFileName", lambda *_: chosen)
    window._ask_and_export(window.errors)
    assert (tmp_path / "curve.csv").exists()
    window._ask_and_export(window.compared.frc)
    assert "no curves" in window.status.text()
    monkeypatch.setattr(QtWidgets.QFileDialog, "getOpenFileName", lambda *_: (str(tmp_path / "none.cxi"), ""))
    window._ask_and_compare()
    assert "no such file" in window.status.text()
    # the whole file
    out = tmp_path / "export.cxi"
    monkeypatch.setattr(QtWidgets.QFileDialog, "getSaveFileName", lambda *_: (str(out), ""))
    window._ask_and_export_cxi()
    assert validate(out) == []
    with read_cxi(out) as copy, read_cxi(clean_file) as data:
        assert copy.frames is not None and data.frames is not None
        np.testing.assert_array_equal(copy.frames[:], data.frames[:])
        np.testing.assert_array_equal(copy.translation_m, data.translation_m)
        np.testing.assert_array_equal(copy.mask, data.mask)
        before, after = data.images[-1], copy.images[-1]
        np.testing.assert_array_equal(after.object, before.object)
        np.testing.assert_array_equal(after.probe, before.probe)
        assert after.errors.tolist() == before.errors.tolist() and after.center_m == pytest.approx(before.center_m)
    monkeypatch.setattr(QtWidgets.QFileDialog, "getSaveFileName", lambda *_: (str(clean_file), ""))
    window._ask_and_export_cxi()
    assert "is the file that is read" in window.status.text()


def test_low_resolution_with_its_points_and_the_fit(window: CxiWindow, frames: np.ndarray, qtbot: QtBot) -> None:
    low = window.low_resolution
    window.show()
    qtbot.waitUntil(lambda: low.item.image is not None, timeout=20_000)
    assert len(low.points.getData()[0]) == COUNT
    low.choice.setCurrentText("dark field")
    assert low.bar.axis.labelText == "photons"
    low.frame_clicked.emit(17, False)
    assert window.slider.value() == 16
    # the fit
    assert window.fit.item.image is None  # nobody looks at it
    window.docks.show_dock("Fit")
    qtbot.waitUntil(lambda: window.fit.item.image is not None, timeout=10_000)
    window.slider.setValue(4)
    assert window.fit.title_label.text().startswith("Fit · frame 5 · R ")
    window.fit.choice.setCurrentText("data")
    shown, good = window.fit.item.image, np.arange(FRAME_PX) != 2
    np.testing.assert_allclose(shown[:, good], np.log10(np.maximum(frames[4], 0.1))[:, good], rtol=1e-5)


def test_the_picture_of_a_second_engine_is_the_other_object(
    tmp_path: Path, rng: np.random.Generator, qtbot: QtBot
) -> None:
    path, probe = tmp_path / "two.cxi", np.ones((1, FRAME_PX, FRAME_PX), np.complex64)
    image = (rng.random((64, 64)) + 0.5).astype(np.complex64)
    with CxiFile.create(path, **EXPERIMENT, frame_shape=(FRAME_PX, FRAME_PX)) as cxi:
        cxi.append(np.ones((3, FRAME_PX, FRAME_PX), np.float32), np.zeros((3, 2)))
        cxi.write_image(image, probe, PIXEL_M)
        cxi.write_image(image[:40], probe, PIXEL_M, {"num_frames": 2}, [0.25], second_engine="rpie:9")
    window = CxiWindow(path)
    qtbot.addWidget(window)
    assert window.image_panels[0].item.image.shape == (64, 64)  # type: ignore[attr-defined]
    assert window.compared.other.item.image.shape == (40, 64)
    assert window.compared.other.title_label.text().endswith("rpie:9 · R 0.250 · 2 frames")
    assert "rpie:9" in window.compared.difference.title_label.text()
    assert window.compared.frc.curve.getData()[0] is None, "it would tell no resolution: both are of the same frames"
    again = window.reload()
    qtbot.addWidget(again)
    assert again.compared.other.title_label.text() == window.compared.other.title_label.text()
    with CxiFile.create(tmp_path / "a.cxi", **EXPERIMENT, frame_shape=(FRAME_PX, FRAME_PX)) as cxi:
        cxi.append(np.ones((1, FRAME_PX, FRAME_PX), np.float32), np.zeros((1, 2)))
        cxi.write_image(image, probe, PIXEL_M)
    again.compare(tmp_path / "a.cxi")
    assert again.compared.other.title_label.text().endswith("a.cxi")
    again.close()


def test_a_file_whose_pixels_are_not_square(tmp_path: Path, frames: np.ndarray, qtbot: QtBot) -> None:
    path, probe = tmp_path / "flat.cxi", np.ones((FRAME_PX, FRAME_PX), np.complex64)
    with CxiFile.create(path, **EXPERIMENT | {"pixel_size_m": (240e-6, 120e-6)}, frame_shape=frames.shape[1:]) as cxi:
        cxi.append(frames, np.zeros((COUNT, 2)))
        cxi.write_image(np.ones((20, 20), np.complex64), probe, PIXEL_M)
    window = CxiWindow(path)
    qtbot.addWidget(window)
    window.show()
    window.docks.show_dock("Fit")
    qtbot.waitUntil(lambda: "expected square ones" in window.fit.title_label.text(), timeout=20_000)
    assert "12 × 12 pixels of 120 × 240 µm" in window.status.text()


def read_again(window: CxiWindow) -> None:
    """Do what F5 does; shortcuts need a window that a desktop has made the active one."""
    (action,) = (each for each in window.findChildren(QtGui.QAction) if each.shortcut() == QtGui.QKeySequence("F5"))
    action.trigger()


def test_a_file_that_has_grown_is_read_again(window: CxiWindow, clean_file: Path, qtbot: QtBot) -> None:
    """The window that takes the place shows the same, and follows the last frame."""
    window.show()
    window.slider.setValue(COUNT - 1)
    window.panels["Object phase"].choice.setCurrentText("amplitude")
    grown = clean_file.with_name("grown.cxi")
    with read_cxi(clean_file) as cxi:
        frames, places = cxi.frames[:], cxi.translation_m
    with CxiFile.create(grown, **EXPERIMENT, frame_shape=frames.shape[1:]) as cxi:
        cxi.append(np.concatenate([frames, frames[:5]]), np.concatenate([places, places[:5]]))
        cxi.write_image(np.ones((20, 30), np.complex64), np.ones((1, FRAME_PX, FRAME_PX), np.complex64), PIXEL_M)
    grown.replace(clean_file)
    before = set(QtWidgets.QApplication.topLevelWidgets())
    read_again(window)
    (other,) = [new for new in set(QtWidgets.QApplication.topLevelWidgets()) - before if isinstance(new, CxiWindow)]
    qtbot.addWidget(other)
    assert other.isVisible() and not window.isVisible()
    assert other.status.text().startswith(f"frame {COUNT + 5} of {COUNT + 5} ")
    assert other.panels["Object phase"].choice.currentText() == "amplitude"


def test_a_file_that_cannot_be_read_again_leaves_the_window(window: CxiWindow, clean_file: Path) -> None:
    window.show()
    clean_file.unlink()
    clean_file.write_bytes(b"no HDF5 file any more")
    read_again(window)
    assert window.isVisible()
    assert clean_file.name in window.status.text()
    window.slider.setValue(3)
    assert window.status.text().startswith("frame 4 of")
