"""RehearsalWindow: a picture, a beam and a scan are chosen, looked at, and run through the whole pipeline."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from nsbluesky.callbacks.news import number_text, numbered
from nsbluesky.rehearsal import Rehearsal, RehearsalPlan, RehearsalSettings
from nsbluesky.viewer.display import log10_image, log10_range, robust_range
from nsbluesky.viewer.image_panel import ImagePanel
from nsbluesky.viewer.live import LiveWindow
from nsbluesky.viewer.modules import modules_of_activity
from nsbluesky.viewer.panels.base import pixel_extent
from nsbluesky.viewer.panels.colors import CENTER_COLOR, MARK_COLOR
from nsbluesky.viewer.pictures import save_window_png
from nsbluesky.viewer.preferences import apply_theme, preferences, theme_of
from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets, Signal, pg
from nsbluesky.viewer.session_processing import SessionProcessing
from nsbluesky.viewer.settings_form import SettingsForm

__all__ = ["RehearsalWindow"]

SETTLE_MS = 300
"""A preview is made when nobody has typed for so long."""
POLL_MS = 200
LOW_OVERLAP = 0.5


class RehearsalWindow(QtWidgets.QMainWindow):
    """A form, previews of sample, probe and frame, and buttons to run and to cancel.

    Parameters
    ----------
    picture : path, optional
        What lies in the beam; chosen with a button by default.
    settings : RehearsalSettings, optional
        What is shown at first.
    """

    _previewed = Signal(object, object)

    def __init__(self, picture: str | Path | None = None, settings: RehearsalSettings | None = None) -> None:
        super().__init__()
        apply_theme(theme_of(preferences()))
        self.picture = None if picture is None else Path(picture)
        self.plan: RehearsalPlan | None = None
        self.rehearsal: Rehearsal | None = None
        self.live: LiveWindow | None = None
        self._thread = ThreadPoolExecutor(1, "nsbluesky-preview")
        self._wanted: Future[Any] | None = None
        self.form = SettingsForm(settings or RehearsalSettings())
        self.open = QtWidgets.QPushButton("Picture …")
        self.open.setToolTip("any picture, as from an SEM: dark is thick")
        self.run = QtWidgets.QPushButton("Run")
        self.run.setToolTip("scan and reconstruct, in the live window")
        self.cancel = QtWidgets.QPushButton("Cancel")
        self.cancel.setToolTip("end the scan and its processing")
        self.sample = ImagePanel("Sample", "stage x (µm)", "stage y (µm)", scale_bar=True)
        self.points = pg.ScatterPlotItem(size=4, pen=None, brush=pg.mkBrush(CENTER_COLOR))
        self.current = pg.ScatterPlotItem(pxMode=False, brush=None, pen=pg.mkPen(MARK_COLOR, width=2))
        for item in (self.points, self.current):
            item.setZValue(1)
            self.sample.plot.addItem(item)
        self.sample.graphics.setToolTip("amplitude; dots: points of the scan; ring: the probe at the point shown")
        self.probe = ImagePanel("Probe", "µm", "µm", scale_bar=True)
        self.probe.graphics.setToolTip("amplitude where the sample is, relative to its maximum")
        self.frame = ImagePanel("Frame", "column (px)", "row (px)", row_0_on_top=True)
        self.frame.graphics.setToolTip("photons, or ADU where the detector is simulated, at the point of the slider")
        for panel in (self.sample, self.probe, self.frame):
            panel.set_subtitle("choose a picture" if picture is None else "…")
        self.slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal)
        self.slider.setToolTip("point of the scan whose frame is shown")
        self.status = QtWidgets.QLabel("choose a picture" if picture is None else "")
        self.status.setWordWrap(True)
        self._lay_out()
        self._settle = QtCore.QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.setInterval(SETTLE_MS)
        self._settle.timeout.connect(self._preview)
        self._watch = QtCore.QTimer(self)
        self._watch.setInterval(POLL_MS)
        self._watch.timeout.connect(self._look)
        self.form.changed.connect(self._settle.start)
        self.form.changed.connect(self._mark)
        self.slider.valueChanged.connect(self._settle.start)
        self.open.clicked.connect(self._ask)
        self.run.clicked.connect(self._run)
        self.cancel.clicked.connect(self._cancel)
        # Queued: what is there at once, as an error, must not be told before `_wanted` knows of it.
        self._previewed.connect(self._show_preview, QtCore.Qt.ConnectionType.QueuedConnection)
        self._mark()
        self._preview()

    def save_screenshot(self, path: str | Path) -> None:
        """Write the window as it is now, with the preview of its settings, to a PNG file.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        self.show()
        QtWidgets.QApplication.processEvents()  # the form takes its room
        if self._settle.isActive():
            self._settle.stop()
            self._preview()
        while self._wanted is not None:
            QtWidgets.QApplication.processEvents()
        save_window_png(path, self)

    def closeEvent(self, event: QtGui.QCloseEvent) -> None:
        """End the scan too."""
        self._watch.stop()
        self._settle.stop()
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self.live is not None:
            self.live.close()
        if self.rehearsal is not None:
            self.rehearsal.close()
        super().closeEvent(event)

    def _lay_out(self) -> None:
        self.setWindowTitle("nsbluesky rehearsal")
        buttons = QtWidgets.QHBoxLayout()
        for button in (self.open, self.run, self.cancel):
            buttons.addWidget(button)
        left = QtWidgets.QVBoxLayout()
        left.addLayout(buttons)
        left.addWidget(self.form, 1)
        left.addWidget(self.status)
        side = QtWidgets.QWidget()
        side.setLayout(left)
        side.setFixedWidth(340)
        right = QtWidgets.QGridLayout()
        right.setSpacing(2)
        right.addWidget(self.sample, 0, 0, 2, 1)
        right.addWidget(self.probe, 0, 1)
        right.addWidget(self.frame, 1, 1)
        right.addWidget(self.slider, 2, 0, 1, 2)
        right.setColumnStretch(0, 3)
        right.setColumnStretch(1, 2)
        center = QtWidgets.QWidget()
        layout = QtWidgets.QHBoxLayout(center)
        layout.setContentsMargins(4, 4, 4, 4)
        layout.addWidget(side)
        layout.addLayout(right, 1)
        self.setCentralWidget(center)
        self.resize(1240, 680)

    def _ask(self) -> None:
        kinds = "Pictures (*.png *.jpg *.jpeg *.tif *.tiff *.bmp)"
        path, _ = QtWidgets.QFileDialog.getOpenFileName(self, "Picture", "", kinds)
        if path:
            self.picture, self.plan = Path(path), None
            self._preview()

    # ---- preview, on a thread of its own

    def _preview(self) -> None:
        settings, picture = self.form.edited, self.picture
        self._mark()
        if picture is None or not isinstance(settings, RehearsalSettings):
            return
        if self._wanted is not None:
            self._wanted.cancel()
        point = self.slider.value()

        def make() -> Any:
            plan = RehearsalPlan.make(picture, settings)
            shown = min(point, len(plan.points_um) - 1)
            return plan, shown, plan.frame(shown)

        self._wanted = self._submit(make)

    def _submit(self, make: Callable[[], Any]) -> Future[Any]:
        def tell(future: Future[Any]) -> None:
            if not future.cancelled():
                with suppress(RuntimeError):  # of Qt, where the window is gone
                    self._previewed.emit(future, future.exception() or future.result())

        future = self._thread.submit(make)
        future.add_done_callback(tell)
        return future

    def _show_preview(self, future: object, made: Any) -> None:
        if future is not self._wanted:  # another one is on its way, as of another picture
            return
        self._wanted = None
        if isinstance(made, BaseException):
            self.plan = None
            self.status.setText(str(made))
            self._mark()
            return
        plan, point, frame = made
        self.plan = plan
        points = plan.points_um
        with QtCore.QSignalBlocker(self.slider):
            self.slider.setRange(0, len(points) - 1)
        amplitude = np.abs(plan.sample.object)
        self.sample.set_image(amplitude, plan.extent_um, robust_range(amplitude), colors="cividis", label="amplitude")
        self.points.setData(x=points[:, 0], y=points[:, 1])
        self.current.setData(x=[points[point, 0]], y=[points[point, 1]], size=plan.probe_diameter_um)
        self.sample.view.autoRange(padding=0.02)
        self.sample.set_subtitle(numbered(len(points), "point"))
        probe = np.abs(plan.sample.probe[0])
        side_um = probe.shape[0] * plan.sample.pixel_m * 1e6
        self.probe.set_image(
            probe / probe.max(), (0, side_um, 0, side_um), (0, 1), colors="inferno", label="amplitude / maximum"
        )
        self.probe.show_all()
        self.probe.set_subtitle(f"{1000 * plan.probe_diameter_um:.0f} nm across")
        logarithm = log10_image(frame, floor=0.5)
        span = log10_range(logarithm, 0.5, (0.5, 99.9))
        label = "photons" if plan.settings.detector == "photons" else "ADU"
        self.frame.set_image(logarithm, pixel_extent(frame), span, colors="inferno", label=label, log=True)
        self.frame.show_all()
        self.frame.set_subtitle(f"point {point + 1} of {len(points)}")
        self.status.setText(self._about(plan))
        self._mark()

    @staticmethod
    def _about(plan: RehearsalPlan) -> str:
        seconds = len(plan.points_um) / plan.settings.rate_hz
        overlap = f"overlap {100 * max(plan.overlap, 0):.0f} %"
        warning = "" if plan.overlap >= LOW_OVERLAP else " – too little: take smaller steps or more defocus"
        return f"{numbered(len(plan.points_um), 'point')} in {seconds:.0f} s · {overlap}{warning}"

    # ---- run

    def _mark(self) -> None:
        """Let what is previewed be run, once it is what the form says."""
        running = self.rehearsal is not None and self.rehearsal.running
        self.run.setEnabled(self.plan is not None and self.plan.settings == self.form.edited and not running)
        self.cancel.setEnabled(running)

    def _run(self) -> None:
        assert self.plan is not None
        if self.rehearsal is not None:
            self.rehearsal.close()
        if self.live is not None:
            self.live.close()
        rehearsal = self.rehearsal = Rehearsal(self.plan)
        pipeline = rehearsal.pipeline
        self.live = LiveWindow(
            pipeline.live,
            modules=lambda: modules_of_activity(pipeline.activity(), pipeline.paused, pipeline.queued),
            processing=SessionProcessing(pipeline, rehearsal.log.directory),
        )
        self.live.show()
        rehearsal.start()
        self._watch.start()
        self.status.setText("the scan runs: see the live window")
        self._mark()

    def _cancel(self) -> None:
        if self.rehearsal is not None:
            self.rehearsal.cancel()
            self.status.setText("cancelled")

    def _look(self) -> None:
        """See whether the scan is over."""
        if self.rehearsal is None or self.rehearsal.running:
            return
        self._watch.stop()
        picture = self.rehearsal.pipeline.live.snapshot().reconstruction
        if self.rehearsal.error:
            self.status.setText(self.rehearsal.error)
        elif picture is not None and self.status.text() != "cancelled":
            r_factor = number_text(picture.r_factor)
            self.status.setText(f"done: R {r_factor} from {numbered(picture.num_frames, 'frame')}")
        self._mark()
