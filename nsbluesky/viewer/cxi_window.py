"""CxiWindow: what is in a CXI file; frames, where they were taken, and the newest picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.live_state import DarkStatistics, Detector, Frame, LiveState, Reconstruction
from nsbluesky.cxi import CxiData, CxiError, CxiImage, FrameStack, read_cxi
from nsbluesky.cxi.compare import compare_images
from nsbluesky.viewer.display import log10_image, robust_range
from nsbluesky.viewer.docks import DockArea
from nsbluesky.viewer.export import EXPORTS, export_panel
from nsbluesky.viewer.file_panels import ErrorPanel, FrcPanel, HistogramPanel, PositionsPanel, ProfilePanel
from nsbluesky.viewer.image_panel import ImagePanel, Panel
from nsbluesky.viewer.panels import CleanPanel, DarkPanel, LivePanel, ObjectPanel, ProbePanel, RawPanel
from nsbluesky.viewer.panels.base import pixel_extent
from nsbluesky.viewer.pictures import save_window_png
from nsbluesky.viewer.preferences import apply_theme, preferences, theme_of
from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets

__all__ = ["CxiWindow", "reconstruction_of"]

MAX_MEAN_FRAMES = 64
"""Frames, evenly spaced, that a mean is made of where the file holds none."""


def reconstruction_of(data: CxiData, image: CxiImage) -> Reconstruction:
    """Return a picture of a file as windows show it: on the stage, NaN where nothing was measured."""
    pixel_m = image.pixel_m
    if not np.isfinite(pixel_m):
        frame_px = data.mask.shape[-1]
        pixel_m = data.geometry().object_pixel_m(frame_px)
    measured = (image.mask == 0) & (image.object != 0)
    object = np.where(measured, image.object, np.complex64(complex(np.nan, np.nan)))
    half_x, half_y = 0.5 * pixel_m * object.shape[1], 0.5 * pixel_m * object.shape[0]
    x, y = image.center_m
    probe = image.probe
    if probe is None:
        probe = np.zeros((1, 1, 1), np.complex64) if data.illumination is None else data.illumination[None]
    return Reconstruction(
        object=object,
        probe=probe,
        pixel_size_m=pixel_m,
        extent_m=(x - half_x, x + half_x, y - half_y, y + half_y),
        r_factor=float(image.errors[-1]) if len(image.errors) else np.nan,
        num_frames=len(data.translation_m),
        num_passes=len(image.errors),
        coverage=np.nan,
        newest_age_s=np.nan,
        final=image.complete,
    )


class CxiWindow(QtWidgets.QMainWindow):
    """A window on a CXI file, clean or raw.

    Arrow keys, Page Up and Page Down, Home and End go through the frames.

    Parameters
    ----------
    path : path

    Raises
    ------
    CxiError
        If the file cannot be read; the message is for people.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.data = read_cxi(path)
        try:
            self._frames, self._state = _stack(self.data), _state(self.data)
            self._mean, mean_title = _mean_frame(self.data, self._frames)
            self._images = self.data.images
        except BaseException:
            self.data.close()
            raise
        self._preferences = preferences()
        apply_theme(theme_of(self._preferences))
        self.frame_panel: CleanPanel | RawPanel = CleanPanel() if self.data.frames is not None else RawPanel()
        self.mean_panel = ImagePanel(mean_title, "column (px)", "row (px)", row_0_on_top=True)
        self.dark_panel = DarkPanel() if self._state.dark is not None else None
        self.positions = PositionsPanel(self.data.translation_m)
        self.errors, self.frc = ErrorPanel(), FrcPanel()
        self.histogram, self.profile = HistogramPanel(), ProfilePanel()
        self.difference = ImagePanel("Difference", "column (px)", "row (px)")
        self.difference.set_subtitle("compare with another file (Ctrl+D)")
        self.image_panels: list[LivePanel] = [ObjectPanel("phase"), ObjectPanel("amplitude"), ProbePanel()]
        self.slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self.slider.setRange(0, max(len(self._frames) - 1, 0))
        self.slider.setPageStep(max(len(self._frames) // 20, 1))
        self.slider.setToolTip("frame; arrow keys, Page Up and Page Down, Home and End")
        self.status = QtWidgets.QLabel()
        self.status.setWordWrap(True)
        self.docks = DockArea()
        self._lay_out()
        self._add_menus()
        self.slider.valueChanged.connect(self.show_frame)
        if isinstance(self.frame_panel, RawPanel):
            self.frame_panel.choice.currentIndexChanged.connect(lambda: self.show_frame(self.slider.value()))
        for panel in (*self.image_panels[:2], *([self.dark_panel] if self.dark_panel else [])):
            panel.choice.currentIndexChanged.connect(self._draw_images)  # type: ignore[attr-defined]
        self._draw_file()
        self.show_frame(0)
        self.slider.setFocus()

    @property
    def panels(self) -> dict[str, Panel]:
        """The panels by what they are called in the menus."""
        phase, amplitude, probe = self.image_panels
        panels: dict[str, Panel] = {
            "Frame": self.frame_panel,
            "Mean frame": self.mean_panel,
            "Object phase": phase,
            "Object amplitude": amplitude,
            "Probe": probe,
            "Difference": self.difference,
            "Positions": self.positions,
            "Error": self.errors,
            "FRC": self.frc,
            "Histogram": self.histogram,
            "Line profile": self.profile,
        }
        return panels | ({"Dark": self.dark_panel} if self.dark_panel is not None else {})

    def show_frame(self, index: int) -> None:
        """Show one frame, counted from 0, and where it was taken."""
        if not len(self._frames):
            self.status.setText(f"{self._about()}   ·   no frames")
            return
        seq_num = int(self.data.seq_nums[index])
        try:
            image = self._frames[index]
        except CxiError as error:
            self.status.setText(f"frame {index + 1} cannot be read: {error}")
            return
        frame = Frame(image, seq_num)
        state = LiveState(raw=frame, clean=frame, dark=self._state.dark, detector=self._state.detector)
        self.frame_panel.show_state(state)
        self.positions.show_point(index)
        self.profile.refresh()
        self._count_values()
        x, y = self.data.translation_m[index, :2] * 1e6
        where = f"frame {index + 1} of {len(self._frames)} at x {x:.3f} µm, y {y:.3f} µm"
        self.status.setText(f"{where}   ·   {self._about()}")

    def compare(self, path: str | Path) -> None:
        """Draw FRC and difference of this file's last picture and another file's.

        Raises
        ------
        CxiError
            If one of them has no picture, or they cannot be compared.
        """
        with read_cxi(path) as other:
            images = other.images
        if not self._images or not images:
            raise CxiError(f"{self.data.path if not self._images else path} has no reconstruction to compare")
        compared = compare_images(self._images[-1], images[-1])
        self.frc.show_frc(compared.frc, compared.contrast_correlation)
        size = np.abs(compared.difference).astype(np.float32)
        span = (0.0, robust_range(size, (1.0, 99.0))[1])
        self.difference.set_image(size, pixel_extent(size), span, colors="viridis", label="|difference|")
        self.difference.show_all()
        self.difference.set_subtitle(f"to {Path(path).name}")
        self.docks.show_dock("FRC")

    def save_screenshot(self, path: str | Path) -> None:
        """Write the window as it is now to a PNG file; works without a screen too.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        if not self.isVisible():
            self.show()
        save_window_png(path, self)

    def closeEvent(self, event: QtGui.QCloseEvent) -> None:
        """Close the file too, and remember where the panels are."""
        self._preferences.setValue("file/docks", self.docks.save())
        self.data.close()
        super().closeEvent(event)

    # ---- what is where

    def _lay_out(self) -> None:
        self.setWindowTitle(f"{self.data.path.name} · nsbluesky")
        places = {
            "Frame": "left top",
            "Mean frame": "left top",
            "Dark": "left top",
            "Positions": "left bottom",
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
        exports = file.addMenu("&Export")
        for name, panel in self.panels.items():
            self._add_action(exports, f"{name} …", "", partial(self._ask_and_export, panel))
        self._add_action(file, "&Picture of the window …", "Ctrl+S", self._ask_and_save)
        self._add_action(file, "&Quit", "Ctrl+Q", self.close)
        view = self.menuBar().addMenu("&View")
        for toggle in self.docks.toggle_actions():
            view.addAction(toggle)
        view.addSeparator()
        self._add_action(view, "&Line on the object", "L", partial(self._draw_line, "Object phase"))
        self._add_action(view, "Line on the &frame", "Shift+L", partial(self._draw_line, "Frame"))
        self._add_action(view, "Panels as at f&irst", "Ctrl+0", self.docks.arrange)

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

    # ---- drawing

    def _draw_file(self) -> None:
        """Draw what does not depend on the frame."""
        logarithm = log10_image(self._mean, floor=0.01 if self.data.frames is not None else 1.0)
        if self.data.frames is not None:
            logarithm = np.where(self.data.good, logarithm, np.float32(np.nan))
        span = robust_range(logarithm, (1.0, 99.9))
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
        self.profile.refresh()
        self._count_values()

    def _count_values(self) -> None:
        """Show the histogram of the object, or of the frame where there is none."""
        phase = self.image_panels[0]
        assert isinstance(phase, ImagePanel)
        self.histogram.show_image(phase if self._state.reconstruction is not None else self.frame_panel)

    def _about(self) -> str:
        rows, columns = self.data.mask.shape
        return "   ·   ".join(
            [
                f"{self.data.energy_eV:.5g} eV",
                f"detector at {self.data.detector_distance_m * 1e3:.4g} mm",
                f"{columns} × {rows} pixels of {self.data.pixel_size_m[1] * 1e6:.4g} µm",
                f"{int((~self.data.good).sum())} masked",
                self._kind(),
            ]
        )

    def _kind(self) -> str:
        if self.data.frames is None:
            return "raw file"
        stage = self.data.parameters.get("stage")
        return "clean file" if stage is None else f"stage {stage} of the cleaning"


def _stack(data: CxiData) -> FrameStack:
    """Return the clean frames, or the raw ones where there are no others."""
    stack = data.frames if data.frames is not None else data.raw_data
    assert stack is not None  # read_cxi refuses a file without either
    return stack


def _state(data: CxiData) -> LiveState:
    """Return the parts of a file that panels show, but for the frame."""
    images = data.images
    detector = None
    if data.frames is not None:
        masked = np.where(data.good, 0, data.mask)
        detector = Detector((np.nan, np.nan), masked, data.pixel_size_m[1])
    dark = None
    if data.dark_data is not None and len(data.dark_data):
        frames = _some(data.dark_data)
        bad = np.zeros(frames.shape[1:], np.uint8)
        mean, std = frames.mean(axis=0, dtype=np.float32), frames.std(axis=0, dtype=np.float32)
        dark = DarkStatistics(mean, std, bad, (), len(frames))
    reconstruction = reconstruction_of(data, images[-1]) if images else None
    return LiveState(dark=dark, detector=detector, reconstruction=reconstruction)


def _some(stack: FrameStack) -> npt.NDArray[np.generic]:
    count = min(len(stack), MAX_MEAN_FRAMES)
    return stack[np.unique(np.linspace(0, len(stack) - 1, count).round().astype(np.intp))]


def _mean_frame(data: CxiData, frames: FrameStack) -> tuple[npt.NDArray[np.float32], str]:
    """Return the mean frame and its title."""
    if data.frames is not None and data.illumination_intensities is not None:
        return data.illumination_intensities, "Mean frame"
    if not len(frames):
        return np.zeros(frames.shape[1:], np.float32), "Mean frame"
    some = _some(frames)
    every = "all" if len(some) == len(frames) else str(len(some))
    return np.asarray(some, dtype=np.float32).mean(axis=0), f"Mean of {every} frames"
