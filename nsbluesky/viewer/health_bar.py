"""HealthBar: one line with rate, queue, latency and losses, and every stage that raised in red."""

from __future__ import annotations

from collections.abc import Sequence

from nsbluesky.callbacks.live_parts import StageHealth
from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.callbacks.news import number_text, numbered
from nsbluesky.viewer.modules import Modules
from nsbluesky.viewer.qt import QtCore, QtWidgets

__all__ = ["ERROR_STYLE", "HealthBar", "indices_text"]

MAX_INDICES = 8
ERROR_STYLE = "background: #b00020; color: white; padding: 3px;"
WARNING_STYLE = "background: #ffd24d; color: black; padding: 3px;"


def indices_text(indices: Sequence[int]) -> str:
    """Write how many frames and which: "3 (4, 7, 9)"."""
    if not indices:
        return "0"
    shown = ", ".join(str(k) for k in indices[:MAX_INDICES])
    return f"{len(indices)} ({shown}{', …' if len(indices) > MAX_INDICES else ''})"


class HealthBar(QtWidgets.QWidget):
    """The line at the bottom of the live window, with a red line per failed stage and a yellow one for warnings."""

    def __init__(self) -> None:
        super().__init__()
        self._state = LiveState()
        self._away = False
        self.status = QtWidgets.QLabel("waiting for a run")
        self.status.setToolTip(
            "rate of cleaned frames, documents that wait, time from a frame's document to its clean frame, "
            "frames that are missing or could not be processed, by seq_num"
        )
        self.errors = _notice(ERROR_STYLE)
        self.warning = _notice(WARNING_STYLE)
        self.away = _notice(ERROR_STYLE)
        self.frozen = _notice(WARNING_STYLE)
        self.frozen.setText("frozen: the scan and the processing go on, this window shows what was; F lets it go on")
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(6, 0, 6, 4)
        layout.setSpacing(2)
        self.status.setWordWrap(True)
        for label in (self.frozen, self.away, self.errors, self.warning, self.status):
            label.setMinimumWidth(0)
            label.setTextFormat(QtCore.Qt.TextFormat.PlainText)
            layout.addWidget(label)

    def show_state(self, state: LiveState) -> None:
        """Write the state."""
        self._state = state
        self._write_status()
        _set(self.errors, [f"{stage.stage} failed: {stage.message}" for stage in state.errors] + _why_failed(state))
        _set(self.warning, list(state.warnings[-1:]))
        self.warning.setToolTip("\n".join(state.warnings))

    def show_modules(self, told: Modules) -> None:
        """Write, in red, that the service is away."""
        self._away = told.text == "away"
        self._write_status()
        _set(self.away, [f"{module.name}: {module.text}" for module in told.modules] if self._away else [])

    def _write_status(self) -> None:
        line = _status_line(self._state)
        goes_on = self._state.run is not None and not self._state.finished
        self.status.setText(f"when last heard: {line}" if self._away and goes_on else line)


def _notice(style: str) -> QtWidgets.QLabel:
    label = QtWidgets.QLabel()
    label.setStyleSheet(style)
    label.setWordWrap(True)
    label.hide()
    return label


def _set(label: QtWidgets.QLabel, lines: list[str]) -> None:
    label.setText("\n".join(lines))
    label.setVisible(bool(lines))


def _status_line(state: LiveState) -> str:
    run = state.run
    if run is None:
        return "waiting for a run"
    health = state.summary or StageHealth("", "ok")
    of_total = f" of {run.num_points}" if run.num_points else ""
    parts = [
        _phase_text(state),
        f"{health.num_frames}{of_total} frames" if of_total else numbered(health.num_frames, "frame"),
        f"{health.rate_hz:.1f} Hz",
        f"queue {health.queue}",
        f"latency {health.latency_s:.2f} s",
        f"lost {indices_text(state.lost)}",
        f"bad {indices_text(state.bad)}",
        f"flagged {indices_text(state.flagged)}",
    ]
    if len(state.positions_m) and not state.finished:
        x, y = state.positions_m[-1] * 1e6
        parts.append(f"at {x:.2f}, {y:.2f} µm")
    if state.reconstruction is not None:
        parts.append(f"R {number_text(state.reconstruction.r_factor)}")
        if not state.finished:
            parts.append(f"image {state.reconstruction.newest_age_s:.1f} s old")
    parts.append(run.label.partition(" · ")[0])  # the title of the window has the rest
    return "   ·   ".join(parts)


def _why_failed(state: LiveState) -> list[str]:
    run = state.run
    return [f"run failed: {run.reason}"] if run is not None and run.exit_status == "fail" and run.reason else []


def _phase_text(state: LiveState) -> str:
    assert state.run is not None
    endings = {None: "running", "success": "finished", "abort": "aborted", "fail": "failed"}
    return endings.get(state.run.exit_status, str(state.run.exit_status))
