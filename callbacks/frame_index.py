"""FrameIndex: which frame and which position belong to which point of a run, as its documents tell; nothing is read.

Frames may be announced by StreamResource and StreamDatum, by Resource and Datum, or lie in the events themselves;
positions come in events or by StreamDatum.  All are matched on ``seq_num``; what comes later wins, as after a rewind.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import event_model
import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.frame_readers import (
    HDF5Frames,
    NotYetWritten,
    ResourceFrames,
    frames_of_resource,
    frames_of_stream_resource,
)
from nsbluesky.callbacks.stage import DocumentError
from nsbluesky.geometry import length_in_m
from nsbluesky.streams import PRIMARY, holds_frames, ptycho_of

__all__ = ["FrameIndex", "FrameReference", "Point"]


@dataclass(frozen=True)
class FrameReference:
    """Where one frame is: a row of a file, several of which it is the sum, or the array itself."""

    source: HDF5Frames | None
    index: int
    array: npt.NDArray[Any] | None = None
    count: int = 1


@dataclass(frozen=True)
class PositionReference:
    """Where the positions of some points along one axis are; of `count` values at each point the mean is meant."""

    source: HDF5Frames
    start: int
    stop: int
    first_seq_num: int
    axis: str
    unit: str
    count: int = 1

    def halves(self) -> tuple[PositionReference, PositionReference]:
        """Return references to the first half and to the rest of several positions."""
        middle = (self.start + self.stop) // 2
        first_seq_num = self.first_seq_num + middle - self.start
        return replace(self, stop=middle), replace(self, start=middle, first_seq_num=first_seq_num)

    def read(self) -> npt.NDArray[np.float64]:
        """Return them in metres."""
        count = self.count
        if count > 1 and len(self.source.require(0, 0)) > 1:  # a row of the dataset has all values of a point
            count = 1
        values = length_in_m(self.source.read(self.start * count, self.stop * count), self.unit)
        if count > 1:
            return np.asarray(values.reshape(-1, count).mean(axis=1))
        return values.reshape(len(values), -1)[:, 0]


@dataclass
class Point:
    """What is known of one point of a stream; `time` is when the first of it was heard.

    It is `ready` once it is listed in `FrameIndex.ready`, and `emitted` when whoever reads it is done with it.
    """

    time: float
    frame: FrameReference | None = None
    x_m: float | None = None
    y_m: float | None = None
    ready: bool = False
    emitted: bool = False

    def complete(self, stream: str) -> bool:
        """Whether it can be read and emitted; darks need no position."""
        return self.frame is not None and (stream != PRIMARY or (self.x_m is not None and self.y_m is not None))


class FrameIndex:
    """The points of one run, by stream and seq_num.

    Parameters
    ----------
    start : dict
        Start document of the run.
    lose : callable
        Is told of frames whose documents cannot be used: stream, seq_nums and the reason.
    roots : sequence of Path
        Folders that frames may be read from; empty allows any.

    Attributes
    ----------
    points : dict
        What is known of every point: stream → seq_num → `Point`.
    ready : dict
        Points that can be read, in the order in which they became so: stream → list of seq_num.  Whoever reads them
        takes them out.
    """

    def __init__(
        self, start: Mapping[str, Any], lose: Callable[[str, Iterable[int], str], None], roots: Sequence[Path] = ()
    ) -> None:
        self.points: defaultdict[str, dict[int, Point]] = defaultdict(dict)
        self.ready: defaultdict[str, list[int]] = defaultdict(list)
        self._start = start
        self._lose = lose
        self._roots = roots
        self._descriptors: dict[str, Mapping[str, Any]] = {}
        self._elsewhere: dict[str, list[str]] = {}
        self._named = _mapping(start, "keys")
        self._units = _mapping(start, "units")
        self._resources: dict[str, tuple[str, HDF5Frames | ResourceFrames | DocumentError]] = {}
        self._told: set[str] = set()
        self._data: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._former: dict[int, Point] = {}
        self._positions: list[PositionReference] = []

    def process(self, name: str, document: Mapping[str, Any]) -> None:
        """Take one document of the run; those of other runs are left alone."""
        method: Callable[[Mapping[str, Any]], None] | None = getattr(self, f"_on_{name}", None)
        if method is not None:
            method(document)

    @property
    def dark_streams(self) -> set[str]:
        """The streams of darks that were declared."""
        return {d["name"] for d in self._descriptors.values()} - {PRIMARY}

    @property
    def waits_for_positions(self) -> bool:
        """Whether positions are announced and not in their file yet."""
        return bool(self._positions)

    def read_positions(self, *, patient: bool) -> None:
        """Read announced positions; those that cannot be read are lost, without patience also what is not there."""
        waiting, self._positions = self._positions, []
        while waiting:
            p = waiting.pop(0)
            seq_nums = range(p.first_seq_num, p.first_seq_num + p.stop - p.start)
            try:
                values = p.read()
            except Exception as error:  # whatever a damaged file brings to light must not cost the positions after it
                if patient and isinstance(error, NotYetWritten):
                    self._positions.append(p)
                elif len(seq_nums) > 1:  # a damaged chunk must cost no more than its own frames
                    waiting[:0] = p.halves()
                else:
                    self._lose(PRIMARY, seq_nums, f"no position: {error}")
                continue
            for seq_num, value in zip(seq_nums, values, strict=True):
                self._set(PRIMARY, seq_num, **{p.axis: float(value)})

    def complete_points_taken_again(self) -> None:
        """Complete a point that was taken again only in part with what it had before."""
        for seq_num, former in self._former.items():
            point = self.points[PRIMARY][seq_num]
            had = {k: value for k in ("frame", "x_m", "y_m") if (value := getattr(former, k)) is not None}
            missing = {k: value for k, value in had.items() if getattr(point, k) is None}
            if missing:
                self._set(PRIMARY, seq_num, **missing)

    def close(self) -> None:
        """Close all files."""
        for _, source in self._resources.values():
            if isinstance(source, HDF5Frames):
                source.close()

    # ---- documents

    def _on_descriptor(self, document: Mapping[str, Any]) -> None:
        """Remember which data keys of the darks and of `primary` hold frames and positions."""
        if document["run_start"] != self._start["uid"]:
            return
        if holds_frames(document["name"]):
            self._descriptors[document["uid"]] = document
        else:
            self._elsewhere[document["name"]] = list(document["data_keys"])

    def _on_stop(self, document: Mapping[str, Any]) -> None:
        """Tell where the frames of a run are, of which there was none in `primary`."""
        if document["run_start"] != self._start["uid"] or self._descriptors:
            return
        for stream, keys in self._elsewhere.items():
            if self._named.get("image") in keys:
                raise DocumentError(
                    f"frames {self._named['image']!r} in the stream {stream!r}: expected them, and their positions, "
                    f"in {PRIMARY!r}"
                )

    def missing(self, point: Point) -> str:
        """Return what a point lacks, and where that was looked for."""
        axes = ("image",) if point.frame is None else tuple(a for a in "xy" if getattr(point, f"{a}_m") is None)
        what = "no frame" if point.frame is None else "no position"
        descriptor = next((d for d in self._descriptors.values() if d["name"] == PRIMARY), None)
        if descriptor is None:
            return what
        keys = self._keys(descriptor)
        for axis in axes:
            key = keys.get(axis)
            if key in descriptor["data_keys"]:
                continue
            other = [name for name, known in self._elsewhere.items() if key in known]
            if other:
                return f"{what}: {key!r} is in the stream {other[0]!r}, expected in {PRIMARY!r}"
            is_called = "what looks like one is not there" if key is None else f"{key!r} is not there"
            return (
                f"{what}: of ptycho.keys[{axis!r}], {is_called}: expected one of {', '.join(descriptor['data_keys'])}"
            )
        return what

    def _on_stream_resource(self, document: Mapping[str, Any]) -> None:
        self._note_file(document, str(document["data_key"]), frames_of_stream_resource)

    def _on_resource(self, document: Mapping[str, Any]) -> None:
        self._note_file(document, "", frames_of_resource)

    def _note_file(
        self,
        document: Mapping[str, Any],
        key: str,
        reader: Callable[[Mapping[str, Any], Sequence[Path]], HDF5Frames | ResourceFrames],
    ) -> None:
        """Note a file; what is wrong with it matters only where it holds frames or positions of the scan."""
        source: HDF5Frames | ResourceFrames | DocumentError
        try:
            source = reader(document, self._roots)
        except DocumentError as error:
            source = error
        except KeyError as error:
            source = DocumentError(f"a file without {error}: expected one of areaDetector's HDF5 plugin")
        self._resources[document["uid"]] = key, source

    def _on_datum(self, document: Mapping[str, Any]) -> None:
        self._data[document["datum_id"]] = document["resource"], document["datum_kwargs"]

    def _on_datum_page(self, document: Mapping[str, Any]) -> None:
        for datum in event_model.unpack_datum_page(cast(event_model.DatumPage, document)):
            self._on_datum(cast(Mapping[str, Any], datum))

    def _on_stream_datum(self, document: Mapping[str, Any]) -> None:
        descriptor = self._descriptors.get(document["descriptor"])
        if descriptor is None:
            return
        stream, keys = descriptor["name"], self._keys(descriptor)
        start, stop, first = document["indices"]["start"], document["indices"]["stop"], document["seq_nums"]["start"]
        resource = document["stream_resource"]
        key, source = self._resources.get(resource, (keys.get("image", ""), DocumentError("it was not announced")))
        if key not in (keys.get("image"), keys.get("x"), keys.get("y")):
            return
        if not isinstance(source, HDF5Frames):
            error = source if isinstance(source, DocumentError) else DocumentError("a resource document tells of it")
            self._refuse(stream, range(first, first + stop - start), "its file cannot be used", error, resource)
        elif key == keys.get("image"):
            count = _frames_of_point(descriptor, key)
            for k in range(stop - start):
                reference = FrameReference(source, (start + k) * count, count=count)
                self._set(stream, first + k, frame=reference)
        else:
            axis = "x" if key == keys.get("x") else "y"
            try:
                unit = self._unit(descriptor, axis, key)
            except ValueError as error:
                self._refuse(stream, range(first, first + stop - start), "no position", error, key)
                return
            shape = descriptor["data_keys"][key]["shape"]
            count = int(shape[0] or 1) if len(shape) == 1 else 1
            self._positions.append(PositionReference(source, start, stop, first, f"{axis}_m", unit, count))

    def _on_event(self, document: Mapping[str, Any]) -> None:
        """Take positions and inline or older references to frames."""
        descriptor = self._descriptors.get(document["descriptor"])
        if descriptor is None:
            return
        keys, data, stream = self._keys(descriptor), document["data"], descriptor["name"]
        values: dict[str, Any] = {}
        for axis in ("x", "y"):
            if keys.get(axis) in data:
                try:
                    unit = self._unit(descriptor, axis, keys[axis])
                    values[f"{axis}_m"] = float(length_in_m(data[keys[axis]], unit))
                except (TypeError, ValueError) as error:
                    self._refuse(stream, [document["seq_num"]], "no position", error, keys[axis])
        if keys.get("image") in data:
            try:
                values["frame"] = self._event_frame(data[keys["image"]], _frames_of_point(descriptor, keys["image"]))
            except DocumentError as error:
                self._refuse(stream, [document["seq_num"]], "no frame", error, keys["image"])
        self._set(stream, document["seq_num"], **values)

    def _on_event_page(self, document: Mapping[str, Any]) -> None:
        if document["descriptor"] in self._descriptors:
            for event in event_model.unpack_event_page(cast(event_model.EventPage, document)):
                self._on_event(cast(Mapping[str, Any], event))

    # ---- points

    def _unit(self, descriptor: Mapping[str, Any], axis: str, key: str) -> str:
        """Return the unit of a position: as the start document says, else as the descriptor does."""
        unit = self._units.get(axis) or descriptor["data_keys"][key].get("units")
        if not unit:
            raise DocumentError(
                f"data key {key!r} has no units: set the motor record's EGU, or ptycho.units[{axis!r}] in the start "
                "document; positions are never guessed"
            )
        return str(unit)

    def _keys(self, descriptor: Mapping[str, Any]) -> dict[str, str]:
        """Return the data keys of image, x and y: as the start document says, else by what they look like.

        A motor that stands at 0, and not at 0.0, is described as an integer, as are the counters of a detector.
        """
        named = dict(self._named)
        motors = self._start.get("motors") or ()
        for key, described in descriptor["data_keys"].items():
            if described["dtype"] == "array" and len(described["shape"]) >= 2:
                named.setdefault("image", key)
            elif described["dtype"] == "number" or (described["dtype"] == "integer" and key in motors):
                for axis in ("x", "y"):
                    if key.endswith(axis):
                        named.setdefault(axis, key)
        return named

    def _refuse(self, stream: str, seq_nums: Iterable[int], what: str, error: Exception, which: str) -> None:
        """List frames as lost, and raise the first time that it is for this file or key."""
        self._lose(stream, seq_nums, f"{what}: {error}")
        if which not in self._told:
            self._told.add(which)
            raise error

    def _event_frame(self, value: Any, num_frames: int) -> FrameReference:
        if isinstance(value, str):
            resource, datum = self._data.get(value, ("", {}))
            source = self._resources.get(resource, ("", None))[1]
            if isinstance(source, DocumentError):
                raise source
            if not isinstance(source, ResourceFrames):
                raise DocumentError(f"no usable datum {value!r}: expected it, and its resource, before the event")
            reader, row, count = source.at(datum, num_frames)
            return FrameReference(reader, row, count=count)
        return FrameReference(None, 0, np.asarray(value))

    def _set(self, stream: str, seq_num: int, **values: Any) -> None:
        """Note what came for a point; a point that was emitted starts anew where something came."""
        points = self.points[stream]
        point = points.get(seq_num)
        if point is not None and point.emitted:
            if not values:
                return
            self._former[seq_num] = point
            point = None
        if point is None:
            point = points[seq_num] = Point(time.time())
        for name, value in values.items():
            setattr(point, name, value)
        if point.complete(stream) and not point.ready:
            point.ready = True
            self.ready[stream].append(seq_num)


def _frames_of_point(descriptor: Mapping[str, Any], key: str) -> int:
    """Return how many frames a point has: more than one where the shape says (n, rows, columns)."""
    shape = descriptor["data_keys"].get(key, {}).get("shape", ())
    return int(shape[0] or 1) if len(shape) == 3 else 1


def _mapping(start: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object of the ``ptycho`` entry."""
    value = ptycho_of(start).get(name) or {}
    if not isinstance(value, Mapping):
        raise DocumentError(f"ptycho.{name} = {value!r:.80} in the start document: expected an object of names")
    return value
