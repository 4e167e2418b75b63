"""A recorded run gives its image again: live, from the verbatim log, and from the catalog."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from recorded_run import RecordedRun, interrupt, path_of
from twin_beamline import QUICK_SOLVER, RIM_PX, TwinBeamline, make_twin_beamline

from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.catalog import Catalog
from nsbluesky.conversion.run_scan import scan_of_run
from nsbluesky.cxi import read_cxi, validate
from nsbluesky.devices.detector import DATASET
from nsbluesky.document_log import DocumentLog, DocumentLogError
from nsbluesky.plans import ptycho_fly_scan, ptycho_scan
from nsbluesky.replay import documents_of, replay
from nsbluesky.settings import PipelineSettings
from nsbluesky.solver.quality import contrast_correlation

TIMEOUT_S = 120.0
SHAPE = (7, 7)
NUM_POINTS = 49
SAME = 1e-4
ALIKE = 0.99

Documents = list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Site:
    """A beamline, and where its runs are recorded."""

    beamline: TwinBeamline
    catalog: Catalog
    log: Path

    def record(self, RE: RunEngine, plan: Any, *callbacks: Callable[..., Any]) -> str:
        """Run a plan with everything subscribed, and return the run's uid."""
        uids: list[str] = []
        writer = self.catalog.writer()
        for callback in (DocumentLog(self.log), writer, *callbacks):
            RE.subscribe(callback)
        RE.subscribe(lambda _, start: uids.append(start["uid"]), "start")
        RE(plan)
        assert writer.flush(TIMEOUT_S) and writer.errors == {}
        return uids[0]

    def documents(self, uid: str, way: str) -> Documents:
        log, catalog = (self.log, None) if way == "log" else (None, self.catalog)
        return list(documents_of(uid, log, catalog))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> Site:
    folder = tmp_path_factory.mktemp("site")
    catalog.start_writing()
    return Site(make_twin_beamline(folder), catalog, folder / "log")


@pytest.fixture
def fly(site: Site) -> Any:
    return ptycho_fly_scan(*site.beamline.devices, **site.beamline.arguments(SHAPE), rate_hz=80.0)


@pytest.fixture
def step(site: Site) -> Any:
    return ptycho_scan(*site.beamline.devices, **site.beamline.arguments(SHAPE, exposure_s=0.001))


def process(settings: PipelineSettings, documents: Documents, directory: Path | None = None) -> PtychoPipeline:
    pipeline = PtychoPipeline(settings, directory=directory)
    replay(documents, pipeline)
    assert pipeline.close(TIMEOUT_S)
    return pipeline


def image_of(pipeline: PtychoPipeline, uid: str) -> np.ndarray:
    result = pipeline.results[uid]
    assert result["final"] and result["num_frames"] == NUM_POINTS
    image: np.ndarray = result["object"]
    return image


def difference(image: np.ndarray, reference: np.ndarray) -> float:
    """Return ‖image − reference‖ / ‖reference‖ where both were measured.

    A constant phase, which nothing measures, is left out: a picture takes it from the one published before.
    """
    both = np.isfinite(image) & np.isfinite(reference)
    phase = np.exp(1j * np.angle(np.vdot(image[both], reference[both])))
    return float(np.linalg.norm(image[both] * phase - reference[both]) / np.linalg.norm(reference[both]))


def similarity(image: np.ndarray, reference: np.ndarray) -> float:
    return contrast_correlation(image, np.where(np.isfinite(reference), reference, np.nanmean(reference)), RIM_PX)


@pytest.mark.parametrize("plan", ["fly", pytest.param("step", marks=pytest.mark.nightly)])
def test_the_same_image_where_the_solver_waits(
    RE: RunEngine, site: Site, request: pytest.FixtureRequest, plan: str
) -> None:
    settings = site.beamline.settings(**QUICK_SOLVER, live=False)
    live = PtychoPipeline(settings)
    uid = site.record(RE, request.getfixturevalue(plan), live)
    assert live.close(TIMEOUT_S)
    image = image_of(live, uid)
    assert np.nanstd(image) > 0.05, "a blank picture would be the same every time"
    for way in ("log", "catalog"):
        again = image_of(process(settings, site.documents(uid, way)), uid)
        np.testing.assert_array_equal(np.isfinite(again), np.isfinite(image))
        assert difference(again, image) < SAME, way
    other = process(settings.replace(solver__seed=1), site.documents(uid, "log"))
    shuffled = image_of(other, uid)
    alike = shuffled.shape == image.shape and difference(shuffled, image) < SAME
    assert not alike, "the difference shows another order of frames"


@pytest.mark.parametrize("plan", ["fly", "step"])
def test_the_raw_scan_is_the_same_from_log_and_catalog(
    RE: RunEngine, site: Site, request: pytest.FixtureRequest, plan: str
) -> None:
    uid = site.record(RE, request.getfixturevalue(plan))
    log, catalog = (scan_of_run(site.documents(uid, way)) for way in ("log", "catalog"))
    assert len(log) == NUM_POINTS and log.left_out == catalog.left_out == {}
    np.testing.assert_array_equal(log.frames[0].read(), catalog.frames[0].read())
    np.testing.assert_array_equal(log.darks[0].read(), catalog.darks[0].read())
    np.testing.assert_array_equal(log.translation_m, catalog.translation_m)
    assert log.geometry == catalog.geometry and log.exposures_s == catalog.exposures_s


@pytest.mark.nightly
def test_much_the_same_image_where_the_solver_works_meanwhile(RE: RunEngine, site: Site) -> None:
    """What was done while the scan ran decides where the solver starts its last passes, no more than that."""
    side = 12
    arguments = site.beamline.arguments((side, side), points_across=2 * side)
    settings = site.beamline.settings(sweep_candidates=3, sweep_frames=25, passes_final=30)
    live = PtychoPipeline(settings)
    uid = site.record(RE, ptycho_fly_scan(*site.beamline.devices, **arguments, rate_hz=80.0), live)
    assert live.close(TIMEOUT_S)
    again = process(settings, site.documents(uid, "log"))
    assert again.results[uid]["num_frames"] == live.results[uid]["num_frames"] == side**2
    assert similarity(again.results[uid]["object"], live.results[uid]["object"]) >= ALIKE


def test_replay_with_other_settings(RE: RunEngine, site: Site, fly: Any, tmp_path: Path) -> None:
    """What a replay is for: the same frames, processed in another way, beside the earlier result."""
    uid = site.record(RE, fly)
    documents = site.documents(uid, "log")
    for modes in (1, 3):
        settings = site.beamline.settings(**QUICK_SOLVER, modes=modes)
        pipeline = process(settings, documents, tmp_path)
        assert len(pipeline.results[uid]["probe"]) == modes
    paths = sorted(tmp_path.glob("*.cxi"))
    assert len(paths) == 2
    for path, modes in zip(paths, (1, 3), strict=True):
        assert validate(path) == []
        with read_cxi(path) as cxi:
            assert cxi.seq_nums.tolist() == list(range(1, NUM_POINTS + 1))
            assert cxi.images[-1].parameters["settings"]["solver"]["modes"] == modes


def test_a_replay_is_not_recorded_again(RE: RunEngine, site: Site, fly: Any) -> None:
    uid = site.record(RE, fly)
    before = (site.log / f"{uid}.jsonl").read_bytes()
    replay(site.documents(uid, "log"), DocumentLog(site.log))
    assert (site.log / f"{uid}.jsonl").read_bytes() == before


def test_a_paused_run_is_whole_and_each_frame_at_its_place(
    RE: RunEngine, site: Site, step: Any, tmp_path: Path
) -> None:
    """A rewind measures the point again: what the pipeline takes is what was measured last."""
    recorded = RecordedRun()
    for callback in (recorded, DocumentLog(site.log)):
        RE.subscribe(callback)
    interrupt(RE, step, recorded.when(lambda run: len(run.events("primary")) >= 20), RE.request_pause)
    RE.resume()
    uid = recorded.start["uid"]
    settings = site.beamline.settings(**QUICK_SOLVER)
    pipeline = process(settings, site.documents(uid, "log"), tmp_path)
    assert pipeline.results[uid]["num_frames"] == NUM_POINTS
    assert_frames_are_those_of_the_run(pipeline, recorded)


def test_a_catalog_with_misplaced_frames_says_so_and_is_not_replayed(RE: RunEngine, site: Site, step: Any) -> None:
    """A pause between trigger and save leaves a frame in the file that belongs to no event."""
    recorded = RecordedRun()
    RE.subscribe(recorded)
    RE(step)
    (primary,) = (uid for uid, name in recorded.streams().items() if name == "primary")
    writer = site.catalog.writer()
    for name, document in recorded.documents:
        if document.get("descriptor") == primary and (document.get("seq_num") or 0) == NUM_POINTS:
            continue
        if name == "stream_datum" and document["descriptor"] == primary and document["seq_nums"]["start"] >= 20:
            if document["seq_nums"]["stop"] > NUM_POINTS:
                continue
            rows = {edge: row + 1 for edge, row in document["indices"].items()}
            document = {**document, "indices": rows}
        writer(name, document)
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    run = site.catalog.client[recorded.start["uid"]]
    assert run.metadata["stop"]["rows_left_out"] is True
    with pytest.raises(DocumentLogError, match=r"rows that belong to no point .* the document log has them right"):
        documents_of(recorded.start["uid"], catalog=site.catalog)


def test_a_run_whose_session_died_gives_all_of_its_frames(RE: RunEngine, site: Site, step: Any) -> None:
    """Its log has no stop document; without one the last frames would wait for more."""
    recorded = RecordedRun()
    RE.subscribe(recorded)
    RE(step)
    log = DocumentLog(site.log)
    for name, document in recorded.documents[:-1]:
        log(name, document)
    log.close()
    uid = recorded.start["uid"]
    documents = site.documents(uid, "log")
    assert documents[-1][0] != "stop"
    image_of(process(site.beamline.settings(**QUICK_SOLVER), documents), uid)


def assert_frames_are_those_of_the_run(pipeline: PtychoPipeline, recorded: RecordedRun) -> None:
    """Compare every frame and position of the CXI file with what the documents refer to."""
    frames = recorded.values("primary", "fccd_image")
    x, y = recorded.values("primary", "stage_x"), recorded.values("primary", "stage_y")
    assert pipeline.cxi is not None and pipeline.cxi.path is not None
    with read_cxi(pipeline.cxi.path) as cxi:
        assert sorted(cxi.seq_nums.tolist()) == sorted(frames)
        assert cxi.frames is not None
        for number, frame, translation_m in zip(cxi.seq_nums, cxi.frames[:], cxi.translation_m, strict=True):
            np.testing.assert_allclose(frame, frames[number], atol=1e-3)
            np.testing.assert_allclose(translation_m[:2] * 1e6, [x[number], y[number]], atol=1e-9)


@pytest.mark.parametrize("side", [1, 3])
def test_a_run_of_few_frames_has_a_picture(RE: RunEngine, site: Site, side: int) -> None:
    """Fewer frames than the centre, a batch or the sweep wait for."""
    uid = site.record(RE, ptycho_scan(*site.beamline.devices, **site.beamline.arguments((side, side))))
    pipeline = process(site.beamline.settings(passes_final=2, sweep_candidates=3), site.documents(uid, "log"))
    result = pipeline.results[uid]
    assert result["final"] and result["num_frames"] == side**2


def destroy_frame(path: Path, index: int) -> None:
    """Write the file once more with checksums, as a careful site does, and spoil bytes of one frame."""
    with h5py.File(path) as file:
        frames = file[DATASET][()]
    with h5py.File(path, "w", libver="latest") as file:
        data = file.create_dataset(DATASET, data=frames, chunks=(1, *frames.shape[1:]), fletcher32=True)
        place = data.id.get_chunk_info(index).byte_offset
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(b"\xff\xfe\xfd")


def test_a_corrupt_frame_is_lost_and_no_other(RE: RunEngine, site: Site, fly: Any, tmp_path: Path) -> None:
    """Bytes of one frame go bad on disk between the scan and its replay."""
    recorded = RecordedRun()
    uid = site.record(RE, fly, recorded)
    resources = {r["uid"]: r for r in recorded.all("stream_resource")}
    path = next(path_of(resources[d["stream_resource"]]) for k, d in recorded.data("primary") if k == "fccd_image")
    destroy_frame(path, 11)
    health: list[dict[str, Any]] = []
    stops: list[dict[str, Any]] = []

    def listen(name: str, document: dict[str, Any]) -> None:
        if name == "stop":
            stops.append(document)
        elif name == "event" and "lost" in document["data"]:
            health.append(document["data"])

    pipeline = PtychoPipeline(site.beamline.settings(**QUICK_SOLVER), directory=tmp_path)
    pipeline.subscribe(listen)
    replay(site.documents(uid, "log"), pipeline)
    assert pipeline.close(TIMEOUT_S)
    assert pipeline.results[uid]["num_frames"] == NUM_POINTS - 1
    assert health[-1]["lost"] == [12]
    assert stops[0]["exit_status"] == "success" and "1 frame lost" in stops[0]["reason"]
    assert pipeline.cxi is not None and pipeline.cxi.path is not None
    with read_cxi(pipeline.cxi.path) as cxi:
        assert cxi.seq_nums.tolist() == [n for n in range(1, NUM_POINTS + 1) if n != 12]
