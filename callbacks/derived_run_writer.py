"""DerivedRunWriter: a derived run whose arrays lie in memory in, the same run with its arrays in files out.

What comes out can be stored: in the catalog, in a document log.  A stream of numbers and texts goes on event by
event.  A stream with arrays goes on when the run stops, because its descriptor must tell shapes that the growing
object has only then; its arrays are on disk at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import event_model
import numpy as np

from nsbluesky.array_file import ArrayFile
from nsbluesky.callbacks.cxi_writer import CXIWriter
from nsbluesky.callbacks.derived_run import num_bytes, units_of
from nsbluesky.cxi import read_cxi
from nsbluesky.cxi.layout import DATA
from nsbluesky.disk_space import NoSpace, require_space
from nsbluesky.file_uris import HDF5_MIMETYPE, file_uri
from nsbluesky.latest import Latest
from nsbluesky.run_index import RunIndex
from nsbluesky.streams import holds_frames

__all__ = ["DerivedRunWriter"]

Target = Callable[[str, dict[str, Any]], Any]

THINNED_STREAMS = ("reconstruction", "second_engine")
PASSING_STREAMS = ("diffraction_fit", "frc")
"""What is for the eyes of the moment, and follows from all else."""
PICTURES = {"reconstruction": "object", "second_engine": "object", "low_resolution": "transmission"}
"""The picture that the ``extent_m`` of a stream belongs to."""


class DerivedRunWriter:
    """Callback: pass derived runs on in a form that can be stored.

    Large arrays go to HDF5 files ``<directory>/<uid>/<stream>.h5`` (one for each stream: HDF5's SWMR mode knows no
    new datasets) and are referred to by StreamResource and StreamDatum.  Raw frames are left out.  Clean frames are
    referred to in the CXI file where there is one.  Pictures of the object are thinned.  An array that grows is
    padded with NaN at its high rows and columns, and ``extent_m`` with it.

    Parameters
    ----------
    directory : path
    target : callable
        Takes the documents; a catalog's writer or a `DocumentLog`.
    cxi : CXIWriter, optional
        Must get each document before this callback does.
    interval_s : float
        Pictures of the object that are passed on are at least so far apart; the last one always is.

    Attributes
    ----------
    errors : dict
        Why a run could not be written whole, as on a full disk, by its uid; nothing more of it is written.
    """

    def __init__(
        self, directory: str | Path, target: Target, *, cxi: CXIWriter | None = None, interval_s: float = 10.0
    ) -> None:
        self.directory = Path(directory).absolute()  # a session may change its own
        self._target = target
        self._cxi = cxi
        self._interval_s = interval_s
        self._index = RunIndex()
        self._runs: dict[str, _Run] = {}
        self.errors: dict[str, str] = Latest()
        self._given_up: list[_Run] = []  # HDF5 may crash where it closes a file after an error

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Take one document of a derived run; other runs are left alone."""
        for uid in self._index.runs_of(name, document):
            if name == "start" and "raw_uid" in document:
                self._runs[uid] = _Run(document, self.directory / uid, self._target, self._cxi, self._interval_s)
            try:
                if uid in self._runs:
                    require_space(self.directory, num_bytes(document))
                    self._runs[uid].process(name, document)
            except Exception as error:
                self.errors[uid] = str(error)
                run = self._runs.pop(uid)
                if isinstance(error, NoSpace):  # nothing was begun, and there is space to close what is open
                    run.close()
                else:
                    self._given_up.append(run)
                raise
            finally:
                if name == "stop":
                    self._runs.pop(uid, None)

    def close(self) -> None:
        """Close the files of runs that did not stop; nothing more of these is written."""
        while self._runs:
            _, run = self._runs.popitem()
            run.close()


class _Run:
    """One derived run."""

    def __init__(
        self, start: Mapping[str, Any], folder: Path, target: Target, cxi: CXIWriter | None, interval_s: float
    ) -> None:
        self._uid = start["uid"]
        self._output = _Output(start, target)
        self._folder = folder
        self._cxi = cxi
        self._interval_s = interval_s
        self._names: dict[str, str] = {}
        self._streams: dict[str, _Stream] = {}
        self._clean: dict[int, tuple[float, ...]] = {}
        self._waiting: dict[str, Mapping[str, Any]] = {}
        self._next = dict.fromkeys(THINNED_STREAMS, -np.inf)

    def process(self, name: str, document: Mapping[str, Any]) -> None:
        method = getattr(self, f"on_{name}", None)
        if method is not None:
            method(document)

    def on_start(self, _: Mapping[str, Any]) -> None:
        self._output.start()

    def on_descriptor(self, doc: Mapping[str, Any]) -> None:
        self._names[doc["uid"]] = doc["name"]

    def on_event_page(self, doc: Any) -> None:
        stream = self._names[doc["descriptor"]]
        if stream == "clean":
            data = doc["data"]
            keys = ("x_m", "y_m", "photons", "weight", "flags")
            columns = (np.asarray(data[key], dtype=float).tolist() for key in keys)
            self._clean.update(zip(doc["seq_num"], zip(*columns, strict=True), strict=True))
        elif not holds_frames(stream):
            for event in event_model.unpack_event_page(doc):
                self.on_event(event)

    def on_event(self, doc: Mapping[str, Any]) -> None:
        stream = self._names[doc["descriptor"]]
        if holds_frames(stream) or stream in PASSING_STREAMS:
            return
        if stream not in THINNED_STREAMS:
            self._pass(stream, doc)
        elif doc["data"].get("final") or time.monotonic() >= self._next[stream]:
            self._waiting.pop(stream, None)
            self._pass(stream, doc)
            self._next[stream] = time.monotonic() + self._interval_s
        else:
            self._waiting[stream] = doc

    def on_stop(self, doc: Mapping[str, Any]) -> None:
        for thinned, last in self._waiting.items():
            self._pass(thinned, last)
        for stream in self._streams.values():
            stream.finish()
        if self._clean:
            self._pass_clean(doc["time"])
        self._output.stop(doc)

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()

    def _pass(self, stream: str, event: Mapping[str, Any]) -> None:
        if stream not in self._streams:
            self._streams[stream] = _Stream(stream, self._folder, self._output)
        self._streams[stream].add(event["data"], event["time"])

    def _pass_clean(self, moment: float) -> None:
        """Pass the clean frames on in the order of the CXI file, or of their numbers where there is none."""
        path = self._cxi.paths.get(self._uid) if self._cxi is not None else None
        external: dict[str, _External] = {}
        numbers = sorted(self._clean)
        if path is not None:
            with read_cxi(path) as data:
                frames = data.clean_frames
                numbers = [int(n) for n in data.seq_nums]
                external["frame"] = _External(path, f"/{DATA}", frames.shape, frames.dtype, swmr=False)
        rows = np.array([self._clean[number] for number in numbers])
        columns = {
            "raw_seq_num": np.array(numbers, dtype=float),
            "x_m": rows[:, 0],
            "y_m": rows[:, 1],
            "photons": rows[:, 2],
            "weight": rows[:, 3],
            "flags": rows[:, 4],
        }
        file = ArrayFile(self._folder / "clean.h5", {key: column[0] for key, column in columns.items()})
        for key, column in columns.items():
            file.write(key, column)
            external[key] = _External.of(file, key)
        file.close()
        self._output.whole_stream("clean", external, [{}] * len(numbers), [moment] * len(numbers))


@dataclass(frozen=True)
class _External:
    """An array (n, …) in a file: one row for each event."""

    path: Path
    dataset: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    swmr: bool

    @classmethod
    def of(cls, file: ArrayFile, key: str) -> _External:
        return cls(file.path, f"/{key}", file.shape(key), file.dtype(key), swmr=True)

    @property
    def data_key(self) -> dict[str, Any]:
        cell = self.shape[1:]
        return {
            "source": f"file:{self.path.name}",
            "dtype": "array" if cell else "number",
            "dtype_numpy": self.dtype.str,
            "shape": list(cell),
            "external": "STREAM:",
        }


class _Output:
    """The run that goes out: composes its documents, and hands them to the target."""

    def __init__(self, start: Mapping[str, Any], target: Target) -> None:
        metadata = {key: value for key, value in start.items() if key not in ("uid", "time")}
        self._bundle: Any = event_model.compose_run(uid=start["uid"], time=start["time"], metadata=metadata)
        self._target = target

    def start(self) -> None:
        self._target("start", dict(self._bundle.start_doc))

    def stop(self, doc: Mapping[str, Any]) -> None:
        stop = self._bundle.compose_stop(
            exit_status=doc["exit_status"], reason=doc.get("reason", ""), uid=doc["uid"], time=doc["time"]
        )
        self._target("stop", dict(stop))

    def describe(self, name: str, external: Mapping[str, _External], numbers: Mapping[str, Any]) -> Any:
        """Tell of a stream, and return what composes its events."""
        kinds = {bool: "boolean", float: "number", str: "string"}
        data_keys = {key: item.data_key | units_of(name, key) for key, item in external.items()}
        for key, value in numbers.items():
            described = {"source": f"nsbluesky:{name}", "dtype": kinds[type(value)], "shape": []}
            data_keys[key] = described | units_of(name, key)
        descriptor = self._bundle.compose_descriptor(name=name, data_keys=data_keys)
        self._target("descriptor", dict(descriptor.descriptor_doc))
        return descriptor

    def event(self, descriptor: Any, numbers: Mapping[str, Any], moment: float) -> None:
        event = descriptor.compose_event(data=dict(numbers), timestamps=dict.fromkeys(numbers, moment), time=moment)
        self._target("event", dict(event))

    def whole_stream(
        self,
        name: str,
        external: Mapping[str, _External],
        rows: Sequence[Mapping[str, Any]],
        times: Sequence[float],
    ) -> None:
        """Tell all of a stream: descriptor, references to the arrays, and events where there are numbers besides."""
        descriptor = self.describe(name, external, rows[0])
        count = len(rows)
        for key, item in external.items():
            resource = self._bundle.compose_stream_resource(
                mimetype=HDF5_MIMETYPE,
                uri=file_uri(item.path.resolve()),
                data_key=key,
                parameters={
                    "dataset": item.dataset,
                    "swmr": item.swmr,
                    "chunk_shape": (1, *item.shape[1:]) if item.shape[1:] else (count,),
                },
            )
            self._target("stream_resource", dict(resource.stream_resource_doc))
            datum = resource.compose_stream_datum(
                indices={"start": 0, "stop": count},
                seq_nums={"start": 1, "stop": count + 1},
                descriptor=descriptor.descriptor_doc,
            )
            self._target("stream_datum", dict(datum))
        for numbers, moment in zip(rows, times, strict=True):
            if numbers:
                self.event(descriptor, numbers, moment)


class _Stream:
    """One stream: events that go on at once, or whose arrays go to a file until the run stops."""

    def __init__(self, name: str, folder: Path, output: _Output) -> None:
        self._name = name
        self._folder = folder
        self._output = output
        self._file: ArrayFile | None = None
        self._descriptor: Any = None
        self._rows: list[dict[str, Any]] = []
        self._times: list[float] = []
        self._pixels_m: list[tuple[float, float]] = []
        self._keys: list[str] = []

    def add(self, data: Mapping[str, Any], moment: float) -> None:
        """Add one event."""
        arrays = {key: value for key, value in data.items() if isinstance(value, np.ndarray)}
        numbers = {key: _plain(value) for key, value in data.items() if key not in arrays}
        if not arrays and self._file is None:
            if self._descriptor is None:
                self._descriptor = self._output.describe(self._name, {}, numbers)
            self._output.event(self._descriptor, numbers, moment)
            return
        if self._file is None:
            self._file = ArrayFile(self._folder / f"{self._name}.h5", arrays)
            self._keys = list(arrays)
        self._file.append(arrays)
        self._rows.append(numbers)
        self._times.append(moment)
        if self._name in PICTURES:
            rows, columns = arrays[PICTURES[self._name]].shape
            x0, x1, y0, y1 = arrays["extent_m"].tolist()
            self._pixels_m.append(((x1 - x0) / columns, (y1 - y0) / rows))

    def finish(self) -> None:
        """Pass on what waits, now that the shapes are known."""
        if self._file is None:
            return
        if self._pixels_m:
            self._widen_extents(self._file)
        # catalogs refuse arrays without elements, as the steps between gains are where there is one gain
        keys = [key for key in self._keys if 0 not in self._file.shape(key)]
        external = {key: _External.of(self._file, key) for key in keys}
        self._file.close()
        self._output.whole_stream(self._name, external, self._rows, self._times)

    def close(self) -> None:
        """Close the file; what waits for its shapes is not passed on."""
        if self._file is not None:
            self._file.close()

    def _widen_extents(self, file: ArrayFile) -> None:
        """Let the outer edges be those of the padded pictures."""
        _, rows, columns = file.shape(PICTURES[self._name])
        extents = file.read("extent_m")
        for extent, (dx, dy) in zip(extents, self._pixels_m, strict=True):
            extent[1] = extent[0] + columns * dx
            extent[3] = extent[2] + rows * dy
        file.write("extent_m", extents)


def _plain(value: Any) -> Any:
    """Return one value of an event as a catalog's column bears it: numbers as floats, lists as JSON text."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, float, np.number)):
        return float(value)
    return value if isinstance(value, str) else json.dumps(value)
