"""Raw runs in documents and files, as devices and plans make them, without devices and plans."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import event_model
import h5py
import numpy as np

PTYCHO = {
    "energy_eV": 1000.0,
    "detector_distance_m": 0.2,
    "pixel_size_m": 30e-6,
    "keys": {"image": "fccd_image", "x": "stage_x", "y": "stage_y"},
}


FRAMES = np.arange(10 * 6 * 5, dtype="<u2").reshape(10, 6, 5)
DARKS = np.full((3, 6, 5), 7, dtype="<u2")
X_UM = np.arange(10) * 0.5
Y_UM = np.arange(10) * -0.25


class Collector:
    """Keeps what was emitted: frames and positions by stream and seq_num, the later winning."""

    def __init__(self) -> None:
        self.documents: list[tuple[str, dict]] = []
        self.frames: defaultdict[str, dict[int, np.ndarray]] = defaultdict(dict)
        self.positions: dict[int, tuple[float, float]] = {}
        self.order: list[tuple[str, int]] = []
        self._streams: dict[str, str] = {}

    def __call__(self, name: str, document: dict) -> None:
        self.documents.append((name, document))
        if name == "descriptor":
            self._streams[document["uid"]] = document["name"]
        if name != "event_page":
            return
        stream, data = self._streams[document["descriptor"]], document["data"]
        for i, seq_num in enumerate(document["seq_num"]):
            self.frames[stream][seq_num] = data["frame"][i]
            self.order.append((stream, seq_num))
            if "x_m" in data:
                self.positions[seq_num] = (data["x_m"][i], data["y_m"][i])

    def health(self) -> dict:
        return [d["data"] for n, d in self.documents if n == "event" and "lost" in d["data"]][-1]

    def stop(self) -> dict:
        name, document = self.documents[-1]
        assert name == "stop"
        return document


def write_frames(path: Path, frames: np.ndarray, dataset: str = "/entry/data/data") -> None:
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset(dataset, data=frames, chunks=(1, *frames.shape[1:]), maxshape=(None, *frames.shape[1:]))


def image_key(shape: tuple[int, ...], external: str | None = "STREAM:") -> dict[str, Any]:
    key = {"source": "test", "dtype": "array", "dtype_numpy": "<u2", "shape": list(shape)}
    return key if external is None else {**key, "external": external}


def number_key(units: str | None = "um", external: str | None = None) -> dict[str, Any]:
    key: dict[str, Any] = {"source": "test", "dtype": "number", "shape": []}
    if units is not None:
        key["units"] = units
    return key if external is None else {**key, "external": external}


class RawRun:
    """Composes one raw run; each method returns documents."""

    def __init__(self, folder: Path, **metadata: Any) -> None:
        self.folder = folder
        self._run = event_model.compose_run(metadata={"plan_name": "test", "ptycho": PTYCHO, **metadata})
        self.start = ("start", dict(self._run.start_doc))
        self.uid = self._run.start_doc["uid"]
        self._streams: dict[str, Any] = {}
        self._files = 0

    def declare(self, stream: str, **data_keys: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        self._streams[stream] = self._run.compose_descriptor(name=stream, data_keys=data_keys)
        return [("descriptor", dict(self._streams[stream].descriptor_doc))]

    def file(self, key: str, values: np.ndarray, dataset: str = "/entry/data/data") -> tuple[Any, list[Any]]:
        self._files += 1
        path = self.folder / f"{key}_{self._files}.h5"
        write_frames(path, values, dataset)
        return self.resource(key, path, dataset)

    def resource(self, key: str, path: Path, dataset: str = "/entry/data/data") -> tuple[Any, list[Any]]:
        bundle = event_model.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=f"file://localhost{path}",
            data_key=key,
            parameters={"dataset": dataset, "swmr": True, "chunk_shape": (1,)},
            start=self._run.start_doc,
        )
        return bundle, [("stream_resource", dict(bundle.stream_resource_doc))]

    def datum(self, stream: str, bundle: Any, start: int, stop: int, first_seq_num: int | None = None) -> Any:
        first = start + 1 if first_seq_num is None else first_seq_num
        document = bundle.compose_stream_datum(
            indices={"start": start, "stop": stop},
            seq_nums={"start": first, "stop": first + stop - start},
            descriptor=self._streams[stream].descriptor_doc,
        )
        return "stream_datum", dict(document)

    def event(self, stream: str, seq_num: int, filled: dict[str, bool] | None = None, **data: Any) -> Any:
        now = time.time()
        document = self._streams[stream].compose_event(
            data=data, timestamps=dict.fromkeys(data, now), seq_num=seq_num, filled=filled or {}, validate=False
        )
        return "event", dict(document)

    def stop(self, exit_status: str = "success") -> Any:
        return "stop", dict(self._run.compose_stop(exit_status=exit_status))


def fly_run(folder: Path, frames: np.ndarray, darks: np.ndarray | None, x_um: Any, y_um: Any) -> Iterator[Any]:
    """A whole fly scan: darks, then frames and positions by stream datum, four points at a time."""
    run = RawRun(folder)
    yield run.start
    if darks is not None:
        yield from run.declare("dark", fccd_image=image_key(darks.shape[1:]))
        bundle, documents = run.file("fccd_image", darks)
        yield from documents
        yield run.datum("dark", bundle, 0, len(darks))
    positions = number_key("um", "STREAM:")
    yield from run.declare("primary", fccd_image=image_key(frames.shape[1:]), stage_x=positions, stage_y=positions)
    bundles = []
    for key, values in (("fccd_image", frames), ("stage_x", np.asarray(x_um)), ("stage_y", np.asarray(y_um))):
        bundle, documents = run.file(key, values)
        yield from documents
        bundles.append(bundle)
    for start in range(0, len(frames), 4):
        for bundle in bundles:
            yield run.datum("primary", bundle, start, min(start + 4, len(frames)))
    yield run.stop()
