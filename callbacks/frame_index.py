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
    frames_of_resource,
    frames_of_stream_resource,
)
from nsbluesky.callbacks.stage import DocumentError
from nsbluesky.geometry import length_in_m
from nsbluesky.streams import PRIMARY, holds_frames

__all__ = ["FrameIndex", "FrameReference", "Point"]


@dataclass(frozen=True)
class FrameReference:
    """Where one frame is: a row of a file, or the array itself."""

    source: HDF5Frames | None
    index: int
    array: npt.NDArray[Any] | None = None


@dataclass(frozen=True)
class PositionReference:
    """Where the positions of some points along one axis are."""

    source: HDF5Frames
    start: int
    stop: int
    first_seq_num: int
    axis: str
    unit: str

    def halves(self) -> tuple[PositionReference, PositionReference]:
        """Return references to the first half and to the rest of several positions."""
        middle = (self.start + self.stop) // 2
        first_seq_num = self.first_seq_num + middle - self.start
        return replace(self, stop=middle), replace(self, start=middle, first_seq_num=first_seq_num)


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
        self._resources: dict[str, tuple[str, HDF5Frames | DocumentError]] = {}
        self._told: set[str] = set()
        self._data: dict[str, tuple[str, int]] = {}
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
                values = length_in_m(p.source.read(p.start, p.stop), p.unit)
            except Exception as error:  # whatever a damaged file brings to light must not cost the positions after it
                if patient and isinstance(error, NotYetWritten):
                    self._positions.append(p)
                elif len(seq_nums) > 1:  # a damaged chunk must cost no more than its own frames
                    waiting[:0] = p.halves()
                else:
                    self._lose(PRIMARY, seq_nums, f"no position: {error}")
                continue
            for seq_num, value in zip(seq_nums, values.reshape(len(values), -1)[:, 0], strict=True):
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
        if document["run_start"] == self._start["uid"] and holds_frames(document["name"]):
            self._descriptors[document["uid"]] = document

    def _on_stream_resource(self, document: Mapping[str, Any]) -> None:
        self._note_file(document, str(document["data_key"]), frames_of_stream_resource)

    def _on_resource(self, document: Mapping[str, Any]) -> None:
        self._note_file(document, "", frames_of_resource)

    def _note_file(
        self, document: Mapping[str, Any], key: str, reader: Callable[[Mapping[str, Any], Sequence[Path]], HDF5Frames]
    ) -> None:
        """Note a file; what is wrong with it matters only where it holds frames or positions of the scan."""
        source: HDF5Frames | DocumentError
        try:
            source = reader(document, self._roots)
        except DocumentError as error:
            source = error
        except KeyError as error:
            source = DocumentError(f"a file without {error}: expected one of areaDetector's HDF5 plugin")
        self._resources[document["uid"]] = key, source

    def _on_datum(self, document: Mapping[str, Any]) -> None:
        row = document["datum_kwargs"].get("point_number", document["datum_kwargs"].get("index", 0))
        self._data[document["datum_id"]] = document["resource"], int(row)

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
        if isinstance(source, DocumentError):
            self._lose(stream, range(first, first + stop - start), f"its file cannot be used: {source}")
            if resource not in self._told:
                self._told.add(resource)
                raise source
        elif key == keys.get("image"):
            for k in range(stop - start):
                self._set(stream, first + k, frame=FrameReference(source, start + k))
        else:
            axis = "x_m" if key == keys.get("x") else "y_m"
            self._positions.append(PositionReference(source, start, stop, first, axis, _unit(descriptor, key)))

    def _on_event(self, document: Mapping[str, Any]) -> None:
        """Take positions and inline or older references to frames."""
        descriptor = self._descriptors.get(document["descriptor"])
        if descriptor is None:
            return
        keys, data = self._keys(descriptor), document["data"]
        values: dict[str, Any] = {}
        for axis in ("x", "y"):
            if keys.get(axis) in data:
                values[f"{axis}_m"] = float(length_in_m(data[keys[axis]], _unit(descriptor, keys[axis])))
        if keys.get("image") in data:
            values["frame"] = self._event_frame(data[keys["image"]])
        self._set(descriptor["name"], document["seq_num"], **values)

    def _on_event_page(self, document: Mapping[str, Any]) -> None:
        if document["descriptor"] in self._descriptors:
            for event in event_model.unpack_event_page(cast(event_model.EventPage, document)):
                self._on_event(cast(Mapping[str, Any], event))

    # ---- points

    def _keys(self, descriptor: Mapping[str, Any]) -> dict[str, str]:
        """Return the data keys of image, x and y: as the start document says, else by what they look like."""
        named = dict(self._start.get("ptycho", {}).get("keys", {}))
        for key, described in descriptor["data_keys"].items():
            if described["dtype"] == "array" and len(described["shape"]) >= 2:
                named.setdefault("image", key)
            elif described["dtype"] == "number":
                for axis in ("x", "y"):
                    if key.endswith(axis):
                        named.setdefault(axis, key)
        return named

    def _event_frame(self, value: Any) -> FrameReference:
        if isinstance(value, str):
            resource, row = self._data.get(value, ("", 0))
            if resource not in self._resources:
                raise DocumentError(f"no usable datum {value!r}: expected it, and its resource, before the event")
            source = self._resources[resource][1]
            if isinstance(source, DocumentError):
                raise source
            return FrameReference(source, row)
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


def _unit(descriptor: Mapping[str, Any], key: str) -> str:
    unit = descriptor["data_keys"][key].get("units")
    if not unit:
        raise DocumentError(f"data key {key!r} has no units: set the motor record's EGU, positions are never guessed")
    return str(unit)
