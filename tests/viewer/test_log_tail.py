"""The log panel shows what is logged here and at a service, and follows the newest line."""

from __future__ import annotations

import logging
from pathlib import Path

from pytestqt.qtbot import QtBot

from nsbluesky.viewer.log_tail import TAIL_BYTES, LogLines, LogPanel, tail_of_files


def test_lines_of_this_process() -> None:
    lines = LogLines(max_lines=3)
    logger = logging.getLogger("nsbluesky.test_log_tail")
    logger.addHandler(lines)
    try:
        for k in range(5):
            logger.warning("line %d", k)
    finally:
        logger.removeHandler(lines)
    assert [line[-6:] for line in lines()] == ["line 2", "line 3", "line 4"]


def test_lines_of_a_service_are_in_the_order_of_their_times(tmp_path: Path) -> None:
    assert tail_of_files(tmp_path / "missing") == []
    (tmp_path / "server.log").write_text("2026-01-01 10:00:00 one\n2026-01-01 10:00:02 three\n")
    (tmp_path / "cleaner.log").write_text("2026-01-01 10:00:01 two\n")
    assert [line.split()[-1] for line in tail_of_files(tmp_path)] == ["one", "two", "three"]
    (tmp_path / "server.log").write_text("x" * TAIL_BYTES + "\n2026-01-01 10:00:03 last\n")
    assert tail_of_files(tmp_path, max_lines=1)[-1].startswith(("x", "2026"))
    assert sum(map(len, tail_of_files(tmp_path))) <= 2 * TAIL_BYTES


def test_a_log_that_is_put_aside_meanwhile_is_left_out(tmp_path: Path) -> None:
    """Between the looks at the folder and into the file, a log of the service may have been rotated."""
    (tmp_path / "server.log").write_text("2026-01-01 10:00:00 one\n")
    (tmp_path / "cleaner.log").symlink_to(tmp_path / "cleaner.log.1")  # listed, and not there
    assert tail_of_files(tmp_path) == ["2026-01-01 10:00:00 one"]


def test_lines_of_which_only_the_end_is_read_are_whole(tmp_path: Path) -> None:
    lines = [f"2026-01-01 10:{k // 60:02}:{k % 60:02},000 7 server INFO run {k} {'x' * 80}" for k in range(400)]
    (tmp_path / "server.log").write_text("".join(f"{line}\n" for line in lines))
    found = tail_of_files(tmp_path)
    assert found == lines[-len(found) :]


def test_a_traceback_stays_below_the_line_that_it_is_of(tmp_path: Path) -> None:
    failed = ["2026-01-01 10:00:01,000 7 run_chain ERROR failed", "Traceback:", '  File "x.py"', "ValueError: no"]
    (tmp_path / "run_chain.log").write_text("\n".join([*failed, "2026-01-01 10:00:03,000 7 run_chain INFO more"]))
    (tmp_path / "server.log").write_text("2026-01-01 10:00:02,000 7 server INFO between\n")
    found = tail_of_files(tmp_path)
    assert found[:4] == failed
    assert [line.split()[-1] for line in found[4:]] == ["between", "more"]


def test_the_lines_of_one_module(qtbot: QtBot) -> None:
    said = [
        "2026-01-01 10:00:00,000 7 nsbluesky.callbacks.frame_cleaner INFO run 0123: zero order",
        "2026-01-01 10:00:01,000 7 nsbluesky.callbacks.run_chain ERROR run 0123: the processing ends",
        "Traceback, which no module signs",
    ]
    panel = LogPanel(lambda: list(said))
    qtbot.addWidget(panel)
    panel.refresh()
    assert panel.text.toPlainText().splitlines() == [
        "10:00:00 frame_cleaner: run 0123: zero order",
        "10:00:01 run_chain: ERROR: run 0123: the processing ends",
        said[2],
    ]
    panel.module.setCurrentText("frame_cleaner")
    assert panel.text.toPlainText() == "10:00:00 frame_cleaner: run 0123: zero order"
    said.append(said[0].replace("order", "order found anew"))
    panel.refresh()
    assert panel.module.currentText() == "frame_cleaner"
    assert panel.text.toPlainText().splitlines()[1].endswith("order found anew")


def test_the_panel_follows_until_somebody_scrolls_up(qtbot: QtBot) -> None:
    shown = [f"line {k}" for k in range(200)]
    panel = LogPanel(lambda: list(shown))
    qtbot.addWidget(panel)
    panel.resize(300, 100)
    panel.show()
    panel.refresh()
    bar = panel.text.verticalScrollBar()
    assert bar.value() == bar.maximum() > 0
    shown.append("new")
    panel.refresh()
    assert bar.value() == bar.maximum()
    bar.setValue(10)
    shown.append("newer")
    panel.refresh()
    assert bar.value() == 10
    assert panel.text.toPlainText().endswith("newer")
