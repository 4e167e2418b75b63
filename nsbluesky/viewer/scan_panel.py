"""ScanPanel: pause, resume, stop and abort of the scan; and the next one: a region, darks, or frames again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from bluesky.utils import RunEngineInterrupted

from nsbluesky.callbacks.live_parts import RunInfo
from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.callbacks.news import numbered
from nsbluesky.recorded_darks import LATEST
from nsbluesky.trajectories import PATTERNS
from nsbluesky.viewer.buttons import button_row
from nsbluesky.viewer.frame_numbers import numbers_text, parse_numbers
from nsbluesky.viewer.panels.low_resolution import Region
from nsbluesky.viewer.qt import QtWidgets

__all__ = ["Call", "ScanPanel", "Scans", "next_darks", "next_retake", "next_scan"]

log = logging.getLogger(__name__)

DEFAULT_STEP_UM = 0.1
DEFAULT_DARKS = 25
NEW_DARKS, LAST_DARKS = "take new ones", "those taken last"

BUTTONS = {
    "pause": ("Pause", "pause the scan at its next checkpoint"),
    "resume": ("Resume", "go on where the scan was paused"),
    "stop": ("Stop", "end the scan; the run counts as complete"),
    "abort": ("Abort", "end the scan; the run is marked as aborted"),
}
CALLS = {
    "region": ("Scan region", "scan the region drawn on the low-resolution image (R), exposed as the last scan"),
    "darks": ("Take darks", "frames with the shutter closed, in a run of their own: the camera as it is now"),
    "retake": ("Re-take frames", "measure the points of these frames again, in a run of their own"),
}
"""What can be done next."""


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


@dataclass(frozen=True)
class Call:
    """A plan and its arguments."""

    plan: str
    arguments: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The line for the session."""
        return f"RE({self.plan}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())}))"


def next_scan(region: Region, step_um: float, pattern: str, last: RunInfo | None = None) -> Call:
    """Return a scan that covers a region, of the kind, exposure and rate of the last one where it is known."""
    size = np.array([region.y1 - region.y0, region.x1 - region.x0])
    rows, columns = np.maximum(np.round(size / step_um), 1).astype(int).tolist()
    center = (round((region.x0 + region.x1) / 2, 4), round((region.y0 + region.y1) / 2, 4))
    shape = (rows, columns)
    arguments = {"shape": shape, "step_um": step_um, "pattern": pattern, "center_um": center}
    if last is None or not last.exposures_s:
        return Call("ptycho_fly_scan", arguments)
    arguments |= _exposure(last.exposures_s)
    if last.rate_hz is None:
        return Call("ptycho_scan", arguments)
    return Call("ptycho_fly_scan", {**arguments, "rate_hz": last.rate_hz})


def next_darks(num_dark: int, exposures_s: Sequence[float]) -> Call:
    """Return a run of darks, with the exposure times of a scan where they are known."""
    return Call("ptycho_darks", {"num_dark": num_dark, **_exposure(exposures_s)})


def next_retake(frames: Sequence[int], state: LiveState) -> Call:
    """Return a run that measures the points of frames again.

    Raises
    ------
    ValueError
        Where nobody knows the place of any of them.
    """
    places = state.places_m(frames)
    run = state.run
    if not places or run is None:
        raise ValueError(
            "nobody knows where these frames were to be taken: expected frames of the scan that is shown"
        )
    points = list(dict.fromkeys((round(1e6 * x, 4), round(1e6 * y, 4)) for x, y in places.values()))
    about = {"retake_of": run.raw_uid, "retaken": list(places)}
    return Call("ptycho_points", {"points_um": points, **_exposure(run.exposures_s), "md": about})


def _missing(state: LiveState) -> list[int]:
    return [*state.lost, *state.bad, *state.flagged]


def _exposure(exposures_s: Sequence[float]) -> dict[str, Any]:
    if not exposures_s:
        return {}
    return {"exposure_s": exposures_s[0] if len(exposures_s) == 1 else tuple(exposures_s)}


class ScanPanel(QtWidgets.QWidget):
    """Buttons for the RunEngine, where there is one, and what is next as a command line to copy or to run.

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
        self._shown = LiveState()
        self._call: Call | None = None
        self._typed = False
        self.state = QtWidgets.QLabel("the RunEngine is in another session" if scans is None else "")
        self.state.setToolTip("state of the RunEngine")
        steering, self.buttons = button_row(BUTTONS, self._steer)
        calls, self.calls = button_row(CALLS, self.choose, checkable=True)
        self.where = QtWidgets.QLabel()
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
        self.darks_of_scan = QtWidgets.QComboBox()
        self.darks_of_scan.addItems([NEW_DARKS, LAST_DARKS])
        self.darks_of_scan.setToolTip(
            "darks before the scan, or those of the newest run that fit: same exposure, frame and gain (darks_from)"
        )
        self.darks = QtWidgets.QSpinBox()
        self.darks.setRange(1, 10_000)
        self.darks.setValue(DEFAULT_DARKS)
        self.darks.setToolTip("frames for each exposure time")
        self.frames = QtWidgets.QLineEdit()
        self.frames.setPlaceholderText("none are lost, bad or flagged")
        self.frames.setToolTip(
            "numbers of frames, as in 3, 7-9: those that are lost, bad or flagged, until you type others; "
            "Shift+click on a point of the low-resolution image puts it in or takes it out"
        )
        self.command = QtWidgets.QPlainTextEdit()
        self.command.setReadOnly(True)
        self.command.setMaximumHeight(64)
        self.command.setToolTip("for the session: copy it there, or run it from here")
        self.copy = QtWidgets.QPushButton("Copy")
        self.copy.setToolTip("put the command onto the clipboard")
        self.run = QtWidgets.QPushButton("Run")
        self.run.setToolTip("run it in this session, where the RunEngine is idle")
        self.answer = QtWidgets.QLabel("")
        self.answer.setWordWrap(True)
        self._lay_out(steering, calls)
        self.step.valueChanged.connect(self._write)
        self.pattern.currentIndexChanged.connect(self._write)
        self.darks_of_scan.currentIndexChanged.connect(self._write)
        self.darks.valueChanged.connect(self._write)
        self.frames.textEdited.connect(self._type)
        self.copy.clicked.connect(lambda: QtWidgets.QApplication.clipboard().setText(self.command.toPlainText()))
        self.run.clicked.connect(self._run)
        self.choose("region")

    def choose(self, name: str) -> None:
        """Choose what is done next: one of `CALLS`."""
        for other, button in self.calls.items():
            button.setChecked(other == name)
        fields = {
            "region": (self.step, self.pattern, self.darks_of_scan),
            "darks": (self.darks,),
            "retake": (self.frames, self.darks_of_scan),
        }
        for widget in {widget for widgets in fields.values() for widget in widgets}:
            self._form.setRowVisible(widget, widget in fields[name])
        self._write()

    def set_region(self, region: object, state: LiveState) -> None:
        """Take the region of the next scan, or none; the step is that of the last one at first."""
        first = self._region is None
        self._region = region if isinstance(region, Region) else None
        planned = state.run.planned_m if state.run is not None else np.empty((0, 2))
        if first and len(planned) > 1:
            self.step.setValue(float(np.median(np.hypot(*np.diff(planned, axis=0).T)) * 1e6))
        self.choose("region")

    def show_state(self, state: LiveState) -> None:
        """Take over which frames are lost, bad or flagged, and where points are, of the scan that is shown."""
        before, self._shown = self._shown, state
        uids = [told.run.uid if told.run is not None else "" for told in (before, state)]
        is_new, has_moved = uids[0] != uids[1], before.positions_m is not state.positions_m
        if not is_new and _missing(before) == _missing(state):
            if has_moved and self.calls["retake"].isChecked():
                self._write()
            return
        if is_new:
            self._typed = False
        if not self._typed:
            text = numbers_text(_missing(state))
            if text != self.frames.text():
                self.frames.setText(text)
        if is_new or not self.calls["region"].isChecked():
            self._write()

    def toggle_frame(self, seq_num: int) -> None:
        """Put a frame among those that are to be taken again, or take it out."""
        try:
            numbers = set(parse_numbers(self.frames.text()))
        except ValueError:
            numbers = set()
        self.frames.setText(numbers_text(list(numbers ^ {seq_num})))
        self._typed = True
        self.choose("retake")

    def look(self) -> None:
        """Show what the RunEngine is doing, and which buttons make sense."""
        now = str(self._scans.RE.state) if self._scans is not None else ""
        if self._scans is not None:
            self.state.setText(f"RunEngine: {now}")
        self.buttons["pause"].setEnabled(now == "running")
        self.buttons["resume"].setEnabled(now == "paused")
        for name in ("stop", "abort"):
            self.buttons[name].setEnabled(now in ("running", "paused"))
        known = self._scans is not None and self._call is not None and self._call.plan in self._scans.plans
        self.run.setEnabled(known and now == "idle")
        self.copy.setEnabled(self._call is not None)

    def _lay_out(self, steering: QtWidgets.QHBoxLayout, calls: QtWidgets.QHBoxLayout) -> None:
        form = self._form = QtWidgets.QFormLayout()
        for label, widget in (
            ("step", self.step),
            ("pattern", self.pattern),
            ("frames", self.frames),
            ("darks", self.darks),
            ("darks", self.darks_of_scan),
        ):
            form.addRow(label, widget)
        below = QtWidgets.QHBoxLayout()
        below.addWidget(self.answer, 1)
        below.addWidget(self.copy)
        below.addWidget(self.run)
        page = QtWidgets.QWidget()
        fields = QtWidgets.QVBoxLayout(page)
        fields.setContentsMargins(0, 0, 0, 0)
        fields.addLayout(form)
        fields.addWidget(self.command)
        fields.addStretch(1)
        scroll = QtWidgets.QScrollArea()  # in a small window, so that all buttons are seen
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QtWidgets.QFrame.Shape.NoFrame)
        scroll.setWidget(page)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(6, 2, 6, 2)
        layout.addWidget(self.state)
        layout.addLayout(steering)
        layout.addLayout(calls)
        layout.addWidget(self.where)
        layout.addWidget(scroll, 1)
        layout.addLayout(below)

    def _type(self) -> None:
        self._typed = True
        self._write()

    def _write(self) -> None:
        """Write what is done next, or what is missing for it."""
        try:
            self._call, text = self._next()
        except ValueError as error:
            self._call, text = None, str(error)
        self.where.setText(text)
        command = self._call.text if self._call is not None else ""
        if command != self.command.toPlainText():
            self.command.setPlainText(command)
        self.look()

    def _next(self) -> tuple[Call | None, str]:
        """Return what is chosen, None where something is missing, and a line for people."""
        if self.calls["darks"].isChecked():
            run = self._shown.run
            return next_darks(self.darks.value(), run.exposures_s if run is not None else ()), "frames without light"
        if self.calls["retake"].isChecked():
            numbers = parse_numbers(self.frames.text())
            if not numbers:
                return None, "no frames: type their numbers, or Shift+click points of the low-resolution image"
            call = self._with_darks(next_retake(numbers, self._shown))
            found = len(call.arguments["md"]["retaken"])
            missing = f", the places of {len(numbers) - found} are not known" if found < len(numbers) else ""
            return call, f"{numbered(len(call.arguments['points_um']), 'point')} again{missing}"
        region = self._region
        if region is None:
            return None, "no region: press 'region' on the low-resolution image (R)"
        step_um, pattern = round(self.step.value(), 4), self.pattern.currentText()
        call = self._with_darks(next_scan(region, step_um, pattern, self._shown.run))
        rows, columns = call.arguments["shape"]
        size = f"{region.x1 - region.x0:.3g} × {region.y1 - region.y0:.3g} µm"
        return call, f"next scan: {size}, {columns} × {rows} points"

    def _with_darks(self, call: Call) -> Call:
        if self.darks_of_scan.currentText() == NEW_DARKS:
            return call
        return Call(call.plan, {**call.arguments, "darks_from": LATEST})

    def _steer(self, name: str) -> None:
        assert self._scans is not None
        RE = self._scans.RE
        if name == "pause":
            self._try(lambda: RE.request_pause(defer=True))
        else:
            self._try(getattr(RE, name))

    def _run(self) -> None:
        scans, call = self._scans, self._call
        assert scans is not None and call is not None
        self._try(lambda: scans.RE(scans.plans[call.plan](**call.arguments)))

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
