"""ControlPanel: pause, abort, clear and reset the processing, and change its settings while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from nsbluesky.settings import PipelineSettings, SolverSettings
from nsbluesky.viewer.buttons import button_row
from nsbluesky.viewer.qt import QtWidgets, Signal
from nsbluesky.viewer.settings_form import AT_ONCE_SIGN, SettingsForm

__all__ = ["ACTIONS", "ControlPanel", "Processing"]

ACTIONS = {
    "resume": ("Start", "let the processing go on; what waits is worked off"),
    "pause": ("Pause", "let the processing rest; the scan goes on, its documents wait"),
    "abort": ("Abort", "end the processing of the runs that have ended, with what there is"),
    "clear": ("Clear", "show nothing until the next run"),
    "reset": ("Reset", "process the last run again from its first frame, with the settings as they are"),
}


QUALITY = {"solver.quality_share": 0.5, "solver.held_out": 0.02}
"""What the box for the quality switches on."""


class Processing(Protocol):
    """What a control panel steers: a pipeline of this process, or a service.  All may block."""

    def settings(self) -> PipelineSettings:
        """Return the settings of the next run."""

    def configure(self, changes: dict[str, Any]) -> PipelineSettings:
        """Change settings, by dotted names, and return all; those of `Settings.AT_ONCE` also of runs that go on."""

    def show_fit(self, seq_num: int | None) -> object:
        """Tell with each picture how this frame is modelled; None for the newest."""

    def do(self, action: str) -> str:
        """Do one of `ACTIONS`, and tell what was done."""


class ControlPanel(QtWidgets.QWidget):
    """Buttons, and a form of the settings; what is asked is done on a thread of its own.

    Parameters
    ----------
    processing : Processing
    """

    title = "Processing"
    _answered = Signal(object, object, bool)

    def __init__(self, processing: Processing) -> None:
        super().__init__()
        self._processing = processing
        self._thread: ThreadPoolExecutor | None = _new_thread()
        row, self.buttons = button_row(ACTIONS, self._do)
        self.form = SettingsForm(PipelineSettings(), _check_engines, mark_at_once=True)
        self.quality = QtWidgets.QCheckBox("tell resolution and held-out R")
        self.quality.setToolTip(
            "two half-sets beside the image tell its resolution (FRC), for which half as many frames are used again; "
            "2 % of the detector's pixels are held out of the image, and R is told there (quality_share, held_out)"
        )
        self.quality.clicked.connect(self._switch_quality)
        legend = QtWidgets.QLabel(f"{AT_ONCE_SIGN} also changes the run that goes on; all else is for the next one")
        legend.setWordWrap(True)
        self.apply = QtWidgets.QPushButton("Apply")
        self.apply.setToolTip(
            f"use these settings: those with {AT_ONCE_SIGN} at once, all others from the next run on"
        )
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
        layout.addWidget(self.quality)
        layout.addWidget(legend)
        layout.addWidget(self.form, 1)
        layout.addLayout(below)
        self.form.changed.connect(self._mark)
        self._answered.connect(self._show_answer)
        self._mark()
        self.read()

    def read(self) -> None:
        """Show the settings as they are in use."""
        self._ask(self._processing.settings, "")

    def show_fit(self, seq_num: int) -> None:
        """Ask for the fit of a frame; 0 for the newest."""
        self._ask(partial(self._processing.show_fit, seq_num or None), "")

    def close(self) -> bool:
        """Ask nothing more."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None
        return bool(super().close())

    def open(self) -> None:
        """Ask again, where the panel was closed."""
        if self._thread is None:
            self._thread = _new_thread()
            self.show()

    def _do(self, action: str) -> None:
        self._ask(partial(self._processing.do, action), action)

    def _apply(self) -> None:
        changes = self.form.changes()
        self._ask(partial(self._processing.configure, changes), _what_changes(changes))

    def _switch_quality(self, on: bool) -> None:
        """Measure the image's quality from now on, or no more; what else was edited waits for Apply."""
        changes = QUALITY if on else dict.fromkeys(QUALITY, 0.0)
        self._ask(partial(self._processing.configure, changes), _what_changes(changes), keeps_edits=True)

    def _mark(self) -> None:
        """Let Apply be pressed where there is something right to apply."""
        self.apply.setEnabled(self.form.edited is not None and bool(self.form.changes()))

    def _ask(self, question: Callable[[], Any], done: str, *, keeps_edits: bool = False) -> None:
        if self._thread is None:  # the window was closed
            return
        if done:
            self.answer.setText("…")

        def answer(future: Future[Any]) -> None:
            if not future.cancelled():
                error = future.exception()
                text, result = (f"{error}", None) if error is not None else (done, future.result())
                with suppress(RuntimeError):  # of Qt, where the window is gone
                    self._answered.emit(text, result, keeps_edits)

        self._thread.submit(question).add_done_callback(answer)

    def _show_answer(self, text: str, result: object, keeps_edits: bool) -> None:
        if isinstance(result, PipelineSettings):
            edits = self.form.changes() if keeps_edits else {}
            self.form.show_settings(result, {name: edits[name] for name in edits.keys() - QUALITY.keys()})
        elif isinstance(result, str):
            text = result
        assert isinstance(self.form.settings, PipelineSettings)
        self.quality.setChecked(self.form.settings.solver.quality_share > 0)
        self.answer.setText(text)
        self.answer.setToolTip(text)


def _new_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "nsbluesky-control")


def _what_changes(changes: Mapping[str, Any]) -> str:
    """Tell which changes count from when."""
    defaults = PipelineSettings()
    at_once = [name for name in changes if defaults.applies_at_once(name)]
    later = [name for name in changes if name not in at_once]
    parts = [f"{when}: {', '.join(names)}" for when, names in (("now", at_once), ("next run", later)) if names]
    return "changed " + "; ".join(parts)


def _check_engines(settings: PipelineSettings) -> None:
    if settings.solver == SolverSettings():
        return  # which are right: a window opens without the seconds that the solver takes to import
    from nsbluesky.solver.schedule import check_engines

    check_engines(settings)
