"""Recording of stages: switched on and off in the middle of a run, and what a file says that could not be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from open_files import is_open

from nsbluesky import disk_space
from nsbluesky.array_file import ArrayFile
from nsbluesky.callbacks.derived_run import DerivedRun
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.callbacks.stage_recorder import StageRecorder
from nsbluesky.settings import PipelineSettings, SettingsError

Document = tuple[str, dict[str, Any]]


@pytest.fixture
def run() -> DerivedRun:
    return DerivedRun({"uid": "abcdefgh-1"}, PipelineSettings())


def give(recorder: StageRecorder, documents: list[Document]) -> None:
    for name, document in documents:
        recorder(name, document)


def page(run: DerivedRun, seq_nums: list[int], stream: str = "clean") -> list[Document]:
    frames = np.stack([np.full((4, 4), k, np.float32) for k in seq_nums])
    return run.page(stream, seq_nums, [0.0] * len(seq_nums), frame=frames, x_m=np.arange(len(seq_nums)) * 1e-6)


def picture(run: DerivedRun, side: int) -> list[Document]:
    return run.event("reconstruction", object=np.ones((side, side), np.complex64), num_frames=side, final=False)


def test_each_stage_begins_and_ends_while_the_run_goes_on(run: DerivedRun, tmp_path: Path) -> None:
    recorder = StageRecorder(tmp_path)
    give(recorder, [("start", run.start_document), *page(run, [1, 2]), *picture(run, 2)])
    assert recorder.paths == []
    recorder.record(["clean", "raw"])
    assert recorder.stages == ["raw", "clean"]
    give(recorder, [*page(run, [3, 4]), *page(run, [1], "dark"), *page(run, [1], "primary")])
    recorder.record(["clean", "reconstruction"])
    give(recorder, [*page(run, [5]), *page(run, [2], "primary"), *picture(run, 2), *picture(run, 3)])
    recorder.record([])
    give(recorder, page(run, [6]))
    recorder.record(["clean"])
    give(recorder, [*page(run, [7]), run.stop()])
    assert [path.name for path in recorder.paths] == [
        *(f"abcdefgh_{stream}.h5" for stream in ("clean", "dark", "primary", "reconstruction")),
        "abcdefgh_clean_2.h5",
    ]
    numbers = {}
    for path in recorder.paths:
        assert not is_open(path)
        with h5py.File(path) as file:
            numbers[path.stem] = file["seq_num"][()].tolist()
            assert all(len(dataset) == len(file["seq_num"]) for dataset in file.values())
    assert list(numbers.values()) == [[3, 4, 5], [1], [1], [2, 3], [7]]
    with h5py.File(tmp_path / "abcdefgh_clean.h5") as file:
        assert file["frame"][:, 0, 0].tolist() == [3, 4, 5]
        assert file.attrs["stream"] == "clean" and json.loads(file.attrs["start"])["raw_uid"] == "abcdefgh-1"
    with h5py.File(tmp_path / "abcdefgh_reconstruction.h5") as file:
        assert file["object"].shape == (2, 3, 3) and np.isnan(file["object"][0, 2, 2])
        assert file["num_frames"][()].tolist() == [2, 3]


def test_a_file_can_be_read_while_it_grows(run: DerivedRun, tmp_path: Path) -> None:
    recorder = StageRecorder(tmp_path)
    recorder.record(["clean"])
    give(recorder, [("start", run.start_document), *page(run, [1, 2])])
    with h5py.File(recorder.paths[0], swmr=True) as file:
        assert file["seq_num"][()].tolist() == [1, 2]
        give(recorder, page(run, [3]))
        file["seq_num"].refresh()
        assert file["seq_num"][()].tolist() == [1, 2, 3]
    assert is_open(recorder.paths[0])
    recorder.close()
    assert not is_open(recorder.paths[0])


def test_a_file_that_cannot_be_made_is_told_once(run: DerivedRun, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, no folder")
    recorder = StageRecorder(tmp_path / "taken")
    recorder.record(["clean"])
    with pytest.raises(OSError, match="taken"):
        give(recorder, [("start", run.start_document), *page(run, [1])])
    give(recorder, [*page(run, [2]), run.stop()])
    assert recorder.paths == []


def test_a_full_disk_ends_the_recording_of_one_stage_until_it_is_asked_for_again(
    run: DerivedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = StageRecorder(tmp_path)
    recorder.record(["clean", "raw"])
    give(recorder, [("start", run.start_document), *page(run, [1])])
    with monkeypatch.context() as full:
        full.setattr(disk_space, "free_bytes", lambda folder: disk_space.MARGIN_BYTES)
        with pytest.raises(disk_space.NoSpace, match="64 MB are free"):
            give(recorder, page(run, [2]))
    give(recorder, [*page(run, [3]), *page(run, [1], "primary")])
    recorder.record(["clean"])
    give(recorder, [*page(run, [4]), run.stop()])
    assert [path.name for path in recorder.paths] == [
        "abcdefgh_clean.h5",
        "abcdefgh_primary.h5",
        "abcdefgh_clean_2.h5",
    ]
    for path, expected in zip(recorder.paths, ([1], [1], [4]), strict=True):
        with h5py.File(path) as file:
            assert file["seq_num"][()].tolist() == expected


def test_a_file_that_hdf5_cannot_write_is_left_alone(
    run: DerivedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may crash where it closes one after an error."""

    def broken(*_: object) -> None:
        raise RuntimeError("Unable to extend")

    recorder = StageRecorder(tmp_path)
    recorder.record(["clean"])
    give(recorder, [("start", run.start_document), *page(run, [1])])
    with monkeypatch.context() as full:
        full.setattr(ArrayFile, "extend", broken)
        with pytest.raises(RuntimeError, match="extend"):
            give(recorder, page(run, [2]))
    give(recorder, [*page(run, [3]), run.stop()])
    (damaged,) = recorder._damaged
    assert is_open(recorder.paths[0])
    damaged.close()


def test_stages_that_there_are_not(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'health' cannot be recorded: expected some of raw"):
        StageRecorder(tmp_path).record(["clean", "health"])
    with pytest.raises(SettingsError, match="with a directory"):
        pipeline = PtychoPipeline()
        pipeline.close()
        pipeline.record(["raw"])


def test_a_uid_that_leads_out_of_the_folder_writes_nothing(tmp_path: Path) -> None:
    run, recorder = DerivedRun({"uid": "../ab-1"}, PipelineSettings()), StageRecorder(tmp_path / "recorded")
    recorder.record(["clean"])
    with pytest.raises(ValueError, match="leads out of"):
        give(recorder, [("start", run.start_document), *page(run, [1, 2])])
    assert list(tmp_path.rglob("*.h5")) == []
