"""LiveWindow: the scan while it runs, from the frame to the object."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nsbluesky.callbacks.live_plots import LivePlots
from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.viewer.control_panel import ControlPanel, Processing
from nsbluesky.viewer.docks import DockArea
from nsbluesky.viewer.health_bar import HealthBar
from nsbluesky.viewer.health_panel import HealthPanel
from nsbluesky.viewer.keys import show_keys
from nsbluesky.viewer.log_tail import LogPanel
from nsbluesky.viewer.menus import add_action
from nsbluesky.viewer.modules import Modules
from nsbluesky.viewer.panels import FitPanel, LivePanel, LowResolutionPanel, live_panels
from nsbluesky.viewer.panels.base import LiveImagePanel
from nsbluesky.viewer.pictures import save_window_png
from nsbluesky.viewer.preferences import THEMES, Theme, apply_theme, preferences, theme_of
from nsbluesky.viewer.qt import QtCore, QtGui, QtWidgets
from nsbluesky.viewer.scan_panel import ScanPanel, Scans

__all__ = ["LiveWindow"]

INTERVAL_MS = 100
"""Time between two looks at the state: at most ten redraws a second …"""
SHARE = 0.25
"""… and so few that drawing takes no more than this part of a processor, …"""
LONGEST_WAIT_S = 1.0
"""… but one after so long, however much is computed on the windows' thread."""
SLOW_INTERVAL_S = 0.5
"""Time between two looks at the modules and the log."""
SIZE_PX = (1340, 720)
"""Fits a screen of 1366 × 768."""

SHORTCUTS = (
    ("1 … 9", "bring a panel to the front"),
    ("F", "freeze the window; the scan and the processing go on"),
    ("R", "draw the region of the next scan"),
    ("click on a point", "the fit of its frame"),
    ("Shift+click on a point", "among the frames to be taken again"),
    ("W", "show images whole again"),
    ("Ctrl+S", "save a picture of the window"),
    ("Ctrl+0", "panels where they were at first"),
    ("F1", "this list"),
)


class LiveWindow(QtWidgets.QMainWindow):
    """One window on a scan; it looks at the newest state by itself, and nothing ever waits for it.

    A tick of the timer draws at most one panel at a time and lets Qt handle other events in between, so that the
    window answers while much is new.  A panel that cannot be seen is not drawn.

    Parameters
    ----------
    source : LivePlots
        What is shown; it may already hold a run, or get one later.
    interval_ms : int
        Time between two looks.
    modules : callable, optional
        Returns how the parts of the processing do; without it there is no panel of their health.
    log_lines : callable, optional
        Returns the last lines of the log.
    processing : Processing, optional
        What the control panel steers.
    scans : Scans, optional
        The RunEngine and the plans that the window may steer and run.
    panels : sequence of type, optional
        Subclasses of `LivePanel`; `live_panels` by default.
    """

    def __init__(
        self,
        source: LivePlots,
        interval_ms: int = INTERVAL_MS,
        *,
        modules: Callable[[], Modules] | None = None,
        log_lines: Callable[[], list[str]] | None = None,
        processing: Processing | None = None,
        scans: Scans | None = None,
        panels: Sequence[type[LivePanel]] | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        self._modules = modules
        self._version = -1
        self._state = LiveState()
        self._next_slow = 0.0
        self._looked = self._spent = 0.0
        self._preferences = preferences()
        apply_theme(theme_of(self._preferences))
        self.panels: dict[type[Any], Any] = {kind: kind() for kind in panels or live_panels()}
        self.health = HealthBar()
        self.health_panel = HealthPanel()
        self.log_panel = LogPanel(log_lines) if log_lines is not None else None
        self.control = ControlPanel(processing) if processing is not None else None
        self.scan = ScanPanel(scans)
        self.docks = DockArea()
        self._add_docks()
        self._lay_out()
        self._add_menus()
        low = self.panels.get(LowResolutionPanel)
        if low is not None:
            low.region_picked.connect(self._pick_region)
            low.frame_clicked.connect(self._pick_frame)
        fit = self.panels.get(FitPanel)
        if fit is not None and self.control is not None:
            fit.frame_chosen.connect(self.control.show_fit)
        self._timer = QtCore.QTimer(self)
        self._timer.setInterval(interval_ms)
        self._timer.timeout.connect(self._look)
        self._next_panel = QtCore.QTimer(self)
        self._next_panel.setSingleShot(True)
        self._next_panel.timeout.connect(self._draw_one)

    @property
    def frozen(self) -> bool:
        """Whether the window shows what was, not what is."""
        return bool(self._freeze.isChecked())

    def refresh(self) -> None:
        """Draw everything that is new, also what cannot be seen, now."""
        self._take_state()
        self._look_at_modules()
        for panel in self.panels.values():
            if panel.needs(self._state):
                panel.show_state(self._state)

    def save_screenshot(self, path: str | Path) -> None:
        """Write the window as it is now, or was when it was frozen, to a PNG file; works without a screen too.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        if not self.isVisible():
            self.show()
        if not self.frozen:
            self.refresh()
        self.docks.settle()  # lines that have become longer take their room
        save_window_png(path, self)

    def showEvent(self, event: QtGui.QShowEvent) -> None:
        """Look from now on."""
        self._timer.start()
        if self.control is not None:
            self.control.open()
        gc.freeze()  # a collection that goes through all modules as well holds the event loop up for 90 ms
        super().showEvent(event)

    def closeEvent(self, event: QtGui.QCloseEvent) -> None:
        """Look no more, and remember where the panels are."""
        gc.unfreeze()
        self._timer.stop()
        self._next_panel.stop()
        self._preferences.setValue("live/size", self.size())
        self._preferences.setValue("live/docks", self.docks.save())
        if self.control is not None:
            self.control.close()
        super().closeEvent(event)

    # ---- what is where

    def _add_docks(self) -> None:
        for kind, panel in self.panels.items():
            self.docks.add(kind.__name__, panel.title, panel, panel.place, panel.header)
        if self.control is not None:
            self.docks.add("Control", "Processing", self.control, "right top")
        self.docks.add("Scan", "Scan", self.scan, "right top")
        if self._modules is not None:  # all else that the panel tells stands in the line below
            self.docks.add("Health", "Health", self.health_panel, "center bottom")
        if self.log_panel is not None:
            self.docks.add("Log", "Log", self.log_panel, "center bottom")

    def _lay_out(self) -> None:
        self.setWindowTitle("nsbluesky live")
        center = QtWidgets.QWidget()
        layout = QtWidgets.QVBoxLayout(center)
        layout.setContentsMargins(2, 0, 2, 0)
        layout.setSpacing(0)
        layout.addWidget(self.docks, 1)
        layout.addWidget(self.health)
        self.setCentralWidget(center)
        size = self._preferences.value("live/size")  # not its place: Qt would cut the window to the screen it finds
        self.resize(size if isinstance(size, QtCore.QSize) else QtCore.QSize(*SIZE_PX))
        if not self.docks.restore(self._preferences.value("live/docks")):
            self.docks.arrange()

    def _add_menus(self) -> None:
        view = self.menuBar().addMenu("&View")
        for toggle in self.docks.toggle_actions():
            view.addAction(toggle)
        view.addSeparator()
        front = view.addMenu("To the &front")
        for number, name in enumerate(list(self.docks.docks)[:9], 1):
            title = self.docks.docks[name].windowTitle()
            add_action(front, title, str(number), partial(self.docks.show_dock, name))
        view.addSeparator()
        add_action(view, "Panels as at &first", "Ctrl+0", self.docks.arrange)
        add_action(view, "Images &whole", "W", self._show_whole)
        themes = view.addMenu("&Theme")
        for theme in THEMES:
            themes.addAction(theme).triggered.connect(lambda *_, theme=theme: self._choose_theme(theme))
        live = self.menuBar().addMenu("&Live")
        self._freeze = add_action(live, "&Freeze", "F", lambda: None)
        self._freeze.setCheckable(True)
        self._freeze.toggled.connect(self.health.frozen.setVisible)
        add_action(live, "&Region of the next scan", "R", self._toggle_region)
        add_action(live, "&Save picture …", "Ctrl+S", self._ask_and_save)
        about = self.menuBar().addMenu("&Help")
        add_action(about, "&Keys", "F1", lambda: show_keys(self, SHORTCUTS))

    def _choose_theme(self, theme: Theme) -> None:
        self._preferences.setValue("theme", theme)
        apply_theme(theme)

    def _show_whole(self) -> None:
        for panel in self.panels.values():
            if isinstance(panel, LiveImagePanel):
                panel.show_whole()

    def _toggle_region(self) -> None:
        low = self.panels.get(LowResolutionPanel)
        if low is not None:
            self.docks.show_dock(LowResolutionPanel.__name__)
            low.pick.toggle()

    def _pick_region(self, region: object) -> None:
        self.scan.set_region(region, self._state)
        if region is not None:
            self.docks.show_dock("Scan")

    def _pick_frame(self, seq_num: int, again: bool) -> None:
        """Show the fit of a frame, or put it among those to be taken again."""
        if again:
            self.scan.toggle_frame(seq_num)
            self.docks.show_dock("Scan")
        elif FitPanel in self.panels:
            self.panels[FitPanel].number.setValue(seq_num)
            self.docks.show_dock(FitPanel.__name__)

    def _ask_and_save(self) -> None:
        path, _ = QtWidgets.QFileDialog.getSaveFileName(self, "Save picture", "live.png", "PNG (*.png)")
        if not path:
            return
        try:
            self.save_screenshot(path)
        except OSError as error:
            QtWidgets.QMessageBox.warning(self, "Save picture", str(error))

    # ---- looking and drawing

    def _look(self) -> None:
        if self.frozen or self.isMinimized() or self._should_wait():
            return
        self._looked, self._spent = time.monotonic(), time.thread_time()
        self._take_state()
        if time.monotonic() >= self._next_slow:
            self._next_slow = time.monotonic() + SLOW_INTERVAL_S
            self._look_at_modules()
        if self._outdated():
            self._next_panel.start(0)

    def _should_wait(self) -> bool:
        """Whether what was drawn after the last look, and painted, has taken more than the window's share."""
        waited = time.monotonic() - self._looked
        return waited < LONGEST_WAIT_S and time.thread_time() - self._spent > SHARE * waited

    def _take_state(self) -> None:
        state = self.source.snapshot()
        if state.version != self._version:
            self._version, self._state = state.version, state
            self.health.show_state(state)
            self.health_panel.show_state(state)
            self.scan.show_state(state)
            self.setWindowTitle(f"nsbluesky live · {state.run.label}" if state.run else "nsbluesky live")

    def _look_at_modules(self) -> None:
        if self._modules is not None:
            told = self._modules()
            self.health.show_modules(told)
            self.health_panel.show_modules(told)
        if self.log_panel is not None and (self.docks.in_front("Log") or not self.isVisible()):
            self.log_panel.refresh()
        self.scan.look()

    def _outdated(self) -> list[LivePanel]:
        """Return the panels that can be seen and do not show the state."""
        return [
            panel
            for kind, panel in self.panels.items()
            if self.docks.in_front(kind.__name__) and panel.needs(self._state)
        ]

    def _draw_one(self) -> None:
        outdated = self._outdated()
        if outdated:
            outdated[0].show_state(self._state)
        if len(outdated) > 1:
            self._next_panel.start(0)
