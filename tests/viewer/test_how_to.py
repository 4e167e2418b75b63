"""What the manual's pages show is installed as a reader would install it: one file and the page's entry point."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from derived_scan import DerivedScan
from pytestqt.qtbot import QtBot

from nsbluesky.callbacks.live_plots import LivePlots
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.viewer.live import LiveWindow

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
TOTAL_INTENSITY, SLICES, STAGE = "add-a-panel.md", "tomography-slices.md", "write-a-stage.md"


def block(text: str, kind: str) -> str:
    """Return the first block of a kind on a page."""
    found = re.search(rf"^```{kind}\n(.*?)^```$", text, re.M | re.S)
    assert found is not None
    return found[1]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Install the first Python block of a page as pip would; returns the name of what it is."""

    def install(page: str) -> str:
        text = (HOW_TO / page).read_text(encoding="utf-8")
        ((group, entries),) = tomllib.loads(block(text, "toml"))["project"]["entry-points"].items()
        ((name, value),) = entries.items()
        module, _, kind = value.partition(":")
        path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block(text, "python"), encoding="utf-8")
        info = tmp_path / "example-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
        monkeypatch.syspath_prepend(tmp_path)
        for part in (module, module.partition(".")[0]):
            monkeypatch.delitem(sys.modules, part, raising=False)
        return kind

    return install


@pytest.mark.parametrize("page", [TOTAL_INTENSITY, SLICES])
def test_a_panel_is_in_every_window(
    install: Callable[[str], str], page: str, live: LivePlots, scan: DerivedScan, qtbot: QtBot
) -> None:
    kind = install(page)
    window = LiveWindow(live)
    qtbot.addWidget(window)
    assert kind in window.docks.docks
    panel = next(panel for panel in window.panels.values() if type(panel).__name__ == kind)
    scan.start()
    scan.clean(1, 2)
    scan.reconstruction(2, 0.3, final=True)
    window.refresh()
    assert "cannot be drawn" not in panel.title_label.text()
    if page == TOTAL_INTENSITY:
        assert len(panel.curve.getData()[0]) == 2


def test_a_stage_is_in_every_pipeline(install: Callable[[str], str]) -> None:
    kind = install(STAGE)
    pipeline = PtychoPipeline()
    try:
        assert pipeline.make_stages()[-1].__name__ == kind
    finally:
        pipeline.close(timeout=0)
