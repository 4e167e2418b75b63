"""RunBrowser: the recorded runs, searched by plan, sample, date and energy, with the image of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nsbluesky.callbacks.news import numbered
from nsbluesky.cxi import CxiError, read_cxi
from nsbluesky.run_table import RunEntry, find_runs, image_file
from nsbluesky.viewer.cxi_window import CxiWindow
from nsbluesky.viewer.display import display_phase, measured_window, thin_out
from nsbluesky.viewer.file_state import RawFrames, reconstruction_of
from nsbluesky.viewer.health_bar import ERROR_STYLE
from nsbluesky.viewer.pictures import colored, save_window_png
from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets
from nsbluesky.viewer.reprocess_panel import RawSource

__all__ = ["RunBrowser", "thumbnail"]

log = logging.getLogger(__name__)

COLUMNS = ("", "date", "plan", "sample", "energy", "points", "ended", "uid")
WIDTHS_PX = (84, 150, 130, 150, 80, 70, 70, 240)
THUMBNAIL_PX = 72


def thumbnail(path: Path) -> QtGui.QPixmap | None:
    """Return the phase of the last picture in a file, y upwards; None where it has none."""
    try:
        with read_cxi(path) as data:
            images = data.images
            if not images:
                return None
            image = reconstruction_of(data, images[-1]).object
    except CxiError:
        return None
    phase = display_phase(thin_out(image[measured_window(image)], 4 * THUMBNAIL_PX))
    colors = np.ascontiguousarray(colored(phase.image, phase.span, phase.colormap)[::-1])
    rows, columns, _ = colors.shape
    picture = QtGui.QImage(colors.data, columns, rows, 3 * columns, QtGui.QImage.Format.Format_RGB888)
    return QtGui.QPixmap.fromImage(picture).scaled(
        THUMBNAIL_PX,
        THUMBNAIL_PX,
        QtCore.Qt.AspectRatioMode.KeepAspectRatio,
        QtCore.Qt.TransformationMode.SmoothTransformation,
    )


class RunBrowser(QtWidgets.QMainWindow):
    """A table of runs and a line to search in them; Return or a double click opens the file of a run.

    Parameters
    ----------
    read : callable
        Returns the runs, newest first.
    results : path
        Folder of the CXI files.
    raw_of : callable, optional
        Returns, for a run's uid, its raw frames and where they are, as `CxiWindow` takes them.
    """

    def __init__(
        self,
        read: Callable[[], Sequence[RunEntry]],
        results: Path,
        raw_of: Callable[[str], tuple[RawFrames | None, RawSource | None]] = lambda uid: (None, None),
    ) -> None:
        super().__init__()
        self._read, self._results, self._raw_of = read, results, raw_of
        self._entries: Sequence[RunEntry] = ()
        self.shown: list[RunEntry] = []
        self.opened: list[CxiWindow] = []
        self.words = QtWidgets.QLineEdit()
        self.words.setPlaceholderText("search: any part of plan, sample, date (2026-11-25), uid; several words")
        self.words.setToolTip("all words must be found")
        self.words.setClearButtonEnabled(True)
        self.low, self.high = _energy_box("from", 0.0), _energy_box("to", MAX_ENERGY_EV)
        self.table = QtWidgets.QTableWidget(0, len(COLUMNS))
        self.table.setHorizontalHeaderLabels(list(COLUMNS))
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(THUMBNAIL_PX + 4)
        self.table.setIconSize(QtCore.QSize(THUMBNAIL_PX, THUMBNAIL_PX))
        self.table.setEditTriggers(QtWidgets.QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QtWidgets.QAbstractItemView.SelectionBehavior.SelectRows)
        for column, width in enumerate(WIDTHS_PX):
            self.table.setColumnWidth(column, width)
        self.table.horizontalHeader().setStretchLastSection(True)
        self.status = QtWidgets.QLabel()
        self.status.setWordWrap(True)
        self._next_picture = QtCore.QTimer(self)
        self._next_picture.setInterval(0)
        self._next_picture.timeout.connect(self._draw_one)
        self._pictures: dict[str, QtGui.QPixmap | None] = {}
        self._without_picture: set[int] = set()
        self._lay_out()
        self.table.verticalScrollBar().valueChanged.connect(lambda *_: self._next_picture.start())
        self.table.viewport().installEventFilter(self)
        self.words.textChanged.connect(self._show)
        self.low.valueChanged.connect(self._show)
        self.high.valueChanged.connect(self._show)
        self.table.itemActivated.connect(lambda item: self.open(self.shown[item.row()].uid))
        self.reload()

    def reload(self) -> None:
        """Read the runs again, and their pictures."""
        self._entries = self._read()
        self._pictures.clear()
        self._show()

    def _reload_or_tell(self) -> None:
        try:
            self.reload()
        except Exception as error:  # of the catalog, whatever keeps it
            log.exception("the catalog")
            self._tell_error(f"the catalog cannot be read again: {type(error).__name__}: {error}")

    def open(self, uid: str) -> CxiWindow | None:
        """Open the file of a run in a window of its own; what is wrong is told in the line below."""
        path = image_file(uid, self._results)
        if path is None:
            self._tell_error(_no_file(uid, self._results))
            return None
        try:
            window = CxiWindow(path, *self._raw_of(uid))
        except CxiError as error:
            self._tell_error(str(error))
            return None
        window.show()
        self.opened = [*(former for former in self.opened if former.isVisible()), window]
        return window

    def compare(self) -> CxiWindow | None:
        """Open the first of the selected runs, compared with the second one."""
        rows = sorted({index.row() for index in self.table.selectedIndexes()})
        if len(rows) != 2:
            self._tell_error("select two runs to compare (Ctrl+click)")
            return None
        first, second = (self.shown[row].uid for row in rows)
        path = image_file(second, self._results)
        window = self.open(first)
        if window is None:
            return None
        if path is None:
            self._tell_error(_no_file(second, self._results))
            return window
        try:
            window.compare(path)
        except CxiError as error:
            self._tell_error(str(error))
        return window

    def save_screenshot(self, path: str | Path) -> None:
        """Write the window as it is now to a PNG file, with the pictures of all runs that are seen.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        self.show()
        while self._in_view():
            self._draw_one()
        save_window_png(path, self)

    def _tell_error(self, text: str) -> None:
        self.status.setText(text)
        self.status.setStyleSheet(ERROR_STYLE)

    def _lay_out(self) -> None:
        self.setWindowTitle("nsbluesky runs")
        row = QtWidgets.QHBoxLayout()
        reload = self.reload_button = QtWidgets.QPushButton("Reload")
        reload.setShortcut(QtGui.QKeySequence("F5"))
        reload.setToolTip("read the catalog again (F5)")
        reload.clicked.connect(self._reload_or_tell)
        row.addWidget(self.words, 1)
        for label, box in (("energy", self.low), ("to", self.high)):
            row.addWidget(QtWidgets.QLabel(label))
            row.addWidget(box)
        compare = self.compare_button = QtWidgets.QPushButton("Compare")
        compare.setToolTip("FRC, correlation and difference of the two selected runs (Ctrl+D)")
        compare.setShortcut(QtGui.QKeySequence("Ctrl+D"))
        compare.clicked.connect(self.compare)
        row.addWidget(compare)
        row.addWidget(reload)
        center = QtWidgets.QWidget()
        layout = QtWidgets.QVBoxLayout(center)
        layout.setContentsMargins(4, 4, 4, 4)
        layout.addLayout(row)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.status)
        self.setCentralWidget(center)
        self.resize(1040, 640)

    def _show(self) -> None:
        energies = (self.low.value(), self.high.value())
        wanted = None if energies == (0.0, MAX_ENERGY_EV) else energies
        self.shown = find_runs(self._entries, self.words.text(), wanted)
        self.table.setRowCount(len(self.shown))
        for row, entry in enumerate(self.shown):
            points = "" if entry.points is None else str(entry.points)
            texts = ("", entry.date, entry.plan, entry.sample, entry.energy, points, entry.exit_status, entry.uid)
            for column, text in enumerate(texts):
                item = QtWidgets.QTableWidgetItem(text)
                item.setToolTip(text)  # there may be no room for all of it
                self.table.setItem(row, column, item)
        self.status.setText(
            f"{len(self.shown)} of {numbered(len(self._entries), 'run')}; "
            "Return or a double click opens one, Ctrl+D compares two"
            if self._entries
            else "no run in this catalog yet: runs appear here once they are recorded; F5 looks again"
        )
        self.status.setStyleSheet("")
        self._without_picture = set(range(len(self.shown)))
        self._next_picture.start()

    def eventFilter(self, watched: QtCore.QObject, event: QtCore.QEvent) -> bool:
        """Draw what comes into sight where the table grows."""
        if event.type() == QtCore.QEvent.Type.Resize:
            self._next_picture.start()
        return False

    def _in_view(self) -> list[int]:
        """Return the rows without their picture that can be seen: of thousands of runs no others are read."""
        first, last = (self.table.rowAt(y) for y in (0, self.table.viewport().height() - 1))
        rows = range(first, (last if last >= 0 else len(self.shown) - 1) + 1) if first >= 0 else ()
        return [row for row in rows if row in self._without_picture]

    def _draw_one(self) -> None:
        """Draw the image of one run; others follow when Qt has nothing better to do."""
        rows = self._in_view()
        if not rows:
            self._next_picture.stop()
            return
        row, uid = rows[0], self.shown[rows[0]].uid
        self._without_picture.discard(row)
        if uid not in self._pictures:
            path = image_file(uid, self._results)
            self._pictures[uid] = thumbnail(path) if path is not None else None
        picture, item = self._pictures[uid], self.table.item(row, 0)
        if picture is not None and item is not None:
            item.setIcon(QtGui.QIcon(picture))
        elif item is not None:
            item.setText("no image")


MAX_ENERGY_EV = 100_000.0


def _no_file(uid: str, results: Path) -> str:
    return f"run {uid[:8]} has no CXI file in {results}: was it processed? nsbluesky replay {uid[:8]} makes one"


def _energy_box(what: str, value: float) -> QtWidgets.QDoubleSpinBox:
    box = QtWidgets.QDoubleSpinBox()
    box.setRange(0.0, MAX_ENERGY_EV)
    box.setDecimals(1)
    box.setValue(value)
    box.setSuffix(" eV")
    box.setToolTip(f"photon energy {what} (eV)")
    return box
