"""Darks of an earlier run in a new one: the same frames, told by the new run's own documents, or a clear refusal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from recorded_run import TIMEOUT_S, RecordedRun, interrupt, path_of
from twin_beamline import Twins

from nsbluesky.callbacks import DarkAverager
from nsbluesky.document_log import DocumentLog, read_documents
from nsbluesky.geometry import Geometry, Optic
from nsbluesky.plans import ptycho_darks, ptycho_fly_scan, ptycho_points, ptycho_scan
from nsbluesky.recorded_darks import DarksError, read_dark_run
from nsbluesky.replay import replay
from nsbluesky.settings import PipelineSettings

GEOMETRY = Geometry(energy_eV=1000.0, detector_distance_m=0.1, optic=Optic(diameter_m=1e-4, outer_zone_m=5e-8))
EXPOSURE_S = 0.001
NUM_DARK = 3
SCAN: dict[str, Any] = {"geometry": GEOMETRY, "shape": (2, 2), "exposure_s": EXPOSURE_S}
SETTINGS = PipelineSettings().set_from_text(["cleaning.layout=none", "backend=numpy"])
PLANS = [
    pytest.param(ptycho_scan, SCAN, id="step"),
    pytest.param(ptycho_fly_scan, SCAN | {"rate_hz": 100.0}, id="fly"),
    pytest.param(
        ptycho_points,
        {"geometry": GEOMETRY, "exposure_s": EXPOSURE_S, "points_um": [(0.1, 0.2)]},
        id="points",
    ),
]


def numbered(x_m: float, y_m: float, *, shutter_open: bool, exposure_s: float, index: int) -> Any:
    """A frame that says which one it is, for how long it was exposed, and whether there was light."""
    frame = np.zeros((8, 8), np.uint16)
    frame[0, :3] = index, round(exposure_s * 1e6), shutter_open
    return frame


@dataclass(frozen=True)
class Beamline(Twins):
    RE: RunEngine
    logs: Path

    def record(self, plan: Any) -> RecordedRun:
        """Run a plan, and return its documents."""
        recorded = RecordedRun()
        token = self.RE.subscribe(recorded)
        self.RE(plan)
        self.RE.unsubscribe(token)
        return recorded

    def take_darks(self, exposure_s: Any = EXPOSURE_S) -> RecordedRun:
        plan = ptycho_darks(self.fccd, self.shutter, geometry=GEOMETRY, exposure_s=exposure_s, num_dark=NUM_DARK)
        return self.record(plan)

    def refusal(self, **arguments: Any) -> str:
        """Return why a scan is refused, before anything is done."""
        with pytest.raises(DarksError) as refused:
            self.record(ptycho_scan(*self.devices, **{**SCAN, **arguments}))
        return str(refused.value)


@pytest.fixture
def beamline(RE: RunEngine, tmp_path: Path, data_folder: Path) -> Beamline:
    RE.subscribe(DocumentLog(data_folder / "documents"))
    return Beamline.make(tmp_path, numbered, (8, 8), RE=RE, logs=data_folder / "documents")


@pytest.mark.parametrize("told", ["uid", "beginning", "path", "latest"])
@pytest.mark.parametrize(("plan", "arguments"), PLANS)
def test_a_scan_has_the_darks_of_the_earlier_run(
    beamline: Beamline, plan: Any, arguments: dict[str, Any], told: str
) -> None:
    darks = beamline.take_darks()
    uid = darks.start["uid"]
    ways = {"uid": uid, "beginning": uid[:8], "path": str(beamline.logs / f"{uid}.jsonl"), "latest": "latest"}
    scan = beamline.record(plan(*beamline.devices, **arguments, darks_from=ways[told]))
    np.testing.assert_array_equal(scan.column("dark", "fccd_image"), darks.column("dark", "fccd_image"))
    assert scan.start["ptycho"]["darks_from"] == uid
    frames = scan.column("primary", "fccd_image")
    assert np.all(frames[:, 0, 2] == 1)
    np.testing.assert_array_equal(frames[:, 0, 0], NUM_DARK + np.arange(len(frames)), "no dark was taken anew")
    configuration = scan.descriptor("dark")["configuration"]["fccd"]
    assert configuration == darks.descriptor("dark")["configuration"]["fccd"]
    assert scan.stop["num_events"]["dark"] == NUM_DARK
    assert not beamline.shutter.is_open


def test_a_replay_finds_the_same_darks(beamline: Beamline) -> None:
    darks = beamline.take_darks()
    scan = beamline.record(ptycho_scan(*beamline.devices, **SCAN, darks_from="latest"))
    means = [dark_statistics(list(read_documents(run.start["uid"], beamline.logs)))["mean"] for run in (darks, scan)]
    np.testing.assert_array_equal(means[0], darks.column("dark", "fccd_image").mean(axis=0))
    np.testing.assert_array_equal(means[1], means[0])


def dark_statistics(documents: list[Any]) -> dict[str, Any]:
    told: list[dict[str, Any]] = []
    averager = DarkAverager(SETTINGS)
    averager.subscribe(lambda name, document: told.append(document["data"]) if name == "event" else None)
    replay(documents, averager)
    assert averager.close(TIMEOUT_S)
    (statistics,) = (data for data in told if "mean" in data)
    return statistics


def test_each_exposure_has_the_darks_of_its_own_time(beamline: Beamline) -> None:
    beamline.take_darks((0.001, 0.003, 0.002))
    scan = beamline.record(
        ptycho_scan(*beamline.devices, **SCAN | {"exposure_s": (0.002, 0.001)}, darks_from="latest")
    )
    assert np.unique(scan.column("dark", "fccd_image")[:, 0, 1]) == [2000]
    assert np.unique(scan.column("dark_1", "fccd_image")[:, 0, 1]) == [1000]


def test_latest_is_the_newest_run_with_darks_that_fit(beamline: Beamline) -> None:
    older = beamline.take_darks()
    newer = beamline.record(ptycho_scan(*beamline.devices, **SCAN, num_dark=2))
    beamline.record(ptycho_scan(*beamline.devices, **SCAN, darks_from=older.start["uid"]))
    beamline.take_darks(0.002)
    beamline.record(ptycho_scan(*beamline.devices, **SCAN, num_dark=0))
    damaged = beamline.take_darks()
    path = beamline.logs / f"{damaged.start['uid']}.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first, "no document\n", *others]))
    scan = beamline.record(ptycho_scan(*beamline.devices, **SCAN, darks_from="latest"))
    assert scan.start["ptycho"]["darks_from"] == newer.start["uid"]
    assert scan.stop["num_events"]["dark"] == 2


def test_a_run_that_took_over_darks_stands_for_the_one_that_took_them(beamline: Beamline) -> None:
    first = beamline.take_darks()
    second = beamline.record(ptycho_scan(*beamline.devices, **SCAN, darks_from="latest"))
    third = beamline.record(ptycho_scan(*beamline.devices, **SCAN, darks_from=second.start["uid"]))
    assert third.start["ptycho"]["darks_from"] == first.start["uid"]
    np.testing.assert_array_equal(third.column("dark", "fccd_image"), first.column("dark", "fccd_image"))


def test_darks_that_came_bit_by_bit_are_told_as_one_file(beamline: Beamline) -> None:
    """Told as several, the catalog would take them for a file with rows that belong to no point."""
    darks = beamline.take_darks()
    log = DocumentLog(beamline.logs / "bits")
    for name, document in read_documents(beamline.logs / f"{darks.start['uid']}.jsonl"):
        if name != "stream_datum":
            log(name, document)
            continue
        for row in range(document["indices"]["start"], document["indices"]["stop"]):
            rows = {"indices": {"start": row, "stop": row + 1}, "seq_nums": {"start": row + 1, "stop": row + 2}}
            log(name, {**document, **rows, "uid": f"{document['stream_resource']}/{row}"})
    bits = str(beamline.logs / "bits" / f"{darks.start['uid']}.jsonl")
    scan = beamline.record(ptycho_scan(*beamline.devices, **SCAN, darks_from=bits))
    assert [told["indices"] for _, told in scan.data("dark")] == [{"start": 0, "stop": NUM_DARK}]
    np.testing.assert_array_equal(scan.column("dark", "fccd_image"), darks.column("dark", "fccd_image"))


def test_darks_in_two_files_are_taken_in_their_order(beamline: Beamline) -> None:
    """As where the camera's IOC went away in the middle of them."""
    darks = beamline.take_darks()
    path = beamline.logs / f"{darks.start['uid']}.jsonl"
    again = beamline.take_darks()
    documents = list(read_documents(path))
    other = [
        (name, document)
        for name, document in read_documents(beamline.logs / f"{again.start['uid']}.jsonl")
        if name in ("stream_resource", "stream_datum")
    ]
    (descriptor,) = (document for name, document in documents if name == "descriptor")
    moved = {"run_start": darks.start["uid"], "descriptor": descriptor["uid"]}
    for _, document in other:
        document.update({key: uid for key, uid in moved.items() if key in document})
    log = DocumentLog(beamline.logs / "joined")
    for name, document in [*documents[:-1], *other, documents[-1]]:
        log(name, document)
    joined = str(beamline.logs / "joined" / path.name)
    scan = beamline.record(ptycho_scan(*beamline.devices, **SCAN, darks_from=joined))
    np.testing.assert_array_equal(scan.column("dark", "fccd_image")[:, 0, 0], np.arange(2 * NUM_DARK))


def test_a_pause_does_not_tell_the_darks_twice(beamline: Beamline) -> None:
    beamline.take_darks()
    recorded = RecordedRun()
    beamline.RE.subscribe(recorded)
    begun = recorded.when(lambda run: len(run.data("primary")) >= 1)
    plan = ptycho_scan(*beamline.devices, **SCAN | {"shape": (4, 4), "exposure_s": EXPOSURE_S}, darks_from="latest")
    interrupt(beamline.RE, plan, begun, beamline.RE.request_pause)
    beamline.RE.resume()
    assert recorded.stop["num_events"]["dark"] == NUM_DARK
    assert len(recorded.data("dark")) == 1


def test_what_does_not_fit_is_refused_before_anything_is_done(
    beamline: Beamline, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no run in" in beamline.refusal(darks_from="latest")
    assert "no such document log" in beamline.refusal(darks_from="0123abcd")
    beamline.take_darks(0.002)
    darks = beamline.take_darks()
    runs, frames = len(list(beamline.logs.iterdir())), beamline.fccd.camera._index
    uid = darks.start["uid"]

    for told in (uid, "latest"):
        why = beamline.refusal(darks_from=told, exposure_s=0.5)
        assert f"run {uid[:8]}" in why
        assert "its darks are of 0.001 s: expected 0.5 s" in why
        assert "take some with ptycho_darks, or leave darks_from out" in why

    beamline.fccd._frame_shape = (8, 6)
    assert "of (8, 8) pixels: expected (8, 6)" in beamline.refusal(darks_from=uid)
    beamline.fccd._frame_shape = (8, 8)

    period = beamline.fccd.camera.period
    was = darks.descriptor("dark")["configuration"]["fccd"]["data"][period.name]
    monkeypatch.setattr(type(beamline.fccd), "dark_signals", (period.name,))
    period.put(0.75)
    assert f"fccd_camera_period was {was!r} for its darks and is 0.75 now" in beamline.refusal(darks_from=uid)
    period.put(was)

    beamline.fccd.name = "other"
    assert "its darks are not of 'other'" in beamline.refusal(darks_from=uid)
    beamline.fccd.name = "fccd"

    (resource,) = darks.all("stream_resource")
    path_of(resource).rename(path_of(resource).with_suffix(".gone"))
    assert "its darks are gone" in beamline.refusal(darks_from=uid)
    assert len(list(beamline.logs.iterdir())) == runs, "no run was opened"
    assert beamline.fccd.camera._index == frames, "no frame was taken"


def test_a_run_without_darks_has_none(beamline: Beamline) -> None:
    bare = beamline.record(ptycho_scan(*beamline.devices, **SCAN, num_dark=0))
    assert "no dark frames of its own" in beamline.refusal(darks_from=bare.start["uid"])
    assert read_dark_run(beamline.logs / f"{bare.start['uid']}.jsonl").streams == {}
