"""CxiWindow: what is in a CXI file; frames, where they were taken, and the newest picture."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import numpy as np

from nsbluesky.callbacks.live_parts import LowResolution
from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.cxi import CxiError
from nsbluesky.cxi.export import export_cxi
from nsbluesky.viewer.background import Background
from nsbluesky.viewer.compared_object import ComparedObject
from nsbluesky.viewer.display import log10_image, log10_range
from nsbluesky.viewer.docks import DockArea
from nsbluesky.viewer.export import EXPORTS, export_panel
from nsbluesky.viewer.file_panels import ErrorPanel, HistogramPanel, PositionsPanel, ProfilePanel
from nsbluesky.viewer.file_state import RawFrames, low_resolution_of
from nsbluesky.viewer.frame_slider import FrameSlider
from nsbluesky.viewer.health_bar import ERROR_STYLE
from nsbluesky.viewer.image_panel import ImagePanel
from nsbluesky.viewer.keys import show_keys
from nsbluesky.viewer.menus import add_action
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
from nsbluesky.viewer.qt import QtGui, QtWidgets, Signal
from nsbluesky.viewer.reprocess_panel import RawSource, ReprocessPanel, told_settings
from nsbluesky.viewer.shown_file import ShownFile, ShownFrame

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

    Attributes
    ----------
    file : ShownFile
        What is shown of it.
    compared : ComparedObject
        Another reconstruction, and how alike the two are.

    Raises
    ------
    CxiError
        If the file cannot be read; the message is for people.
    """

    _imaged = Signal(object)

    def __init__(self, path: str | Path, raw: RawFrames | None = None, raw_source: RawSource | None = None) -> None:
        super().__init__()
        self.file = ShownFile(path, raw)
        self._raw, self._raw_source = raw, raw_source
        self._preferences = preferences()
        apply_theme(theme_of(self._preferences))
        self.frame_panel: CleanPanel | RawPanel = CleanPanel() if self.file.is_clean else RawPanel()
        self.raw_panel = RawPanel() if raw is not None else None
        self.mean_panel = ImagePanel(self.file.mean_title, "column (px)", "row (px)", row_0_on_top=True)
        self.mean_panel.graphics.setToolTip("mean of frames, logarithmic; masked pixels grey")
        self.dark_panel = DarkPanel() if self.file.state.dark is not None else None
        self.positions = PositionsPanel(self.file.data.translation_m, self.file.corrected_m)
        self.low_resolution, self.fit = LowResolutionPanel(), FitPanel()
        self.fit.number.hide()  # the slider chooses
        self.low_resolution.pick.hide()
        self.low_resolution.set_subtitle("imaging …")
        self._low_resolution_state: LiveState | None = None
        self.errors = ErrorPanel()
        self.histogram, self.profile = HistogramPanel(), ProfilePanel()
        self.phase = ObjectPanel("phase")
        self.image_panels: list[LivePanel] = [self.phase, ObjectPanel("amplitude"), ProbePanel()]
        self.compared = ComparedObject(self.file, self.phase)
        self.reprocess = self._make_reprocess()
        self.slider = FrameSlider(len(self.file.frames))
        self.status = QtWidgets.QLabel()
        self.status.setWordWrap(True)
        self.docks = DockArea()
        self._lay_out()
        self._add_menus()
        self._connect()
        self._background = Background(partial(low_resolution_of, self.file.data.path), self._imaged.emit)
        self._draw_file()
        self.compared.show_second_engine()
        self.show_frame(0)
        self.slider.setFocus()

    def _make_reprocess(self) -> ReprocessPanel:
        file = self.file
        return ReprocessPanel(
            file.data.path if file.is_clean else None,
            self._raw_source if file.is_clean else RawSource((str(file.data.path),)),
            told_settings(file.images[-1].parameters if file.images else {}),
            file.data.illumination is not None,
        )

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
        self.docks.docks["Fit"].visibilityChanged.connect(self._show_again)
        self.reprocess.finished.connect(lambda path: self._try(lambda: self.compare(path)))
        self._imaged.connect(self._take_low_resolution)

    @property
    def panels(self) -> dict[str, Panel]:
        """The panels by what they are called in the menus."""
        phase, amplitude, probe = self.image_panels
        compared = self.compared
        panels: dict[str, Panel] = {
            "Frame": self.frame_panel,
            "Fit": self.fit,
            "Mean frame": self.mean_panel,
            "Object phase": phase,
            "Object amplitude": amplitude,
            "Probe": probe,
            "Other object": compared.other,
            "Difference": compared.difference,
            "Positions": self.positions,
            "Low resolution": self.low_resolution,
            "Error": self.errors,
            "FRC": compared.frc,
            "Correlation": compared.correlation,
            "Histogram": self.histogram,
            "Line profile": self.profile,
        }
        more = {"Raw frame": self.raw_panel, "Dark": self.dark_panel}
        return panels | {name: panel for name, panel in more.items() if panel is not None}

    def show_frame(self, index: int) -> None:
        """Show one frame, counted from 0, and where it was taken."""
        self.status.setStyleSheet("")
        if not len(self.file.frames):
            self.status.setText(f"{self.file.about()}   ·   no frames")
            self.frame_panel.set_subtitle("none in this file")
            return
        try:
            shown = self.file.frame(index, with_fit=self.docks.in_front("Fit"))
        except CxiError as error:
            self.status.setText(f"frame {index + 1} cannot be read: {error}")
            return
        self._show_stages(shown)
        self.positions.show_point(index)
        self.profile.refresh()
        self._count_values()
        self.status.setText(f"{self.file.where(index)}   ·   {self.file.about()}")

    def _show_stages(self, shown: ShownFrame) -> None:
        """Show a frame, the raw one that it was made of, and its fit; where there is none, why."""
        if self.dark_panel is not None:
            self.dark_panel.show_state(shown.state)
        self.frame_panel.show_state(shown.state)
        if self.raw_panel is not None:
            self.raw_panel.show_state(shown.state)
            if shown.why_no_raw:
                self.raw_panel.set_subtitle(shown.why_no_raw)
        self.fit.show_state(shown.state)
        if shown.why_no_fit:
            self.fit.set_subtitle(shown.why_no_fit)

    def compare(self, path: str | Path) -> None:
        """Show the last picture of another file beside this one's, with FRC, difference and correlation.

        Raises
        ------
        CxiError
            If one of them has no picture, or they cannot be compared.
        """
        self.compared.compare(path)
        self.docks.show_dock("FRC")
        self.docks.show_dock("Other object")

    def reload(self) -> CxiWindow:
        """Read the file again, as it is now, in a window that takes the place of this one and shows the same.

        That is returned; where this one shows the last frame, it does.

        Raises
        ------
        CxiError
            If the file cannot be read now, or is being reprocessed; this window stays.
        """
        if self.reprocess.running:
            raise CxiError(f"{self.file.data.path.name} is being reprocessed: read it again when that has ended")
        successor = type(self)(self.file.data.path, self._raw, self._raw_source)
        _successors.add(successor)
        successor.setGeometry(self.geometry())
        successor.docks.restore(self.docks.save())
        for name, panel in self.panels.items():
            self._choose_alike(panel, successor.panels.get(name))
        successor.slider.setValue(successor.slider.maximum() if self.slider.is_at_end else self.slider.value())
        if (other := self.compared.path) is not None:
            successor._try(lambda: successor.compare(other))
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
        if not self.slider.take_key(event):
            super().keyPressEvent(event)

    def closeEvent(self, event: QtGui.QCloseEvent) -> None:
        """Close the file too, and remember where the panels are."""
        self._preferences.setValue("file/docks", self.docks.save())
        self._background.close()
        self.reprocess.close()
        self.file.close()
        _successors.discard(self)
        super().closeEvent(event)

    # ---- what is where

    def _lay_out(self) -> None:
        self.setWindowTitle(f"{self.file.data.path.name} · nsbluesky")
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
        add_action(file, "&Compare with …", "Ctrl+D", self._ask_and_compare)
        add_action(file, "Read &again", "F5", lambda: self._try(self.reload))
        add_action(file, "&Reprocess", "Ctrl+R", partial(self.docks.show_dock, "Reprocess"))
        exports = file.addMenu("&Export")
        for name, panel in self.panels.items():
            add_action(exports, f"{name} …", "", partial(self._ask_and_export, panel))
        exports.addSeparator()
        add_action(exports, "Frames and object (CXI) …", "", self._ask_and_export_cxi)
        add_action(file, "&Picture of the window …", "Ctrl+S", self._ask_and_save)
        add_action(file, "&Quit", "Ctrl+Q", self.close)
        view = self.menuBar().addMenu("&View")
        for toggle in self.docks.toggle_actions():
            view.addAction(toggle)
        view.addSeparator()
        add_action(view, "&Line on the object", "L", partial(self._draw_line, "Object phase"))
        add_action(view, "Line on the &frame", "Shift+L", partial(self._draw_line, "Frame"))
        add_action(view, "Panels as at f&irst", "Ctrl+0", self.docks.arrange)
        about = self.menuBar().addMenu("&Help")
        add_action(about, "&Keys", "F1", lambda: show_keys(self, SHORTCUTS))

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
        name = f"{self.file.data.path.stem}-{panel.title.lower().replace(' ', '-')}"
        path, chosen = QtWidgets.QFileDialog.getSaveFileName(self, "Export", name, ";;".join(EXPORTS.values()))
        if not path:
            return
        suffix = next(suffix for suffix, text in EXPORTS.items() if text == chosen)
        path = path if Path(path).suffix.lower() in EXPORTS else path + suffix
        self._try(lambda: export_panel(path, panel))

    def _ask_and_export_cxi(self) -> None:
        name = f"{self.file.data.path.stem}-export.cxi"
        path, _ = QtWidgets.QFileDialog.getSaveFileName(self, "Export", name, "CXI files (*.cxi)")
        if path:
            self._try(lambda: export_cxi(path, self.file.data))

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
        file = self.file
        floor, label = (0.01, "photons") if file.is_clean else (1.0, "ADU")
        logarithm = log10_image(file.mean, floor)
        if file.is_clean:
            logarithm = np.where(file.data.good, logarithm, np.float32(np.nan))
        span = log10_range(logarithm, floor, (1.0, 99.9))
        self.mean_panel.set_image(logarithm, pixel_extent(file.mean), span, colors="inferno", label=label, log=True)
        self.mean_panel.show_all()
        self._draw_images()
        self.errors.show_errors(file.images[-1].errors if file.images else np.empty(0))

    def _draw_images(self) -> None:
        for panel in (*self.image_panels, *([self.dark_panel] if self.dark_panel else [])):
            panel.show_state(self.file.state)
        if self.file.state.reconstruction is None:
            for panel in self.image_panels:
                panel.set_subtitle("none in this file")
        self.compared.draw()
        self.profile.refresh()
        self._count_values()

    def _show_again(self) -> None:
        self.show_frame(self.slider.value())

    def _go_to(self, seq_num: int) -> None:
        """Show the frame whose point was clicked."""
        (index,) = np.flatnonzero(self.file.data.seq_nums == seq_num)[-1:]
        self.slider.setValue(int(index))

    def _take_low_resolution(self, future: Future[LowResolution | None]) -> None:
        """Take the images that were made in the background."""
        error = future.exception()
        found = future.result() if error is None else None
        if found is not None:
            self._low_resolution_state = self.file.with_low_resolution(found)
            self._draw_low_resolution()
        elif error is not None:
            self.low_resolution.set_subtitle(str(error))
        else:
            self.low_resolution.set_subtitle("no frames" if self.file.is_clean else "raw frames only")

    def _draw_low_resolution(self) -> None:
        if self._low_resolution_state is not None:
            self.low_resolution.show_state(self._low_resolution_state)

    def _count_values(self) -> None:
        """Show the histogram of the object, or of the frame where there is none."""
        self.histogram.show_image(self.phase if self.file.state.reconstruction is not None else self.frame_panel)
