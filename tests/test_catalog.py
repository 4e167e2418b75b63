"""The catalog: real runs into real SQLite, read back through databroker's client."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import event_model
import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plans as bp
from ophyd import Device, Signal
from ophyd.sim import SynAxis, SynGauss
from ophyd.status import Status

from nsbluesky.catalog import Catalog, _RowsLeftOut, open_catalog
from nsbluesky.document_log import DocumentLog, read_documents
from nsbluesky.folders import data_directory
from nsbluesky.replay import ROWS_LEFT_OUT, documents_of, replay

# Starlette speaks about its test client, which tiled uses to reach its server inside the process.

TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, new_catalog: Callable[[Path], Path]) -> Iterator[Catalog]:
    with open_catalog(new_catalog(tmp_path_factory.mktemp("catalog"))) as catalog:
        yield catalog


class Camera(Device):
    """A flyer that writes a new file (SWMR) with every `prepare`, and tells of its frames by reference."""

    def __init__(self, name: str, directory: Path) -> None:
        super().__init__("", name=name)
        self._directory = directory

    def prepare(self, frames: np.ndarray) -> Status:
        path = self._directory / f"{uuid.uuid4()}.h5"
        with h5py.File(path, "w", libver="latest") as file:
            dataset = file.create_dataset("/entry/data/data", data=frames, chunks=(1, *frames.shape[1:]))
            file.swmr_mode = True
            dataset.flush()
        self._count = len(frames)
        self._told = 0
        self._shape = frames.shape[1:]
        self._bundle = event_model.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{path}",
            data_key=f"{self.name}_image",
            parameters={"dataset": "/entry/data/data", "swmr": True, "chunk_shape": (1, *self._shape)},
        )
        return self._done()

    def _done(self) -> Status:
        status = Status(self)
        status.set_finished()
        return status

    def kickoff(self) -> Status:
        return self._done()

    def complete(self) -> Status:
        return self._done()

    def get_index(self) -> int:
        return self._count

    def describe_collect(self) -> dict[str, Any]:
        key = {"source": "sim", "dtype": "array", "dtype_numpy": "<u2", "shape": list(self._shape)}
        return {f"{self.name}_image": {**key, "external": "STREAM:"}}

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, Any]]:
        if self._told == 0:
            yield "stream_resource", self._bundle.stream_resource_doc
        if self._told < self._count:
            yield "stream_datum", self._bundle.compose_stream_datum({"start": self._told, "stop": self._count})
        self._told = self._count


def fly(camera: Camera, streams: dict[str, np.ndarray]) -> Any:
    @bpp.run_decorator(md={"plan_name": "fly"})
    def inner() -> Any:
        for stream, frames in streams.items():
            yield from bps.prepare(camera, frames, wait=True)
            yield from bps.declare_stream(camera, name=stream, collect=True)
            yield from bps.kickoff(camera, wait=True)
            yield from bps.collect_while_completing([camera], [camera], flush_period=0.1, stream_name=stream)

    return (yield from inner())


def test_a_step_scan_is_found_in_every_way(RE: RunEngine, catalog: Catalog) -> None:
    writer = catalog.writer()
    RE.subscribe(writer)
    motor = SynAxis(name="motor")
    uid = RE(bp.scan([SynGauss("det", motor, "motor", 0, 1)], motor, -1, 1, 5)).run_start_uids[0]
    assert writer.flush(TIMEOUT_S)
    assert writer.errors == {}
    for run in (catalog.client[-1], catalog.client[uid], catalog.client[RE.md["scan_id"]]):
        assert run.start["uid"] == uid and run.stop["exit_status"] == "success"
    np.testing.assert_allclose(catalog.client[uid]["primary"]["motor"][:], np.linspace(-1, 1, 5))


def test_frames_are_read_by_reference_stream_by_stream(
    RE: RunEngine, catalog: Catalog, tmp_path: Path, rng: np.random.Generator
) -> None:
    writer = catalog.writer()
    RE.subscribe(writer)
    RE.subscribe(DocumentLog(tmp_path / "log"))
    streams = {
        "dark": rng.integers(0, 99, (3, 5, 6), dtype=np.uint16),
        "primary": rng.integers(0, 99, (4, 5, 6), dtype=np.uint16),
    }
    uid = RE(fly(Camera("fccd", tmp_path), streams)).run_start_uids[0]
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    for stream, frames in streams.items():
        array = catalog.client[uid][stream]["fccd_image"]
        assert array.shape == frames.shape
        np.testing.assert_array_equal(array[1:3], frames[1:3])
    for documents in (documents_of(uid, tmp_path / "log"), documents_of(uid, catalog=catalog)):
        names = [name for name, _ in documents]
        assert (names[0], names[-1]) == ("start", "stop") and names.count("stream_resource") == 2


def test_whole_numbers_first_and_fractions_later(RE: RunEngine, catalog: Catalog) -> None:
    writer = catalog.writer()
    RE.subscribe(writer)
    signal = Signal(name="signal", value=0)

    def plan() -> Any:
        for value in (1, 2.5):
            yield from bps.abs_set(signal, value, wait=True)
            yield from bps.trigger_and_read([signal])

    uid = RE(bpp.run_wrapper(plan())).run_start_uids[0]
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    assert catalog.client[uid].stop is not None
    assert catalog.client[uid]["primary"]["signal"][:].tolist() == [1.0, 2.5]


@pytest.mark.parametrize("shape", [(3,), (20, 10)])
def test_inline_arrays_of_old_devices(RE: RunEngine, catalog: Catalog, shape: tuple[int, ...]) -> None:
    writer = catalog.writer()
    RE.subscribe(writer)
    image = np.arange(np.prod(shape), dtype=float).reshape(shape)
    uid = RE(bp.count([Signal(name="image", value=image)], 2)).run_start_uids[0]
    assert writer.flush(TIMEOUT_S) and writer.errors == {}
    np.testing.assert_array_equal(np.stack(list(catalog.client[uid]["primary"]["image"][:])), [image, image])


def test_trouble_never_fails_a_run_and_loses_no_document(
    RE: RunEngine, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    writer = catalog.writer()

    def break_event(name: str, document: dict[str, Any]) -> None:
        if name == "event" and "bad" in document["data"]:
            document = {**document, "data": {}, "seq_num": "three"}
        writer(name, document)

    RE.subscribe(break_event)
    bad = RE(bp.count([Signal(name="bad", value=1.0)], 2)).run_start_uids[0]
    good = RE(bp.count([Signal(name="good", value=1.0)], 2)).run_start_uids[0]
    assert writer.flush(TIMEOUT_S)
    assert writer.errors.keys() == {bad} and bad in caplog.text
    names = [name for name, _ in read_documents(bad, writer.backup_directory)]
    assert names == ["start", "descriptor", "event", "event", "stop"]
    assert catalog.client[good]["primary"]["good"].shape == (2,)


def test_flush_waits_for_what_was_given_and_close_ends_it(catalog: Catalog) -> None:
    writer = catalog.writer()
    gate, begun = threading.Event(), threading.Event()
    run = event_model.compose_run()

    def slow(name: str, document: Any) -> Any:
        begun.set()
        assert gate.wait(TIMEOUT_S)
        return original(name, document)

    original = writer._index.runs_of
    writer._index.runs_of = slow  # type: ignore[method-assign]
    writer("start", run.start_doc)
    assert begun.wait(TIMEOUT_S)
    assert not writer.flush(0.01)
    gate.set()
    assert writer.flush(TIMEOUT_S)
    assert run.start_doc["uid"] in catalog.client
    writer.close()
    writer.close()
    assert writer.flush(0)
    writer("stop", run.compose_stop())
    assert "closed" in next(iter(writer.errors.values()))


def test_a_logged_run_can_be_brought_into_the_catalog(RE: RunEngine, catalog: Catalog, tmp_path: Path) -> None:
    RE.subscribe(DocumentLog(tmp_path))
    uid = RE(bp.count([Signal(name="x", value=1.0)], 3)).run_start_uids[0]
    assert uid not in catalog.client
    writer = catalog.writer()
    replay(documents_of(uid, tmp_path), writer)
    assert writer.flush(TIMEOUT_S)
    assert catalog.client[uid]["primary"]["x"].shape == (3,)


def test_another_process_finds_the_runs(RE: RunEngine, catalog: Catalog) -> None:
    writer = catalog.writer()
    RE.subscribe(writer)
    uid = RE(bp.count([Signal(name="x", value=7.0)], 3)).run_start_uids[0]
    assert writer.flush(TIMEOUT_S)
    script = (
        "import sys; from nsbluesky.catalog import open_catalog\n"
        "with open_catalog(sys.argv[1]) as c: print(c.client[sys.argv[2]]['primary']['x'][:].tolist())"
    )
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, catalog.directory, uid],
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    assert "[7.0, 7.0, 7.0]" in output.stdout


def test_data_live_where_the_environment_says(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_directory() == data_folder
    monkeypatch.delenv("NSBLUESKY_DATA")
    assert data_directory().name == "nsbluesky"


def test_a_run_with_two_files_of_frames_is_noted() -> None:
    """The IOC was away: nobody knows what is at the end of the first file."""
    rows = _RowsLeftOut()
    for uid, start, stop in (("first", 0, 4), ("second", 0, 3)):
        rows.stream_resource({"uid": uid, "data_key": "image"})
        datum = {"descriptor": "d", "stream_resource": uid, "indices": {"start": start, "stop": stop}}
        assert rows.stream_datum(datum) is datum
    assert rows.stop({"run_start": "r"})[ROWS_LEFT_OUT] is True
