"""FrameSource: from references in documents to blocks of frames with their positions.

Frames may be announced by StreamResource and StreamDatum, by Resource and Datum, or lie in the events themselves;
positions come in events or by StreamDatum.  All are matched on ``seq_num``; what comes later wins, as after a rewind.
Nothing is read before frame and position are both known, so what waits here costs a few bytes a frame.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import event_model
import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.block_watch import MAX_TRIES
from nsbluesky.callbacks.derived_run import Document
from nsbluesky.callbacks.frame_readers import (
    HDF5Frames,
    NotYetWritten,
    frames_of_resource,
    frames_of_stream_resource,
)
from nsbluesky.callbacks.run_processor import RunProcessor
from nsbluesky.callbacks.stage import DocumentError, RunContext, Stage
from nsbluesky.geometry import length_in_m
from nsbluesky.streams import PRIMARY, holds_frames

__all__ = ["FrameSource", "ReadFrames"]

log = logging.getLogger(__name__)

LIVE_S = 60.0
"""A run whose start document comes later than this is a recorded one: its frames are as old as they are read."""

WAIT_FOR_FILE_S = 5.0
"""How long after the end of a run a frame may still be missing in its file."""


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


@dataclass
class Point:
    """What is known of one point of a stream; `time` is when the first of it was heard."""

    time: float
    frame: FrameReference | None = None
    x_m: float | None = None
    y_m: float | None = None
    emitted: bool = False

    def complete(self, stream: str) -> bool:
        """Whether it can be read and emitted; darks need no position."""
        return self.frame is not None and (stream != PRIMARY or (self.x_m is not None and self.y_m is not None))


class ReadFrames(Stage):
    """The stage of one run; see the module."""

    name = "frames"

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        self._descriptors: dict[str, Mapping[str, Any]] = {}
        self._resources: dict[str, tuple[str, HDF5Frames]] = {}
        self._data: dict[str, tuple[str, int]] = {}
        self._points: defaultdict[str, dict[int, Point]] = defaultdict(dict)
        self._ready: defaultdict[str, list[int]] = defaultdict(list)
        self._former: dict[int, Point] = {}
        self._positions: list[PositionReference] = []
        self._frame_shape: tuple[int, ...] | None = None
        self._stopped_at: float | None = None
        self._losses_listed = False
        self._darks_read: set[str] = set()
        self._started_at = float(run.start.get("time", 0.0))
        self._live = time.time() - self._started_at < LIVE_S

    # ---- documents

    def on_descriptor(self, document: dict[str, Any]) -> Iterator[Document]:
        """Remember which data keys of the darks and of `primary` hold frames and positions."""
        if self.is_raw(document) and holds_frames(document["name"]):
            self._descriptors[document["uid"]] = document
        yield from ()

    def on_stream_resource(self, document: dict[str, Any]) -> Iterator[Document]:
        """Make a reader for a file."""
        self._resources[document["uid"]] = document["data_key"], frames_of_stream_resource(document, self.run.roots)
        yield from ()

    def on_resource(self, document: dict[str, Any]) -> Iterator[Document]:
        """Make a reader for a file announced in the older way."""
        self._resources[document["uid"]] = "", frames_of_resource(document, self.run.roots)
        yield from ()

    def on_datum(self, document: dict[str, Any]) -> Iterator[Document]:
        """Remember which row of which file a datum is."""
        row = document["datum_kwargs"].get("point_number", document["datum_kwargs"].get("index", 0))
        self._data[document["datum_id"]] = document["resource"], int(row)
        yield from ()

    def on_datum_page(self, document: dict[str, Any]) -> Iterator[Document]:
        """Take a page as the data that it stands for."""
        for datum in event_model.unpack_datum_page(cast(event_model.DatumPage, document)):
            yield from self.on_datum(cast(dict[str, Any], datum))

    def on_stream_datum(self, document: dict[str, Any]) -> Iterator[Document]:
        """Take references to frames and positions."""
        descriptor = self._descriptors.get(document["descriptor"])
        if descriptor is None:
            return
        stream, keys = descriptor["name"], self._keys(descriptor)
        start, stop, first = document["indices"]["start"], document["indices"]["stop"], document["seq_nums"]["start"]
        if document["stream_resource"] not in self._resources:
            self._lose(stream, range(first, first + stop - start), "its file cannot be used, see the errors")
            return
        key, source = self._resources[document["stream_resource"]]
        if key == keys.get("image"):
            for k in range(stop - start):
                self._set(stream, first + k, frame=FrameReference(source, start + k))
        elif key in (keys.get("x"), keys.get("y")):
            axis = "x_m" if key == keys["x"] else "y_m"
            self._positions.append(PositionReference(source, start, stop, first, axis, _unit(descriptor, key)))
        yield from self._emit_ready()

    def on_event(self, document: dict[str, Any]) -> Iterator[Document]:
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
        yield from self._emit_ready()

    def on_event_page(self, document: dict[str, Any]) -> Iterator[Document]:
        """Take a page as the events that it stands for."""
        if document["descriptor"] in self._descriptors:
            for event in event_model.unpack_event_page(cast(event_model.EventPage, document)):
                yield from self.on_event(cast(dict[str, Any], event))

    def on_stop(self, document: dict[str, Any]) -> Iterator[Document]:
        """Emit all that can be read; `work` waits for the rest for a while."""
        if self.is_raw(document):
            self._stopped_at = time.monotonic()
            self._fall_back_to_former_points()
            yield from self._emit_ready()

    @property
    def queue(self) -> int:
        """How many frames are announced and not read yet."""
        return sum(len(ready) for ready in self._ready.values())

    # ---- waiting for files

    @property
    def has_work(self) -> bool:
        """Whether frames or positions wait for their file, or the losses of an ended run are not listed yet."""
        return self._waiting or (self._stopped_at is not None and not self._losses_listed)

    @property
    def _waiting(self) -> bool:
        return any(self._ready.values()) or bool(self._positions)

    def work(self, budget_s: float) -> Iterator[Document]:
        """Ask again for what was not in its file yet; give up some seconds after the end of the run."""
        yield from self._emit_ready()
        if self._stopped_at is not None and not self._waiting:
            self._losses_listed = True
            for seq_num, point in self._points[PRIMARY].items():
                if not point.emitted:
                    self._lose(PRIMARY, [seq_num], "no frame" if point.frame is None else "no position")

    @property
    def _patient(self) -> bool:
        return self._stopped_at is None or time.monotonic() - self._stopped_at < WAIT_FOR_FILE_S

    def close(self) -> None:
        """Close all files."""
        for _, source in self._resources.values():
            source.close()

    # ---- points

    def _keys(self, descriptor: Mapping[str, Any]) -> dict[str, str]:
        """Return the data keys of image, x and y: as the start document says, else by what they look like."""
        named = dict(self.run.start.get("ptycho", {}).get("keys", {}))
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
            resource, row = self._data[value]
            return FrameReference(self._resources[resource][1], row)
        return FrameReference(None, 0, np.asarray(value))

    def _set(self, stream: str, seq_num: int, **values: Any) -> None:
        """Note what came for a point; a point that was emitted starts anew."""
        points = self._points[stream]
        point = points.get(seq_num)
        if point is not None and point.emitted:
            self._former[seq_num] = point
            point = None
        if point is None:
            point = points[seq_num] = Point(time.time())
        for name, value in values.items():
            setattr(point, name, value)
        if point.complete(stream) and seq_num not in self._ready[stream]:
            self._ready[stream].append(seq_num)

    def _fall_back_to_former_points(self) -> None:
        """Complete a point that was taken again only in part with what it had before."""
        for seq_num, former in self._former.items():
            point = self._points[PRIMARY][seq_num]
            missing = {k: getattr(former, k) for k in ("frame", "x_m", "y_m") if getattr(point, k) is None}
            if missing:
                self._set(PRIMARY, seq_num, **missing)

    def _lose(self, stream: str, seq_nums: Iterable[int], reason: str) -> None:
        if stream != PRIMARY:
            self.run.warnings.extend(f"dark frame {k} is lost: {reason}" for k in seq_nums)
        else:
            self.run.lost.update(dict.fromkeys(seq_nums, reason))

    # ---- reading

    def _emit_ready(self) -> Iterator[Document]:
        """Read and emit, in order, what is complete; frames of the scan wait for the darks where there are any."""
        self._read_positions()
        darks = {d["name"] for d in self._descriptors.values()} - {PRIMARY}
        for stream in sorted(darks):
            yield from self._emit_stream(stream)
        if darks <= self._darks_read or self._stopped_at is not None:
            yield from self._emit_stream(PRIMARY)

    def _read_positions(self) -> None:
        waiting, self._positions = self._positions, []
        for p in waiting:
            seq_nums = range(p.first_seq_num, p.first_seq_num + p.stop - p.start)
            try:
                values = length_in_m(p.source.read(p.start, p.stop), p.unit)
            except NotYetWritten as error:
                if self._patient:
                    self._positions.append(p)
                else:
                    self._lose(PRIMARY, seq_nums, f"no position: {error}")
                continue
            for seq_num, value in zip(seq_nums, values.reshape(len(values), -1)[:, 0], strict=True):
                self._set(PRIMARY, seq_num, **{p.axis: float(value)})

    def _emit_stream(self, stream: str) -> Iterator[Document]:
        ready = self._ready[stream]
        while ready:
            block = _next_block(ready, self._points[stream], self.run.settings.block_frames)
            block = self.run.watch.isolate(self.run.start["uid"], stream, block)
            if self._left_out(stream, block[0]):
                del ready[:1]
                continue
            self.run.watch.begin(self.run.start["uid"], self.name, stream, block)
            try:
                seq_nums, frames = self._block(stream, block)
            except NotYetWritten as error:
                if self._patient:
                    return
                seq_nums, frames = self._save(stream, block, error)
            except Exception as error:  # whatever a damaged file brings to light must not cost the frames after it
                seq_nums, frames = self._save(stream, block, error)
            del ready[: len(block)]
            if seq_nums:
                yield from self._page(stream, seq_nums, frames)

    def _left_out(self, stream: str, seq_num: int) -> bool:
        """Return whether a frame is left out, and list it."""
        tries = self.run.watch.tries(self.run.start["uid"], stream, seq_num)
        if tries < MAX_TRIES:
            return False
        self._points[stream][seq_num].emitted = True
        self._lose(stream, [seq_num], f"left out: the processing died {tries} times with it at work")
        return True

    def _block(self, stream: str, block: list[int]) -> tuple[list[int], Any]:
        """Return a block and its frames (n, rows, columns): what workers clean is referred to, all else is read."""
        first = self._points[stream][block[0]].frame
        assert first is not None
        if self.run.workers is None or stream != PRIMARY or first.source is None:
            return block, _as_block(list(self._read(stream, block).values()))
        frames = first.source.refer(first.index, first.index + len(block))
        self._check_shape(frames.frame_shape)
        return block, frames

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """Note the first frame's shape, and let all others have it."""
        expected = self._frame_shape or shape
        if len(shape) != 2 or shape != expected:
            raise DocumentError(f"a frame of shape {shape}: expected (rows, columns) = {expected}")
        self._frame_shape = expected

    def _read(self, stream: str, block: list[int]) -> dict[int, npt.NDArray[Any]]:
        """Return the frames of a block by seq_num: views of one array where they come from one file."""
        references = [self._points[stream][seq_num].frame for seq_num in block]
        first = references[0]
        assert first is not None
        if first.source is not None:
            frames = first.source.read(first.index, first.index + len(block))
        else:
            frames = np.stack(
                [reference.array for reference in references if reference and reference.array is not None]
            )
        if frames.ndim == 4 and frames.shape[1] == 1:
            frames = frames[:, 0]
        self._check_shape(frames.shape[1:])
        return dict(zip(block, frames, strict=True))

    def _save(self, stream: str, block: list[int], error: Exception) -> tuple[list[int], Any]:
        """Return what can be read of a block with a bad frame in it; the bad ones are listed."""
        frames: dict[int, npt.NDArray[Any]] = {}
        for seq_num in block:
            try:
                if len(block) == 1:
                    raise error
                frames |= self._read(stream, [seq_num])
            except Exception as reason:
                if not isinstance(reason, DocumentError):
                    log.exception("%s %d cannot be read", stream, seq_num)
                self._lose(stream, [seq_num], str(reason))
                self._points[stream][seq_num].emitted = True
        return list(frames), _as_block(list(frames.values())) if frames else None

    def _page(self, stream: str, seq_nums: list[int], frames: Any) -> Iterator[Document]:
        points = [self._points[stream][seq_num] for seq_num in seq_nums]
        times = self._times(points)
        data: dict[str, Any] = {"frame": frames}
        if stream == PRIMARY:
            data["x_m"] = np.array([point.x_m for point in points])
            data["y_m"] = np.array([point.y_m for point in points])
        for seq_num, point in zip(seq_nums, points, strict=True):
            point.emitted = True
            if stream == PRIMARY:
                self.run.lost.pop(seq_num, None)
            if point.frame is not None and point.frame.array is not None:
                point.frame = None  # an inline frame must not stay in memory
        if stream != PRIMARY:
            self._darks_read.add(stream)
        yield from self.run.derived.page(stream, seq_nums, times, **data)

    def _times(self, points: list[Point]) -> list[float]:
        """Return when frames were taken: as their file tells, where that can be, else when they were heard of."""
        heard = np.array([point.time for point in points])
        first = points[0].frame
        assert first is not None
        if not self._live or first.source is None:
            return cast(list[float], heard.tolist())
        taken = first.source.times_s(first.index, first.index + len(points))
        if taken is None:
            return cast(list[float], heard.tolist())
        possible = (taken >= self._started_at) & (taken <= heard)  # by the same clock, or one that agrees
        return cast(list[float], np.where(possible, taken, heard).tolist())


def _unit(descriptor: Mapping[str, Any], key: str) -> str:
    unit = descriptor["data_keys"][key].get("units")
    if not unit:
        raise DocumentError(f"data key {key!r} has no units: set the motor record's EGU, positions are never guessed")
    return str(unit)


def _next_block(ready: list[int], points: Mapping[int, Point], limit: int) -> list[int]:
    """Return the seq_nums at the head of `ready` that lie side by side in one file; inline frames come one by one."""
    block = ready[:1]
    for seq_num in ready[1:limit]:
        last, this = points[block[-1]].frame, points[seq_num].frame
        assert last is not None and this is not None
        if this.source is None or this.source is not last.source or this.index != last.index + 1:
            break
        block.append(seq_num)
    return block


def _as_block(frames: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return frames as one array: the array they are views of where they are all of it, else a copy."""
    base = frames[0].base
    if isinstance(base, np.ndarray) and base.ndim == 3 and len(base) == len(frames):
        return base
    return np.stack(frames)


class FrameSource(RunProcessor):
    """Callback: raw runs in, blocks of frames with their positions out; reads off the RunEngine's thread."""

    stages = (ReadFrames,)
