"""HealthPanel: a light for each part of the processing, with rate, queue and age; and which frames are missing."""

from __future__ import annotations

from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.viewer.health_bar import indices_text
from nsbluesky.viewer.modules import Light, Modules
from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets

__all__ = ["HealthPanel"]

COLORS: dict[Light, str] = {"green": "#009e73", "yellow": "#f0c000", "red": "#d0202f", "grey": "#909090"}
SIGNS: dict[Light, str] = {"green": "●", "yellow": "▲", "red": "■", "grey": "○"}
"""The shape says the same as the colour."""

COLUMNS = ("", "module", "rate", "queue", "age", "busy", "")
TOOLTIPS = (
    "● well · ▲ slow or waiting · ■ failed or away · ○ nothing to do yet",
    "the parts of the processing, in the order of the data",
    "documents made a second (1/s)",
    "frames or documents that wait",
    "time since the last document (s)",
    "time at work so far (s)",
    "why it is not well",
)


class HealthPanel(QtWidgets.QWidget):
    """A row for each part of the processing, and the frames that are lost, bad or flagged."""

    title = "Health"

    def __init__(self) -> None:
        super().__init__()
        self.table = QtWidgets.QTableWidget(0, len(COLUMNS))
        self.table.setHorizontalHeaderLabels(list(COLUMNS))
        for column, text in enumerate(TOOLTIPS):
            self._header(column).setToolTip(text)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(21)
        self.table.setEditTriggers(QtWidgets.QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QtWidgets.QAbstractItemView.SelectionMode.NoSelection)
        self.table.setShowGrid(False)
        header = self.table.horizontalHeader()
        header.setStretchLastSection(True)
        for column, width in enumerate((22, 118, 58, 50, 52, 52)):
            header.resizeSection(column, width)
        self.frames = QtWidgets.QLabel("no frames yet")
        self.frames.setWordWrap(True)
        self.frames.setToolTip("seq_num of frames that are missing, could not be processed, look suspicious")
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 2)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.frames)

    def show_modules(self, told: Modules) -> None:
        """Write the rows."""
        self.table.setRowCount(len(told.modules))
        for row, module in enumerate(told.modules):
            texts = (
                SIGNS[module.light],
                module.name,
                f"{module.rate_hz:.1f} /s",
                str(module.queue),
                f"{module.age_s:.1f} s",
                f"{module.busy_s:.1f} s",
                module.text,
            )
            items = [self._write(row, column, text) for column, text in enumerate(texts)]
            items[0].setForeground(QtGui.QColor(COLORS[module.light]))
            items[-1].setToolTip(module.text)

    def show_state(self, state: LiveState) -> None:
        """Write which frames are missing, and how old the picture is."""
        lines = [
            f"lost {indices_text(state.lost)}   ·   bad {indices_text(state.bad)}   ·   "
            f"flagged {indices_text(state.flagged)}"
        ]
        if state.summary is not None:
            lines.append(f"from a frame's document to its clean frame {state.summary.latency_s:.2f} s")
        if state.reconstruction is not None:
            lines.append(f"newest frame in the picture was {state.reconstruction.newest_age_s:.1f} s old")
        self.frames.setText("\n".join(lines))

    def lights(self) -> dict[str, str]:
        """Return the signs by module, as they are shown."""
        cells = [[self.table.item(row, column) for column in (1, 0)] for row in range(self.table.rowCount())]
        return {name.text(): sign.text() for name, sign in cells if name is not None and sign is not None}

    def _header(self, column: int) -> QtWidgets.QTableWidgetItem:
        item = self.table.horizontalHeaderItem(column)
        assert item is not None
        return item

    def _write(self, row: int, column: int, text: str) -> QtWidgets.QTableWidgetItem:
        item = self.table.item(row, column)
        if item is None:
            item = QtWidgets.QTableWidgetItem()
            if column in (2, 3, 4, 5):
                item.setTextAlignment(QtCore.Qt.AlignmentFlag.AlignRight | QtCore.Qt.AlignmentFlag.AlignVCenter)
            self.table.setItem(row, column, item)
        if item.text() != text:
            item.setText(text)
        return item
