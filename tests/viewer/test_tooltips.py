"""Every control of every window says what it does, and every key is listed."""

from __future__ import annotations

from pathlib import Path

from derived_scan import DerivedScan
from pytestqt.qtbot import QtBot
from simulated_file import write_simulated_file

from nsbluesky.callbacks.live_plots import LivePlots
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.viewer import cxi_window
from nsbluesky.viewer import live as live_window
from nsbluesky.viewer.cxi_window import CxiWindow
from nsbluesky.viewer.live import LiveWindow
from nsbluesky.viewer.log_tail import LogLines
from nsbluesky.viewer.plot_panel import Panel
from nsbluesky.viewer.qt import QtWidgets
from nsbluesky.viewer.rehearsal_window import RehearsalWindow
from nsbluesky.viewer.run_browser import RunBrowser
from nsbluesky.viewer.session_processing import SessionProcessing

CONTROLS = (
    QtWidgets.QAbstractButton,
    QtWidgets.QComboBox,
    QtWidgets.QAbstractSpinBox,
    QtWidgets.QLineEdit,
    QtWidgets.QPlainTextEdit,
    QtWidgets.QSlider,
)


def without_tooltip(window: QtWidgets.QWidget) -> list[str]:
    """Return controls without a tooltip, those that Qt makes inside of others left out."""
    found = [widget for kind in CONTROLS for widget in window.findChildren(kind)]
    inner = (
        QtWidgets.QAbstractSpinBox,
        QtWidgets.QComboBox,
        QtWidgets.QTabBar,
        QtWidgets.QDockWidget,
        QtWidgets.QLineEdit,
    )
    own = [
        widget
        for widget in found
        if not isinstance(widget.parent(), (*inner, QtWidgets.QTableView))
        and not widget.objectName().startswith("qt_")
    ]
    silent = [f"{type(widget).__name__} {_text(widget)!r}" for widget in own if not widget.toolTip()]
    panels = [f"panel {panel.title}" for panel in window.findChildren(Panel) if not panel.graphics.toolTip()]
    return silent + panels


def _text(widget: QtWidgets.QWidget) -> str:
    return str(widget.text()) if hasattr(widget, "text") else widget.objectName()


def keys_without_mention(window: QtWidgets.QMainWindow, shortcuts: tuple[tuple[str, str], ...]) -> set[str]:
    """Return keys of the window's menus that its list of keys leaves out."""
    listed = {key.strip() for keys, _ in shortcuts for key in keys.split(",")}
    actions = [action for menu in window.menuBar().findChildren(QtWidgets.QMenu) for action in menu.actions()]
    return {action.shortcut().toString() for action in actions} - {""} - set("123456789") - listed


def test_the_live_window(live: LivePlots, scan: DerivedScan, qtbot: QtBot) -> None:
    pipeline = PtychoPipeline()
    window = LiveWindow(live, processing=SessionProcessing(pipeline), log_lines=LogLines())
    qtbot.addWidget(window)
    assert without_tooltip(window) == []
    assert keys_without_mention(window, live_window.SHORTCUTS) == set()
    window.close()
    pipeline.close(0)


def test_the_window_on_a_file_and_the_browser(tmp_path: Path, qtbot: QtBot) -> None:
    window = CxiWindow(write_simulated_file(tmp_path / "a.cxi", points=(3, 3)))
    browser = RunBrowser(list, tmp_path)
    for one in (window, browser):
        qtbot.addWidget(one)
    assert without_tooltip(window) == []
    assert keys_without_mention(window, cxi_window.SHORTCUTS) == set()
    assert without_tooltip(browser) == []
    window.close()


def test_the_rehearsal(qtbot: QtBot) -> None:
    window = RehearsalWindow()
    qtbot.addWidget(window)
    assert without_tooltip(window) == []
    window.close()
