"""Cleaning on any executor: the same frames in the same order, whatever becomes of the workers."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from own_run_engine import run_engine
from twin_beamline import TwinBeamline, make_twin_beamline

from nsbluesky.callbacks import remote_cleaning
from nsbluesky.callbacks.frame_cleaner import FrameCleaner
from nsbluesky.callbacks.frame_readers import FrameRange, HDF5Frames, NotYetWritten, frames_of_stream_resource
from nsbluesky.callbacks.remote_cleaning import Recipe
from nsbluesky.callbacks.stage import DocumentError, Workers
from nsbluesky.cleaning.darks import DarkStatistics
from nsbluesky.cleaning.spikes import InterferenceLines
from nsbluesky.dask_cluster import DaskExecutor
from nsbluesky.plans import ptycho_scan
from nsbluesky.settings import CleaningSettings

TIMEOUT_S = 60.0

Document = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def beamline(tmp_path_factory: pytest.TempPathFactory) -> TwinBeamline:
    return make_twin_beamline(tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def documents(beamline: TwinBeamline) -> list[Document]:
    documents: list[Document] = []
    with run_engine() as RE:
        RE.subscribe(lambda name, document: documents.append((name, document)))
        RE(ptycho_scan(*beamline.devices, **beamline.arguments((10, 12))))
    return documents


class Cleaned:
    """What a cleaner made of a run."""

    def __init__(self) -> None:
        self.seq_nums: list[int] = []
        self.frames: list[np.ndarray] = []
        self.health: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.stop: dict[str, Any] = {}
        self._streams: dict[str, str] = {}

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        if name == "descriptor":
            self._streams[document["uid"]] = document["name"]
        elif name == "event_page" and self._streams[document["descriptor"]] == "clean":
            self.seq_nums += document["seq_num"]
            self.frames += list(document["data"]["frame"])
        elif name == "event" and self._streams[document["descriptor"]] == "health":
            self.health = document["data"]
            self.warnings += [self.health["message"]] * (self.health["state"] != "ok")
        elif name == "stop":
            self.stop = document


def clean(beamline: TwinBeamline, documents: list[Document], workers: Workers | None) -> Cleaned:
    cleaned = Cleaned()
    cleaner = FrameCleaner(beamline.settings(), workers=workers)
    cleaner.subscribe(cleaned)
    for name, document in documents:
        cleaner(name, document)
    assert cleaner.close(TIMEOUT_S)
    return cleaned


@pytest.fixture(scope="module")
def serial(beamline: TwinBeamline, documents: list[Document]) -> Cleaned:
    return clean(beamline, documents, None)


def assert_same(cleaned: Cleaned, serial: Cleaned) -> None:
    assert cleaned.seq_nums == serial.seq_nums == sorted(serial.seq_nums)
    np.testing.assert_array_equal(np.stack(cleaned.frames), np.stack(serial.frames))
    assert cleaned.stop["reason"] == ""


def test_threads(beamline: TwinBeamline, documents: list[Document], serial: Cleaned, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as executor:
        cleaned = clean(beamline, documents, Workers(executor, tmp_path / "recipes"))
    assert_same(cleaned, serial)
    assert list((tmp_path / "recipes").iterdir()) == [], "recipes go with the run"


class Dying(Executor):
    """Does some blocks, then dies as a pool does whose process was killed."""

    def __init__(self, num_good: int, refuses: bool) -> None:
        self._left = num_good
        self._refuses = refuses

    def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if self._left > 0:
            self._left -= 1
            future.set_result(function(*arguments, **options))
        elif self._refuses:
            raise RuntimeError("cannot schedule new futures after shutdown")
        else:
            future.set_exception(BrokenProcessPool("a process died"))
        return future


@pytest.mark.parametrize("refuses", [True, False])
def test_an_executor_that_dies(
    beamline: TwinBeamline, documents: list[Document], serial: Cleaned, tmp_path: Path, refuses: bool
) -> None:
    cleaned = clean(beamline, documents, Workers(Dying(4, refuses), tmp_path))
    assert_same(cleaned, serial)
    assert len([message for message in cleaned.warnings if "the workers are gone" in message]) == 1


def test_what_was_taken_back_is_cleaned_here(
    beamline: TwinBeamline, documents: list[Document], serial: Cleaned, tmp_path: Path
) -> None:
    held = threading.Event()
    executor = ThreadPoolExecutor(1)
    executor.submit(held.wait)
    cleaned = Cleaned()
    cleaner = FrameCleaner(beamline.settings(), workers=Workers(executor, tmp_path))
    cleaner.subscribe(cleaned)
    for name, document in documents:
        cleaner(name, document)
    assert not cleaner.wait(1.5), "it waits for workers"
    (run,) = cleaner.activity()
    assert run.stages[-1].queue > 0, "and tells what waits"
    executor.shutdown(wait=False, cancel_futures=True)
    assert cleaner.close(TIMEOUT_S)
    held.set()
    assert_same(cleaned, serial)


def test_what_workers_hang_at_is_cleaned_here(
    beamline: TwinBeamline,
    documents: list[Document],
    serial: Cleaned,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As at a file on a disk that is away: Dask sees nothing, its worker answers."""
    monkeypatch.setattr(remote_cleaning, "STALLED_S", 0.5)
    held = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(held.wait)
        try:
            cleaned = clean(beamline, documents, Workers(executor, tmp_path))
        finally:
            held.set()
    assert_same(cleaned, serial)
    assert any("no block has come back for 0.5 s" in message for message in cleaned.warnings)


class OneFrameFails(ThreadPoolExecutor):
    """Workers that fail each time on one frame; the frames of the block that failed come one after the other."""

    error: Exception
    failed = range(0)
    last: Future[Any] | None = None

    def submit(self, function: Any, /, frames: FrameRange, *arguments: Any) -> Future[Any]:  # type: ignore[override]
        if frames.start <= 76 < frames.stop:
            future: Future[Any] = Future()
            future.set_exception(self.error)
        else:
            future = super().submit(function, frames, *arguments)
        if frames.start in self.failed:
            assert self.last is None or self.last.done()
            self.last = future
        elif future.done() and future.exception():
            self.failed = range(frames.start, frames.stop)
        return future


@pytest.mark.parametrize(
    ("error", "listed"), [(OSError("killed the worker"), "bad"), (DocumentError("cannot be read"), "lost")]
)
def test_a_frame_that_no_worker_can_do(
    beamline: TwinBeamline,
    documents: list[Document],
    serial: Cleaned,
    tmp_path: Path,
    error: Exception,
    listed: str,
) -> None:
    with OneFrameFails(2) as executor:
        executor.error = error
        cleaned = clean(beamline, documents, Workers(executor, tmp_path))
    assert cleaned.seq_nums == [k for k in serial.seq_nums if k != 77]
    assert (cleaned.health["bad"], cleaned.health["lost"]) == (([77], []) if listed == "bad" else ([], [77]))
    assert any(str(error) in message for message in (*cleaned.warnings, cleaned.health["message"]))


def test_a_recipe_survives_its_file(tmp_path: Path, rng: np.random.Generator) -> None:
    mean = rng.normal(size=(8, 8)).astype(np.float32)
    settings = CleaningSettings(layout="none", center_px=(4.0, 4.0), crop_px=8, frame_px=8)
    dark = DarkStatistics(
        mean=rng.normal(size=(8, 8)).astype(np.float32),
        std=rng.normal(size=(8, 8)).astype(np.float32),
        bad=rng.random((8, 8)) < 0.5,
        bad_adcs=np.array([3, 5]),
        num_frames=7,
        lines=InterferenceLines(np.array([0.1, 0.2]), np.array([5.0, 6.0])),
        gain_steps=rng.normal(size=(2, 8, 8)).astype(np.float32),
    )
    Recipe(settings, (8, 8), dark, mean, 930.0, 30e-6).save(tmp_path / "dark.npz")
    same = Recipe.load(tmp_path / "dark.npz").dark
    assert same is not None and same.num_frames == 7
    np.testing.assert_equal(vars(same) | {"lines": vars(same.lines)}, vars(dark) | {"lines": vars(dark.lines)})
    Recipe(settings, (8, 8), None, mean, 930.0, 30e-6).save(tmp_path / "recipe.npz")
    again = Recipe.load(tmp_path / "recipe.npz")
    assert (again.settings, again.shape, again.dark) == (settings, (8, 8), None)
    assert (again.energy_eV, again.pixel_size_m) == (930.0, 30e-6)
    np.testing.assert_array_equal(again.mean, mean)
    assert again.plan(np).center == (4.0, 4.0)


def test_a_worker_thread_reads_while_more_frames_are_looked_for(tmp_path):
    """HDF5 reads nothing more of a dataset that is open twice in a process and is refreshed."""
    path = tmp_path / "frames.h5"
    frames = np.arange(4 * 6 * 5, dtype="<u2").reshape(4, 6, 5)
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("data", data=frames, maxshape=(None, 6, 5), chunks=(1, 6, 5))
    resource = {"mimetype": "application/x-hdf5", "uri": str(path), "parameters": {"dataset": "data"}}
    source, at_work = (frames_of_stream_resource(resource) for _ in range(2))  # one in a thread that is not done yet
    np.testing.assert_array_equal(at_work.read(0, 4), frames)
    with pytest.raises(NotYetWritten):
        source.refer(0, 5)
    for reader in (at_work, source):
        np.testing.assert_array_equal(reader.read(0, 4), frames)
        np.testing.assert_array_equal(reader.refer(0, 4), frames)
    source.close()


def test_frames_that_are_read_when_they_are_used(tmp_path: Path) -> None:
    values = np.arange(6 * 2 * 3, dtype=np.uint16).reshape(6, 1, 2, 3)
    with h5py.File(tmp_path / "frames.h5", "w", libver="latest") as file:
        file["data"] = values
        file["numbers"] = np.arange(6)
    frames = HDF5Frames(tmp_path / "frames.h5", "data").refer(1, 5)
    assert (frames.shape, frames.ndim, len(frames), frames.dtype) == ((4, 2, 3), 3, 4, np.uint16)
    np.testing.assert_array_equal(frames, values[1:5, 0])
    np.testing.assert_array_equal(frames[-1], values[4, 0])
    np.testing.assert_array_equal(frames[1:3], values[2:4, 0])
    np.testing.assert_array_equal(frames[::2], values[1:5:2, 0])
    np.testing.assert_array_equal(np.concatenate([frames[:1], frames[3:]]), values[[1, 4], 0])
    with pytest.raises(IndexError):
        frames[4]
    with pytest.raises(NotYetWritten, match="6 frames, 7"):
        HDF5Frames(tmp_path / "frames.h5", "data").refer(1, 7)
    with pytest.raises(DocumentError, match="expected \\(rows, columns\\)"):
        HDF5Frames(tmp_path / "frames.h5", "numbers").refer(0, 1)


@pytest.fixture
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
    ) as cluster:
        yield cluster


def test_dask_workers_that_come_and_go(
    beamline: TwinBeamline, documents: list[Document], serial: Cleaned, tmp_path: Path, cluster: Any
) -> None:
    """One holds its blocks and is killed, another one joins: each block is cleaned, and comes in its place."""
    distributed = pytest.importorskip("distributed")
    with distributed.Client(cluster, set_as_default=False) as client, DaskExecutor(client) as executor:
        pids = client.run(os.getpid)
        address, pid = next(iter(pids.items()))
        os.kill(pid, signal.SIGSTOP)
        cleaned, arrived = Cleaned(), threading.Event()
        cleaner = FrameCleaner(beamline.settings(), workers=Workers(executor, tmp_path / "recipes"))
        cleaner.subscribe(cleaned)
        for name, document in documents:
            cleaner(name, document)
        while not client.processing(workers=[address]).get(address):
            assert not arrived.wait(0.05)
        cluster.scale(3)
        os.kill(pid, signal.SIGKILL)
        assert cleaner.close(TIMEOUT_S)
    assert_same(cleaned, serial)
    assert not any("gone" in message for message in cleaned.warnings)
