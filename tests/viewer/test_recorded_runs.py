"""Runs that were really recorded: found in the catalog, and looked at from the raw frame to the object."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from own_run_engine import run_engine
from pytestqt.qtbot import QtBot
from raw_runs import RawRun, image_key, number_key
from twin_beamline import QUICK_SOLVER, make_twin_beamline

from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.catalog import Catalog
from nsbluesky.cli import main
from nsbluesky.commands.view import _raw_of_run, _uid_of_run
from nsbluesky.document_log import DocumentLog
from nsbluesky.plans import ptycho_darks, ptycho_fly_scan
from nsbluesky.run_table import runs_of_catalog
from nsbluesky.viewer.cxi_window import CxiWindow
from nsbluesky.viewer.panels import RawPanel
from nsbluesky.viewer.run_browser import RunBrowser

TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Recorded:
    folder: Path
    catalog: Catalog
    uids: list[str]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> Recorded:
    """Two scans that were processed, and a run of darks, as a session records them."""
    folder = tmp_path_factory.mktemp("data")
    beamline = make_twin_beamline(folder / "frames")
    uids: list[str] = []
    with run_engine() as RE:
        writer = catalog.writer()
        pipeline = PtychoPipeline(beamline.settings(**QUICK_SOLVER), directory=folder / "results")
        for callback in (DocumentLog(folder / "documents"), writer, pipeline):
            RE.subscribe(callback)
        RE.subscribe(lambda _, start: uids.append(start["uid"]), "start")
        for sample in ("first sample", "second sample"):
            arguments = beamline.arguments((5, 5), md={"sample": sample})
            RE(ptycho_fly_scan(*beamline.devices, **arguments, rate_hz=80.0))
        geometry = beamline.simulator.geometry
        RE(ptycho_darks(beamline.fccd, beamline.shutter, geometry=geometry, exposure_s=0.001, num_dark=3))
        assert writer.flush(TIMEOUT_S) and pipeline.close(TIMEOUT_S)
    return Recorded(folder, catalog, uids)


@pytest.fixture
def browser(recorded: Recorded, qtbot: QtBot) -> RunBrowser:
    """Of these runs: other tests have written theirs into the catalog."""
    browser = RunBrowser(
        lambda: [run for run in runs_of_catalog(recorded.catalog.scans) if run.uid in recorded.uids],
        recorded.folder,
        lambda uid: _raw_of_run(uid, recorded.folder),
    )
    qtbot.addWidget(browser)
    browser.show()
    return browser


def test_recorded_runs_are_found(browser: RunBrowser, recorded: Recorded, qtbot: QtBot) -> None:
    assert {entry.uid for entry in browser.shown} == set(recorded.uids)
    qtbot.keyClicks(browser.words, "fly second")
    (found,) = browser.shown
    assert (found.uid, found.points, found.exit_status) == (recorded.uids[1], 25, "success")
    qtbot.waitUntil(lambda: not browser._without_picture, timeout=10_000)
    assert not browser.table.item(0, 0).icon().isNull()  # type: ignore[union-attr]
    browser.words.clear()
    qtbot.keyClicks(browser.words, "darks")
    assert browser.open(recorded.uids[2]) is None
    assert "was it processed" in browser.status.text()


def test_a_run_from_raw_frames_to_the_object(browser: RunBrowser, recorded: Recorded, qtbot: QtBot) -> None:
    window = browser.open(recorded.uids[0])
    assert isinstance(window, CxiWindow)
    qtbot.addWidget(window)
    raw, low = window.panels["Raw frame"], window.low_resolution
    assert isinstance(raw, RawPanel)
    window.slider.setValue(11)
    scan, _ = _raw_of_run(recorded.uids[0], recorded.folder)
    seq_num = int(window.file.data.seq_nums[11])
    np.testing.assert_allclose(raw.item.image, np.log10(np.maximum(scan.frame(seq_num), 1.0)), rtol=1e-5)
    assert raw.title_label.text() == f"Raw frame · frame {seq_num}"
    assert "Dark · 4 frames" in window.panels["Dark"].title_label.text()
    clean = window.panels["Frame"].item.image  # type: ignore[attr-defined]
    assert clean.shape == window.file.data.mask.shape
    qtbot.waitUntil(lambda: low.item.image is not None, timeout=20_000)
    assert low.item.image.shape == (5, 5)
    assert window.panels["Object phase"].item.image is not None  # type: ignore[attr-defined]
    window.docks.show_dock("Fit")
    qtbot.waitUntil(lambda: window.fit.item.image is not None, timeout=10_000)
    assert window.fit.title_label.text().startswith(f"Fit · frame {seq_num} · R 0.")


def test_frames_that_are_gone_are_told(recorded: Recorded, tmp_path: Path, qtbot: QtBot) -> None:
    assert _raw_of_run(recorded.uids[0], tmp_path) == (None, None)
    scan, _ = _raw_of_run(recorded.uids[0], recorded.folder)
    assert scan.frame(10_000) is None
    window = CxiWindow(next((recorded.folder / "results").glob(f"{recorded.uids[0][:8]}*.cxi")), _Lost())
    qtbot.addWidget(window)
    assert "was not recorded" in window.panels["Raw frame"].title_label.text()
    assert "Dark" not in window.panels


class _Lost:
    def frame(self, seq_num: int) -> None:
        return None

    def darks(self, count: int) -> np.ndarray:
        return np.empty((0, 0, 0), np.uint16)


@pytest.mark.parametrize("wrong", [{"units": None}, {"units": "furlong"}])
def test_an_image_is_shown_whatever_is_wrong_with_the_record_of_its_raw_frames(
    tmp_path: Path, wrong: dict[str, str | None]
) -> None:
    run = RawRun(tmp_path)
    keys = {"stage_x": number_key() | wrong, "stage_y": number_key()}
    log = DocumentLog(tmp_path / "documents")
    for name, document in [run.start, *run.declare("primary", fccd_image=image_key((6, 5)), stage_x=number_key())]:
        if name == "descriptor":
            document = {**document, "data_keys": {**document["data_keys"], **keys}}
        log(name, document)
    log(*run.event("primary", 1, stage_x=0.0, stage_y=0.0))
    log.close()
    assert _raw_of_run(run.uid, tmp_path) == (None, None)


@pytest.mark.parametrize("length", [36, 5])
def test_the_command(recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str], length: int) -> None:
    """Any beginning of the uid will do, as for other commands."""
    picture, uid = tmp_path / "run.png", recorded.uids[1]
    options = ["--data", str(recorded.folder), "--screenshot", str(picture), "--json"]
    assert main(["view", "--run", uid[:length], *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["raw_frames"] and picture.stat().st_size > 10_000
    assert Path(told["file"]).name.startswith(uid[:8])


def test_the_command_says_which_run_it_cannot_show(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    darks = recorded.uids[2]
    assert _uid_of_run("latest", recorded.folder / "documents") == darks
    for run, told in (
        ("latest", f"run {darks} has no CXI file below"),
        ("nowhere", "run nowhere has no CXI file below"),
        ("*", "expected letters, digits and dashes"),
        ("", "expected letters, digits and dashes"),
    ):
        assert main(["view", "--run", run, "--data", str(recorded.folder), "--screenshot", "never.png"]) == 1
        assert told in capsys.readouterr().err
