"""From documents to the object, with small frames: in order, out of order, with losses, and after an abort."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.fft
from scipy.ndimage import gaussian_filter
from simulated_runs import METRES_PER_UM, Streams, process, simulate

from nsbluesky import backend
from nsbluesky.backend import get_backend
from nsbluesky.callbacks import incremental_reconstructor, solver_documents
from nsbluesky.callbacks.derived_run import DerivedRun
from nsbluesky.callbacks.incremental_reconstructor import IncrementalReconstructor, Reconstruct
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.callbacks.stage import RunContext
from nsbluesky.simulation.samples import near_field_sample
from nsbluesky.solver.checkpoint import read_checkpoint
from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.quality import contrast_correlation

RIM_PX = 10
FEW_PASSES = {"sweep_frames": 0, "passes_final": 2}
"""Enough where the image does not matter."""
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def scan():
    return simulate("none", (12, 12), points_across=20)


@pytest.fixture(scope="module")
def small():
    """For what does not look at the image."""
    return simulate("none", (8, 8), points_across=20)


def settings(scan, **solver):
    """Return settings for a quick run whose last passes do not depend on how fast this machine is."""
    quick = {
        "sweep_frames": 5 * len(scan.frames) // 12,
        "sweep_candidates": 5,
        "sweep_passes": 3,
        "passes_final": 6,
        "final_s": 1e6,
        "find_orientation": False,
    }
    return scan.settings(**quick | solver)


def correlation(scan, result):
    return contrast_correlation(result["object"], scan.simulator.sample.object, RIM_PX)


@pytest.fixture(scope="module")
def orderly(scan, tmp_path_factory):
    documents = scan.documents(tmp_path_factory.mktemp("orderly"))
    return process(IncrementalReconstructor(settings(scan, find_orientation=True)), documents)


def test_object_is_found(scan, orderly):
    result = orderly.last("reconstruction")
    assert result["final"]
    assert result["num_frames"] == 144
    assert result["coverage"] == 1.0
    assert result["r_factor"] < 0.15
    assert correlation(scan, result) > 0.8
    assert orderly.stop["exit_status"] == "success"
    assert orderly.stop["reason"] == ""


def test_sweep_is_told_once(orderly):
    (geometry,) = orderly.events["geometry"]
    assert len(geometry["sweep_defocus_m"]) == len(geometry["sweep_residual"]) == 5
    assert geometry["defocus_m"] in geometry["sweep_defocus_m"]


def test_the_correlation_that_tells_the_resolution(scan, tmp_path, orderly):
    assert "frc" not in orderly.events, "nobody asked for the quality"
    judged = settings(scan, sweep_frames=0, quality_share=1.0, coarse_uses=0)
    streams = process(IncrementalReconstructor(judged), scan.documents(tmp_path))
    told = streams.events["frc"]
    assert not np.array_equal(told[0]["correlation"], told[-1]["correlation"]), "anew where it was compared anew"
    frequency, correlation, half_bit = (told[-1][key] for key in ("frequency_1_m", "correlation", "half_bit"))
    below = np.flatnonzero(correlation < half_bit)[0]
    crossing = 0.5 / streams.last("reconstruction")["resolution_half_bit_m"]
    assert frequency[below - 1] <= crossing <= frequency[below]


def test_frames_declared_the_wrong_way_round_are_put_right_and_told(scan, tmp_path, orderly):
    """Rows are said to be flipped, and are not."""
    asked = settings(scan, find_orientation=True)
    streams = process(IncrementalReconstructor(asked), scan.documents(tmp_path, orientation=1))
    (geometry,) = streams.events["geometry"]
    assert geometry["orientation"] == 0 and geometry["orientation_certain"]
    assert geometry["orientation_confidence"] > 0.1
    messages = [data["message"] for data in streams.events["health"] if data["state"] == "warning"]
    assert messages == [m for m in messages if "fit the stage in orientation 0, not in 1 as declared" in m] != []
    assert correlation(scan, streams.last("reconstruction")) > 0.9 * correlation(scan, orderly.last("reconstruction"))
    (geometry,) = orderly.events["geometry"]
    assert geometry["orientation"] == 0 and geometry["orientation_certain"]


def test_frames_that_do_not_determine_the_image_are_told_when_the_scan_is_over(small, tmp_path):
    """For so many modes; while frames still come, there are always too few."""
    many = settings(small, **FEW_PASSES, modes=16, publish_hz=1000.0)
    streams = process(IncrementalReconstructor(many), small.documents(tmp_path))
    (message,) = warnings_of(streams)
    assert "not determined by its data: 64 frames measure 1.8 numbers" in message
    pictures = [name for name in streams.order if name == "reconstruction"]
    told_after = [
        streams.order[:k].count("reconstruction") for k, data in health_places(streams) if data["state"] == "warning"
    ]
    assert told_after == [len(pictures)]


def test_a_probe_that_was_not_at_rest_is_told(small, tmp_path, monkeypatch):
    told = []
    for part in (0.9e-3, 0.0123):
        monkeypatch.setattr(IncrementalSolver, "varied_part", part)
        streams = process(
            IncrementalReconstructor(settings(small, **FEW_PASSES)), small.documents(tmp_path / str(part))
        )
        messages = [data["message"] for data in streams.events["health"] if data["state"] == "warning"]
        told.append([message for message in messages if "the probe changed over the scan" in message])
    assert told[0] == []
    (message,) = told[1]
    assert "1.2 % of its light is another than the mean probe's" in message


def test_a_background_is_told(small, tmp_path):
    """Half as much as the light through the sample: a third of all."""
    told = []
    for part in (0.0, 0.5):
        light = np.random.default_rng(1).poisson(part * small.frames.mean(), small.frames.shape)
        spoilt = dataclasses.replace(small, frames=(small.frames + light).astype(small.frames.dtype))
        asked = settings(spoilt, passes_final=10)
        streams = process(IncrementalReconstructor(asked), spoilt.documents(tmp_path / str(part)))
        told.append([message for message in warnings_of(streams) if "of the light is a background" in message])
    assert told[0] == []
    (message,) = told[1]
    assert 28 < float(message.split()[0]) < 38


def test_a_hot_pixel_is_told_and_left_out(small, tmp_path):
    """It became hot after the darks, which say nothing of it."""
    frames = small.frames.copy()
    frames[:, 20, 44] = np.quantile(frames, 0.999)
    spoilt = dataclasses.replace(small, frames=frames)
    streams = process(IncrementalReconstructor(settings(spoilt, **FEW_PASSES)), spoilt.documents(tmp_path))
    messages = [data["message"] for data in streams.events["health"] if data["state"] == "warning"]
    (message,) = [message for message in messages if "fit in no frame" in message]
    assert "left out, 1 so far: in clean frames, row and column (" in message
    place = re.search(r"\((\d+), (\d+)\)", message)
    data = streams.last("diffraction_fit")["data"]
    assert place is not None and np.argwhere(np.isnan(data)).tolist() == [[int(place[1]), int(place[2])]]


def test_a_scan_in_the_near_field(tmp_path):
    """The start document says so; there is nothing to sweep, and pixels are those of the shadow."""
    picture = gaussian_filter(np.random.default_rng(5).normal(size=(70, 70)), 2.5)
    sample = near_field_sample(picture, field_px=70, frame_px=64, detector_pixel_m=8.8e-6, photons=2e6)
    near = simulate("none", (9, 9), points_across=14, sample=sample)
    wanted = settings(near, modes=1, passes_final=25)
    streams = process(IncrementalReconstructor(wanted), near.documents(tmp_path))
    result = streams.last("reconstruction")
    assert result["final"] and result["num_frames"] == 81 and "geometry" not in streams.events
    assert result["pixel_size_m"] == pytest.approx(sample.pixel_m)
    assert contrast_correlation(result["object"], sample.object, 12) > 0.9
    assert not warnings_of(streams)

    asked = settings(near, modes=1, passes_final=25, find_orientation=True)
    streams = process(IncrementalReconstructor(asked), near.documents(tmp_path, orientation=1))
    (told,) = warnings_of(streams)
    assert "fit the stage in orientation 0, not in 1 as declared" in told
    assert contrast_correlation(streams.last("reconstruction")["object"], sample.object, 12) > 0.9

    nearer = near.documents(tmp_path, source_distance_m=0.8 * sample.source_distance_m)
    streams = process(IncrementalReconstructor(asked.replace(solver=asked.solver.replace(passes_final=1))), nearer)
    (told,) = warnings_of(streams)
    assert re.search(r"shadows move 0.7\d* times as far .* source distance of about 0.008\d* m would fit", told)


def test_picture_grows_while_frames_come(scan, tmp_path):
    streams = process(
        IncrementalReconstructor(settings(scan, publish_hz=1000.0, **FEW_PASSES)), scan.documents(tmp_path)
    )
    pictures = streams.events["reconstruction"]
    assert [p["final"] for p in pictures].count(True) == 1
    assert pictures[-1]["final"]
    assert pictures[0]["num_frames"] < 144
    assert pictures[-1]["num_frames"] == 144


def test_shuffled_late_and_missing_frames(scan, tmp_path):
    """A tenth of the frames never comes, the others in any order, positions far from their frames."""

    def shuffle(points):
        rng = np.random.default_rng(1)
        kept = [document for k, document in enumerate(points) if (k // 2) % 10 != 3]
        return [kept[k] for k in rng.permutation(len(kept))]

    streams = process(IncrementalReconstructor(settings(scan)), scan.documents(tmp_path, order=shuffle))
    result = streams.last("reconstruction")
    assert result["num_frames"] == 144 - 15
    assert correlation(scan, result) > 0.8


def test_doubled_frames_count_once(scan, tmp_path):
    streams = process(
        IncrementalReconstructor(settings(scan, **FEW_PASSES)),
        scan.documents(tmp_path, order=lambda points: points + points[:40]),
    )
    assert streams.last("reconstruction")["num_frames"] == 144


def test_abort_in_the_middle_gives_the_half_that_was_measured(scan, tmp_path):
    documents = scan.documents(tmp_path, order=lambda points: points[:160])
    documents[-1] = ("stop", {**documents[-1][1], "exit_status": "abort"})
    streams = process(IncrementalReconstructor(settings(scan, **FEW_PASSES)), documents)
    result = streams.last("reconstruction")
    assert result["final"]
    assert result["num_frames"] == 80
    assert result["coverage"] == pytest.approx(80 / 144)
    assert streams.stop["exit_status"] == "abort"


def test_run_without_frames_ends_without_a_picture(scan, tmp_path):
    streams = process(
        IncrementalReconstructor(settings(scan)), scan.documents(tmp_path, darks=False, order=lambda points: [])
    )
    assert "reconstruction" not in streams.events
    assert streams.stop["exit_status"] == "success"


def test_raising_solver_costs_the_image_but_no_clean_frame(scan, tmp_path, monkeypatch, caplog):
    def broken(self, budget_s):
        raise FloatingPointError("a solver out of its mind")
        yield

    monkeypatch.setattr(Reconstruct, "work", broken)
    caplog.set_level("CRITICAL", logger="nsbluesky")
    streams = process(IncrementalReconstructor(settings(scan)), scan.documents(tmp_path))
    assert len(streams.clean) == 144
    errors = [data for data in streams.events["health"] if data["state"] == "error"]
    assert errors[0]["stage"] == "reconstruction"
    assert "out of its mind" in streams.stop["reason"]


def test_pipeline_keeps_results_writes_cxi_and_feeds_the_windows(scan, tmp_path, orderly):
    from nsbluesky.cxi import read_cxi, validate

    pipeline = PtychoPipeline(settings(scan), directory=tmp_path / "out")
    documents = scan.documents(tmp_path / "run")
    process(pipeline, documents)
    raw_uid = documents[0][1]["uid"]
    result = pipeline.results[raw_uid]
    assert result["final"]
    assert pipeline.live.snapshot().reconstruction.num_frames == 144
    assert pipeline.cxi is not None
    path = pipeline.cxi.path
    assert path is not None
    assert validate(path) == []
    with read_cxi(path) as cxi:
        assert cxi.frames.shape == (144, 104, 104)
        height, width = result["object"].shape  # pictures never shrink in the file: there may be a masked margin
        written = cxi.images[-1].object[:height, :width]
        measured = np.isfinite(result["object"])
        np.testing.assert_array_equal(written[measured], result["object"][measured])
    assert correlation(scan, result) > 0.8


def test_same_documents_give_the_same_object(small, tmp_path, monkeypatch):
    """Where the solver waits for the last frame; how far they differ where it does not: tests/test_replay_of_runs.py.

    With SciPy's transforms: FFTW's plans may round in another way, of which so small a scan makes 1e-3.
    """
    monkeypatch.setattr(backend, "_host_transforms", lambda: scipy.fft)
    quick = settings(small, live=False, passes_final=4)
    first, second = (
        process(IncrementalReconstructor(quick), small.documents(tmp_path / str(k))).last("reconstruction")["object"]
        for k in range(2)
    )
    np.testing.assert_array_equal(first, second)


def drive(scan, **solver):
    """Return a stage with all frames of the scan, settled while the scan ran, and the raw stop document."""
    settings_ = settings(scan, **{"sweep_frames": 0, "passes_final": 3} | solver)
    start = {"uid": "raw", "ptycho": {"scan": {"num_points": len(scan.frames)}}}
    derived = DerivedRun(start, settings_)
    run = RunContext(start, settings_, scan.simulator.geometry, get_backend("numpy"), derived)
    stage = Reconstruct(run)
    mask = np.zeros(scan.frames.shape[1:], np.uint32)
    places = dict(zip(("x_m", "y_m"), scan.points_um.T * METRES_PER_UM, strict=True))
    numbers = list(range(1, len(scan.frames) + 1))
    documents = derived.event("detector", mask=mask)
    documents += derived.page(
        "clean",
        numbers,
        [0.0] * len(numbers),
        frame=scan.frames.astype(np.float32),
        **places,
        weight=np.ones(len(numbers)),
    )
    for name, document in documents:
        assert list(stage.process(name, document)) == []
    while stage._solver.state is None or stage._solver.is_coarse or stage._solver.state.passes < 2:
        list(stage.work(0))
    return stage, {"uid": "stop", "run_start": "raw"}


def pictures_to_the_end(stage):
    pictures = []
    while stage.has_work:
        pictures += [d["data"] for n, d in stage.work(0) if n == "event" and "r_factor" in d["data"]]
    return pictures


def test_settled_image_is_final_when_its_time_is_over(scan):
    stage, stop = drive(scan, final_s=1e-6)
    list(stage.process("stop", stop))
    (final,) = (picture for picture in pictures_to_the_end(stage) if picture["final"])
    assert final["num_frames"] == len(scan.frames)
    assert not stage._solver.finished


def test_settled_image_gets_all_its_passes_where_there_is_time(scan):
    stage, stop = drive(scan, final_s=1e6)
    list(stage.process("stop", stop))
    assert pictures_to_the_end(stage)[-1]["final"]
    assert stage._solver.finished


def test_a_search_after_the_last_frame_takes_no_time_from_the_last_passes(scan, monkeypatch):
    """On a busy machine, a short scan with its sweep at the end would be cut short else."""
    clock_s = 0.0
    clock = SimpleNamespace(monotonic=lambda: clock_s, time=time.time)
    for module in (incremental_reconstructor, solver_documents):
        monkeypatch.setattr(module, "time", clock)
    sweep = {"sweep_frames": 1000, "sweep_candidates": 2, "sweep_passes": 1, "find_orientation": False}
    stage, stop = drive(scan, final_s=3.0, coarse_uses=0, **sweep)
    list(stage.process("stop", stop))
    time_left = []
    while stage.has_work:
        list(stage.work(0))
        clock_s += 10.0 if stage._solver.is_searching else 0.0
        time_left.append(stage._solver.time_left)
    assert clock_s > 100.0
    assert stage._solver.finished and set(time_left) == {1.0}


def test_positions_of_an_image_that_began_anew_are_told_after_its_first_round(scan):
    stage, stop = drive(scan, final_s=1e6, refine_positions="frames", passes_final=12, coarse_uses=0)
    list(stage.process("stop", stop))
    pictures_to_the_end(stage)
    solver, places = stage._solver, stage._solver.refinement.places
    assert places.rounds > 0 and not list(stage._positions(solver)), "they were told with a picture"
    solver.start_with(solver.picture().probe)
    assert not list(stage._positions(solver)), "corrected positions were dropped"
    while places.rounds == 0 and not solver.finished:
        solver.step(0)
    ((_, told),) = (each for each in stage._positions(solver) if each[0] != "descriptor")
    assert np.isfinite(told["data"]["scatter_m"])


def add_late_frame(stage, scan):
    """Let one more frame come."""
    late = stage.run.derived.page(
        "clean",
        [999],
        [0.0],
        frame=scan.frames[:1].astype(np.float32),
        x_m=np.zeros(1),
        y_m=np.zeros(1),
        weight=np.ones(1),
    )
    for name, document in late:
        list(stage.process(name, document))


def test_frame_that_comes_after_the_final_picture_makes_another_one(scan):
    stage, stop = drive(scan, final_s=1e-6)
    list(stage.process("stop", stop))
    pictures_to_the_end(stage)
    add_late_frame(stage, scan)
    (final,) = (picture for picture in pictures_to_the_end(stage) if picture["final"])
    assert final["num_frames"] == len(scan.frames) + 1


def test_an_image_that_its_data_do_not_determine_is_told_once_however_many_final_pictures_it_has(small):
    """Also where a frame that comes late makes another one, of one frame more."""
    stage, stop = drive(small, modes=16)
    assert stage.run.warnings == []
    list(stage.process("stop", stop))
    (first,) = (picture for picture in pictures_to_the_end(stage) if picture["final"])
    (message,) = stage.run.warnings
    assert "not determined by its data: 64 frames measure 1.8 numbers" in message
    add_late_frame(stage, small)
    (second,) = (picture for picture in pictures_to_the_end(stage) if picture["final"])
    assert (first["num_frames"], second["num_frames"]) == (64, 65)
    assert "not determined by its data: 65 frames" in stage._solver.complaint(), "it could be told again"
    assert stage.run.warnings == [message]


def test_an_image_that_rests_is_shown_as_it_is(small, tmp_path):
    """In a pause of the scan the solver comes to rest between two pictures; the window must not stay behind it."""
    documents = small.documents(tmp_path / "run")
    chosen = settings(small, publish_hz=0.5)
    seen = Streams()
    with contextlib.closing(PtychoPipeline(chosen, directory=tmp_path / "out")) as pipeline:
        pipeline.subscribe(seen)
        for name, document in documents[: len(documents) // 2]:
            pipeline(name, document)
        wait_until(lambda: "reconstruction" in seen.events)
        (chain,) = pipeline._chains
        solver = chain.run.solver
        wait_until(lambda: not solver.has_work)
        rests_at = solver.picture().num_passes
        wait_until(lambda: seen.last("reconstruction")["num_passes"] == rests_at)


# ---- checkpoints


def interrupted(scan, folder, documents, **solver):
    """Process half a run, write a checkpoint, and leave it as a process that dies does."""
    first = PtychoPipeline(settings(scan, **solver), directory=folder)
    seen = Streams()
    first.subscribe(seen)
    for name, document in documents[: len(documents) // 2]:
        first(name, document)
    wait_until(lambda: "geometry" in seen.events and seen.events.get("reconstruction", [])[-1:] and ripe(seen))
    (paths,) = first.save(TIMEOUT_S).values()
    first.close(0)
    return paths[0]


def ripe(streams):
    picture = streams.last("reconstruction")
    return picture["coverage"] > 5 / 12 and picture["num_passes"] > 5


def wait_until(condition):
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.01)


def warnings_of(streams):
    return [data["message"] for data in streams.events["health"] if data["state"] == "warning"]


def health_places(streams):
    """Yield where in the order of all events each one of the health stream came, and its data."""
    places = [k for k, name in enumerate(streams.order) if name == "health"]
    return zip(places, streams.events["health"], strict=True)


def test_a_process_that_takes_over_goes_on_from_the_checkpoint(scan, tmp_path, orderly):
    """The documents come again from the start; the first picture has all that the checkpoint had."""
    documents = scan.documents(tmp_path / "run")
    path = interrupted(scan, tmp_path / "out", documents, find_orientation=True)
    assert path == tmp_path / "out" / f"{documents[0][1]['uid']}.checkpoint"
    before = read_checkpoint(path)
    second = PtychoPipeline(settings(scan, find_orientation=True, publish_hz=1000.0), directory=tmp_path / "out")
    streams = process(second, documents)
    pictures = streams.events["reconstruction"]
    assert len(before["frames"]["uses"]) > 60
    assert pictures[0]["num_passes"] > 0.9 * before["frames"]["uses"][:20].mean() > 4
    assert pictures[-1]["num_frames"] == 144
    assert correlation(scan, pictures[-1]) > 0.97 * correlation(scan, orderly.last("reconstruction"))
    assert not path.exists()  # the run is finished
    assert warnings_of(streams) == []


@pytest.fixture(scope="module")
def half(small, tmp_path_factory):
    """A run, and the checkpoint that a process left of its half."""
    folder = tmp_path_factory.mktemp("half")
    documents = small.documents(folder / "run")
    return documents, interrupted(small, folder / "out", documents)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("settings", "settings.modes is 2 there and 1 here"),
        ("cleaning", "cleaning.dark_flux is 0.2 there and 0.1 here"),  # its frames are others
        ("content", "damaged"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_told_and_left(small, half, tmp_path, damage, told):
    documents, left = half
    (tmp_path / "out").mkdir()
    path = Path(shutil.copy(left, tmp_path / "out"))
    if damage == "content":
        path.write_bytes(path.read_bytes()[:-100])
    changed = settings(small, passes_final=2, **({"modes": 1} if damage == "settings" else {}))
    if damage == "cleaning":
        changed = changed.replace(cleaning__dark_flux=0.1)
    streams = process(PtychoPipeline(changed, directory=tmp_path / "out"), documents)
    (message,) = warnings_of(streams)
    assert message.startswith("the image is begun anew: ") and told in message
    assert streams.last("reconstruction")["num_frames"] == 64


def test_checkpoints_are_written_at_intervals_where_they_are_wanted(small, tmp_path, monkeypatch):
    written = []
    save = IncrementalSolver.save
    monkeypatch.setattr(IncrementalSolver, "save", lambda self, path: (written.append(path), save(self, path)))
    for seconds, folder in ((1e-6, "often"), (0.0, "never")):
        written.clear()
        chosen = settings(small, **FEW_PASSES).replace(checkpoint_s=seconds)
        process(PtychoPipeline(chosen, directory=tmp_path / folder), small.documents(tmp_path / f"{folder}-run"))
        assert bool(written) == (seconds > 0)
        assert not list((tmp_path / folder).glob("*.checkpoint*"))


def test_a_checkpoint_that_cannot_be_written_costs_nothing_else(small, tmp_path, monkeypatch):
    def full(self, path):
        raise OSError("no space left on device")

    monkeypatch.setattr(IncrementalSolver, "save", full)
    chosen = settings(small, **FEW_PASSES).replace(checkpoint_s=1e-6)
    streams = process(PtychoPipeline(chosen, directory=tmp_path / "out"), small.documents(tmp_path / "run"))
    assert warnings_of(streams) == ["no checkpoint could be written: no space left on device"]
    assert streams.last("reconstruction")["final"]


# ---- warm starts


@pytest.fixture(scope="module")
def day(small, tmp_path_factory):
    """Two scans of one day through pipelines of one folder, as of a session and the next one."""
    folder = tmp_path_factory.mktemp("day")
    first = small.documents(folder / "1")
    second = later(small.documents(folder / "2"), first, 840.0)
    streams = [process(PtychoPipeline(settings(small), directory=folder / "out"), run) for run in (first, second)]
    return folder / "out", first, second, streams


def later(documents, than, seconds):
    """The same documents of a run that began some seconds after another one."""
    (_, start), *others = documents
    return [("start", {**start, "time": than[0][1]["time"] + seconds}), *others]


def test_the_second_scan_of_a_day_begins_with_the_probe_of_the_first(day):
    folder, first, second, (alone, warm) = day
    (told,) = alone.events["geometry"]
    assert told["warm_run"] == "" and np.isnan(told["warm_age_s"]) and not told["warm_fits"]
    (told,) = warm.events["geometry"]
    assert told["warm_run"] == first[0][1]["uid"] and told["warm_age_s"] == 840.0
    assert told["warm_fits"] and told["warm_residual"] < told["sweep_residual"].min()
    assert [path.name for path in (folder / "probes").iterdir()] == [f"{second[0][1]['uid']}.probe"]
    assert warnings_of(warm) == []


def test_what_was_begun_with_is_in_the_log_and_in_the_windows(small, day, tmp_path, caplog):
    caplog.set_level("INFO", logger="nsbluesky")
    folder, _, second, _ = day
    shutil.copytree(folder, tmp_path / "out")
    pipeline = PtychoPipeline(settings(small, passes_final=2), directory=tmp_path / "out")
    process(pipeline, later(small.documents(tmp_path / "run"), second, 840.0))
    uid = second[0][1]["uid"]
    assert any(f"the probe of run {uid[:8]}, 14 min ago, fits best; defocus" in line for line in caplog.messages)
    sweep = pipeline.live.snapshot().sweep
    assert (sweep.warm_run, sweep.warm_age_s, sweep.warm_fits) == (uid, 840.0, True)


@pytest.mark.parametrize("case", ["off", "replayed", "again"])
def test_a_run_that_should_depend_on_itself_alone_begins_without(small, day, tmp_path, case):
    folder, _, second, _ = day
    shutil.copytree(folder, tmp_path / "out")
    changes = {"off": {"warm_start": False}, "replayed": {"solver__live": False}}.get(case, {})
    documents = second if case == "again" else later(small.documents(tmp_path / "run"), second, 60.0)
    streams = process(
        PtychoPipeline(settings(small, passes_final=2).replace(**changes), directory=tmp_path / "out"), documents
    )
    (told,) = streams.events["geometry"]
    assert told["warm_run"] == "" and np.isnan(told["warm_residual"])
    assert [path.name for path in (tmp_path / "out" / "probes").iterdir()] == [f"{second[0][1]['uid']}.probe"]


def test_an_aborted_run_leaves_the_earlier_probe(small, day, tmp_path):
    folder, _, second, _ = day
    shutil.copytree(folder, tmp_path / "out")
    documents = later(small.documents(tmp_path / "run"), second, 60.0)
    documents[-1] = ("stop", {**documents[-1][1], "exit_status": "abort"})
    streams = process(PtychoPipeline(settings(small, passes_final=2), directory=tmp_path / "out"), documents)
    assert streams.last("geometry")["warm_fits"]
    assert [path.name for path in (tmp_path / "out" / "probes").iterdir()] == [f"{second[0][1]['uid']}.probe"]


def test_a_library_that_cannot_be_used_costs_nothing_else(small, tmp_path):
    """A file lies where the folder should be."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "probes").write_text("no folder")
    streams = process(
        PtychoPipeline(settings(small, passes_final=2), directory=tmp_path / "out"), small.documents(tmp_path / "run")
    )
    (message,) = warnings_of(streams)
    assert message.startswith("the probe cannot be kept for later runs: ")
    assert streams.last("reconstruction")["final"] and streams.stop["reason"] == ""
