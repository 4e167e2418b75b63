"""A panel of another package comes into the window by its entry point, and a broken one does not disturb it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from derived_scan import DerivedScan
from pytestqt.qtbot import QtBot

from nsbluesky.callbacks.live_plots import LivePlots
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.viewer.live import LiveWindow
from nsbluesky.viewer.panels import LIVE_PANELS, live_panels

PANEL = """
from nsbluesky.callbacks.stage import Stage
from nsbluesky.viewer.panels import LivePanel
from nsbluesky.viewer.panels.quality import curve

class ContrastPanel(LivePanel):
    place = "center bottom"

    def __init__(self):
        super().__init__("Contrast", "frame", "contrast")
        self.curve = curve()
        self.plot.addItem(self.curve)

    def parts(self, state):
        return (state.streams.get("contrast"),)

    def draw(self, state):
        data = state.streams["contrast"]
        self.curve.setData(data["frames"], data["values"])

    def clear(self):
        self.curve.clear()

class ContrastStage(Stage):
    name = "contrast"

    def on_event_page(self, page):
        if self.stream_of(page) == "clean":
            yield from self.run.derived.event("contrast", frames=page["seq_num"], values=page["data"]["photons"])
"""
ENTRY_POINTS = """
[nsbluesky.panels]
contrast = contrast_package:ContrastPanel
broken = contrast_package:Missing
[nsbluesky.stages]
contrast = contrast_package:ContrastStage
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "contrast_package.py").write_text(PANEL)
    info = tmp_path / "contrast_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: contrast-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    monkeypatch.delitem(__import__("sys").modules, "contrast_package", raising=False)


def test_the_panel_is_in_the_window_and_draws_its_stream(
    package: None, live: LivePlots, scan: DerivedScan, qtbot: QtBot, caplog: pytest.LogCaptureFixture
) -> None:
    window = LiveWindow(live)
    qtbot.addWidget(window)
    (kind,) = set(window.panels) - set(LIVE_PANELS)
    assert "'broken'" in caplog.text
    panel = window.panels[kind]
    scan.start()
    window.refresh()
    assert panel.curve.getData()[0] is None
    scan.event("contrast", frames=[1, 2], values=[0.5, 0.25])
    window.refresh()
    assert panel.curve.getData()[1].tolist() == [0.5, 0.25]
    assert window.docks.docks["ContrastPanel"].windowTitle() == "Contrast"


def test_the_stage_is_in_the_pipeline(package: None) -> None:
    pipeline = PtychoPipeline()
    try:
        assert [stage.__name__ for stage in pipeline.make_stages()][-1] == "ContrastStage"
        assert len(pipeline.make_stages()) == len(PtychoPipeline.stages) + 1
    finally:
        pipeline.close(timeout=0)


def test_nothing_else_is_installed() -> None:
    assert live_panels() == LIVE_PANELS
