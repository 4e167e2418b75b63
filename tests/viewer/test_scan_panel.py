"""The scan is steered from the window, and a region drawn with the mouse becomes the next one."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import bluesky.plan_stubs as bps
import pytest
from bluesky import RunEngine
from derived_scan import DerivedScan
from own_run_engine import run_engine
from pytestqt.qtbot import QtBot

from nsbluesky.callbacks.live_parts import RunInfo
from nsbluesky.callbacks.live_plots import LivePlots
from nsbluesky.trajectories import make_trajectory
from nsbluesky.viewer.live import LiveWindow
from nsbluesky.viewer.panels import FitPanel, LowResolutionPanel
from nsbluesky.viewer.panels.low_resolution import Region
from nsbluesky.viewer.qt import QtCore, QtDuringTask, QtWidgets
from nsbluesky.viewer.scan_panel import ScanPanel, Scans, next_scan

LEFT = QtCore.Qt.MouseButton.LeftButton


@pytest.fixture
def qt_engine() -> Iterator[RunEngine]:
    with run_engine(during_task=QtDuringTask(), call_returns_result=False) as engine:
        yield engine


class Recorder:
    """A plan that notes how it was called, and waits until it may go on."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.steps = 0
        self.last_step = 3
        self.on_step: Any = lambda: None

    def __call__(self, **arguments: Any) -> Generator[Any, Any, None]:
        self.calls.append(arguments)
        yield from bps.open_run()
        while self.steps < self.last_step:
            yield from bps.checkpoint()
            self.steps += 1
            self.on_step()
            yield from bps.sleep(0.01)
        yield from bps.close_run()


def press(qtbot: QtBot, panel: ScanPanel, name: str) -> None:
    panel.look()
    qtbot.mouseClick(panel.buttons[name], LEFT)


def when(panel: ScanPanel, state: str, do: Any) -> QtCore.QTimer:
    """Do something once, from Qt's event loop, when the RunEngine is in a state."""
    timer = QtCore.QTimer(panel)

    def look() -> None:
        panel.look()
        if panel.state.text() == f"RunEngine: {state}":
            timer.stop()
            do()

    timer.timeout.connect(look)
    timer.start(5)
    return timer


def test_pause_resume_and_abort(qt_engine: RunEngine, qtbot: QtBot) -> None:
    plan = Recorder()
    plan.last_step = 10**6
    panel = ScanPanel(Scans(qt_engine, {"ptycho_fly_scan": plan}))
    qtbot.addWidget(panel)
    panel.show()
    assert not any(button.isEnabled() for button in panel.buttons.values())
    panel.set_region(Region(0, 1, 0, 1), LivePlots().snapshot())
    when(panel, "running", lambda: press(qtbot, panel, "pause"))
    qtbot.mouseClick(panel.run, LEFT)  # returns when the scan is paused
    assert qt_engine.state == "paused"
    assert "paused" in panel.answer.text()
    steps = plan.steps
    when(panel, "running", lambda: press(qtbot, panel, "abort"))
    press(qtbot, panel, "resume")
    assert qt_engine.state == "idle"
    assert plan.steps > steps
    panel.look()
    assert panel.run.isEnabled() and not panel.buttons["abort"].isEnabled()


def test_stop_a_paused_scan(qt_engine: RunEngine, qtbot: QtBot) -> None:
    stops: list[dict[str, Any]] = []
    qt_engine.subscribe(lambda name, document: stops.append(document), "stop")
    plan = Recorder()
    plan.last_step = 10**6
    panel = ScanPanel(Scans(qt_engine, {"ptycho_fly_scan": plan}))
    qtbot.addWidget(panel)
    panel.show()
    panel.set_region(Region(0, 1, 0, 1), LivePlots().snapshot())
    when(panel, "running", lambda: press(qtbot, panel, "pause"))
    qtbot.mouseClick(panel.run, LEFT)
    press(qtbot, panel, "stop")
    assert qt_engine.state == "idle"
    assert [stop["exit_status"] for stop in stops] == ["success"]


def test_a_plan_that_fails_is_told(qt_engine: RunEngine, qtbot: QtBot, caplog: pytest.LogCaptureFixture) -> None:
    def broken(**arguments: Any) -> Generator[Any, Any, None]:
        yield from bps.null()
        raise ValueError("beyond the soft limits")

    panel = ScanPanel(Scans(qt_engine, {"ptycho_fly_scan": broken}))
    qtbot.addWidget(panel)
    panel.show()
    panel.set_region(Region(0, 1, 0, 1), LivePlots().snapshot())
    qtbot.mouseClick(panel.run, LEFT)
    assert panel.answer.text() == "ValueError: beyond the soft limits"


def test_a_frame_can_be_taken_again_once_it_was_measured(live: LivePlots, scan: DerivedScan, qtbot: QtBot) -> None:
    panel = ScanPanel(None)
    qtbot.addWidget(panel)
    scan.start()
    panel.show_state(live.snapshot())
    panel.toggle_frame(3)
    assert "nobody knows" in panel.where.text()
    scan.raw(1, 2, 3)
    panel.show_state(live.snapshot())
    assert panel.where.text() == "1 point again"
    assert "(50.2, -20.0)" in panel.command.toPlainText()


def test_a_region_is_exposed_as_the_scan_that_began_after_it_was_drawn(
    live: LivePlots, scan: DerivedScan, qtbot: QtBot
) -> None:
    panel = ScanPanel(None)
    qtbot.addWidget(panel)
    panel.set_region(Region(0, 1, 0, 1), live.snapshot())
    assert "exposure_s" not in panel.command.toPlainText()
    scan.start()
    panel.show_state(live.snapshot())
    assert "exposure_s=0.02" in panel.command.toPlainText()


def test_next_scan_covers_the_region() -> None:
    call = next_scan(Region(1.0, 3.0, -4.0, -3.0), 0.1, "raster")
    arguments = call.arguments
    assert call.text == ("RE(ptycho_fly_scan(shape=(10, 20), step_um=0.1, pattern='raster', center_um=(2.0, -3.5)))")
    points = make_trajectory("raster", arguments["shape"], 0.1) + arguments["center_um"]
    assert points.min(axis=0) == pytest.approx([1.05, -3.95])
    assert points.max(axis=0) == pytest.approx([2.95, -3.05])
    assert next_scan(Region(0, 0.01, 0, 0.01), 0.1, "raster").arguments["shape"] == (1, 1)


@pytest.mark.parametrize(
    ("exposures_s", "rate_hz", "plan", "more"),
    [
        ((0.02,), 25.0, "ptycho_fly_scan", {"exposure_s": 0.02, "rate_hz": 25.0}),
        ((0.02,), None, "ptycho_scan", {"exposure_s": 0.02}),
        ((0.1, 0.01), None, "ptycho_scan", {"exposure_s": (0.1, 0.01)}),
        ((), None, "ptycho_fly_scan", {}),
    ],
)
def test_next_scan_is_of_the_kind_of_the_last_one(
    exposures_s: tuple[float, ...], rate_hz: float | None, plan: str, more: dict[str, Any]
) -> None:
    last = RunInfo("uid", "raw", "", None, 0.0, exposures_s=exposures_s, rate_hz=rate_hz)
    call = next_scan(Region(0, 1, 0, 1), 0.1, "raster", last)
    assert call.plan == plan
    assert call.arguments.keys() - {"shape", "step_um", "pattern", "center_um"} == more.keys()
    assert {name: call.arguments[name] for name in more} == more


def test_a_region_drawn_with_the_mouse_becomes_the_next_scan(
    live: LivePlots, scan: DerivedScan, qt_engine: RunEngine, qtbot: QtBot
) -> None:
    plan = Recorder()
    window = LiveWindow(live, scans=Scans(qt_engine, {"ptycho_fly_scan": plan}), panels=[LowResolutionPanel])
    qtbot.addWidget(window)
    scan.start()
    scan.raw(1, 2, 3)
    scan.low_resolution(30)
    with qtbot.waitActive(window):
        window.show()
        window.activateWindow()
    window.refresh()
    low = window.panels[LowResolutionPanel]
    qtbot.keyClick(window, QtCore.Qt.Key.Key_R)
    assert low.pick.isChecked()
    before = low.region
    assert window.docks.docks["Scan"].isVisible()
    assert window.scan.step.value() == pytest.approx(0.1)  # that of the last scan

    viewport = low.graphics.viewport()
    start = low.graphics.mapFromScene(low.view.mapViewToScene(QtCore.QPointF(50.2, -19.8)))
    for event, point in (
        ("press", start),
        ("move", start + QtCore.QPoint(12, 8)),
        ("move", start + QtCore.QPoint(24, 16)),
    ):
        send_mouse(viewport, event, point)
    send_mouse(viewport, "release", start + QtCore.QPoint(24, 16))

    moved = low.region
    assert moved is not None and before is not None
    assert moved.x0 > before.x0 and moved.y0 < before.y0
    assert moved.x1 - moved.x0 == pytest.approx(before.x1 - before.x0)
    command = window.scan.command.toPlainText()
    center = ((moved.x0 + moved.x1) / 2, (moved.y0 + moved.y1) / 2)
    assert f"center_um=({center[0]:.4f}".rstrip("0") in command
    qtbot.mouseClick(window.scan.copy, LEFT)
    assert QtWidgets.QApplication.clipboard().text() == command
    window.scan.step.setValue(0.05)
    qtbot.mouseClick(window.scan.run, LEFT)
    (arguments,) = plan.calls
    assert arguments["step_um"] == 0.05
    assert arguments["center_um"] == pytest.approx(center, abs=1e-4)
    qtbot.keyClick(window, QtCore.Qt.Key.Key_R)
    assert low.region is None
    assert not window.scan.run.isEnabled()


def test_take_darks(live: LivePlots, scan: DerivedScan, qt_engine: RunEngine, qtbot: QtBot) -> None:
    plan = Recorder()
    window = LiveWindow(live, scans=Scans(qt_engine, {"ptycho_darks": plan}), panels=[LowResolutionPanel])
    qtbot.addWidget(window)
    window.show()
    scan.start()
    window.refresh()
    window.docks.show_dock("Scan")
    panel = window.scan
    assert not panel.run.isEnabled()
    qtbot.mouseClick(panel.calls["darks"], LEFT)
    assert panel.command.toPlainText() == "RE(ptycho_darks(num_dark=25, exposure_s=0.02))"
    panel.darks.selectAll()
    qtbot.keyClicks(panel.darks, "7")
    qtbot.mouseClick(panel.copy, LEFT)
    assert QtWidgets.QApplication.clipboard().text() == "RE(ptycho_darks(num_dark=7, exposure_s=0.02))"
    qtbot.mouseClick(panel.run, LEFT)
    assert plan.calls == [{"num_dark": 7, "exposure_s": 0.02}]


def test_the_darks_of_an_earlier_run_are_asked_for(live: LivePlots, scan: DerivedScan, qtbot: QtBot) -> None:
    window = LiveWindow(live, panels=[LowResolutionPanel])
    qtbot.addWidget(window)
    scan.start()
    scan.raw(1, 2, 3)
    scan.low_resolution(3)
    scan.health(bad=(2,))
    window.show()
    window.refresh()
    panel = window.scan
    window.panels[LowResolutionPanel].set_region(Region(50.0, 50.4, -20.0, -19.8))
    assert "exposure_s=0.02, rate_hz=10.0))" in panel.command.toPlainText()
    qtbot.keyClicks(panel.darks_of_scan, "those")
    assert panel.command.toPlainText().endswith("rate_hz=10.0, darks_from='latest'))")
    qtbot.mouseClick(panel.calls["retake"], LEFT)
    assert panel.darks_of_scan.isVisibleTo(panel)
    assert panel.command.toPlainText().endswith("darks_from='latest'))")
    qtbot.mouseClick(panel.calls["darks"], LEFT)
    assert not panel.darks_of_scan.isVisibleTo(panel)
    assert "darks_from" not in panel.command.toPlainText()


def test_frames_are_taken_again(live: LivePlots, scan: DerivedScan, qt_engine: RunEngine, qtbot: QtBot) -> None:
    """Bad ones where they were measured, lost ones where they were planned, and those that are typed or clicked."""
    plan = Recorder()
    window = LiveWindow(live, scans=Scans(qt_engine, {"ptycho_points": plan}), panels=[LowResolutionPanel])
    qtbot.addWidget(window)
    window.show()
    panel = window.scan
    scan.start()
    scan.raw(*range(1, 15))
    scan.low_resolution(14)
    scan.health(lost=(20, 21), bad=(3,))
    window.refresh()
    window.docks.show_dock("Scan")
    qtbot.mouseClick(panel.calls["retake"], LEFT)
    assert panel.frames.text() == "3, 20-21"
    qtbot.mouseClick(panel.run, LEFT)
    (call,) = plan.calls
    assert call["md"] == {"retake_of": "0123456789abcdef", "retaken": [3, 20, 21]}
    assert call["exposure_s"] == 0.02
    expected = [[1e6 * at for at in scan.position_m(k)] for k in (3, 20, 21)]
    assert [list(point) for point in call["points_um"]] == [pytest.approx(point, abs=1e-4) for point in expected]

    low = window.panels[LowResolutionPanel]
    x, y = (1e6 * at for at in scan.position_m(7))
    at = low.graphics.mapFromScene(low.view.mapViewToScene(QtCore.QPointF(x, y)))
    qtbot.mouseClick(low.graphics.viewport(), LEFT, QtCore.Qt.KeyboardModifier.ShiftModifier, at)
    assert panel.frames.text() == "3, 7, 20-21"
    scan.health(lost=(20, 21, 22), bad=(3,))  # what a person has chosen stays
    window.refresh()
    assert panel.frames.text() == "3, 7, 20-21"
    panel.frames.selectAll()
    qtbot.keyClicks(panel.frames, "5-6, 99")
    assert panel.where.text() == "2 points again, the places of 1 are not known"
    qtbot.keyClicks(panel.frames, "x")
    assert "expected numbers of frames" in panel.where.text()
    assert not panel.copy.isEnabled() and not panel.run.isEnabled()
    DerivedScan(live).start()
    window.refresh()
    assert panel.frames.text() == ""
    assert "no frames" in panel.where.text()


def test_a_click_on_a_point_asks_for_the_fit_of_its_frame(live: LivePlots, scan: DerivedScan, qtbot: QtBot) -> None:
    window = LiveWindow(live, panels=[LowResolutionPanel, FitPanel])
    qtbot.addWidget(window)
    chosen: list[int] = []
    fit = window.panels[FitPanel]
    fit.frame_chosen.connect(chosen.append)
    scan.start()
    scan.raw(*range(1, 15))
    scan.low_resolution(14)
    window.show()
    window.refresh()
    low = window.panels[LowResolutionPanel]
    x, y = (1e6 * at for at in scan.position_m(5))
    at = low.graphics.mapFromScene(low.view.mapViewToScene(QtCore.QPointF(x, y)))
    qtbot.mouseClick(low.graphics.viewport(), LEFT, pos=at)
    assert chosen == [5] and fit.number.value() == 5
    qtbot.waitUntil(lambda: window.docks.in_front("FitPanel"), timeout=10_000)


def test_without_a_run_engine_the_command_can_be_copied(live: LivePlots, scan: DerivedScan, qtbot: QtBot) -> None:
    window = LiveWindow(live, panels=[LowResolutionPanel])
    qtbot.addWidget(window)
    scan.start()
    scan.low_resolution(30)
    window.refresh()
    window.panels[LowResolutionPanel].set_region(Region(50.0, 50.4, -20.0, -19.8))
    assert window.scan.command.toPlainText().startswith("RE(ptycho_fly_scan(shape=(2, 4)")
    assert window.scan.copy.isEnabled() and not window.scan.run.isEnabled()
    assert not any(button.isEnabled() for button in window.scan.buttons.values())


def send_mouse(widget: QtWidgets.QWidget, event: str, point: QtCore.QPoint) -> None:
    from nsbluesky.viewer.qt import QtGui

    kind = {
        "press": QtCore.QEvent.Type.MouseButtonPress,
        "move": QtCore.QEvent.Type.MouseMove,
        "release": QtCore.QEvent.Type.MouseButtonRelease,
    }[event]
    none = QtCore.Qt.MouseButton.NoButton
    at = QtCore.QPointF(point)
    mouse = QtGui.QMouseEvent(
        kind,
        at,
        QtCore.QPointF(widget.mapToGlobal(point)),
        LEFT if event != "move" else none,
        none if event == "release" else LEFT,
        QtCore.Qt.KeyboardModifier.NoModifier,
    )
    QtWidgets.QApplication.sendEvent(widget, mouse)
    QtWidgets.QApplication.processEvents()


def test_where_there_is_little_room_all_buttons_are_seen(qtbot: QtBot) -> None:
    panel = ScanPanel(None)
    qtbot.addWidget(panel)
    panel.resize(240, 230)
    panel.show()
    assert panel.height() == 230
    for button in (panel.copy, panel.run):
        assert panel.rect().contains(QtCore.QRect(button.mapTo(panel, QtCore.QPoint()), button.size()))
