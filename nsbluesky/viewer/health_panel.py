"""HealthPanel: a light for each part of the processing, with rate, queue and age; and which frames are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.viewer.health_bar import indices_text
from nsbluesky.viewer.modules import Light, Module, Modules
from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets

__all__ = ["HealthPanel"]

COLORS: dict[Light, str] = {"green": "#009e73", "yellow": "#f0c000", "red": "#d0202f", "grey": "#909090"}
SIGNS: dict[Light, str] = {"green": "●", "yellow": "▲", "red": "■", "grey": "○"}
"""The shape says the same as the colour."""

ROW_PX, ROW_ROOM_PX = 18, 3
"""So that all modules of a pipeline are seen at once; with a larger font rows and columns grow."""

COLUMNS = ("", "module", "rate", "data", "queue", "age", "busy", "")
WIDTHS_PX = (22, 104, 56, 72, 48, 52, 52)
TOOLTIPS = (
    "● well · ▲ slow or waiting · ■ failed or away · ○ nothing to do yet",
    "the parts of the processing, in the order of the data",
    "documents made a second (1/s)",
    "arrays made a second (MB/s)",
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
        self._stages: tuple[Module, ...] = ()
        self.table = QtWidgets.QTableWidget(0, len(COLUMNS))
        self.table.setHorizontalHeaderLabels(list(COLUMNS))
        for column, text in enumerate(TOOLTIPS):
            self._header(column).setToolTip(text)
        self.table.verticalHeader().hide()
        scale = max(1.0, (self.table.fontMetrics().height() + ROW_ROOM_PX) / ROW_PX)
        self.table.verticalHeader().setMinimumSectionSize(round(scale * ROW_PX))
        self.table.verticalHeader().setDefaultSectionSize(round(scale * ROW_PX))
        self.table.setEditTriggers(QtWidgets.QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QtWidgets.QAbstractItemView.SelectionMode.NoSelection)
        self.table.setShowGrid(False)
        header = self.table.horizontalHeader()
        header.setStretchLastSection(True)
        for column, width in enumerate(WIDTHS_PX):
            header.resizeSection(column, round(scale * width))
        self.frames = QtWidgets.QLabel("no frames yet")
        self.frames.setWordWrap(True)
        self.frames.setToolTip(
            "seq_num of frames that are missing, could not be processed, look suspicious; time from a frame's "
            "document to its clean frame; age of the newest frame in the picture"
        )
        self.traffic = QtWidgets.QLabel("")
        self.traffic.setWordWrap(True)
        self.traffic.setToolTip(
            "downloads: frames that are read, documents from sessions; uploads: to viewers (MB/s)"
        )
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 2)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.frames)
        layout.addWidget(self.traffic)

    def show_modules(self, told: Modules) -> None:
        """Write the rows; while nothing is processed, the stages of the last run stay, at rest."""
        first, stages = told.modules[:1], told.modules[1:]
        if stages:
            self._stages = stages
        elif told.light == "green":
            stages = _at_rest(self._stages)
        self.table.setRowCount(len(first) + len(stages))
        for row, module in enumerate((*first, *stages)):
            texts = (
                SIGNS[module.light],
                module.name,
                f"{module.rate_hz:.1f} /s",
                f"{module.MB_s:.1f} MB/s",
                str(module.queue),
                f"{module.age_s:.1f} s",
                f"{module.busy_s:.1f} s",
                module.text,
            )
            items = [self._write(row, column, text) for column, text in enumerate(texts)]
            items[0].setForeground(QtGui.QColor(COLORS[module.light]))
            items[-1].setToolTip(module.text)
        self.traffic.setText(told.traffic)
        self.traffic.setVisible(bool(told.traffic))

    def show_state(self, state: LiveState) -> None:
        """Write which frames are missing, and how old the picture is."""
        parts = [
            f"{name} {indices_text(indices)}"
            for name, indices in (("lost", state.lost), ("bad", state.bad), ("flagged", state.flagged))
        ]
        if state.summary is not None:
            parts.append(f"clean after {state.summary.latency_s:.2f} s")
        if state.reconstruction is not None:
            parts.append(f"in the picture after {state.reconstruction.newest_age_s:.1f} s")
        self.frames.setText("   ·   ".join(parts))

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
            if 2 <= column <= 6:
                item.setTextAlignment(QtCore.Qt.AlignmentFlag.AlignRight | QtCore.Qt.AlignmentFlag.AlignVCenter)
            self.table.setItem(row, column, item)
        if item.text() != text:
            item.setText(text)
        return item


def _at_rest(stages: Sequence[Module]) -> tuple[Module, ...]:
    text = "figures of the last run"
    return tuple(replace(stage, light="grey", text=text, rate_hz=0.0, MB_s=0.0, queue=0) for stage in stages)
