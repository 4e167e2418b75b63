"""The same frames are reconstructed again with other settings, beside the window, and compared."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from simulated_file import write_simulated_file

from nsbluesky.cli import _parse
from nsbluesky.cxi import read_cxi
from nsbluesky.settings import CleaningSettings, SolverSettings
from nsbluesky.viewer import reprocess_panel
from nsbluesky.viewer.cxi_window import CxiWindow
from nsbluesky.viewer.qt import QtCore, QtWidgets
from nsbluesky.viewer.reprocess_panel import (
    RawSource,
    ReprocessPanel,
    ReprocessSettings,
    clean_command,
    reconstruct_command,
    told_settings,
)

LEFT = QtCore.Qt.MouseButton.LeftButton
TIMEOUT_MS = 120_000


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_simulated_file(tmp_path_factory.mktemp("file") / "scan.cxi")


@pytest.fixture
def window(file: Path, qtbot: QtBot) -> CxiWindow:
    window = CxiWindow(file)
    qtbot.addWidget(window)
    window.show()
    return window


@pytest.fixture
def panel(file: Path, qtbot: QtBot) -> Iterator[ReprocessPanel]:
    """The panel alone."""
    panel = ReprocessPanel(file, None, ReprocessSettings())
    qtbot.addWidget(panel)
    panel.show()
    yield panel
    panel.close()


def type_into(panel: ReprocessPanel, name: str, text: str, qtbot: QtBot) -> None:
    line = panel.form.editors[name]
    assert isinstance(line, QtWidgets.QLineEdit)
    line.selectAll()
    qtbot.keyClicks(line, text)


def test_other_settings_give_another_file_that_is_compared(window: CxiWindow, qtbot: QtBot) -> None:
    panel = window.reprocess
    for name, text in (("passes_final", "3"), ("modes", "1"), ("sweep_frames", "0"), ("coarse_uses", "0")):
        type_into(panel, name, text, qtbot)
    qtbot.mouseClick(panel.run, LEFT)
    assert panel.cancel.isEnabled() and not panel.run.isEnabled()
    with qtbot.waitSignal(panel.finished, timeout=TIMEOUT_MS) as told:
        pass
    (path,) = told.args
    with read_cxi(path) as data:
        assert len(data.images[-1].errors) == 3
        assert data.images[-1].probe is not None and len(data.images[-1].probe) == 1
    assert window.compared.other.item.image is not None
    assert np.isfinite(window.compared.correlation.correlation)
    assert path.name in window.compared.difference.title_label.text()
    assert panel.run.isEnabled() and "compared" in panel.status.text()
    assert "nsbluesky reconstruct" in panel.status.toolTip()
    window.close()
    assert not path.exists()


def test_frames_taken_again_are_used_as_well(panel: ReprocessPanel, file: Path, tmp_path: Path, qtbot: QtBot) -> None:
    again = Path(shutil.copyfile(file, tmp_path / "again.cxi"))
    for name, text in (("passes_final", "1"), ("modes", "1"), ("sweep_frames", "0"), ("coarse_uses", "0")):
        type_into(panel, name, text, qtbot)
    qtbot.keyClicks(panel.also, str(again))
    qtbot.mouseClick(panel.run, LEFT)
    with qtbot.waitSignal(panel.finished, timeout=TIMEOUT_MS) as told:
        pass
    with read_cxi(told.args[0]) as data:
        assert data.frames is not None and len(data.frames) == 72
        assert len(set(data.seq_nums.tolist())) == 72


def test_cancel_ends_the_process_and_the_window_answers_meanwhile(window: CxiWindow, qtbot: QtBot) -> None:
    panel = window.reprocess
    type_into(panel, "passes_final", "100000", qtbot)
    type_into(panel, "sweep_frames", "0", qtbot)
    qtbot.mouseClick(panel.run, LEFT)
    qtbot.waitUntil(lambda: panel.bar.value() > 2, timeout=TIMEOUT_MS)
    assert panel.bar.maximum() == 100_000
    window.slider.setValue(3)
    assert "frame 4" in window.status.text()
    qtbot.mouseClick(panel.cancel, LEFT)
    qtbot.waitUntil(lambda: not panel.running, timeout=10_000)
    assert panel.status.text() == "cancelled"
    assert panel.run.isEnabled() and not panel.cancel.isEnabled()
    assert window.compared.other.item.image is None


def test_closing_the_window_ends_the_process(file: Path, qtbot: QtBot) -> None:
    window = CxiWindow(file)
    qtbot.addWidget(window)
    type_into(window.reprocess, "passes_final", "100000", qtbot)
    qtbot.mouseClick(window.reprocess.run, LEFT)
    process = window.reprocess.process
    assert process.waitForStarted(10_000)
    window.close()
    assert process.state() == QtCore.QProcess.ProcessState.NotRunning


def test_what_goes_wrong_in_the_process_is_told(tmp_path: Path, qtbot: QtBot) -> None:
    panel = ReprocessPanel(tmp_path / "missing.cxi", None, ReprocessSettings())
    qtbot.addWidget(panel)
    qtbot.mouseClick(panel.run, LEFT)
    qtbot.waitUntil(lambda: not panel.running, timeout=TIMEOUT_MS)
    assert "no such file" in panel.status.text()
    panel.close()


def test_a_line_that_comes_in_two_parts_is_one(
    panel: ReprocessPanel, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
import sys
print("the translations are not", end="", file=sys.stderr, flush=True)
sys.stdin.readline()
sys.exit(" those of the frames")
"""
    monkeypatch.setattr(reprocess_panel, "COMMAND", [sys.executable, "-c", program])
    with qtbot.waitSignal(panel.process.readyReadStandardError, timeout=TIMEOUT_MS):
        qtbot.mouseClick(panel.run, LEFT)
    panel.process.write(b"\n")
    qtbot.waitUntil(panel.run.isEnabled, timeout=TIMEOUT_MS)
    assert panel.status.text() == "the translations are not those of the frames"


def test_a_process_that_cannot_be_started_is_told_and_nothing_seems_to_go_on(
    panel: ReprocessPanel, tmp_path: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reprocess_panel, "COMMAND", [str(tmp_path / "gone")])
    qtbot.mouseClick(panel.run, LEFT)
    qtbot.waitUntil(lambda: "cannot be started" in panel.status.text(), timeout=TIMEOUT_MS)
    assert (panel.bar.minimum(), panel.bar.maximum(), panel.bar.value()) == (0, 1, 0)
    assert panel.run.isEnabled() and not panel.cancel.isEnabled()


def test_a_wrong_value_is_refused(panel: ReprocessPanel, qtbot: QtBot) -> None:
    type_into(panel, "algorithm", "magic", qtbot)
    assert not panel.run.isEnabled()
    assert "expected one of" in panel.form.messages["algorithm"].text()


def test_the_commands_mean_what_the_form_says(tmp_path: Path, qtbot: QtBot) -> None:
    solver = SolverSettings(algorithm="raar:5,wasp", modes=3, passes_final=7, sweep_frames=0, defocus_m=1e-5)
    also = [tmp_path / "c.cxi"]
    command = reconstruct_command(tmp_path / "a.cxi", tmp_path / "b.cxi", solver, use_probe=True, also=also)
    options = _parse(command, "reconstruct")
    assert options.also == also
    told = SolverSettings(algorithm=options.algorithm, modes=options.modes).set_from_text(options.set)
    assert told.replace(passes_final=options.passes) == solver
    assert options.use_probe
    cleaning = CleaningSettings(photon_threshold=2.0, center_px=(3.5, 4.0))
    options = _parse(clean_command(RawSource(("--run", "abc")), tmp_path / "c.cxi", cleaning), "raw2cxi")
    assert options.run == "abc" and options.clean == tmp_path / "c.cxi"
    assert sorted(options.set) == ["cleaning.center_px=[3.5, 4.0]", "cleaning.photon_threshold=2.0"]


def test_raw_frames_are_cleaned_again_only_with_other_cleaning(tmp_path: Path, qtbot: QtBot) -> None:
    panel = ReprocessPanel(tmp_path / "clean.cxi", RawSource(("--run", "abc")), ReprocessSettings())
    qtbot.addWidget(panel)
    assert [command[0] for command in panel.commands(tmp_path, 1)] == ["reconstruct"]
    type_into(panel, "cleaning.photon_threshold", "3", qtbot)
    clean, reconstruct = panel.commands(tmp_path, 2)
    assert clean[:3] == ["raw2cxi", "--run", "abc"]
    assert reconstruct[1] == clean[3] == str(tmp_path / "clean-2.cxi")


def test_settings_of_a_picture() -> None:
    solver = SolverSettings(modes=4, alpha=1.0)
    assert told_settings(solver.to_dict()).solver.modes == 4
    told = {"settings": {"solver": solver.to_dict(), "cleaning": {"photon_threshold": 2.5, "unknown": 1}}}
    found = told_settings(told)
    assert (found.solver.alpha, found.cleaning.photon_threshold) == (1.0, 2.5)
    assert told_settings({"settings": {"solver": {"modes": "many"}}}).solver.modes == SolverSettings().modes
    assert told_settings({}) == ReprocessSettings()
    for of_another_program in ("fast", ["fast"], {"solver": "ePIE"}, {"cleaning": [1, 2]}):
        assert told_settings({"settings": of_another_program}) == ReprocessSettings()


@pytest.mark.parametrize("passes", [None, 7])
def test_passes_are_told_where_a_number_is(tmp_path: Path, passes: int | None) -> None:
    solver = SolverSettings(passes_final=passes)
    command = reconstruct_command(tmp_path / "a.cxi", tmp_path / "b.cxi", solver, use_probe=False)
    assert _parse(command, "reconstruct").passes == passes
    assert told_settings(solver.to_dict()).solver.passes_final == passes
