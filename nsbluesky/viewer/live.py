"""LiveWindow: the scan while it runs, from the frame to the object."""

from __future__ import annotations

from pathlib import Path

from nsbluesky.callbacks.live_plots import LivePlots
from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.viewer.health_bar import HealthBar
from nsbluesky.viewer.live_panels import LIVE_PANELS, LivePanel
from nsbluesky.viewer.pictures import save_window_png
from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets

__all__ = ["LiveWindow"]

INTERVAL_MS = 100
"""Time between two looks at the state: at most ten redraws a second."""
COLUMNS = 4


class LiveWindow(QtWidgets.QMainWindow):
    """One window on a scan; it looks at the newest state by itself, and nothing ever waits for it.

    A tick of the timer draws at most one panel at a time and lets Qt handle other events in between, so that the
    window answers while much is new.

    Parameters
    ----------
    source : LivePlots
        What is shown; it may already hold a run, or get one later.
    interval_ms : int
        Time between two looks.
    """

    def __init__(self, source: LivePlots, interval_ms: int = INTERVAL_MS) -> None:
        super().__init__()
        self.source = source
        self._version = -1
        self._state = LiveState()
        self.panels: dict[type[LivePanel], LivePanel] = {kind: kind() for kind in LIVE_PANELS}
        self.health = HealthBar()
        self._lay_out()
        self._timer = QtCore.QTimer(self)
        self._timer.setInterval(interval_ms)
        self._timer.timeout.connect(self._look)
        self._next_panel = QtCore.QTimer(self)
        self._next_panel.setSingleShot(True)
        self._next_panel.timeout.connect(self._draw_one)

    def refresh(self) -> None:
        """Draw everything that is new, now."""
        self._take_state()
        for panel in self._outdated():
            panel.show_state(self._state)

    def save_screenshot(self, path: str | Path) -> None:
        """Write the window as it is now to a PNG file; works without a screen too.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        if not self.isVisible():
            self.show()
        self.refresh()
        save_window_png(path, self)

    def showEvent(self, event: QtGui.QShowEvent) -> None:
        """Look from now on."""
        self._timer.start()
        super().showEvent(event)

    def closeEvent(self, event: QtGui.QCloseEvent) -> None:
        """Look no more."""
        self._timer.stop()
        self._next_panel.stop()
        super().closeEvent(event)

    def _lay_out(self) -> None:
        self.setWindowTitle("nsbluesky live")
        grid = QtWidgets.QGridLayout()
        grid.setSpacing(2)
        for number, panel in enumerate(self.panels.values()):
            grid.addWidget(panel, number // COLUMNS, number % COLUMNS)
            grid.setColumnStretch(number % COLUMNS, 1)
            grid.setRowStretch(number // COLUMNS, 1)
        center = QtWidgets.QWidget()
        layout = QtWidgets.QVBoxLayout(center)
        layout.setContentsMargins(2, 2, 2, 0)
        layout.addLayout(grid, 1)
        layout.addWidget(self.health)
        self.setCentralWidget(center)
        self.resize(1340, 700)

    def _look(self) -> None:
        self._take_state()
        if self._outdated():
            self._next_panel.start(0)

    def _take_state(self) -> None:
        state = self.source.snapshot()
        if state.version != self._version:
            self._version, self._state = state.version, state
            self.health.show_state(state)
            self.setWindowTitle(f"nsbluesky live · {state.run.label}" if state.run else "nsbluesky live")

    def _outdated(self) -> list[LivePanel]:
        return [panel for panel in self.panels.values() if panel.needs(self._state)]

    def _draw_one(self) -> None:
        outdated = self._outdated()
        if outdated:
            outdated[0].show_state(self._state)
        if len(outdated) > 1:
            self._next_panel.start(0)
