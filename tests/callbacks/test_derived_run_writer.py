"""DerivedRunWriter: what comes out is valid, and opens from a real catalog."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import event_model
import h5py
import numpy as np
import pytest
from open_files import is_open

from nsbluesky import disk_space
from nsbluesky.callbacks.cxi_writer import CXIWriter
from nsbluesky.callbacks.derived_run import DerivedRun, Document
from nsbluesky.callbacks.derived_run_writer import DerivedRunWriter
from nsbluesky.catalog import Catalog
from nsbluesky.disk_space import NoSpace
from nsbluesky.document_log import DocumentLog, read_documents
from nsbluesky.settings import PipelineSettings

# Starlette speaks about its test client, which tiled uses to reach its server inside the process.

SIDE = 8
PIXEL_M = 1e-8
TIMEOUT_S = 60.0
PTYCHO = {"energy_eV": 930.0, "detector_distance_m": 0.1, "pixel_size_m": 30e-6}


def reconstruction(run: DerivedRun, step: int, final: bool = False, engine: str = "") -> list[Document]:
    """Tell a picture, by a second engine where one is named."""
    height, width = 4 + step, 6 + 2 * step
    return run.event(
        "second_engine" if engine else "reconstruction",
        **({"engine": engine} if engine else {}),
        object=np.full((height, width), step, np.complex64),
        probe=np.full((2, SIDE, SIDE), step, np.complex64),
        extent_m=np.array([0, width, 0, height]) * PIXEL_M,
        pixel_size_m=PIXEL_M,
        r_factor=0.5,
        num_frames=step,
        final=final,
    )


def a_run(run: DerivedRun, pictures: int = 3) -> Iterator[Document]:
    """Compose a whole derived run in which the object grows and frame 2 comes twice."""
    yield "start", run.start_document
    yield from run.page("dark", [1, 2], [1.0, 1.0], frame=np.ones((2, 9, 9), np.uint16))
    yield from run.event(
        "detector",
        center_row_px=1.0,
        center_column_px=2.0,
        mask=np.zeros((SIDE, SIDE), np.uint32),
        pixel_size_m=240e-6,
    )
    for seq_nums, values in (([3, 2], [30.0, 20.0]), ([2, 4], [21.0, 40.0])):
        x_m = np.array(values)
        frames = np.broadcast_to(x_m[:, None, None], (2, SIDE, SIDE)).astype(np.float32)
        yield from run.page(
            "clean",
            seq_nums,
            [1.0, 2.0],
            frame=frames,
            x_m=x_m,
            y_m=-x_m,
            photons=2 * x_m,
            weight=np.ones(2),
            flags=np.array([0, 2]),
        )
    yield from run.event(
        "dark_statistics",
        mean=np.ones((3, 3), np.float32),
        bad_adcs=np.array([4, 7]),
        num_frames=5,
        gain_steps=np.zeros((0, 3, 3), np.float32),  # no element: no catalog takes it
    )
    for step in range(pictures):
        yield from reconstruction(run, step)
        yield from run.event(
            "health", stage="clean", state="ok", queue=step, lost=list(range(step)), bad=[], flagged=[]
        )
    yield run.stop("abort", "frame 5 is missing")


def make_run() -> DerivedRun:
    return DerivedRun({"uid": "0123456789", "ptycho": PTYCHO}, PipelineSettings())


class Recorder:
    """Keeps documents and checks each against event-model's schema."""

    def __init__(self) -> None:
        self.documents: list[Document] = []

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(document)
        self.documents.append((name, document))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [document for name, document in self.documents if name == kind]


def send(documents: Any, *callbacks: Any) -> None:
    for name, document in documents:
        for callback in callbacks:
            callback(name, document)


def test_the_derived_run_opens_from_the_catalog(catalog: Catalog, tmp_path: Path) -> None:
    writer, recorder, run = catalog.writer(), Recorder(), make_run()
    cxi = CXIWriter(tmp_path)

    def target(name: str, document: dict[str, Any]) -> None:
        recorder(name, document)
        writer(name, document)

    send(a_run(run), cxi, DerivedRunWriter(tmp_path / "arrays", target, cxi=cxi, interval_s=0))
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    stored = catalog.client[run.uid]
    assert stored.start["raw_uid"] == "0123456789" and stored.start["settings"] == PipelineSettings().to_dict()
    assert stored.stop["exit_status"] == "abort" and stored.stop["reason"] == "frame 5 is missing"
    assert set(stored) == {"clean", "dark_statistics", "detector", "health", "reconstruction"}
    assert stored["clean"]["raw_seq_num"][:].tolist() == [3, 2, 4]
    assert stored["clean"]["x_m"][:].tolist() == [30, 21, 40]
    assert stored["clean"]["y_m"][:].tolist() == [-30, -21, -40]
    assert stored["clean"]["photons"][:].tolist() == [60, 42, 80]
    assert stored["clean"]["frame"][:][:, 0, 0].tolist() == [30, 21, 40]
    assert stored["dark_statistics"]["bad_adcs"][:].tolist() == [[4, 7]]
    assert stored["health"]["lost"][:].tolist() == ["[]", "[0]", "[0, 1]"]
    assert stored["reconstruction"]["num_frames"][:].tolist() == [0.0, 1.0, 2.0]
    # a growing object is padded, and its extent too
    pictures = stored["reconstruction"]["object"][:]
    assert pictures.shape == (3, 6, 10) and pictures.dtype == np.complex64
    for step, picture in enumerate(pictures):
        assert (picture[: 4 + step, : 6 + 2 * step] == step).all()
        assert np.count_nonzero(np.isfinite(picture)) == (4 + step) * (6 + 2 * step)
    np.testing.assert_allclose(stored["reconstruction"]["extent_m"][:], [np.array([0, 10, 0, 6]) * PIXEL_M] * 3)


def test_pictures_are_thinned_but_for_the_last(tmp_path: Path) -> None:
    for final in (True, False):
        run, recorder = make_run(), Recorder()
        documents = [("start", run.start_document)]
        for step in range(5):
            documents += reconstruction(run, step, final=final and step == 4)
        send([*documents, run.stop()], DerivedRunWriter(tmp_path, recorder, interval_s=1e9))
        (descriptor,) = recorder.of("descriptor")
        assert descriptor["data_keys"]["object"]["shape"] == [8, 14]
        assert [event["data"]["num_frames"] for event in recorder.of("event")] == [0.0, 4.0]
        assert {datum["indices"]["stop"] for datum in recorder.of("stream_datum")} == {2}


def test_the_pictures_of_a_second_engine_are_stored_beside_the_others(catalog: Catalog, tmp_path: Path) -> None:
    """Each stream is thinned by itself, and its last picture is there, whether it was told to be the last or not."""
    writer, run = catalog.writer(), make_run()
    documents = [("start", run.start_document)]
    for step in range(5):
        documents += reconstruction(run, step, final=step == 4)
        documents += reconstruction(run, 10 + step, engine="rpie")
    send([*documents, run.stop()], DerivedRunWriter(tmp_path, writer, interval_s=1e9))
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    stored = catalog.client[run.uid]
    assert stored["reconstruction"]["num_frames"][:].tolist() == [0.0, 4.0]
    second = stored["second_engine"]
    assert second["num_frames"][:].tolist() == [10.0, 14.0] and second["engine"][:].tolist() == ["rpie", "rpie"]
    assert second["object"][:].shape == (2, 18, 34), "padded, as it grows"
    np.testing.assert_allclose(second["extent_m"][:], [np.array([0, 34, 0, 18]) * PIXEL_M] * 2)


def test_arrays_are_on_disk_before_the_run_stops(tmp_path: Path) -> None:
    run, recorder = make_run(), Recorder()
    documents = list(a_run(run))
    send(documents[:-1], DerivedRunWriter(tmp_path, recorder, interval_s=0))
    with h5py.File(tmp_path / run.uid / "reconstruction.h5", "r", libver="latest", swmr=True) as file:
        assert file["object"].shape == (3, 6, 10)
    assert [event["data"]["queue"] for event in recorder.of("event")] == [0.0, 1.0, 2.0]  # numbers go on at once


def test_no_array_and_no_raw_frame_goes_on(tmp_path: Path) -> None:
    run, recorder = make_run(), Recorder()
    send(a_run(run), DerivedRunWriter(tmp_path, recorder, interval_s=0))
    for event in recorder.of("event"):
        assert all(isinstance(value, (float, bool, str)) for value in event["data"].values())
    keys = {descriptor["name"]: descriptor["data_keys"] for descriptor in recorder.of("descriptor")}
    assert "dark" not in keys
    assert "raw_seq_num" in keys["clean"] and "frame" not in keys["clean"], "no file has it"
    with h5py.File(tmp_path / run.uid / "clean.h5") as file:
        assert file["raw_seq_num"][:].tolist() == [2, 3, 4]


def test_a_document_log_takes_it_and_other_runs_are_left_alone(tmp_path: Path) -> None:
    run, log = make_run(), DocumentLog(tmp_path / "log")
    writer = DerivedRunWriter(tmp_path, log)
    send([("start", {"uid": "raw", "time": 1.0}), *a_run(run)], writer)
    assert log.errors == {}
    names = [name for name, _ in read_documents(run.uid, tmp_path / "log")]
    assert (names[0], names[-1]) == ("start", "stop")
    assert not (tmp_path / "log" / "raw.jsonl").exists()


def test_what_a_run_that_is_steered_tells(catalog: Catalog, tmp_path: Path) -> None:
    """Corrections of more and more frames, changed settings, and no fits, which are for the moment only."""
    writer, run = catalog.writer(), make_run()
    documents = [("start", run.start_document)]
    for count in (2, 3):
        places = {"x_m": np.arange(count) * 1e-6, "y_m": np.zeros(count)}
        about = {"scatter_m": 1e-9, "scale_x": 1.0, "scale_y": 1.0, "rotation_rad": 0.0, "shear_rad": 0.0}
        documents += run.event("positions", raw_seq_num=np.arange(1, 1 + count), **places, **about)
        image = np.ones((SIDE, SIDE), np.float32)
        documents += run.event("diffraction_fit", raw_seq_num=count, data=image, model=image, r_frame=0.1)
        documents += run.event(
            "frc", **dict.fromkeys(("frequency_1_m", "correlation", "half_bit"), np.ones(9 - count))
        )
    documents += run.event("settings", settings=PipelineSettings().to_json(), changes='{"solver.modes": 3}')
    send([*documents, run.stop()], DerivedRunWriter(tmp_path, writer, interval_s=0))
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    stored = catalog.client[run.uid]
    assert set(stored) == {"positions", "settings"}
    assert stored["positions"]["raw_seq_num"][:].tolist() == [[1, 2, 0], [1, 2, 3]]
    assert np.isnan(stored["positions"]["x_m"][:][0, 2])
    assert PipelineSettings.from_dict(json.loads(stored["settings"]["settings"][:][0])) == PipelineSettings()


def test_the_files_of_runs_that_go_on_can_be_closed(tmp_path: Path) -> None:
    """As a reset of the service does, after which these runs begin anew under other uids."""
    run, recorder = make_run(), Recorder()
    writer = DerivedRunWriter(tmp_path, recorder, interval_s=0)
    documents = list(a_run(run))
    send(documents[:-1], writer)
    paths = sorted((tmp_path / run.uid).glob("*.h5"))
    assert [path.stem for path in paths] == ["dark_statistics", "detector", "reconstruction"]
    assert all(is_open(path) for path in paths)
    told = len(recorder.documents)
    writer.close()
    assert not any(is_open(path) for path in paths)
    send(documents[-1:], writer)
    assert len(recorder.documents) == told and writer.errors == {}


def test_a_full_disk_leaves_no_file_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may last for many runs, and files that a process may open are few."""
    writer = DerivedRunWriter(tmp_path, lambda name, document: None)
    run = make_run()
    *documents, stop = a_run(run)
    send(documents, writer)
    (path, *_) = paths = list((tmp_path / run.uid).glob("*.h5"))
    assert all(map(is_open, paths))
    with monkeypatch.context() as full:
        full.setattr(disk_space, "free_bytes", lambda folder: 0)
        with pytest.raises(NoSpace):
            writer(*stop)
    assert not any(map(is_open, paths))
    with h5py.File(path) as file:
        assert len(file), "what was written can be read"
