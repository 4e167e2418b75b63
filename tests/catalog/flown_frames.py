"""Runs with frames in files of their own, without EPICS."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import event_model
import h5py
import numpy as np
from ophyd import Device
from ophyd.status import Status


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
