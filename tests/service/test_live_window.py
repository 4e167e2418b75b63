"""A live window on a real service: it comes late, steers, and finds the service again after a crash."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from recorded_scan import TIMEOUT_S, RecordedScan, Session, halves

from nsbluesky.service.control import ask
from nsbluesky.service.remote_processing import RemoteProcessing
from nsbluesky.service.subscriber import DerivedRuns
from nsbluesky.service.supervisor import ProcessingService
from nsbluesky.viewer.live import LiveWindow
from nsbluesky.viewer.modules import AWAY_S, modules_of_heartbeat
from nsbluesky.viewer.panels import CleanPanel, FitPanel, LowResolutionPanel, ObjectPanel, ProbePanel
from nsbluesky.viewer.qt import QtCore, QtWidgets

LEFT = QtCore.Qt.MouseButton.LeftButton
PATIENCE_MS = round(1000 * TIMEOUT_S)


def live_window(service: ProcessingService, runs: DerivedRuns, qtbot: QtBot) -> LiveWindow:
    window = LiveWindow(
        runs.live,
        modules=lambda: modules_of_heartbeat(runs.heartbeat),
        processing=RemoteProcessing(service.address, service.credentials),
        panels=[CleanPanel, FitPanel, LowResolutionPanel, ObjectPanel, ProbePanel],
    )
    qtbot.addWidget(window)
    window.show()
    return window


def test_late_windows_steering_and_a_crash(scan: RecordedScan, tmp_path: Path, qtbot: QtBot) -> None:
    with (
        ProcessingService(scan.settings(tmp_path, sweep_frames=0, modes=1, passes_final=2)) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        session.send(scan.documents)
        assert session.connection.wait(TIMEOUT_S)

        # two windows that come when all is over
        viewers = [DerivedRuns(service.address, service.credentials) for _ in range(2)]
        windows = [live_window(service, runs, qtbot) for runs in viewers]
        for window in windows:
            for kind in (ObjectPanel, CleanPanel):
                panel = window.panels[kind]
                qtbot.waitUntil(lambda panel=panel: panel.item.image is not None, timeout=PATIENCE_MS)
            assert window.health.status.text().startswith("finished")
            assert np.isfinite(viewers[0].live.snapshot().photons).sum() == scan.num_points
        window = windows[0]

        # the form shows the service's settings, and changes them
        control = window.control
        assert control is not None
        qtbot.waitUntil(lambda: control.form.settings.solver.passes_final == 2, timeout=PATIENCE_MS)  # type: ignore[attr-defined]
        modes = control.form.editors["solver.modes"]
        assert isinstance(modes, QtWidgets.QLineEdit)
        window.docks.show_dock("Control")
        modes.selectAll()
        qtbot.keyClicks(modes, "3")
        qtbot.mouseClick(control.apply, LEFT)
        qtbot.waitUntil(lambda: "changed" in control.answer.text(), timeout=PATIENCE_MS)
        settings = ask(service.address, "configure", service.credentials, settings={})["settings"]
        assert settings["solver"]["modes"] == 3
        qtbot.mouseClick(control.buttons["pause"], LEFT)
        qtbot.waitUntil(lambda: ask(service.address, "status")["state"] == "paused", timeout=PATIENCE_MS)
        qtbot.mouseClick(control.buttons["resume"], LEFT)
        qtbot.waitUntil(lambda: ask(service.address, "status")["state"] == "idle", timeout=PATIENCE_MS)

        # killed: it is started again by whoever watches over it, and the window finds it
        before = viewers[0].heartbeat["instance"]
        os.kill(service.pid, signal.SIGKILL)
        qtbot.waitUntil(lambda: viewers[0].heartbeat["instance"] != before, timeout=PATIENCE_MS)
        qtbot.waitUntil(lambda: window.health_panel.lights().get("service") == "●", timeout=PATIENCE_MS)
        assert window.health.away.isHidden()
        for runs in viewers:
            runs.close()


def test_a_viewer_without_rights_is_told(scan: RecordedScan, tmp_path: Path, qtbot: QtBot) -> None:
    with ProcessingService(scan.settings(tmp_path)) as service:
        processing = RemoteProcessing("tcp://127.0.0.1:9", None)
        with pytest.raises(ConnectionError, match="no answer"):
            processing.do("pause")
        runs = DerivedRuns(service.address, service.credentials)
        window = live_window(service, runs, qtbot)
        qtbot.waitUntil(lambda: window.health_panel.lights().get("service") == "●", timeout=PATIENCE_MS)
        runs.close()
    # nobody is there any more
    runs.heartbeat = {**runs.heartbeat, "heard": runs.heartbeat["heard"] - AWAY_S}
    qtbot.waitUntil(lambda: not window.health.away.isHidden(), timeout=PATIENCE_MS)
    assert "no heartbeat" in window.health.away.text()


def test_the_run_that_goes_on_is_steered(scan: RecordedScan, tmp_path: Path, qtbot: QtBot) -> None:
    """Settings with a sign change it at once, and the fit is that of the frame whose point was clicked."""
    with (
        ProcessingService(scan.settings(tmp_path, sweep_frames=0, modes=1, passes_final=2)) as service,
        Session(service.address, tmp_path, service.credentials) as session,
    ):
        first, rest = halves(scan.documents)
        session.send(first)
        runs = DerivedRuns(service.address, service.credentials)
        window = live_window(service, runs, qtbot)
        control, probe, fit = window.control, window.panels[ProbePanel], window.panels[FitPanel]
        assert control is not None
        qtbot.waitUntil(lambda: "1 mode" in probe.title_label.text(), timeout=PATIENCE_MS)
        qtbot.waitUntil(lambda: control.form.settings.solver.passes_final == 2, timeout=PATIENCE_MS)  # type: ignore[attr-defined]
        window.docks.show_dock("Control")
        modes = control.form.editors["solver.modes"]
        assert isinstance(modes, QtWidgets.QLineEdit)
        modes.selectAll()
        qtbot.keyClicks(modes, "3")
        qtbot.mouseClick(control.apply, LEFT)
        qtbot.waitUntil(lambda: "solver.modes" in control.answer.text(), timeout=PATIENCE_MS)
        window.panels[LowResolutionPanel].frame_clicked.emit(4, False)
        qtbot.waitUntil(lambda: control.answer.text() == "", timeout=PATIENCE_MS)
        session.send(rest)
        assert session.connection.wait(TIMEOUT_S)
        window.docks.show_dock("ProbePanel")
        qtbot.waitUntil(lambda: "3 modes" in probe.title_label.text(), timeout=PATIENCE_MS)
        qtbot.waitUntil(lambda: "Fit · frame 4 · R 0." in fit.title_label.text(), timeout=PATIENCE_MS)
        state = runs.live.snapshot()
        assert state.run is not None and state.run.settings is not None and state.run.settings.solver.modes == 3
        assert "to viewers" in window.health_panel.traffic.text()
        runs.close()
