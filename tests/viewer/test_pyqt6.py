"""The windows with PyQt6 in the place of PySide6, where it is installed: made, fed, clicked, drawn and closed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from PIL import Image
from simulated_file import write_simulated_file

pytestmark = pytest.mark.skipif(importlib.util.find_spec("PyQt6") is None, reason="PyQt6 is not installed")


def run_with_pyqt6(code: str, folder: Path) -> None:
    """Run Python of its own, as there is one binding in a process; warnings are errors there too."""
    environment = os.environ | {
        "QT_API": "pyqt6",
        "QT_QPA_PLATFORM": "offscreen",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:nsbluesky", "-c", textwrap.dedent(code)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def assert_drawn(path: Path) -> None:
    with Image.open(path) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 200


def test_the_live_window(tmp_path: Path) -> None:
    run_with_pyqt6(
        """
        from derived_scan import DerivedScan
        from nsbluesky.callbacks.live_plots import LivePlots
        from nsbluesky.callbacks.pipeline import PtychoPipeline
        from nsbluesky.viewer.live import LiveWindow
        from nsbluesky.viewer.log_tail import LogLines
        from nsbluesky.viewer.panels import LowResolutionPanel, ObjectPanel
        from nsbluesky.viewer.panels.low_resolution import Region
        from nsbluesky.viewer.preferences import apply_theme
        from nsbluesky.viewer.qt import QtCore, application
        from nsbluesky.viewer.session_processing import SessionProcessing

        app = application()
        assert QtCore.__name__ == "qtpy.QtCore" and "PyQt6" in type(app).__module__
        live, pipeline = LivePlots(), PtychoPipeline()
        window = LiveWindow(live, processing=SessionProcessing(pipeline), log_lines=LogLines())
        scan = DerivedScan(live)
        scan.start()
        scan.dark_statistics()
        scan.detector()
        scan.raw(1, 2, 3)
        scan.clean(1, 2, 3)
        scan.low_resolution(3)
        scan.sweep()
        scan.positions(1, 2, 3)
        scan.fit(2)
        scan.frc()
        scan.reconstruction(3, 0.2, half_bit_m=1e-8)
        scan.health(num_frames=3, lost=(2,))
        window.show()
        for name in window.docks.docks:
            window.docks.show_dock(name)
            app.processEvents()
        window.panels[ObjectPanel].choice.setCurrentText("both")
        window.panels[LowResolutionPanel].set_region(Region(50.0, 50.4, -20.0, -19.8))
        assert "ptycho_fly_scan(shape=(2, 4)" in window.scan.command.toPlainText()
        window.control.buttons["pause"].click()
        while not pipeline.paused:
            app.processEvents()
        apply_theme("dark")
        window.docks.arrange()
        window.save_screenshot("live.png")
        window.close()
        again = LiveWindow(live)
        again.show()
        again.close()
        pipeline.resume()
        assert pipeline.close(30)
        """,
        tmp_path,
    )
    assert_drawn(tmp_path / "live.png")


def test_the_other_windows(tmp_path: Path) -> None:
    write_simulated_file(tmp_path / "0123abcd_clean.cxi")
    Image.effect_noise((64, 64), 50).save(tmp_path / "sem.png")
    run_with_pyqt6(
        """
        from pathlib import Path

        from nsbluesky.run_table import RunEntry
        from nsbluesky.viewer.export import export_panel
        from nsbluesky.viewer.qt import application
        from nsbluesky.viewer.rehearsal_window import RehearsalWindow
        from nsbluesky.viewer.run_browser import RunBrowser

        app = application()
        entry = RunEntry("0123abcd-4567", 1.7e9, "ptycho_fly_scan", "star", 930.0, 36, "success")
        browser = RunBrowser(lambda: [entry], Path.cwd())
        browser.save_screenshot("runs.png")
        window = browser.open(entry.uid)
        window._draw_line("Object phase")
        window.compare("0123abcd_clean.cxi")
        while window.low_resolution.item.image is None:
            app.processEvents()
        window.save_screenshot("file.png")
        for suffix in (".png", ".tif", ".npy"):
            export_panel(f"phase{suffix}", window.panels["Object phase"])
        export_panel("frc.csv", window.compared.frc)
        rehearsal = RehearsalWindow("sem.png")
        rehearsal.save_screenshot("rehearsal.png")
        for one in (rehearsal, window, browser):
            one.close()
        """,
        tmp_path,
    )
    for name in ("runs", "file", "rehearsal", "phase"):
        assert_drawn(tmp_path / f"{name}.png")
    assert (tmp_path / "frc.csv").read_text(encoding="utf-8").startswith("FRC: spatial frequency (1/µm)")
