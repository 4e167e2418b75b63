"""The browser finds runs while one types, shows their images, and opens them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pytestqt.qtbot import QtBot

from nsbluesky.cxi import CxiFile
from nsbluesky.run_table import RunEntry
from nsbluesky.viewer import run_browser
from nsbluesky.viewer.qt import QtCore
from nsbluesky.viewer.run_browser import RunBrowser, thumbnail

EXPERIMENT = {"energy_eV": 930.0, "detector_distance_m": 0.1, "pixel_size_m": 240e-6}
ENTRIES = (
    RunEntry("aaaaaaaa-1", 1.7e9, "ptycho_fly_scan", "star", 930.0, 100, "success"),
    RunEntry("bbbbbbbb-2", 1.6e9, "ptycho_scan", "gold", 1000.0, 25, "abort"),
    RunEntry("cccccccc-3", 1.5e9, "count", "", None, None, ""),
)


@pytest.fixture
def results(tmp_path: Path, rng: np.random.Generator) -> Path:
    with CxiFile.create(tmp_path / "aaaaaaaa_clean.cxi", **EXPERIMENT, frame_shape=(8, 8)) as cxi:
        cxi.append(np.ones((2, 8, 8), np.float32), np.zeros((2, 2)))
        image = np.exp(1j * np.linspace(0, 1, 2400).reshape(40, 60) ** 2).astype(np.complex64)
        cxi.write_image(image, np.ones((1, 8, 8), np.complex64), 20e-9)
    (tmp_path / "bbbbbbbb_clean.cxi").write_bytes(b"no file of this kind")
    return tmp_path


@pytest.fixture
def browser(results: Path, qtbot: QtBot) -> RunBrowser:
    browser = RunBrowser(lambda: ENTRIES, results)
    qtbot.addWidget(browser)
    browser.show()
    return browser


def dates(browser: RunBrowser) -> list[str]:
    return [browser.table.item(row, 7).text()[0] for row in range(browser.table.rowCount())]  # type: ignore[union-attr]


def test_search_by_words_and_energy(browser: RunBrowser, qtbot: QtBot) -> None:
    assert dates(browser) == ["a", "b", "c"]
    assert browser.table.item(1, 2).toolTip() == "ptycho_scan"  # type: ignore[union-attr]
    qtbot.keyClicks(browser.words, "ptycho gold")
    assert dates(browser) == ["b"]
    assert browser.status.text().startswith("1 of 3 runs")
    browser.words.clear()
    browser.high.setValue(950.0)
    assert dates(browser) == ["a"]


def test_an_empty_catalog_is_told(tmp_path: Path, qtbot: QtBot) -> None:
    browser = RunBrowser(lambda: (), tmp_path)
    qtbot.addWidget(browser)
    assert browser.status.text().startswith("no run in this catalog yet")


def test_images_come_by_themselves(browser: RunBrowser, results: Path, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not browser.table.item(0, 0).icon().isNull(), timeout=10_000)  # type: ignore[union-attr]
    qtbot.waitUntil(lambda: not browser._in_view(), timeout=10_000)
    assert browser.table.item(1, 0).icon().isNull()  # type: ignore[union-attr]
    picture = thumbnail(results / "aaaaaaaa_clean.cxi")
    assert picture is not None and picture.width() == 72 and picture.height() == 48


def test_return_opens_a_run_and_closed_windows_are_let_go(browser: RunBrowser, qtbot: QtBot) -> None:
    browser.table.setCurrentCell(0, 1)
    qtbot.keyClick(browser.table, QtCore.Qt.Key.Key_Return)
    (window,) = browser.opened
    qtbot.addWidget(window)
    assert window.isVisible() and window.file.data.path.name == "aaaaaaaa_clean.cxi"
    window.close()
    another = browser.open("aaaaaaaa-1")
    assert another is not None
    qtbot.addWidget(another)
    assert browser.opened == [another]


@pytest.mark.parametrize(
    ("uid", "message"), [("bbbbbbbb-2", "bbbbbbbb_clean.cxi"), ("cccccccc-3", "was it processed")]
)
def test_a_run_without_a_readable_file_is_told(browser: RunBrowser, uid: str, message: str) -> None:
    assert browser.open(uid) is None
    assert message in browser.status.text()


def test_two_runs_are_compared(browser: RunBrowser, results: Path, qtbot: QtBot) -> None:
    qtbot.mouseClick(browser.compare_button, QtCore.Qt.MouseButton.LeftButton)
    assert "select two runs" in browser.status.text()
    browser.table.selectAll()
    browser.table.selectRow(0)
    model = browser.table.selectionModel()
    model.select(browser.table.model().index(1, 0), model.SelectionFlag.Select | model.SelectionFlag.Rows)
    window = browser.compare()
    assert window is not None
    qtbot.addWidget(window)
    assert "bbbbbbbb_clean.cxi" in browser.status.text()  # which is no file of this kind
    (results / "bbbbbbbb_clean.cxi").write_bytes((results / "aaaaaaaa_clean.cxi").read_bytes())
    both = browser.compare()
    assert both is not None
    qtbot.addWidget(both)
    assert both.compared.correlation.correlation == pytest.approx(1.0)
    assert "bbbbbbbb_clean.cxi" in both.compared.difference.title_label.text()


def test_only_pictures_that_can_be_seen_are_read_and_each_once(
    results: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(run_browser, "image_file", lambda uid, _: read.append(uid))
    entries = [RunEntry(f"{k:08x}", float(k), "ptycho_scan", "star", 930.0, 100, "success") for k in range(2000)]
    browser = RunBrowser(lambda: entries, results)
    qtbot.addWidget(browser)
    browser.show()
    qtbot.waitUntil(lambda: not browser._in_view(), timeout=10_000)
    seen = len(read)
    assert 0 < seen < 50
    qtbot.keyClicks(browser.words, "star")
    qtbot.waitUntil(lambda: not browser._in_view(), timeout=10_000)
    assert len(read) == seen
    browser.table.scrollToBottom()
    qtbot.waitUntil(lambda: entries[-1].uid in read, timeout=10_000)
    assert len(read) < 100


def test_a_catalog_that_fails_is_told(results: Path, qtbot: QtBot, caplog: pytest.LogCaptureFixture) -> None:
    entries = [ENTRIES]
    browser = RunBrowser(lambda: entries.pop(), results)
    qtbot.addWidget(browser)
    browser.show()
    qtbot.mouseClick(browser.reload_button, QtCore.Qt.MouseButton.LeftButton)
    assert "the catalog cannot be read again: IndexError" in browser.status.text()
    assert dates(browser) == ["a", "b", "c"]


def test_reload(results: Path, qtbot: QtBot) -> None:
    entries = list(ENTRIES[:1])
    browser = RunBrowser(lambda: tuple(entries), results)
    qtbot.addWidget(browser)
    entries.append(ENTRIES[1])
    browser.reload()
    assert dates(browser) == ["a", "b"]
