"""Pictures of every window, at the start, in the middle and at the end of its work, and where something is wrong.

``make screenshots`` writes them into docs/images/windows, or into another folder (``ARGS=FOLDER``): a simulated scan
of gold nanospheres goes through the pipeline, and the windows show its documents.  Only the browser's older runs are
entries made for the picture.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nsbluesky.backend import get_backend
from nsbluesky.callbacks.live_plots import LivePlots
from nsbluesky.cxi import CxiFile, read_cxi
from nsbluesky.geometry import Geometry
from nsbluesky.rehearsal import Rehearsal, RehearsalPlan, RehearsalSettings
from nsbluesky.run_table import RunEntry
from nsbluesky.service.snapshot import Previews
from nsbluesky.settings import SolverSettings
from nsbluesky.simulation.samples import gold_balls
from nsbluesky.solver.reconstruct import reconstruct
from nsbluesky.trajectories import make_trajectory
from nsbluesky.viewer.cxi_window import CxiWindow
from nsbluesky.viewer.live import LiveWindow
from nsbluesky.viewer.log_tail import LogLines
from nsbluesky.viewer.modules import Modules, modules_of_activity
from nsbluesky.viewer.panels import LowResolutionPanel, QualityPanel
from nsbluesky.viewer.panels.low_resolution import Region
from nsbluesky.viewer.preferences import apply_theme, preferences
from nsbluesky.viewer.qt import QtWidgets, application
from nsbluesky.viewer.rehearsal_window import RehearsalWindow
from nsbluesky.viewer.run_browser import RunBrowser
from nsbluesky.viewer.session_processing import SessionProcessing

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent / "images" / "windows"
MAX_BYTES = 200_000
SHAPE, STEP_UM = (14, 14), 0.075
TIMEOUT_S = 300.0
SHAKE_M = 12e-9

Document = tuple[str, dict[str, Any]]


class Recording:
    """The documents of a scan as viewers of a service get them, with what the modules were doing."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self.documents: list[Document] = []
        self.modules: list[Modules] = []
        self.log = LogLines()
        self._previews = Previews(0.2)
        self._pipeline = rehearsal.pipeline
        logger = logging.getLogger("nsbluesky")
        logger.setLevel(logging.INFO)
        logger.addHandler(self.log)
        rehearsal.pipeline.subscribe(self)
        rehearsal.start()
        ended = rehearsal.wait(TIMEOUT_S)
        logger.removeHandler(self.log)
        if rehearsal.error or not ended:  # pictures of a failed run would be taken for those of a good one
            sys.exit(f"the scan did not end: {rehearsal.error or f'{TIMEOUT_S} s were too few'}; run this again")

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Keep a document."""
        self.documents.append((name, self._previews(name, document)))
        self.modules.append(modules_of_activity(self._pipeline.activity(), self._pipeline.paused, 0))

    def show(self, measured: float) -> tuple[LivePlots, Modules]:
        """Return the state when this part of the points was measured; 1 is the end."""
        live = LivePlots()
        count = measured * SHAPE[0] * SHAPE[1]
        for (name, document), modules in zip(self.documents, self.modules, strict=True):
            live(name, document)
            if measured < 1 and len(live.snapshot().positions_m) >= count:
                return live, modules
        return live, self.modules[-1]


def main() -> None:
    """Make all pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
        os.environ["NSBLUESKY_CONFIG"] = folder  # not what the user has arranged
        app = application()
        apply_theme("light")
        scan, broken = Path(folder, "scan"), Path(folder, "broken")
        for directory in (scan, broken):
            directory.mkdir()
        solver = {"sweep_frames": 40, "passes_final": 12, "refine_positions": "frames", "quality_share": 0.5}
        rehearsal = Rehearsal(shaken(gold_plan()), scan, solver=solver | {"held_out": 0.02})
        recording = Recording(rehearsal)
        live_pictures(app, recording, rehearsal)
        engines_picture(app)
        failing = Rehearsal(gold_plan(), broken)
        failing.pipeline.settings = failing.pipeline.settings.replace(cleaning__layout="csx")
        live_error(app, Recording(failing), failing)
        failing.close()
        file = next(scan.glob("*.cxi"))
        file_pictures(app, file)
        run_pictures(app, file)
        rehearsal.close()
        rehearsal_pictures(app)
    for path in sorted(FOLDER.glob("*.webp")):
        print(f"{path.stat().st_size / 1000:5.0f} kB  {path.name}")
        if path.stat().st_size > MAX_BYTES:
            sys.exit(f"{path} is larger than {MAX_BYTES} bytes: show less in it")


def gold_plan() -> RehearsalPlan:
    """Return a scan of the gold nanospheres with raw frames of the Fast CCD."""
    rows, columns = SHAPE
    settings = RehearsalSettings(rows=rows, columns=columns, step_um=STEP_UM, rate_hz=4.0, detector="sensor")
    return RehearsalPlan(settings, gold_balls(), make_trajectory(settings.pattern, SHAPE, STEP_UM, settings.seed))


def shaken(plan: RehearsalPlan) -> RehearsalPlan:
    """Let the sample lie some nanometres from where the stage tells, a little elsewhere for each frame."""
    simulator, rng = plan.simulator, np.random.default_rng(1)
    make_frame = simulator.raw_frame

    def raw_frame(x_m: float, y_m: float, **more: Any) -> Any:
        dx, dy = rng.normal(0.0, SHAKE_M, 2)
        return make_frame(x_m + dx, y_m + dy, **more)

    simulator.raw_frame = raw_frame  # type: ignore[method-assign]
    return plan


def live_pictures(app: QtWidgets.QApplication, recording: Recording, rehearsal: Rehearsal) -> None:
    """Draw the live window while a scan goes on."""
    states = {
        "start": (0.12, ["RawPanel"]),
        "middle": (0.6, ["QualityPanel"]),
        "end": (1.0, ["SweepPanel"]),
    }
    for name, (measured, front) in states.items():
        window = live_window(recording, measured, rehearsal, front)
        save(app, window, f"live-{name}")
    window = live_window(recording, 1.0, rehearsal, ["LightPanel", "Control", "DarkPanel", "Log"])
    apply_theme("dark")
    save(app, window, "live-control")
    apply_theme("light")
    window = live_window(recording, 1.0, rehearsal, ["FitPanel", "CorrectionsPanel"])
    window.panels[QualityPanel].quantity.setCurrentText("resolution")
    save(app, window, "live-fit")
    window = live_window(recording, 1.0, rehearsal, [])
    window.refresh()
    window.panels[LowResolutionPanel].set_region(Region(-0.35, 0.1, -0.3, 0.25))
    save(app, window, "live-region")
    window = live_window(recording, 1.0, rehearsal, ["Scan"])
    window.refresh()
    for seq_num in (31, 32, 77):
        window.scan.toggle_frame(seq_num)
    save(app, window, "live-retake")


def engines_picture(app: QtWidgets.QApplication) -> None:
    """Draw the live window with a second engine beside the image."""
    rehearsal = Rehearsal(gold_plan(), solver={"sweep_frames": 40, "passes_final": 12})
    rehearsal.pipeline.configure({"second_engine": "rpie"})
    recording = Recording(rehearsal)
    save(app, live_window(recording, 0.9, rehearsal, ["SecondEnginePanel", "QualityPanel"]), "live-engines")
    rehearsal.close()


def live_error(app: QtWidgets.QApplication, recording: Recording, rehearsal: Rehearsal) -> None:
    """Draw the live window of a scan whose frames do not fit the settings."""
    save(app, live_window(recording, 0.5, rehearsal, ["RawPanel"]), "live-error")


def live_window(recording: Recording, measured: float, rehearsal: Rehearsal, front: list[str]) -> LiveWindow:
    """Return a live window on a recording, with some panels to the front."""
    live, modules = recording.show(measured)
    processing = SessionProcessing(rehearsal.pipeline)
    window = LiveWindow(live, modules=lambda: modules, log_lines=recording.log, processing=processing)
    window.show()
    for name in front:
        window.docks.show_dock(name)
    return window


def file_pictures(app: QtWidgets.QApplication, path: Path) -> None:
    """Draw the window on a file: as it opens, with a line profile, beside another reconstruction, and an error."""
    window = CxiWindow(path)
    window.show()
    save(app, window, "file-start", close=False)
    wait_for(app, lambda: window.low_resolution.item.image is not None)
    window.slider.setValue(77)
    window._draw_line("Object phase")
    save(app, window, "file-middle", close=False)
    other = path.with_name("half.cxi")
    write_half(path, other)
    window.compare(other)
    save(app, window, "file-end", close=False)
    window.docks.show_dock("Correlation")
    window.docks.show_dock("Difference")
    window.docks.show_dock("Reprocess")
    window.docks.show_dock("Fit")
    window.reprocess.form.editors["modes"].setText("3")
    save(app, window, "file-compare", close=False)
    window.docks.show_dock("Low resolution")
    empty = path.with_name("without_picture.cxi")
    with read_cxi(path) as data, CxiFile.create(empty, **experiment(data), mask=data.mask) as cxi:
        assert data.frames is not None
        cxi.append(data.frames[:2].astype(np.float32), data.translation_m[:2])
    window._try(lambda: window.compare(empty))
    save(app, window, "file-error")


def experiment(data: Any) -> dict[str, Any]:
    """Return what a CXI file tells of the experiment."""
    return {
        "energy_eV": data.energy_eV,
        "detector_distance_m": data.detector_distance_m,
        "pixel_size_m": data.pixel_size_m,
        "frame_shape": data.frames.shape[1:],
    }


def write_half(source: Path, path: Path) -> None:
    """Reconstruct from every second frame, so that there is something to compare with."""
    with read_cxi(source) as data:
        assert data.frames is not None
        geometry: Geometry = data.geometry()
        translation = data.translation_m[::2]
        frames = data.frames[np.arange(0, len(data.frames), 2)].astype(np.float32)
        result = reconstruct(
            frames,
            translation,
            data.mask,
            geometry,
            SolverSettings(sweep_frames=0),
            get_backend("numpy"),
            passes=20,
            probe=data.illumination,
        )
        x0, x1, y0, y1 = result.picture.extent_m
        with CxiFile.create(path, **experiment(data), mask=data.mask) as cxi:
            cxi.append(frames, translation)
            cxi.write_image(
                result.picture.object,
                result.picture.probe,
                result.picture.pixel_m,
                {},
                result.r_factors,
                center_m=((x0 + x1) / 2, (y0 + y1) / 2),
            )


def run_pictures(app: QtWidgets.QApplication, path: Path) -> None:
    """Draw the browser: without runs, with some, with a search, and at a run without a file."""
    uid = path.name[:8]
    entries = [
        RunEntry(f"{uid}-9a41-4c6f", 1.7640e9, "ptycho_fly_scan", "gold nanospheres", 999.89, 196, "success"),
        RunEntry("5d20c8f1-77e0-4b12", 1.7639e9, "ptycho_fly_scan", "Siemens star", 930.0, 400, "abort"),
        RunEntry("c3e9b07a-1f5d-4e88", 1.7630e9, "ptycho_scan", "gold nanospheres", 930.0, 100, "success"),
    ]
    states: dict[str, tuple[list[RunEntry], str]] = {
        "start": ([], ""),
        "middle": (entries, ""),
        "end": (entries, "gold fly"),
        "error": (entries, ""),
    }
    for name, (shown, words) in states.items():
        browser = RunBrowser(lambda shown=shown: shown, path.parent)
        browser.resize(1040, 420)
        browser.words.setText(words)
        if name == "error":
            browser.open(entries[1].uid)
        save(app, browser, f"runs-{name}")


def rehearsal_pictures(app: QtWidgets.QApplication) -> None:
    """Draw the rehearsal: without a picture, with one, after a run, and with a value that cannot be."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "sem.png")
        sample = gold_balls()
        rows, columns = (
            slice(round(at - size / 2), round(at + size / 2))
            for at, size in zip(sample.origin_px, sample.field_px, strict=True)
        )
        phase = -np.angle(sample.object[rows, columns])  # thick is dark
        grey = 255 * (phase.max() - phase) / np.ptp(phase)
        Image.fromarray(grey.astype(np.uint8)).resize((400, 400)).save(picture)
        settings = RehearsalSettings(rows=12, columns=12, step_um=0.12, rate_hz=50.0, picture_um=1.8)
        save(app, RehearsalWindow(settings=settings), "rehearsal-start")
        window = RehearsalWindow(picture, settings)
        save(app, window, "rehearsal-middle", close=False)
        window.run.click()
        assert window.rehearsal is not None and window.live is not None
        wait_for(app, lambda: not window.rehearsal.running)  # type: ignore[union-attr]
        wait_for(app, window.run.isEnabled)
        save(app, window.live, "rehearsal-live", close=False)
        window.live.hide()
        save(app, window, "rehearsal-end")
        window = RehearsalWindow(picture, settings)
        line = window.form.editors["rows"]
        assert isinstance(line, QtWidgets.QLineEdit)
        line.setText("0")
        line.textEdited.emit("0")
        save(app, window, "rehearsal-error")


def wait_for(app: QtWidgets.QApplication, condition: Callable[[], bool]) -> None:
    """Handle events until it is so."""
    while not condition():
        app.processEvents()


def save(app: QtWidgets.QApplication, window: Any, name: str, *, close: bool = True) -> None:
    """Write a picture of a window, without any loss of colours, which colour bars would show."""
    for _ in range(10):
        app.processEvents()
    drawn = FOLDER / f"{name}.png"
    window.save_screenshot(drawn)
    with Image.open(drawn) as picture:
        picture.convert("RGB").save(drawn.with_suffix(".webp"), lossless=True, quality=100, method=6)
    drawn.unlink()
    if close:
        window.close()
        preferences().clear()  # the next window opens as for a first time


if __name__ == "__main__":
    main()
