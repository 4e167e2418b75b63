"""FrameSource: from references in documents to blocks of frames with their positions.

Nothing is read before frame and position are both known, so what waits here costs a few bytes a frame.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.block_watch import MAX_TRIES
from nsbluesky.callbacks.derived_run import Document
from nsbluesky.callbacks.frame_index import FrameIndex, Point
from nsbluesky.callbacks.frame_readers import HDF5Frames, NotYetWritten
from nsbluesky.callbacks.run_processor import RunProcessor
from nsbluesky.callbacks.stage import DocumentError, RunContext, Stage
from nsbluesky.cleaning.words import as_counts
from nsbluesky.streams import PRIMARY

__all__ = ["FrameSource", "ReadFrames"]

log = logging.getLogger(__name__)

LIVE_S = 60.0
"""A run whose start document comes later than this is a recorded one: its frames are as old as they are read."""

WAIT_FOR_FILE_S = 5.0
"""How long after the end of a run a frame may still be missing in its file."""

ROWS_AT_ONCE = 16
"""How many frames of one point are read before they are added up."""


class ReadFrames(Stage):
    """The stage of one run; see the module."""

    name = "frames"

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        self._index = FrameIndex(run.start, self._lose, run.roots)
        self._frame_shape: tuple[int, ...] | None = None
        self._source: HDF5Frames | None = None
        self._stopped_at: float | None = None
        self._losses_listed = False
        self._darks_read: set[str] = set()
        self._started_at = float(run.start.get("time", 0.0))
        self._live = time.time() - self._started_at < LIVE_S

    # ---- documents

    def process(self, name: str, document: dict[str, Any]) -> Iterator[Document]:
        """Take references to frames and positions, and emit what can be read; `work` waits for the rest."""
        if name == "stop" and self.is_raw(document):
            self._stopped_at = time.monotonic()
            self._index.complete_points_taken_again()
        self._index.process(name, document)
        if name in ("event", "event_page", "stream_datum", "stop"):
            yield from self._emit_ready()

    @property
    def queue(self) -> int:
        """How many frames are announced and not read yet."""
        return sum(len(ready) for ready in self._index.ready.values())

    # ---- waiting for files

    @property
    def has_work(self) -> bool:
        """Whether frames or positions wait for their file, or the losses of an ended run are not listed yet."""
        return self._waiting or (self._stopped_at is not None and not self._losses_listed)

    @property
    def _waiting(self) -> bool:
        return any(self._index.ready.values()) or self._index.waits_for_positions

    def work(self, budget_s: float) -> Iterator[Document]:
        """Ask again for what was not in its file yet; give up some seconds after the end of the run."""
        yield from self._emit_ready()
        if self._stopped_at is not None and not self._waiting:
            self._losses_listed = True
            for seq_num, point in self._index.points[PRIMARY].items():
                if not point.emitted and seq_num not in self.run.lost:
                    self._lose(PRIMARY, [seq_num], self._index.missing(point))

    @property
    def _patient(self) -> bool:
        return self._stopped_at is None or time.monotonic() - self._stopped_at < WAIT_FOR_FILE_S

    def close(self) -> None:
        """Close all files."""
        self._index.close()
        self._turn_to(None)

    def _lose(self, stream: str, seq_nums: Iterable[int], reason: str) -> None:
        if stream != PRIMARY:
            self.run.warnings.extend(f"dark frame {k} is lost: {reason}" for k in seq_nums)
        else:
            self.run.lost.update(dict.fromkeys(seq_nums, reason))

    # ---- reading

    def _emit_ready(self) -> Iterator[Document]:
        """Read and emit, in order, what is complete; frames of the scan wait for the darks where there are any.

        At the end of the run, too: where some darks are not in their file, the others are as good.
        """
        patient = self._patient
        self._index.read_positions(patient=patient)
        darks = self._index.dark_streams
        for stream in sorted(darks):
            yield from self._emit_stream(stream)
        if darks <= self._darks_read or not patient:
            yield from self._emit_stream(PRIMARY)

    def _emit_stream(self, stream: str) -> Iterator[Document]:
        ready = self._index.ready[stream]
        while ready:
            block = _next_block(ready, self._index.points[stream], self.run.settings.block_frames)
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
        self._index.points[stream][seq_num].emitted = True
        self._lose(stream, [seq_num], f"left out: the processing died {tries} times with it at work")
        return True

    def _block(self, stream: str, block: list[int]) -> tuple[list[int], Any]:
        """Return a block and its frames (n, rows, columns): what workers clean is referred to, all else is read."""
        first = self._index.points[stream][block[0]].frame
        assert first is not None
        if self.run.workers is None or stream != PRIMARY or first.source is None or first.count > 1:
            return block, _as_block(list(self._read(stream, block).values()))
        self._turn_to(first.source)
        frames = first.source.refer(first.index, first.index + len(block))
        self._check(frames.frame_shape, frames.dtype)
        return block, frames

    def _turn_to(self, source: HDF5Frames | None) -> None:
        """Close the file that was read before, where this is another one: of many, not all can be open."""
        if self._source is not None and self._source is not source:
            self._source.close()
        self._source = source

    def _check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Note the first frame's shape, and let all others have it; refuse what is no number of counts."""
        if dtype.kind not in "ui":
            raise DocumentError(f"a frame of {dtype}: expected integers, as the detector counts them")
        expected = self._frame_shape or shape
        if len(shape) != 2 or shape != expected:
            raise DocumentError(f"a frame of shape {shape}: expected (rows, columns) = {expected}")
        self._frame_shape = expected

    def _read(self, stream: str, block: list[int]) -> dict[int, npt.NDArray[Any]]:
        """Return the frames of a block by seq_num: views of one array where they come from one file."""
        references = [self._index.points[stream][seq_num].frame for seq_num in block]
        first = references[0]
        assert first is not None
        if first.source is not None:
            self._turn_to(first.source)
            if first.count > 1:
                rows = [reference.index for reference in references if reference is not None]
                return dict(zip(block, (self._sum(first.source, row, first.count) for row in rows), strict=True))
            frames = first.source.read(first.index, first.index + len(block))
        else:
            frames = np.stack(
                [reference.array for reference in references if reference and reference.array is not None]
            )
        if frames.ndim == 4 and frames.shape[1] == 1:
            frames = frames[:, 0]
        self._check(frames.shape[1:], frames.dtype)
        return dict(zip(block, frames, strict=True))

    def _sum(self, source: HDF5Frames, row: int, count: int) -> npt.NDArray[Any]:
        """Return the sum of the frames of a point; a pixel that one of them did not measure has the largest word."""
        cleaning = self.run.settings.cleaning
        if cleaning.layout != "none" or cleaning.detector_mode is not None:
            raise DocumentError(
                f"{count} frames of one point: expected one, they are added up with layout 'none' only"
            )
        source.require(row, row + count)
        total: Any = 0
        silent: Any = False
        for start in range(row, row + count, ROWS_AT_ONCE):
            frames = source.read(start, min(start + ROWS_AT_ONCE, row + count))
            self._check(frames.shape[1:], frames.dtype)
            frames = as_counts(frames)
            silent |= (frames == frames.dtype.type(2 ** (8 * frames.dtype.itemsize) - 1)).any(axis=0)
            total += frames.sum(axis=0, dtype=np.uint64)
        wide = np.uint32 if frames.dtype.itemsize <= 2 else np.uint64  # what such sums fit into
        return np.where(silent, np.iinfo(wide).max, total).astype(wide)

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
                self._index.points[stream][seq_num].emitted = True
        return list(frames), _as_block(list(frames.values())) if frames else None

    def _page(self, stream: str, seq_nums: list[int], frames: Any) -> Iterator[Document]:
        points = [self._index.points[stream][seq_num] for seq_num in seq_nums]
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
        rows = np.array([point.frame.index for point in points if point.frame is not None])  # bad ones are left out
        taken = first.source.times_s(first.index, int(rows[-1]) + 1)
        if taken is None:
            return cast(list[float], heard.tolist())
        taken = taken[rows - first.index]
        possible = (taken >= self._started_at) & (taken <= heard)  # by the same clock, or one that agrees
        return cast(list[float], np.where(possible, taken, heard).tolist())


def _next_block(ready: list[int], points: Mapping[int, Point], limit: int) -> list[int]:
    """Return the seq_nums at the head of `ready` that lie side by side in one file; inline frames come one by one."""
    block = ready[:1]
    for seq_num in ready[1:limit]:
        last, this = points[block[-1]].frame, points[seq_num].frame
        assert last is not None and this is not None
        if this.source is None or this.source is not last.source or this.index != last.index + last.count:
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
