"""ScanPanel: pause, resume, stop and abort of the scan, and the region picked with the mouse as the next one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from bluesky.utils import RunEngineInterrupted

from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.trajectories import PATTERNS
from nsbluesky.viewer.panels.low_resolution import Region
from nsbluesky.viewer.qt import QtWidgets

__all__ = ["ScanPanel", "Scans", "next_scan"]

log = logging.getLogger(__name__)

PLAN = "ptycho_fly_scan"
DEFAULT_STEP_UM = 0.1

BUTTONS = {
    "pause": ("Pause", "pause the scan at its next checkpoint"),
    "resume": ("Resume", "go on where the scan was paused"),
    "stop": ("Stop", "end the scan; the run counts as complete"),
    "abort": ("Abort", "end the scan; the run is marked as aborted"),
}


@dataclass(frozen=True)
class Scans:
    """What a window may do about scans.

    Attributes
    ----------
    RE : RunEngine
        Of this process; made with ``during_task=QtDuringTask()``.
    plans : mapping of str to callable
        Plans with their devices filled in, as `nsbluesky.session.bind` makes them.
    """

    RE: Any
    plans: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


def next_scan(region: Region, step_um: float, pattern: str) -> tuple[str, dict[str, Any]]:
    """Return the command line of a scan that covers a region, and its arguments."""
    size = np.array([region.y1 - region.y0, region.x1 - region.x0])
    rows, columns = np.maximum(np.round(size / step_um), 1).astype(int).tolist()
    center = (round((region.x0 + region.x1) / 2, 4), round((region.y0 + region.y1) / 2, 4))
    arguments = {"shape": (rows, columns), "step_um": step_um, "pattern": pattern, "center_um": center}
    text = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"RE({PLAN}({text}))", arguments


class ScanPanel(QtWidgets.QWidget):
    """Buttons for the RunEngine, where there is one, and the next scan as a command line to copy or to run.

    Parameters
    ----------
    scans : Scans, optional
        None where the RunEngine is elsewhere: then the command can only be copied.
    """

    title = "Scan"

    def __init__(self, scans: Scans | None) -> None:
        super().__init__()
        self._scans = scans
        self._region: Region | None = None
        self._arguments: dict[str, Any] = {}
        self.state = QtWidgets.QLabel("the RunEngine is in another session" if scans is None else "")
        self.state.setToolTip("state of the RunEngine")
        self.buttons: dict[str, QtWidgets.QPushButton] = {}
        row = QtWidgets.QHBoxLayout()
        for name, (text, tooltip) in BUTTONS.items():
            button = QtWidgets.QPushButton(text)
            button.setToolTip(tooltip)
            button.setMinimumWidth(40)
            button.clicked.connect(partial(self._steer, name))
            row.addWidget(button)
            self.buttons[name] = button
        self.where = QtWidgets.QLabel("no region: press 'region' on the low-resolution image (R)")
        self.where.setWordWrap(True)
        self.step = QtWidgets.QDoubleSpinBox()
        self.step.setRange(0.001, 100.0)
        self.step.setDecimals(3)
        self.step.setSingleStep(0.01)
        self.step.setValue(DEFAULT_STEP_UM)
        self.step.setSuffix(" µm")
        self.step.setToolTip("from point to point (µm)")
        self.pattern = QtWidgets.QComboBox()
        self.pattern.addItems(list(PATTERNS))
        self.pattern.setCurrentText("jittered_raster")
        self.pattern.setToolTip("how the points lie")
        self.command = QtWidgets.QPlainTextEdit()
        self.command.setReadOnly(True)
        self.command.setMaximumHeight(64)
        self.command.setToolTip("for the session: copy it there, or run it from here")
        self.copy = QtWidgets.QPushButton("Copy")
        self.run = QtWidgets.QPushButton("Run")
        self.answer = QtWidgets.QLabel("")
        self.answer.setWordWrap(True)
        self._lay_out(row)
        self.step.valueChanged.connect(self._write)
        self.pattern.currentIndexChanged.connect(self._write)
        self.copy.clicked.connect(lambda: QtWidgets.QApplication.clipboard().setText(self.command.toPlainText()))
        self.run.clicked.connect(self._run)
        self._write()
        self.look()

    def set_region(self, region: object, state: LiveState) -> None:
        """Take the region of the next scan, or none; the step is that of the last one at first."""
        first = self._region is None
        self._region = region if isinstance(region, Region) else None
        planned = state.run.planned_m if state.run is not None else np.empty((0, 2))
        if first and len(planned) > 1:
            self.step.setValue(float(np.median(np.hypot(*np.diff(planned, axis=0).T)) * 1e6))
        self._write()

    def look(self) -> None:
        """Show what the RunEngine is doing, and which buttons make sense."""
        now = str(self._scans.RE.state) if self._scans is not None else ""
        if self._scans is not None:
            self.state.setText(f"RunEngine: {now}")
        self.buttons["pause"].setEnabled(now == "running")
        self.buttons["resume"].setEnabled(now == "paused")
        for name in ("stop", "abort"):
            self.buttons[name].setEnabled(now in ("running", "paused"))
        known = self._scans is not None and PLAN in self._scans.plans
        self.run.setEnabled(known and now == "idle" and self._region is not None)
        self.copy.setEnabled(self._region is not None)

    def _lay_out(self, buttons: QtWidgets.QHBoxLayout) -> None:
        form = QtWidgets.QFormLayout()
        form.addRow("step", self.step)
        form.addRow("pattern", self.pattern)
        below = QtWidgets.QHBoxLayout()
        below.addWidget(self.answer, 1)
        below.addWidget(self.copy)
        below.addWidget(self.run)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(6, 2, 6, 2)
        layout.addWidget(self.state)
        layout.addLayout(buttons)
        layout.addWidget(self.where)
        layout.addLayout(form)
        layout.addWidget(self.command)
        layout.addLayout(below)
        layout.addStretch(1)

    def _write(self) -> None:
        region = self._region
        if region is None:
            self.where.setText("no region: press 'region' on the low-resolution image (R)")
            self.command.clear()
        else:
            text, self._arguments = next_scan(region, round(self.step.value(), 4), self.pattern.currentText())
            rows, columns = self._arguments["shape"]
            self.where.setText(
                f"next scan: {region.x1 - region.x0:.3g} × {region.y1 - region.y0:.3g} µm, {columns} × {rows} points"
            )
            self.command.setPlainText(text)
        self.look()

    def _steer(self, name: str) -> None:
        assert self._scans is not None
        RE = self._scans.RE
        if name == "pause":
            self._try(lambda: RE.request_pause(defer=True))
        else:
            self._try(getattr(RE, name))

    def _run(self) -> None:
        assert self._scans is not None
        plan = self._scans.plans[PLAN]
        self._try(lambda: self._scans.RE(plan(**self._arguments)))  # type: ignore[union-attr]

    def _try(self, call: Callable[[], Any]) -> None:
        """Do it here, on Qt's thread: while a plan runs, `QtDuringTask` keeps the windows alive."""
        self.answer.setText("")
        try:
            call()
        except RunEngineInterrupted:
            self.answer.setText("paused: resume, stop or abort")
        except Exception as error:  # a limit, a device: told where the button is
            log.exception("the scan")
            self.answer.setText(f"{type(error).__name__}: {error}")
        self.look()
