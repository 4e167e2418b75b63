"""The whole way of the data over real EPICS: plans, devices, files, processing, catalog, CXI and pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from PIL import Image
from recorded_run import RecordedRun, interrupt
from twin_beamline import QUICK_SOLVER, RIM_PX

from nsbluesky import session
from nsbluesky.callbacks.derived_run_writer import DerivedRunWriter
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.catalog import Catalog, open_catalog
from nsbluesky.cxi import CxiData, read_cxi, validate
from nsbluesky.document_log import DocumentLog, find_runs, read_documents
from nsbluesky.plans import ptycho_darks, ptycho_fly_scan, ptycho_scan
from nsbluesky.recorded_darks import DarksError
from nsbluesky.replay import documents_of, replay
from nsbluesky.simulation.beamline import SimulatedBeamline
from nsbluesky.solver.quality import contrast_correlation

pytestmark = pytest.mark.epics

TIMEOUT_S = 120.0
MIN_CORRELATION = 0.8


@dataclass(frozen=True)
class Site:
    """The simulated beamline with small frames, and a catalog."""

    beamline: SimulatedBeamline
    site: session.Site
    devices: tuple[Any, Any, Any]
    catalog: Catalog
    folder: Path

    def arguments(self, shape: tuple[int, int], points_across: int = 20) -> dict[str, Any]:
        step_um = min(self.beamline.ready.scan_range_um) / points_across
        return {"geometry": self.site.geometry, "shape": shape, "step_um": step_um, "num_dark": 4}

    @property
    def truth(self) -> np.ndarray:
        with h5py.File(self.beamline.truth_path) as file:
            truth: np.ndarray = file["object"][()]
        return truth


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    catalog.start_writing()  # beside the start of the beamline, as a session does
    with ExitStack() as stack:
        beamline = stack.enter_context(SimulatedBeamline(folder / "beamline", layout="none"))
        where = session.simulated_site(beamline)
        devices = session.fccd(where), session.scan_stage(where), session.shutter(where)
        for device in devices:
            stack.callback(device.destroy)
        yield Site(beamline, where, devices, catalog, folder)


class Experiment:
    """A RunEngine with the processing subscribed, and what came out of it."""

    def __init__(self, RE: RunEngine, site: Site, folder: Path, **solver: Any) -> None:
        self.recorded = RecordedRun()
        self.derived = RecordedRun()
        self.pipeline = PtychoPipeline(
            site.site.pipeline.replace(backend="numpy").replace(**{f"solver__{k}": v for k, v in solver.items()}),
            directory=folder,
        )
        self.pipeline.subscribe(self._keep_small_documents)
        for callback in (DocumentLog(folder / "documents"), self.recorded, self.pipeline):
            RE.subscribe(callback)

    def _keep_small_documents(self, name: str, document: dict[str, Any]) -> None:
        if name != "event_page":
            self.derived.documents.append((name, document))

    def finish(self) -> dict[str, Any]:
        """Wait for the last picture, and return it."""
        assert self.pipeline.close(TIMEOUT_S)
        return self.pipeline.results[self.uid]

    def num_taken(self) -> int:
        """Return how many frames of the scan the documents have told of so far."""
        data = self.recorded.data("primary")
        return sum(d["indices"]["stop"] - d["indices"]["start"] for key, d in data if key == "fccd_image")

    @property
    def uid(self) -> str:
        return str(self.recorded.start["uid"])

    def cxi(self) -> CxiData:
        assert self.pipeline.cxi is not None and self.pipeline.cxi.path is not None
        assert validate(self.pipeline.cxi.path) == []
        return read_cxi(self.pipeline.cxi.path)

    def assert_frames_are_those_of_the_run(self) -> None:
        """Every frame of the documents is in the CXI file, at its position."""
        frames, x, y = (self.recorded.values("primary", key) for key in ("fccd_image", "stage_x", "stage_y"))
        with self.cxi() as cxi:
            assert sorted(cxi.seq_nums.tolist()) == sorted(frames)
            assert cxi.frames is not None
            for number, frame, translation_m in zip(cxi.seq_nums, cxi.frames[:], cxi.translation_m, strict=True):
                np.testing.assert_allclose(frame, frames[number], atol=1e-3)
                np.testing.assert_allclose(translation_m[:2] * 1e6, [x[number], y[number]], atol=1e-9)


@pytest.fixture
def experiment(RE: RunEngine, site: Site, tmp_path: Path) -> Iterator[Experiment]:
    running = Experiment(RE, site, tmp_path, **QUICK_SOLVER)
    yield running
    running.pipeline.close(timeout=0)


def test_fly_scan_to_a_true_image(RE: RunEngine, site: Site, tmp_path: Path) -> None:
    """Everything subscribed that a session subscribes."""
    experiment = Experiment(RE, site, tmp_path, sweep_candidates=7, sweep_frames=40, sweep_passes=4)
    writer = site.catalog.writer()
    RE.subscribe(writer)
    experiment.pipeline.subscribe(DerivedRunWriter(tmp_path / "derived", writer, cxi=experiment.pipeline.cxi))
    RE(ptycho_fly_scan(*site.devices, **site.arguments((12, 12)), rate_hz=60.0))
    result = experiment.finish()
    assert result["final"] and result["num_frames"] == 144
    assert contrast_correlation(result["object"], site.truth, RIM_PX) > MIN_CORRELATION
    experiment.assert_frames_are_those_of_the_run()
    pictures = [event["data"] for event in experiment.derived.events("reconstruction")]
    assert len(pictures) > 1 and not pictures[0]["final"], "there is a picture before the last one"
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    assert_catalog_has_both_runs(site.catalog, experiment, 144)


def assert_catalog_has_both_runs(catalog: Catalog, experiment: Experiment, count: int) -> None:
    raw = catalog.client[experiment.uid]
    assert raw["primary"]["fccd_image"].shape[0] == raw["primary"]["stage_x"].shape[0] == count
    derived = catalog.client[experiment.derived.start["uid"]]
    assert derived.start["raw_uid"] == experiment.uid
    assert derived["clean"]["frame"].shape[0] == count
    shown = derived["reconstruction"]["object"][-1]
    expected = experiment.pipeline.results[experiment.uid]["object"]
    np.testing.assert_array_equal(shown[: expected.shape[0], : expected.shape[1]], expected)


def test_darks_of_an_earlier_run(RE: RunEngine, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan takes over what `ptycho_darks` took: live, in the catalog, and replayed; not at another gain."""
    monkeypatch.setenv("NSBLUESKY_DATA", str(tmp_path))  # where the log of the experiment is
    fccd, _, shutter = site.devices
    darks = Experiment(RE, site, tmp_path, **QUICK_SOLVER)
    RE(ptycho_darks(fccd, shutter, geometry=site.site.geometry, num_dark=6))
    assert darks.pipeline.close(TIMEOUT_S)
    darks_uid, taken = darks.uid, darks.recorded.column("dark", "fccd_image")
    (told,) = darks.derived.events("dark_statistics")

    experiment = Experiment(RE, site, tmp_path, **QUICK_SOLVER)
    writer = site.catalog.writer()
    RE.subscribe(writer)
    arguments = {**site.arguments((4, 4)), "rate_hz": 40.0, "darks_from": "latest"}
    RE(ptycho_fly_scan(*site.devices, **arguments))
    assert experiment.finish()["num_frames"] == 16
    assert experiment.recorded.start["ptycho"]["darks_from"] == darks_uid
    np.testing.assert_array_equal(experiment.recorded.column("dark", "fccd_image"), taken)
    (used,) = experiment.derived.events("dark_statistics")
    np.testing.assert_array_equal(used["data"]["mean"], told["data"]["mean"])
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    stored = site.catalog.client[experiment.uid]
    assert stored["dark"]["fccd_image"].shape[0] == 6 and stored["primary"]["fccd_image"].shape[0] == 16

    for way in ({"log_directory": tmp_path / "documents"}, {"catalog": site.catalog}):
        again = Experiment(RE, site, tmp_path / next(iter(way)), **QUICK_SOLVER)
        replay(documents_of(experiment.uid, **way), again.pipeline)  # type: ignore[arg-type]
        assert again.pipeline.close(TIMEOUT_S)
        (found,) = again.derived.events("dark_statistics")
        np.testing.assert_array_equal(found["data"]["mean"], told["data"]["mean"])

    fccd.camera.gain.set("x1").wait(10.0)
    try:
        with pytest.raises(DarksError, match="fccd_camera_gain was 'Auto' for its darks and is 'x1' now"):
            RE(ptycho_fly_scan(*site.devices, **{**arguments, "darks_from": darks_uid}))
    finally:
        fccd.camera.gain.set("Auto").wait(10.0)


def test_step_scan_with_a_pause_in_the_middle(RE: RunEngine, site: Site, experiment: Experiment) -> None:
    """The point at which the RunEngine paused is measured again; nothing is missing and nothing out of place."""
    some = experiment.recorded.when(lambda run: len(run.data("primary")) >= 10)
    interrupt(RE, ptycho_scan(*site.devices, **site.arguments((5, 5))), some, RE.request_pause)
    RE.resume()
    assert experiment.finish()["num_frames"] == 25
    experiment.assert_frames_are_those_of_the_run()
    assert experiment.derived.stop["exit_status"] == "success"
    assert experiment.derived.stop.get("reason", "") == ""


@pytest.mark.parametrize(
    ("plan", "more"),
    [
        pytest.param(ptycho_scan, {}, id="step", marks=pytest.mark.nightly),
        pytest.param(ptycho_fly_scan, {"rate_hz": 40.0}, id="fly"),
    ],
)
def test_abort_in_the_middle(
    RE: RunEngine, site: Site, experiment: Experiment, plan: Any, more: dict[str, Any]
) -> None:
    some = experiment.recorded.when(lambda _: experiment.num_taken() >= 20)
    interrupt(RE, plan(*site.devices, **site.arguments((12, 12)), **more), some, lambda: RE.abort("enough"))
    result = experiment.finish()
    measured = experiment.recorded.values("primary", "fccd_image")
    assert 20 <= len(measured) < 144
    assert experiment.derived.stop["exit_status"] == experiment.recorded.stop["exit_status"] == "abort"
    with experiment.cxi() as cxi:
        complete = set(experiment.recorded.values("primary", "stage_x")) & set(measured)
        assert set(cxi.seq_nums.tolist()) == complete
        assert result["num_frames"] == len(complete)
        assert len(cxi.images) == 1 and cxi.images[0].complete


def test_a_raising_callback_disturbs_nobody(
    RE: RunEngine, site: Site, experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(name: str, document: dict[str, Any]) -> None:
        raise RuntimeError("a broken window")

    token = experiment.pipeline.subscribe(broken)
    RE(ptycho_fly_scan(*site.devices, **site.arguments((4, 4)), rate_hz=50.0))
    assert experiment.finish()["num_frames"] == 16
    experiment.assert_frames_are_those_of_the_run()
    assert "a broken window" in caplog.text
    experiment.pipeline.unsubscribe(token)


def run_demo(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nsbluesky.cli", "demo", "--out", str(out), *options]
    environment = {**os.environ, "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def demo(
    tmp_path_factory: pytest.TempPathFactory, new_catalog: Callable[[Path], Path]
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("demo") / "output"
    new_catalog(out / "catalog")
    quick = [f"--set=solver.{name}={value}" for name, value in QUICK_SOLVER.items()]
    return out, run_demo(out, "--offscreen", "--json", "--shape", "5x6", "--rate", "15", *quick)


def test_demo_of_a_scan_too_small_says_so(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, done = demo
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("nsbluesky demo: correlation with the truth 0.")
    assert done.stderr.endswith(" < 0.95\n")


def test_demo_says_what_it_did(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, done = demo
    summary = json.loads(done.stdout)
    assert summary["frames_planned"] == summary["frames_recorded"] == summary["frames_used"] == 30
    assert summary["finished"] is True
    assert 0 < summary["contrast_correlation_with_truth"] < 0.95
    assert 0 < summary["r_factor"] < 0.5
    assert 0 < summary["final_image_after_last_frame_s"] < summary["seconds_in_all"]
    assert summary["cropped_frames_MB"] == pytest.approx(30 * 104**2 * 4 / 2**20)
    for name in ("cxi", "object_picture", "truth_picture", "window_picture", "catalog"):
        assert Path(summary[name]).is_relative_to(out) and Path(summary[name]).exists()


def test_demo_writes_everything(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, done = demo
    summary = json.loads(done.stdout)
    uid = summary["run_uid"]
    assert validate(summary["cxi"]) == []
    with read_cxi(summary["cxi"]) as cxi:
        assert cxi.seq_nums.tolist() == list(range(1, 31))
        assert cxi.images[-1].complete
    for name in ("object_picture", "truth_picture", "window_picture"):
        with Image.open(summary[name]) as picture:
            colours = picture.convert("RGB").getcolors(1 << 24)
        assert colours is not None and len(colours) > 100
    (logged,) = find_runs(out / "documents")
    documents = list(read_documents(logged.uid, out / "documents"))
    assert logged.uid == uid
    assert (documents[0][0], documents[-1][0]) == ("start", "stop")
    assert documents[-1][1]["num_events"]["primary"] == 30
    with open_catalog(summary["catalog"]) as catalog:
        run = catalog.client[uid]
        assert run["primary"]["fccd_image"].shape == (30, 1040, 1152)
        assert run["primary"]["fccd_image"][29].any()
        assert run["dark"]["fccd_image"].shape == (25, 1040, 1152)
        assert run["primary"]["stage_x"].shape == (30,)
        (derived,) = (r for r in catalog.client.values() if r.start.get("raw_uid") == uid)
        assert derived["clean"]["frame"].shape == (30, 104, 104)
        assert derived.stop["exit_status"] == "success"
    assert not list(out.rglob("*.part"))
