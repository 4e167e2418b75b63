"""CxiWindow: what is in a CXI file; frames, where they were taken, and the newest picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.live_state import DarkStatistics, Detector, Frame, LiveState, Reconstruction
from nsbluesky.cxi import CxiData, CxiError, CxiImage, FrameStack, read_cxi
from nsbluesky.viewer.display import log10_image, robust_range
from nsbluesky.viewer.image_panel import ImagePanel, Panel
from nsbluesky.viewer.panels import CleanPanel, LivePanel, ObjectPanel, ProbePanel, RawPanel
from nsbluesky.viewer.panels.base import pixel_extent
from nsbluesky.viewer.panels.colors import DATA_COLOR, MARK_COLOR
from nsbluesky.viewer.pictures import save_window_png
from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets, pg

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
        except BaseException:
            self.data.close()
            raise
        self.frame_panel: LivePanel = CleanPanel() if self.data.frames is not None else RawPanel()
        self.mean_panel = ImagePanel(mean_title, "column (px)", "row (px)", row_0_on_top=True)
        self.positions = PositionsPanel(self.data.translation_m)
        self.errors = ErrorPanel()
        self.image_panels: list[LivePanel] = [ObjectPanel("phase"), ObjectPanel("amplitude"), ProbePanel()]
        self.slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self.slider.setRange(0, max(len(self._frames) - 1, 0))
        self.slider.setPageStep(max(len(self._frames) // 20, 1))
        self.slider.setToolTip("frame; arrow keys, Page Up and Page Down, Home and End")
        self.status = QtWidgets.QLabel()
        self.status.setWordWrap(True)
        self._lay_out()
        self.slider.valueChanged.connect(self.show_frame)
        if isinstance(self.frame_panel, RawPanel):
            self.frame_panel.choice.currentIndexChanged.connect(lambda: self.show_frame(self.slider.value()))
        self._draw_file()
        self.show_frame(0)
        self.slider.setFocus()

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
        x, y = self.data.translation_m[index, :2] * 1e6
        where = f"frame {index + 1} of {len(self._frames)} at x {x:.3f} µm, y {y:.3f} µm"
        self.status.setText(f"{where}   ·   {self._about()}")

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
        """Close the file too."""
        self.data.close()
        super().closeEvent(event)

    def _lay_out(self) -> None:
        self.setWindowTitle(f"{self.data.path.name} · nsbluesky")
        grid = QtWidgets.QGridLayout()
        grid.setSpacing(2)
        phase, amplitude, probe = self.image_panels
        panels: list[Panel] = [
            self.frame_panel,
            self.mean_panel,
            phase,
            amplitude,
            self.positions,
            probe,
            self.errors,
        ]
        places = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2)]
        for panel, (row, column) in zip(panels, places, strict=True):
            grid.addWidget(panel, row, column, 1, 2 if panel is self.errors else 1)
        for line in range(4):
            grid.setColumnStretch(line, 1)
        for line in range(2):
            grid.setRowStretch(line, 1)
        center = QtWidgets.QWidget()
        layout = QtWidgets.QVBoxLayout(center)
        layout.setContentsMargins(4, 2, 4, 2)
        layout.addLayout(grid, 1)
        layout.addWidget(self.slider)
        layout.addWidget(self.status)
        self.setCentralWidget(center)
        self.resize(1340, 700)

    def _draw_file(self) -> None:
        """Draw what does not depend on the frame."""
        logarithm = log10_image(self._mean, floor=0.01 if self.data.frames is not None else 1.0)
        if self.data.frames is not None:
            logarithm = np.where(self.data.good, logarithm, np.float32(np.nan))
        span = robust_range(logarithm, (1.0, 99.9))
        label = "photons" if self.data.frames is not None else "ADU"
        self.mean_panel.set_image(logarithm, pixel_extent(self._mean), span, colors="inferno", label=label, log=True)
        self.mean_panel.show_all()
        for panel in self.image_panels:
            panel.show_state(self._state)
            if self._state.reconstruction is None:
                panel.set_subtitle("none in this file")
        images = self.data.images
        self.errors.show_errors(images[-1].errors if images else np.empty(0))

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


class PositionsPanel(Panel):
    """Where the frames were taken, and the one that is shown.

    Parameters
    ----------
    translation_m : ndarray
        (N, 3) x, y, z of the sample.
    """

    def __init__(self, translation_m: npt.NDArray[np.float64]) -> None:
        super().__init__("Positions", "x (µm)", "y (µm)")
        self._xy_um = translation_m[:, :2] * 1e6
        self.plot.getViewBox().setAspectLocked(True)
        self.plot.showGrid(x=True, y=True, alpha=0.3)
        self.points = pg.ScatterPlotItem(size=4, pen=None, brush=pg.mkBrush(DATA_COLOR))
        self.current = pg.ScatterPlotItem(size=13, brush=None, pen=pg.mkPen(MARK_COLOR, width=2))
        self.plot.addItem(self.points)
        self.plot.addItem(self.current)
        self.points.setData(x=self._xy_um[:, 0], y=self._xy_um[:, 1])
        self.set_blank(not len(self._xy_um))
        self.set_subtitle(f"{len(self._xy_um)} points")

    def show_point(self, index: int) -> None:
        """Mark one point, counted from 0."""
        self.current.setData(x=self._xy_um[index : index + 1, 0], y=self._xy_um[index : index + 1, 1])


class ErrorPanel(Panel):
    """The error metric of each pass."""

    def __init__(self) -> None:
        super().__init__("Error", "pass", "error metric")
        self.plot.showGrid(x=True, y=True, alpha=0.3)
        self.curve = pg.PlotDataItem(
            pen=pg.mkPen(DATA_COLOR, width=2), symbol="o", symbolSize=4, symbolBrush=DATA_COLOR, symbolPen=None
        )
        self.plot.addItem(self.curve)

    def show_errors(self, errors: npt.NDArray[np.float64]) -> None:
        """Draw the errors (k,), or say that there are none."""
        self.curve.setData(np.arange(1, len(errors) + 1), errors)
        self.set_blank(not len(errors))
        self.set_subtitle(f"{errors[-1]:.4g} at the end" if len(errors) else "none in this file")


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
