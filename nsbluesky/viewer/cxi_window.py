"""CxiWindow: what is in a CXI file; frames, where they were taken, and the newest picture."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.live_state import Frame, LiveState, LowResolution, Reconstruction
from nsbluesky.callbacks.news import number_text, numbered
from nsbluesky.cxi import CxiError, CxiImage, read_cxi
from nsbluesky.cxi.compare import Comparison, compare_images
from nsbluesky.cxi.export import export_cxi
from nsbluesky.viewer.comparison_panels import CorrelationPanel, DifferencePanel
from nsbluesky.viewer.display import log10_image, log10_range
from nsbluesky.viewer.docks import DockArea
from nsbluesky.viewer.export import EXPORTS, export_panel
from nsbluesky.viewer.file_panels import ErrorPanel, FrcPanel, HistogramPanel, PositionsPanel, ProfilePanel
from nsbluesky.viewer.file_state import (
    MAX_MEAN_FRAMES,
    Background,
    RawFrames,
    dark_statistics,
    exposures_of,
    fit_of_frame,
    frames_of,
    low_resolution_of,
    mean_frame,
    reconstruction_of,
    state_of,
)
from nsbluesky.viewer.health_bar import ERROR_STYLE
from nsbluesky.viewer.image_panel import ImagePanel
from nsbluesky.viewer.keys import show_keys
from nsbluesky.viewer.panels import (
    CleanPanel,
    DarkPanel,
    FitPanel,
    LivePanel,
    LowResolutionPanel,
    ObjectPanel,
    ProbePanel,
    RawPanel,
)
from nsbluesky.viewer.panels.base import pixel_extent
from nsbluesky.viewer.pictures import save_window_png
from nsbluesky.viewer.plot_panel import Panel
from nsbluesky.viewer.preferences import apply_theme, preferences, theme_of
from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets, Signal
from nsbluesky.viewer.reprocess_panel import RawSource, ReprocessPanel, told_settings

__all__ = ["CxiWindow"]

SHORTCUTS = (
    ("← →", "the frame before and after"),
    ("Page Up, Page Down", "a twentieth of the frames back and on"),
    ("Home, End", "first and last frame"),
    ("L", "line profile on the object"),
    ("Shift+L", "line profile on the frame"),
    ("click on a point", "its frame"),
    ("Ctrl+D", "compare with another file"),
    ("Ctrl+R", "reprocess with other settings"),
    ("F5", "read the file again, as where it grows"),
    ("Ctrl+S", "save a picture of the window"),
    ("Ctrl+0", "panels where they were at first"),
    ("Ctrl+Q", "close"),
    ("F1", "this list"),
)


_Action = QtWidgets.QAbstractSlider.SliderAction
STEPS: dict[int, _Action] = {
    QtCore.Qt.Key.Key_Left: _Action.SliderSingleStepSub,
    QtCore.Qt.Key.Key_Right: _Action.SliderSingleStepAdd,
    QtCore.Qt.Key.Key_PageUp: _Action.SliderPageStepSub,
    QtCore.Qt.Key.Key_PageDown: _Action.SliderPageStepAdd,
    QtCore.Qt.Key.Key_Home: _Action.SliderToMinimum,
    QtCore.Qt.Key.Key_End: _Action.SliderToMaximum,
}
"""What keys do with the slider."""
KEYPAD = QtCore.Qt.KeyboardModifier.KeypadModifier

_successors: set[CxiWindow] = set()
"""Windows that nobody else holds: those that took the place of another."""


class CxiWindow(QtWidgets.QMainWindow):
    """A window on a CXI file, clean or raw.

    Arrow keys, Page Up and Page Down, Home and End go through the frames.

    Parameters
    ----------
    path : path
    raw : RawFrames, optional
        The raw frames that the clean ones of the file were made of.
    raw_source : RawSource, optional
        Where they are, for cleaning them again.

    Raises
    ------
    CxiError
        If the file cannot be read; the message is for people.
    """

    _imaged = Signal(object)

    def __init__(self, path: str | Path, raw: RawFrames | None = None, raw_source: RawSource | None = None) -> None:
        super().__init__()
        self.data = read_cxi(path)
        self._raw = raw
        self._raw_source = raw_source
        try:
            self._frames, self._state = frames_of(self.data), state_of(self.data)
            self._exposures = exposures_of(self.data)
            self._mean, mean_title = mean_frame(self.data, self._frames)
            self._images, second = self.data.images, self.data.second_image
        except BaseException:
            self.data.close()
            raise
        self._preferences = preferences()
        apply_theme(theme_of(self._preferences))
        is_clean = self.data.frames is not None
        self.frame_panel: CleanPanel | RawPanel = CleanPanel() if is_clean else RawPanel()
        self.raw_panel = RawPanel() if raw is not None else None
        self.mean_panel = ImagePanel(mean_title, "column (px)", "row (px)", row_0_on_top=True)
        if raw is not None and self._state.dark is None:
            with contextlib.suppress(OSError, ValueError):  # the panel of the raw frames tells that they are gone
                found = dark_statistics(raw.darks(MAX_MEAN_FRAMES))
                self._state = replace(self._state, darks={} if found is None else {0: found})
        self.dark_panel = DarkPanel() if self._state.dark is not None else None
        self.mean_panel.graphics.setToolTip("mean of frames, logarithmic; masked pixels grey")
        corrected_m = self._images[-1].translation_m if self._images else None
        self.positions = PositionsPanel(self.data.translation_m, corrected_m)
        self.low_resolution, self.fit = LowResolutionPanel(), FitPanel()
        self.fit.number.hide()  # the slider chooses
        self.low_resolution.pick.hide()
        self.low_resolution.set_subtitle("imaging …")
        self.errors, self.frc = ErrorPanel(), FrcPanel()
        self.histogram, self.profile = HistogramPanel(), ProfilePanel()
        self.difference, self.correlation = DifferencePanel(), CorrelationPanel()
        self.other = ObjectPanel("phase")
        self.other.set_subtitle("compare with another file (Ctrl+D)")
        self.image_panels: list[LivePanel] = [ObjectPanel("phase"), ObjectPanel("amplitude"), ProbePanel()]
        self._other_state, self._other_name = LiveState(), ""
        self._other_path: Path | None = None
        newest = self._images[-1] if self._images else None
        self.reprocess = ReprocessPanel(
            self.data.path if is_clean else None,
            raw_source if is_clean else RawSource((str(self.data.path),)),
            told_settings(newest.parameters if newest is not None else {}),
            self.data.illumination is not None,
        )
        self.slider = self._make_slider()
        self.status = QtWidgets.QLabel()
        self.status.setWordWrap(True)
        self.docks = DockArea()
        self._lay_out()
        self._add_menus()
        self._connect()
        self._background = Background(partial(low_resolution_of, self.data.path), self._imaged.emit)
        self._draw_file()
        if second is not None:
            self._show_second_engine(second)
        self.show_frame(0)
        self.slider.setFocus()

    def _make_slider(self) -> QtWidgets.QSlider:
        slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        slider.setRange(0, max(len(self._frames) - 1, 0))
        slider.setPageStep(max(len(self._frames) // 20, 1))
        slider.setToolTip("frame; arrow keys, Page Up and Page Down, Home and End")
        return slider

    def _connect(self) -> None:
        """Let the window follow the slider and what is chosen, clicked and zoomed in its panels."""
        self.slider.valueChanged.connect(self.show_frame)
        for panel in (self.frame_panel, self.raw_panel):
            if isinstance(panel, RawPanel):
                panel.choice.currentIndexChanged.connect(self._show_again)
        self.fit.choice.currentIndexChanged.connect(self._show_again)
        for chooser in (*self.image_panels[:2], *([self.dark_panel] if self.dark_panel else [])):
            chooser.choice.currentIndexChanged.connect(self._draw_images)  # type: ignore[attr-defined]
        self.low_resolution.choice.currentIndexChanged.connect(self._draw_low_resolution)
        self.low_resolution.frame_clicked.connect(self._go_to)
        self.other.choice.currentIndexChanged.connect(self._draw_other)
        self.docks.docks["Fit"].visibilityChanged.connect(self._show_again)
        phase = self.image_panels[0]
        assert isinstance(phase, ObjectPanel)
        for zoomed, follower in ((phase, self.other), (self.other, phase)):
            zoomed.view.sigRangeChangedManually.connect(partial(self._follow, zoomed, follower))
        self.reprocess.finished.connect(lambda path: self._try(lambda: self.compare(path)))
        self._imaged.connect(self._take_low_resolution)

    @property
    def panels(self) -> dict[str, Panel]:
        """The panels by what they are called in the menus."""
        phase, amplitude, probe = self.image_panels
        panels: dict[str, Panel] = {
            "Frame": self.frame_panel,
            "Fit": self.fit,
            "Mean frame": self.mean_panel,
            "Object phase": phase,
            "Object amplitude": amplitude,
            "Probe": probe,
            "Other object": self.other,
            "Difference": self.difference,
            "Positions": self.positions,
            "Low resolution": self.low_resolution,
            "Error": self.errors,
            "FRC": self.frc,
            "Correlation": self.correlation,
            "Histogram": self.histogram,
            "Line profile": self.profile,
        }
        more = {"Raw frame": self.raw_panel, "Dark": self.dark_panel}
        return panels | {name: panel for name, panel in more.items() if panel is not None}

    def show_frame(self, index: int) -> None:
        """Show one frame, counted from 0, and where it was taken."""
        self.status.setStyleSheet("")
        if not len(self._frames):
            self.status.setText(f"{self._about()}   ·   no frames")
            self.frame_panel.set_subtitle("none in this file")
            return
        try:
            image = self._frames[index]
        except CxiError as error:
            self.status.setText(f"frame {index + 1} cannot be read: {error}")
            return
        self._show_stages(index, image)
        self.positions.show_point(index)
        self.profile.refresh()
        self._count_values()
        x, y = self.data.translation_m[index, :2] * 1e6
        where = f"frame {index + 1} of {len(self._frames)} at x {x:.3f} µm, y {y:.3f} µm"
        self.status.setText(f"{where}   ·   {self._about()}")

    def _show_stages(self, index: int, image: npt.NDArray[np.generic]) -> None:
        """Show a frame, the raw one that it was made of, and its fit where that can be seen."""
        seq_num = int(self.data.seq_nums[index])
        frame, raw, fit = Frame(image, seq_num, int(self._exposures[index])), None, None
        why_none = f"frame {seq_num} was not recorded"
        if self._raw is not None:
            try:
                recorded = self._raw.frame(seq_num)
                raw = None if recorded is None else Frame(recorded, seq_num)
            except (OSError, ValueError) as error:  # as where raw files are removed, and the clean one is kept
                why_none = str(error)
        picture = self._state.reconstruction
        why_no_fit = "no reconstruction in this file" if picture is None else ""
        if self.data.frames is not None and picture is not None and self.docks.in_front("Fit"):
            try:
                fit = fit_of_frame(self.data, picture, index, image.astype(np.float32))
                why_no_fit = "the probe is not of the frames' size"
            except CxiError as error:  # as where pixels are not square
                why_no_fit = str(error)
        darks = dict(sorted(self._state.darks.items(), key=lambda item: item[0] == frame.exposure))  # its own last
        shown = replace(self._state, darks=darks, raw=raw if self._raw is not None else frame, clean=frame, fit=fit)
        if self.dark_panel is not None:
            self.dark_panel.show_state(shown)
        self.frame_panel.show_state(shown)
        if self.raw_panel is not None:
            self.raw_panel.show_state(shown)
            if raw is None:
                self.raw_panel.set_subtitle(why_none)
        self.fit.show_state(shown)
        if fit is None and why_no_fit:
            self.fit.set_subtitle(why_no_fit)

    def compare(self, path: str | Path) -> None:
        """Draw FRC and difference of this file's last picture and another file's.

        Raises
        ------
        CxiError
            If one of them has no picture, or they cannot be compared.
        """
        with read_cxi(path) as other:
            images = other.images
            found = reconstruction_of(other, images[-1]) if images else None
        if not self._images or not images:
            without = self.data.path if not self._images else path
            raise CxiError(
                f"{without} has no reconstruction to compare: expected one in both files; reconstruct it first"
            )
        compared = compare_images(self._images[-1], images[-1])
        self.frc.show_frc(compared.frc, compared.contrast_correlation)
        self._other_path = Path(path)
        self._show_other(found, compared, self._other_path.name)
        self.docks.show_dock("FRC")
        self.docks.show_dock("Other object")

    def _show_second_engine(self, image: CxiImage) -> None:
        """Show the picture by a second engine as the other object, until another file is chosen.

        Their FRC is not drawn: it would tell no resolution, as both are of the same frames.
        """
        found = reconstruction_of(self.data, image)
        frames = numbered(int(image.parameters.get("num_frames", found.num_frames)), "frame")
        name = f"{image.second_engine} · R {number_text(found.r_factor)} · {frames}"
        compared = None
        with contextlib.suppress(CxiError):  # too small to be compared: it is shown nevertheless
            compared = compare_images(self._images[-1], image) if self._images else None
        self._show_other(found, compared, name)

    def _show_other(self, found: Reconstruction | None, compared: Comparison | None, name: str) -> None:
        self._other_state, self._other_name = LiveState(reconstruction=found), name
        if compared is not None:
            self.difference.show_comparison(compared, name)
            self.correlation.show_comparison(compared)
        self._draw_other()

    def reload(self) -> CxiWindow:
        """Read the file again, as it is now, in a window that takes the place of this one and shows the same.

        That is returned; where this one shows the last frame, it does.

        Raises
        ------
        CxiError
            If the file cannot be read now, or is being reprocessed; this window stays.
        """
        if self.reprocess.running:
            raise CxiError(f"{self.data.path.name} is being reprocessed: read it again when that has ended")
        successor = type(self)(self.data.path, self._raw, self._raw_source)
        _successors.add(successor)
        successor.setGeometry(self.geometry())
        successor.docks.restore(self.docks.save())
        for name, panel in self.panels.items():
            self._choose_alike(panel, successor.panels.get(name))
        is_last = self.slider.value() == self.slider.maximum()
        successor.slider.setValue(successor.slider.maximum() if is_last else self.slider.value())
        if (compared := self._other_path) is not None:
            successor._try(lambda: successor.compare(compared))
        successor.show()
        self.close()
        return successor

    @staticmethod
    def _choose_alike(panel: Panel, other: Panel | None) -> None:
        if other is not None:
            choices = (each.header.findChildren(QtWidgets.QComboBox) for each in (panel, other))
            for chosen, choice in zip(*choices, strict=False):
                choice.setCurrentText(chosen.currentText())

    def save_screenshot(self, path: str | Path) -> None:
        """Write the window as it is now to a PNG file; works without a screen too.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        if not self.isVisible():
            self.show()
        self.docks.settle()
        save_window_png(path, self)

    def keyPressEvent(self, event: QtGui.QKeyEvent) -> None:
        """Go through the frames, whichever panel was clicked last, by the keys that it has no use for."""
        step = STEPS.get(event.key()) if not event.modifiers() & ~KEYPAD else None
        if step is None:
            super().keyPressEvent(event)
        else:
            self.slider.triggerAction(step)

    def closeEvent(self, event: QtGui.QCloseEvent) -> None:
        """Close the file too, and remember where the panels are."""
        self._preferences.setValue("file/docks", self.docks.save())
        self._background.close()
        self.reprocess.close()
        self.data.close()
        _successors.discard(self)
        super().closeEvent(event)

    # ---- what is where

    def _lay_out(self) -> None:
        self.setWindowTitle(f"{self.data.path.name} · nsbluesky")
        places = {
            "Frame": "left top",
            "Raw frame": "left top",
            "Fit": "left top",
            "Mean frame": "left top",
            "Dark": "left top",
            "Positions": "left bottom",
            "Low resolution": "left bottom",
            "Other object": "right top",
            "Correlation": "right bottom",
            "Object phase": "center",
            "Line profile": "center bottom",
            "Histogram": "center bottom",
            "Object amplitude": "right top",
            "Probe": "right top",
            "Difference": "right top",
            "Error": "right bottom",
            "FRC": "right bottom",
        }
        for name, panel in self.panels.items():
            self.docks.add(name, name, panel, places[name], panel.header)
        self.docks.add("Reprocess", "Reprocess", self.reprocess, "left bottom")
        center = QtWidgets.QWidget()
        layout = QtWidgets.QVBoxLayout(center)
        layout.setContentsMargins(4, 2, 4, 2)
        layout.addWidget(self.docks, 1)
        layout.addWidget(self.slider)
        layout.addWidget(self.status)
        self.setCentralWidget(center)
        self.resize(1340, 720)
        self.docks.arrange()
        self.docks.restore(self._preferences.value("file/docks"))

    def _add_menus(self) -> None:
        file = self.menuBar().addMenu("&File")
        self._add_action(file, "&Compare with …", "Ctrl+D", self._ask_and_compare)
        self._add_action(file, "Read &again", "F5", lambda: self._try(self.reload))
        self._add_action(file, "&Reprocess", "Ctrl+R", partial(self.docks.show_dock, "Reprocess"))
        exports = file.addMenu("&Export")
        for name, panel in self.panels.items():
            self._add_action(exports, f"{name} …", "", partial(self._ask_and_export, panel))
        exports.addSeparator()
        self._add_action(exports, "Frames and object (CXI) …", "", self._ask_and_export_cxi)
        self._add_action(file, "&Picture of the window …", "Ctrl+S", self._ask_and_save)
        self._add_action(file, "&Quit", "Ctrl+Q", self.close)
        view = self.menuBar().addMenu("&View")
        for toggle in self.docks.toggle_actions():
            view.addAction(toggle)
        view.addSeparator()
        self._add_action(view, "&Line on the object", "L", partial(self._draw_line, "Object phase"))
        self._add_action(view, "Line on the &frame", "Shift+L", partial(self._draw_line, "Frame"))
        self._add_action(view, "Panels as at f&irst", "Ctrl+0", self.docks.arrange)
        about = self.menuBar().addMenu("&Help")
        self._add_action(about, "&Keys", "F1", lambda: show_keys(self, SHORTCUTS))

    def _add_action(self, menu: QtWidgets.QMenu, text: str, shortcut: str, slot: Callable[[], object]) -> None:
        action = menu.addAction(text)
        action.setShortcut(QtGui.QKeySequence(shortcut))
        action.triggered.connect(lambda *_: slot())

    def _draw_line(self, name: str) -> None:
        """Put the line onto a panel, or take it away."""
        panel = self.panels[name]
        assert isinstance(panel, ImagePanel)
        self.profile.draw_on(None if self.profile.is_on(panel) else panel)
        self.docks.show_dock("Line profile")

    def _ask_and_compare(self) -> None:
        path, _ = QtWidgets.QFileDialog.getOpenFileName(self, "Compare with", "", "CXI files (*.cxi)")
        if path:
            self._try(lambda: self.compare(path))

    def _ask_and_export(self, panel: Panel) -> None:
        name = f"{self.data.path.stem}-{panel.title.lower().replace(' ', '-')}"
        path, chosen = QtWidgets.QFileDialog.getSaveFileName(self, "Export", name, ";;".join(EXPORTS.values()))
        if not path:
            return
        suffix = next(suffix for suffix, text in EXPORTS.items() if text == chosen)
        path = path if Path(path).suffix.lower() in EXPORTS else path + suffix
        self._try(lambda: export_panel(path, panel))

    def _ask_and_export_cxi(self) -> None:
        name = f"{self.data.path.stem}-export.cxi"
        path, _ = QtWidgets.QFileDialog.getSaveFileName(self, "Export", name, "CXI files (*.cxi)")
        if path:
            self._try(lambda: export_cxi(path, self.data))

    def _ask_and_save(self) -> None:
        path, _ = QtWidgets.QFileDialog.getSaveFileName(self, "Save picture", "window.png", "PNG (*.png)")
        if path:
            self._try(lambda: self.save_screenshot(path))

    def _try(self, call: Callable[[], object]) -> None:
        """Do it, and tell in the status line what is wrong."""
        try:
            call()
        except (CxiError, OSError, ValueError) as error:
            self.status.setText(str(error))
            self.status.setStyleSheet(ERROR_STYLE)

    # ---- drawing

    def _draw_file(self) -> None:
        """Draw what does not depend on the frame."""
        floor = 0.01 if self.data.frames is not None else 1.0
        logarithm = log10_image(self._mean, floor)
        if self.data.frames is not None:
            logarithm = np.where(self.data.good, logarithm, np.float32(np.nan))
        span = log10_range(logarithm, floor, (1.0, 99.9))
        label = "photons" if self.data.frames is not None else "ADU"
        self.mean_panel.set_image(logarithm, pixel_extent(self._mean), span, colors="inferno", label=label, log=True)
        self.mean_panel.show_all()
        self._draw_images()
        self.errors.show_errors(self._images[-1].errors if self._images else np.empty(0))

    def _draw_images(self) -> None:
        for panel in (*self.image_panels, *([self.dark_panel] if self.dark_panel else [])):
            panel.show_state(self._state)
        if self._state.reconstruction is None:
            for panel in self.image_panels:
                panel.set_subtitle("none in this file")
        self._draw_other()
        self.profile.refresh()
        self._count_values()

    def _draw_other(self) -> None:
        """Draw the object that this one is compared with, in the same colours where it is the same quantity."""
        phase = self.image_panels[0]
        assert isinstance(phase, ObjectPanel)
        if self._other_state.reconstruction is not None:
            self.other.show_state(self._other_state)
            self.other.set_subtitle(self._other_name)
            self.other.use_colors_of(phase)

    def _show_again(self) -> None:
        self.show_frame(self.slider.value())

    def _follow(self, zoomed: ObjectPanel, follower: ObjectPanel, *_: object) -> None:
        """Let both objects show the same place."""
        if self._other_state.reconstruction is not None:
            follower.view.setRange(zoomed.view.viewRect(), padding=0)

    def _go_to(self, seq_num: int) -> None:
        """Show the frame whose point was clicked."""
        (index,) = np.flatnonzero(self.data.seq_nums == seq_num)[-1:]
        self.slider.setValue(int(index))

    def _take_low_resolution(self, future: Future[LowResolution | None]) -> None:
        """Take the images that were made in the background."""
        error = future.exception()
        if error is not None:
            self.low_resolution.set_subtitle(str(error))
        elif future.result() is None:
            self.low_resolution.set_subtitle("no frames" if self.data.frames is not None else "raw frames only")
        else:
            used = self.data.frame_weights > 0
            places, numbers = self.data.translation_m[used, :2], self.data.seq_nums[used]
            self._state = replace(self._state, low_resolution=future.result(), positions_m=places, seq_nums=numbers)
            self._draw_low_resolution()

    def _draw_low_resolution(self) -> None:
        if self._state.low_resolution is not None:
            self.low_resolution.show_state(self._state)

    def _count_values(self) -> None:
        """Show the histogram of the object, or of the frame where there is none."""
        phase = self.image_panels[0]
        assert isinstance(phase, ImagePanel)
        self.histogram.show_image(phase if self._state.reconstruction is not None else self.frame_panel)

    def _about(self) -> str:
        rows, columns = self.data.mask.shape
        height_um, width_um = (f"{1e6 * side_m:.4g}" for side_m in self.data.pixel_size_m)
        pixel = f"{width_um} µm" if width_um == height_um else f"{width_um} × {height_um} µm"
        return "   ·   ".join(
            [
                f"{self.data.energy_eV:.5g} eV",
                f"detector at {self.data.detector_distance_m * 1e3:.4g} mm",
                f"{columns} × {rows} pixels of {pixel}",
                f"{int((~self.data.good).sum())} masked",
                self._kind(),
            ]
        )

    def _kind(self) -> str:
        if self.data.frames is None:
            return "raw file"
        stage = self.data.parameters.get("stage")
        return "clean file" if stage is None else f"stage {stage} of the cleaning"
