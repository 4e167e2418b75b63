"""The lights tell how the processing does, here and at a service, and that a service is away."""

from __future__ import annotations

from typing import Any

import pytest
from derived_scan import DerivedScan
from pytestqt.qtbot import QtBot

from nsbluesky.callbacks.activity import RunActivity, StageActivity
from nsbluesky.callbacks.live_plots import LivePlots
from nsbluesky.viewer.health_bar import HealthBar
from nsbluesky.viewer.health_panel import HealthPanel
from nsbluesky.viewer.image_panel import ImagePanel
from nsbluesky.viewer.modules import AWAY_S, LATE_S, SLOW_S, modules_of_activity, modules_of_heartbeat
from nsbluesky.viewer.qt import QtGui, QtWidgets


def stage(**more: Any) -> StageActivity:
    told = {"stage": "frames", "num_blocks": 3, "busy_s": 1.0, "age_s": 0.1, "block_s": 0.0, "rate_hz": 2.0}
    return StageActivity(**(told | {"MB_s": 12.3, "queue": 1, "state": "busy"} | more))


def run(*stages: StageActivity) -> RunActivity:
    return RunActivity("raw", "derived", 9, stages)


@pytest.mark.parametrize(
    ("more", "light", "text"),
    [
        ({}, "green", ""),
        ({"num_blocks": 0}, "grey", "nothing to do yet"),
        ({"block_s": SLOW_S + 2}, "yellow", "at one block for 7 s"),
        ({"state": "error", "block_s": SLOW_S + 2}, "red", "failed: see the log"),
    ],
)
def test_light_of_a_stage(more: dict[str, Any], light: str, text: str) -> None:
    told = modules_of_activity([run(stage(stage="low_resolution", **more))], paused=False, queued=4)
    assert [module.name for module in told.modules] == ["documents", "low resolution"]
    assert told.modules[0].queue == 4
    assert (told.modules[1].light, told.modules[1].text) == (light, text)
    assert told.light == ("green" if light == "grey" else light)
    assert told.text == "processing"


def test_paused_and_idle() -> None:
    assert modules_of_activity([], paused=False, queued=0).text == "idle"
    paused = modules_of_activity([], paused=True, queued=0)
    assert (paused.text, paused.light) == ("paused", "yellow")


@pytest.mark.parametrize(
    ("age", "text", "light"), [(0.5, "idle", "green"), (LATE_S + 1, "idle", "yellow"), (AWAY_S + 1, "away", "red")]
)
def test_heartbeat(age: float, text: str, light: str) -> None:
    beat = {"heard": 100.0, "state": "idle", "queue": 0, "memory_MB": 321.4, "runs": []}
    told = modules_of_heartbeat(beat, now=100 + age)
    assert (told.text, told.light, told.modules[0].light) == (text, light, light)
    assert modules_of_heartbeat({}).text == "connecting"


def test_the_panel_and_the_bar_tell(qtbot: QtBot) -> None:
    panel, bar = HealthPanel(), HealthBar()
    qtbot.addWidget(panel)
    qtbot.addWidget(bar)
    told = modules_of_activity([run(stage(), stage(state="error"))], paused=False, queued=0)
    panel.show_modules(told)
    assert [panel.table.item(row, 0).text() for row in range(3)] == ["●", "●", "■"]
    assert panel.table.item(2, 7).text() == "failed: see the log"
    assert panel.table.item(1, 3).text() == "12.3 MB/s"
    assert panel.traffic.text() == "frames read 12.3 MB/s"
    bar.show_modules(told)
    assert bar.away.isHidden()
    away = modules_of_heartbeat({"heard": 0.0}, now=60.0)
    panel.show_modules(away)
    bar.show_modules(away)
    assert panel.lights() == {"service": "■"}
    assert bar.away.text() == "service: no heartbeat for 60 s: trying to reach it again"
    assert not bar.away.isHidden()
    assert bar.status.text() == "waiting for a run"


def test_of_a_run_of_a_service_that_is_away_the_last_news_are_told(
    live: LivePlots, scan: DerivedScan, qtbot: QtBot
) -> None:
    bar = HealthBar()
    qtbot.addWidget(bar)
    scan.start()
    bar.show_state(live.snapshot())
    assert bar.status.text().startswith("running")
    bar.show_modules(modules_of_heartbeat({"heard": 0.0}, now=60.0))
    assert bar.status.text().startswith("when last heard: running")
    scan.stop()
    bar.show_state(live.snapshot())
    assert bar.status.text().startswith("finished")


def test_a_large_font_has_room(qtbot: QtBot) -> None:
    application = QtWidgets.QApplication.instance()
    assert isinstance(application, QtWidgets.QApplication)
    usual = application.font()
    large = QtGui.QFont(usual)
    large.setPointSizeF(16)
    application.setFont(large)
    try:
        panel = HealthPanel()
        qtbot.addWidget(panel)
        image = ImagePanel("Frame", "column (px)", "row (px)")
        qtbot.addWidget(image)
    finally:
        application.setFont(usual)
    panel.show_modules(modules_of_activity([run(stage(), stage(state="error"))], paused=False, queued=0))
    metrics = QtGui.QFontMetrics(large)
    assert panel.table.rowHeight(1) > metrics.height()
    assert panel.table.columnWidth(3) > metrics.horizontalAdvance("12.3 MB/s")
    assert image.header.height() > metrics.height()
    label, number = (axis.label.font() for axis in (image.plot.getAxis("left"), image.bar.axis))
    assert label.pointSizeF() == number.pointSizeF() > 14


def test_the_stages_of_the_last_run_stay_at_rest(qtbot: QtBot) -> None:
    panel = HealthPanel()
    qtbot.addWidget(panel)
    idle = modules_of_activity([], paused=False, queued=0)
    panel.show_modules(idle)
    assert panel.lights() == {"documents": "●"}
    panel.show_modules(modules_of_activity([run(stage(), stage(state="error"))], paused=False, queued=0))
    panel.show_modules(idle)
    assert [panel.table.item(row, 0).text() for row in range(3)] == ["●", "○", "○"]
    assert panel.table.item(1, 2).text() == "0.0 /s"
    assert panel.table.item(2, 7).text() == "figures of the last run"


def test_what_a_service_takes_and_gives_is_told() -> None:
    beat = {"heard": 1.0, "received_MB_s": 0.25, "published_MB_s": 3.5}
    told = modules_of_heartbeat(beat, now=1.0)
    assert told.traffic == "frames read 0.0 MB/s   ·   from sessions 0.25 MB/s   ·   to viewers 3.50 MB/s"
