"""Every control reaches the pipeline, and what it did is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from derived_scan import DerivedScan
from pytestqt.qtbot import QtBot
from recorded_run import TIMEOUT_S

from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.settings import PipelineSettings
from nsbluesky.viewer.control_panel import ControlPanel
from nsbluesky.viewer.qt import QtCore, QtWidgets
from nsbluesky.viewer.session_processing import SessionProcessing

LEFT = QtCore.Qt.MouseButton.LeftButton


@pytest.fixture
def pipeline() -> Iterator[PtychoPipeline]:
    pipeline = PtychoPipeline(PipelineSettings(backend="numpy").replace(solver__modes=4))
    yield pipeline
    pipeline.close(timeout=0)


@pytest.fixture
def panel(pipeline: PtychoPipeline, tmp_path: Path, qtbot: QtBot) -> Iterator[ControlPanel]:
    panel = ControlPanel(SessionProcessing(pipeline, tmp_path))
    qtbot.addWidget(panel)
    panel.show()
    qtbot.waitUntil(lambda: panel.form.settings == pipeline.settings, timeout=10_000)
    yield panel
    panel.close()


def press(qtbot: QtBot, panel: ControlPanel, action: str) -> None:
    panel.answer.setText("")
    qtbot.mouseClick(panel.buttons[action], LEFT)
    qtbot.waitUntil(lambda: panel.answer.text() not in ("", "…"), timeout=10_000)


def test_the_settings_in_use_are_shown(panel: ControlPanel) -> None:
    assert panel.form.editors["solver.modes"].text() == "4"  # type: ignore[attr-defined]
    assert not panel.apply.isEnabled()


def test_the_box_for_the_quality_leaves_what_was_edited(
    panel: ControlPanel, pipeline: PtychoPipeline, qtbot: QtBot
) -> None:
    line = panel.form.editors["solver.alpha"]
    assert isinstance(line, QtWidgets.QLineEdit)
    line.selectAll()
    qtbot.keyClicks(line, "7.5")
    panel.quality.click()
    qtbot.waitUntil(lambda: panel.answer.text().startswith("changed"), timeout=10_000)
    assert pipeline.settings.solver.held_out == 0.02
    assert pipeline.settings.solver.alpha == PipelineSettings().solver.alpha
    assert panel.form.changes() == {"solver.alpha": 7.5}
    assert panel.apply.isEnabled()


def test_settings_reach_the_pipeline(panel: ControlPanel, pipeline: PtychoPipeline, qtbot: QtBot) -> None:
    line = panel.form.editors["solver.modes"]
    assert isinstance(line, QtWidgets.QLineEdit)
    line.selectAll()
    qtbot.keyClicks(line, "3")
    qtbot.mouseClick(panel.apply, LEFT)
    qtbot.waitUntil(lambda: pipeline.settings.solver.modes == 3, timeout=10_000)
    qtbot.waitUntil(lambda: panel.answer.text() == "changed now: solver.modes", timeout=10_000)
    assert not panel.apply.isEnabled()
    line.selectAll()
    qtbot.keyClicks(line, "0")
    assert not panel.apply.isEnabled()
    qtbot.mouseClick(panel.revert, LEFT)
    qtbot.waitUntil(lambda: line.text() == "3", timeout=10_000)
    assert pipeline.settings.solver.modes == 3


def test_pause_and_start(panel: ControlPanel, pipeline: PtychoPipeline, qtbot: QtBot) -> None:
    press(qtbot, panel, "pause")
    assert pipeline.paused
    press(qtbot, panel, "resume")
    assert not pipeline.paused


def test_clear_shows_nothing(panel: ControlPanel, pipeline: PtychoPipeline, qtbot: QtBot) -> None:
    scan = DerivedScan(pipeline.live)
    scan.start()
    scan.clean(1)
    press(qtbot, panel, "clear")
    state = pipeline.live.snapshot()
    assert state.run is None and state.clean is None and not len(state.positions_m)
    scan.clean(2)  # what still comes of that run is left out
    assert pipeline.live.snapshot().clean is None


def test_what_was_cleared_can_be_processed_again(panel: ControlPanel, pipeline: PtychoPipeline, qtbot: QtBot) -> None:
    DerivedScan(pipeline.live).start()
    for action in ("clear", "clear", "reset"):
        press(qtbot, panel, action)
    assert "0123456789abcdef" in panel.answer.text()  # that it looked for in the log


def test_what_cannot_be_done_is_told(panel: ControlPanel, pipeline: PtychoPipeline, qtbot: QtBot) -> None:
    press(qtbot, panel, "reset")
    assert "no run to process again" in panel.answer.text()
    scan = DerivedScan(pipeline.live)
    scan.start()
    press(qtbot, panel, "reset")
    assert "0123456789abcdef" in panel.answer.text()  # it is not in the log
    press(qtbot, panel, "abort")
    assert "cut short" in panel.answer.text()


def test_a_closed_panel_asks_nothing_more(panel: ControlPanel, pipeline: PtychoPipeline, qtbot: QtBot) -> None:
    panel.close()
    panel.buttons["pause"].click()
    qtbot.wait(50)
    assert not pipeline.paused


def test_what_counts_from_when_is_told(panel: ControlPanel, pipeline: PtychoPipeline, qtbot: QtBot) -> None:
    for name, value in (("solver.modes", "2"), ("cleaning.center_frames", "5")):
        line = panel.form.editors[name]
        assert isinstance(line, QtWidgets.QLineEdit)
        line.selectAll()
        qtbot.keyClicks(line, value)
    qtbot.mouseClick(panel.apply, LEFT)
    qtbot.waitUntil(lambda: panel.answer.text().startswith("changed"), timeout=10_000)
    assert panel.answer.text() == "changed now: solver.modes; next run: cleaning.center_frames"
    assert (pipeline.settings.solver.modes, pipeline.settings.cleaning.center_frames) == (2, 5)
    labels = {label.text() for label in panel.form.findChildren(QtWidgets.QLabel)}
    assert {"modes ↻", "photon_threshold ↻", "crop_px"} <= labels


def test_an_unknown_engine_is_refused_where_it_is_typed(panel: ControlPanel, qtbot: QtBot) -> None:
    line = panel.form.editors["solver.algorithm"]
    assert isinstance(line, QtWidgets.QLineEdit)
    line.selectAll()
    qtbot.keyClicks(line, "magic")
    assert not panel.apply.isEnabled()
    assert "expected one of" in panel.form.messages["solver.algorithm"].text()
    line.selectAll()
    qtbot.keyClicks(line, "raar:3,wasp")
    assert panel.apply.isEnabled()


def test_the_quality_is_switched_on_and_off(panel: ControlPanel, pipeline: PtychoPipeline, qtbot: QtBot) -> None:
    assert not panel.quality.isChecked()
    panel.quality.click()
    qtbot.waitUntil(lambda: panel.answer.text().startswith("changed"), timeout=10_000)
    assert pipeline.settings.solver.quality_share > 0 and pipeline.settings.solver.held_out > 0
    assert panel.quality.isChecked()
    assert panel.form.editors["solver.quality_share"].text() == "0.5"  # type: ignore[attr-defined]
    panel.quality.click()
    qtbot.waitUntil(lambda: pipeline.settings.solver.quality_share == 0, timeout=10_000)


def test_the_frame_of_the_fit_reaches_the_pipeline(
    panel: ControlPanel, pipeline: PtychoPipeline, qtbot: QtBot
) -> None:
    panel.show_fit(7)
    qtbot.waitUntil(lambda: pipeline._fit_frame == 7, timeout=10_000)
    panel.show_fit(0)
    qtbot.waitUntil(lambda: pipeline._fit_frame is None, timeout=10_000)


def test_an_answer_that_comes_after_the_window_is_dropped(
    pipeline: PtychoPipeline, tmp_path: Path, qtbot: QtBot, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a service that does not answer: it is over some seconds after the window."""
    asked, answer = threading.Event(), threading.Event()

    class Late(SessionProcessing):
        def settings(self) -> PipelineSettings:
            asked.set()
            answer.wait(TIMEOUT_S)
            return super().settings()

    panel = ControlPanel(Late(pipeline, tmp_path))
    thread = panel._thread
    assert thread is not None and asked.wait(TIMEOUT_S)
    panel.close()
    panel.deleteLater()
    QtWidgets.QApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete.value)
    answer.set()
    thread.shutdown(wait=True)
    assert caplog.messages == []
