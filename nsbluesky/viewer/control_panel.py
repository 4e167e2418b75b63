"""ControlPanel: pause, abort, clear and reset the processing, and change its settings while it runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

from nsbluesky.settings import PipelineSettings
from nsbluesky.viewer.qt import QtWidgets, Signal
from nsbluesky.viewer.settings_form import SettingsForm

__all__ = ["ACTIONS", "ControlPanel", "Processing"]

ACTIONS = {
    "resume": ("Start", "let the processing go on; what waits is worked off"),
    "pause": ("Pause", "let the processing rest; the scan goes on, its documents wait"),
    "abort": ("Abort", "end the processing of the runs that have ended, with what there is"),
    "clear": ("Clear", "show nothing until the next run"),
    "reset": ("Reset", "process the last run again from its first frame, with the settings as they are"),
}


class Processing(Protocol):
    """What a control panel steers: a pipeline of this process, or a service.  All may block."""

    def settings(self) -> PipelineSettings:
        """Return the settings of the next run."""

    def configure(self, changes: dict[str, Any]) -> PipelineSettings:
        """Change settings, by dotted names, of the runs that start from now on, and return all."""

    def do(self, action: str) -> str:
        """Do one of `ACTIONS`, and tell what was done."""


class ControlPanel(QtWidgets.QWidget):
    """Buttons, and a form of the settings; what is asked is done on a thread of its own.

    Parameters
    ----------
    processing : Processing
    """

    title = "Processing"
    _answered = Signal(object, object)

    def __init__(self, processing: Processing) -> None:
        super().__init__()
        self._processing = processing
        self._thread = ThreadPoolExecutor(1, "nsbluesky-control")
        self.buttons: dict[str, QtWidgets.QPushButton] = {}
        row = QtWidgets.QHBoxLayout()
        row.setSpacing(3)
        for action, (text, tooltip) in ACTIONS.items():
            button = QtWidgets.QPushButton(text)
            button.setToolTip(tooltip)
            button.setMinimumWidth(40)
            button.clicked.connect(partial(self._do, action))
            row.addWidget(button)
            self.buttons[action] = button
        self.form = SettingsForm(PipelineSettings())
        self.apply = QtWidgets.QPushButton("Apply to next run")
        self.apply.setToolTip("use these settings for the runs that start from now on")
        self.apply.clicked.connect(self._apply)
        self.revert = QtWidgets.QPushButton("Revert")
        self.revert.setToolTip("show the settings as they are in use")
        self.revert.clicked.connect(self.read)
        self.answer = QtWidgets.QLabel("")
        self.answer.setWordWrap(True)
        below = QtWidgets.QHBoxLayout()
        below.addWidget(self.answer, 1)
        below.addWidget(self.revert)
        below.addWidget(self.apply)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(4, 2, 4, 2)
        layout.addLayout(row)
        layout.addWidget(self.form, 1)
        layout.addLayout(below)
        self.form.changed.connect(self._mark)
        self._answered.connect(self._show_answer)
        self._mark()
        self.read()

    def read(self) -> None:
        """Show the settings as they are in use."""
        self._ask(self._processing.settings, "")

    def close(self) -> bool:
        """Ask nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        return bool(super().close())

    def _do(self, action: str) -> None:
        self._ask(partial(self._processing.do, action), action)

    def _apply(self) -> None:
        self._ask(partial(self._processing.configure, self.form.changes()), "settings of the next run changed")

    def _mark(self) -> None:
        """Let Apply be pressed where there is something right to apply."""
        self.apply.setEnabled(self.form.edited is not None and bool(self.form.changes()))

    def _ask(self, question: Callable[[], Any], done: str) -> None:
        if done:
            self.answer.setText("…")

        def answer(future: Future[Any]) -> None:
            if not future.cancelled():
                error = future.exception()
                self._answered.emit(f"{error}" if error is not None else done, None if error else future.result())

        try:
            self._thread.submit(question).add_done_callback(answer)
        except RuntimeError:  # the window is closing
            return

    def _show_answer(self, text: str, result: object) -> None:
        if isinstance(result, PipelineSettings):
            self.form.show_settings(result)
        elif isinstance(result, str):
            text = result
        self.answer.setText(text)
        self.answer.setToolTip(text)
