"""Qt with whatever binding is installed, with or without a screen, and beside a RunEngine.

Every window imports Qt from here: qtpy has to come before pyqtgraph, and the platform has to be chosen before
the application is made.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import Any

from bluesky.utils import DuringTask

try:
    from qtpy import QtCore, QtGui, QtWidgets
except ImportError as error:
    raise ImportError(
        f"windows need Qt ({error}): pip install 'nsbluesky[qt]'; on Debian without a desktop also "
        "apt-get install libegl1 libgl1 libxkbcommon0 libdbus-1-3 libfontconfig1 libglib2.0-0 fonts-dejavu-core"
    ) from error
import pyqtgraph as pg

log = logging.getLogger(__name__)

__all__ = ["QtCore", "QtDuringTask", "QtGui", "QtWidgets", "Signal", "application", "choose_platform", "pg"]

Signal: Any = QtCore.Signal  # type: ignore[attr-defined]  # PyQt's own name is another; qtpy's stubs know neither

POLL_S = 0.01
"""How long a plan waits for the windows at most, and the windows for a plan."""


def choose_platform() -> None:
    """Render offscreen where there is no display; a choice already made in QT_QPA_PLATFORM stands."""
    has_display = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if sys.platform.startswith("linux") and not has_display:
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


def application() -> QtWidgets.QApplication:
    """Return the Qt application; make it where there is none yet, offscreen without a display.

    Call it on the main thread.

    Raises
    ------
    RuntimeError
        On another thread, or where Qt finds no font at all (text would be boxes).
    """
    app = QtWidgets.QApplication.instance()
    if isinstance(app, QtWidgets.QApplication):
        return app
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("windows belong to the main thread: make them there, and feed LivePlots from any thread")
    choose_platform()
    QtCore.qInstallMessageHandler(_log_message)
    app = QtWidgets.QApplication(["nsbluesky"])
    app.setApplicationName("nsbluesky")
    if not QtGui.QFontDatabase.families():
        raise RuntimeError("Qt finds no fonts: install one (Debian: apt-get install fontconfig fonts-dejavu-core)")
    return app


def _log_message(kind: object, context: object, message: str) -> None:
    """Send what Qt would print to the log; the offscreen platform complains about hints that it cannot follow."""
    if "propagateSizeHints" not in message:
        log.warning("Qt: %s", message)


class QtDuringTask(DuringTask):
    """Keep the windows alive while a plan runs on the main thread: ``RunEngine(during_task=QtDuringTask())``.

    Works with every Qt binding and needs no matplotlib.  Qt's events are handled in turns rather than in a nested
    event loop, which closing the last window would end before the plan does.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def block(self, blocking_event: threading.Event) -> None:
        """Handle Qt's events until `blocking_event` is set."""
        while not blocking_event.wait(POLL_S):
            QtWidgets.QApplication.processEvents()
