"""Qt without a screen, and beside a RunEngine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import bluesky.plans as bp
import pytest
from bluesky import Msg, RunEngine
from ophyd.sim import SynSignal
from pytestqt.qtbot import QtBot

from nsbluesky.viewer.qt import QtCore, QtDuringTask, QtWidgets, application, choose_platform


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that knows of no display."""
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    variables = {name: value for name, value in os.environ.items() if name not in hidden} | environment
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)


def test_without_a_display_windows_are_drawn_offscreen() -> None:
    code = "from nsbluesky.viewer.qt import application; print(application().platformName())"
    assert python(code).stdout.strip() == "offscreen"


def test_a_platform_that_was_chosen_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QT_QPA_PLATFORM", "vnc")
    choose_platform()
    assert os.environ["QT_QPA_PLATFORM"] == "vnc"


def test_with_a_display_nothing_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    choose_platform()
    assert "QT_QPA_PLATFORM" not in os.environ


def test_there_is_one_application(qtbot: QtBot) -> None:
    assert application() is QtWidgets.QApplication.instance()


def test_the_application_is_made_on_the_main_thread_only() -> None:
    code = """
import threading
from nsbluesky.viewer.qt import application
def make():
    try:
        application()
    except RuntimeError as error:
        print(error)
thread = threading.Thread(target=make)
thread.start()
thread.join()
"""
    assert "main thread" in python(code).stdout


def test_missing_qt_is_told_with_what_to_install() -> None:
    code = "import sys; sys.modules['qtpy'] = None\nimport nsbluesky.viewer.qt"
    told = python(code).stderr
    assert "pip install 'nsbluesky[qt]'" in told
    assert "libegl1" in told


def test_windows_live_while_a_plan_runs(qtbot: QtBot, RE: RunEngine) -> None:
    """The plan waits for what only Qt's event loop can do."""
    engine = RunEngine({}, loop=RE.loop, during_task=QtDuringTask())
    alive, documents = threading.Event(), []
    timer = QtCore.QTimer()
    timer.setSingleShot(True)
    timer.timeout.connect(alive.set)
    timer.start(50)

    def plan() -> Iterator[Msg]:
        assert alive.wait(10)
        yield from bp.count([SynSignal(name="det", func=lambda: 1.0)], num=2)

    engine(plan(), lambda name, document: documents.append(name))
    assert documents.count("event") == 2


def test_closing_the_last_window_does_not_end_the_wait(qtbot: QtBot) -> None:
    window = QtWidgets.QWidget()
    qtbot.addWidget(window)
    window.show()
    done = threading.Event()
    turns: list[bool] = []

    def close() -> None:
        window.close()
        QtWidgets.QApplication.quit()
        QtCore.QTimer.singleShot(50, after)

    def after() -> None:
        turns.append(done.is_set())
        done.set()

    QtCore.QTimer.singleShot(10, close)
    QtDuringTask().block(done)
    assert turns == [False]


def test_an_event_that_is_set_already_does_not_wait(qtbot: QtBot) -> None:
    done = threading.Event()
    done.set()
    QtDuringTask().block(done)
