"""What is typed is previewed, and what is run goes through the pipeline into a live window."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pytestqt.qtbot import QtBot
from recorded_run import TIMEOUT_S

from nsbluesky.cli import main
from nsbluesky.rehearsal import Rehearsal, RehearsalSettings
from nsbluesky.viewer import rehearsal_window
from nsbluesky.viewer.qt import QtCore, QtWidgets
from nsbluesky.viewer.rehearsal_window import RehearsalWindow

LEFT = QtCore.Qt.MouseButton.LeftButton
QUICK = RehearsalSettings(rows=3, columns=4, rate_hz=50.0, num_dark=2, picture_um=1.0)


@pytest.fixture
def picture(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "sem.png"
    Image.fromarray(rng.integers(0, 255, (30, 40), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def window(picture: Path, qtbot: QtBot) -> Iterator[RehearsalWindow]:
    window = RehearsalWindow(picture, QUICK)
    qtbot.addWidget(window)
    window.show()
    qtbot.waitUntil(lambda: window.plan is not None, timeout=20_000)
    yield window
    window.close()


def type_into(qtbot: QtBot, window: RehearsalWindow, name: str, text: str) -> None:
    line = window.form.editors[name]
    assert isinstance(line, QtWidgets.QLineEdit)
    line.selectAll()
    qtbot.keyClicks(line, text)


def test_the_preview_follows_what_is_typed(window: RehearsalWindow, qtbot: QtBot) -> None:
    assert len(window.points.getData()[0]) == 12
    assert "12 points in 0 s · overlap" in window.status.text()
    assert window.frame.title_label.text() == "Frame · point 1 of 12"
    type_into(qtbot, window, "rows", "5")
    qtbot.waitUntil(lambda: len(window.points.getData()[0]) == 20, timeout=20_000)
    window.slider.setValue(19)
    qtbot.waitUntil(lambda: "point 20 of 20" in window.frame.title_label.text(), timeout=20_000)
    type_into(qtbot, window, "step_um", "0.3")
    qtbot.waitUntil(lambda: "too little" in window.status.text(), timeout=20_000)


def test_wrong_values_cannot_be_run(window: RehearsalWindow, qtbot: QtBot) -> None:
    type_into(qtbot, window, "rows", "0")
    qtbot.waitUntil(lambda: not window.run.isEnabled(), timeout=20_000)
    assert "rows = 0" in window.form.messages["rows"].text()
    type_into(qtbot, window, "rows", "3")
    type_into(qtbot, window, "outer_zone_nm", "5")
    qtbot.waitUntil(lambda: "outer_zone_m" in window.status.text(), timeout=20_000)
    assert not window.run.isEnabled()


def test_what_is_run_is_what_the_form_says(window: RehearsalWindow, qtbot: QtBot) -> None:
    assert window.run.isEnabled()
    type_into(qtbot, window, "rows", "5")
    assert not window.run.isEnabled()  # its preview is not made yet
    qtbot.waitUntil(lambda: window.run.isEnabled(), timeout=20_000)
    assert window.plan is not None and window.plan.settings.rows == 5


def test_run_and_cancel(window: RehearsalWindow, qtbot: QtBot) -> None:
    type_into(qtbot, window, "rows", "100")
    qtbot.waitUntil(lambda: len(window.points.getData()[0]) == 400, timeout=20_000)
    qtbot.mouseClick(window.run, LEFT)
    assert window.live is not None and window.rehearsal is not None
    qtbot.addWidget(window.live)
    assert not window.run.isEnabled()
    live = window.rehearsal.pipeline.live
    qtbot.waitUntil(lambda: len(live.snapshot().positions_m) > 0, timeout=60_000)
    qtbot.mouseClick(window.cancel, LEFT)
    qtbot.waitUntil(lambda: window.run.isEnabled(), timeout=60_000)
    assert window.status.text() == "cancelled"
    assert live.snapshot().run.exit_status == "abort"  # type: ignore[union-attr]


def test_a_run_is_processed_again(window: RehearsalWindow, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    few_passes = {"sweep_frames": 0, "passes_final": 2}  # by default a dozen frames are used hundreds of times
    monkeypatch.setattr(rehearsal_window, "Rehearsal", functools.partial(Rehearsal, solver=few_passes))
    qtbot.mouseClick(window.run, LEFT)
    assert window.live is not None and window.live.control is not None and window.rehearsal is not None
    qtbot.addWidget(window.live)
    qtbot.waitUntil(lambda: window.run.isEnabled(), timeout=60_000)
    live = window.rehearsal.pipeline.live
    first = live.snapshot().run
    assert first is not None
    qtbot.mouseClick(window.live.control.buttons["reset"], LEFT)
    qtbot.waitUntil(lambda: window.live.control.answer.text() not in ("", "…"), timeout=60_000)  # type: ignore[union-attr]
    assert "is processed again" in window.live.control.answer.text()
    qtbot.waitUntil(lambda: live.snapshot().run.uid != first.uid and live.snapshot().finished, timeout=60_000)  # type: ignore[union-attr]
    assert len(live.snapshot().positions_m) == 12


def test_choose_a_picture(qtbot: QtBot, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    window = RehearsalWindow(settings=QUICK)
    qtbot.addWidget(window)
    assert window.status.text() == "choose a picture" and not window.run.isEnabled()
    monkeypatch.setattr(QtWidgets.QFileDialog, "getOpenFileName", lambda *_: (str(picture), ""))
    qtbot.mouseClick(window.open, LEFT)
    qtbot.waitUntil(lambda: window.plan is not None, timeout=20_000)
    picture.write_bytes(b"no picture")
    qtbot.mouseClick(window.open, LEFT)
    qtbot.waitUntil(lambda: "sem.png" in window.status.text(), timeout=20_000)
    assert not window.run.isEnabled()
    window.close()


def test_a_preview_that_is_there_at_once(
    window: RehearsalWindow, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(make: object) -> Future[object]:
        future: Future[object] = Future()
        future.set_exception(FileNotFoundError("sem.png is gone"))
        return future

    monkeypatch.setattr(window._thread, "submit", submit)
    window._preview()
    qtbot.waitUntil(lambda: window.status.text() == "sem.png is gone", timeout=20_000)
    assert window._wanted is None  # a picture of the window waits for this


def test_a_preview_that_comes_late_is_not_run_in_the_place_of_the_one_that_is_wanted(
    window: RehearsalWindow, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of the picture before: one that is being made cannot be called off."""
    assert window.plan is not None
    made = window.plan, 0, window.plan.frame(0)
    former, wanted = previews = [Future(), Future()]
    waiting = iter(previews)

    def submit(make: object) -> Future[object]:
        future: Future[object] = next(waiting)
        assert future.set_running_or_notify_cancel()
        return future

    monkeypatch.setattr(window._thread, "submit", submit)
    window._preview()
    window.plan = None  # as where another picture is chosen
    window._preview()
    former.set_result(made)
    QtWidgets.QApplication.processEvents()
    assert window.plan is None and not window.run.isEnabled()
    wanted.set_result(made)
    qtbot.waitUntil(lambda: window.run.isEnabled(), timeout=20_000)


@pytest.mark.parametrize("given", [True, False], ids=["a picture", "none"])
def test_the_command(picture: Path, tmp_path: Path, qtbot: QtBot, given: bool) -> None:
    out = tmp_path / "window.png"
    assert main(["view", "--picture", *([str(picture)] if given else []), "--screenshot", str(out)]) == 0
    with Image.open(out) as drawn:
        assert len(drawn.convert("RGB").getcolors(1 << 24) or ()) > (500 if given else 20)


def test_a_preview_that_comes_after_the_window_is_dropped(qtbot: QtBot, caplog: pytest.LogCaptureFixture) -> None:
    window = RehearsalWindow(None, QUICK)
    begun, made = threading.Event(), threading.Event()

    def make() -> None:
        begun.set()
        made.wait(TIMEOUT_S)

    window._submit(make)
    assert begun.wait(TIMEOUT_S)
    window.close()
    window.deleteLater()
    QtWidgets.QApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete.value)
    made.set()
    window._thread.shutdown(wait=True)
    assert caplog.messages == []
