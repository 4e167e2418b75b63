"""Datagrams to the streams of frames: what came, what is lost, and whether a frame can be trusted.

A frame without flags came exactly as the camera sends it: after the end of the frame before, packet by packet in
order, then its end marker.  Every other frame is flagged.  A packet has 8 bits for its number and no checksum, so
packets out of order cannot be told from renumbered ones: such frames are put together as well as the numbers allow,
and flagged.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntFlag

import numpy as np
import numpy.typing as npt

from nsbluesky.camera.packets import END_OF_FRAME, FRAME_NUMBERS, PacketFormat, has_magic, is_packet
from nsbluesky.camera.placement import (
    CONFLICTS,
    CURSOR,
    DOUBLED,
    ENDED,
    GOT,
    LATE,
    SKIPPED,
    STATE_SIZE,
    place_packets,
)

__all__ = ["FIRST_FRAMES", "AssembledFrame", "FrameAssembler", "FrameFlag"]

FIRST_FRAMES = 8
"""Frames whose packets are counted, to tell a camera with frames of another size."""
OPEN_FRAMES = 3
CONFIRMED_BY = 4
"""Packets in a row that must agree on the first frame number, and on one far from the last, before it is believed."""
MAX_GAP = 1024
"""Frames lost in a row up to which numbers count on; beyond, the camera's counter is taken to have begun anew."""
AMBIGUOUS_FROM = 128
"""Lost packets from which the 8-bit packet numbers no longer tell the places of the others."""

Bytes = npt.NDArray[np.uint8]
Sizes = npt.NDArray[np.int64]


class FrameFlag(IntFlag):
    """What is wrong with a frame."""

    LOST = 1
    """Packets are missing; their words are 0x2000."""
    AMBIGUOUS = 2
    """So many packets are missing that the others may lie in wrong places."""
    CONFLICT = 4
    """Two packets of the same number differ, or there are more packets than a frame has."""
    ORDER = 8
    """Packets came late, or an end marker at either end is missing: also what renumbered packets look like."""
    FILLER = 16
    """Nothing of the frame came; the row is there to keep the others beside their positions."""
    RENUMBERED = 32
    """The camera's counter jumped: how many frames are lost before this one is not known."""


@dataclass(frozen=True, eq=False)
class AssembledFrame:
    """One frame of the camera, in order and without gaps in `number`.

    Attributes
    ----------
    number : int
        The camera's frame number, counted on where its 16 bits wrap.
    stream : (frame_bytes,) uint8
        What the camera sent; lost packets are words of 0x2000.
    flags : FrameFlag
        0 for a frame that came exactly as it was sent.
    lost : (n, 2) int64
        Ranges (first, last + 1) of lost packets.
    doubled : int
        Packets that came again with the same content.
    timestamp_s : float
        When the first packet was read, seconds since 1970; for a filler, when its loss was seen.
    """

    number: int
    stream: Bytes
    flags: FrameFlag
    lost: npt.NDArray[np.int64]
    doubled: int
    timestamp_s: float

    @property
    def num_lost(self) -> int:
        """Number of lost packets."""
        return int((self.lost[:, 1] - self.lost[:, 0]).sum())


class _OpenFrame:
    """A frame that is being put together."""

    def __init__(self, number: int, header: int, stream: Bytes, num_packets: int, now_s: float) -> None:
        self.number = number
        self.header = header
        self.stream = stream
        self.filled = np.zeros(num_packets, np.bool_)
        self.state = np.zeros(STATE_SIZE, np.int64)
        self.flags = FrameFlag(0)
        self.timestamp_s = now_s

    @property
    def ended(self) -> bool:
        return bool(self.state[ENDED])

    @property
    def done(self) -> bool:
        return self.ended and bool(self.state[GOT] == len(self.filled))

    @property
    def is_in_line(self) -> bool:
        """Whether each packet followed the one before it, as far as there are places for them."""
        return not (self.state[SKIPPED] or self.state[DOUBLED] or self.state[LATE])

    def lost_ranges(self) -> npt.NDArray[np.int64]:
        edges = np.flatnonzero(np.diff(np.concatenate(([True], self.filled, [True]))))
        return edges.reshape(-1, 2).astype(np.int64)

    def close(self, form: PacketFormat) -> AssembledFrame:
        """Fill what is lost and say what is wrong."""
        got, num_packets = int(self.state[GOT]), len(self.filled)
        lost, flags = self.lost_ranges(), self.flags
        for first, stop in lost * form.payload_bytes:
            self.stream[first : min(stop, form.frame_bytes) : 2] = 0x20
            self.stream[first + 1 : min(stop, form.frame_bytes) : 2] = 0x00
        if got == 0:
            flags = FrameFlag.FILLER
        if got < num_packets:
            flags |= FrameFlag.LOST
        if 0 < got <= num_packets - AMBIGUOUS_FROM:
            flags |= FrameFlag.AMBIGUOUS
        if self.state[CONFLICTS]:
            flags |= FrameFlag.CONFLICT
        out_of_order = self.state[LATE] or (got == num_packets and self.state[SKIPPED])
        if got and (out_of_order or not self.ended):
            flags |= FrameFlag.ORDER
        return AssembledFrame(self.number, self.stream, flags, lost, int(self.state[DOUBLED]), self.timestamp_s)


@dataclass
class StreamCounts:
    """What came that belongs to no frame.

    Attributes
    ----------
    datagrams : int
        All that came.
    bad_sizes : Counter of int
        Datagrams that are no packets, by length in bytes.
    stray_packets : int
        Packets of frames that are closed, or of a frame number that nothing confirmed.
    framed_bad_sizes : Counter of int
        Those of them with a packet's header.
    packets_of_frames : list of int
        Packets of the first few frames without gaps and doubles before their end marker: what tells a camera with
        frames of another size.
    """

    datagrams: int = 0
    bad_sizes: Counter[int] = field(default_factory=Counter)
    framed_bad_sizes: Counter[int] = field(default_factory=Counter)
    stray_packets: int = 0
    packets_of_frames: list[int] = field(default_factory=list)


class FrameAssembler:
    """Puts frames together from batches of datagrams; knows nothing of sockets.

    Up to three frames are open at a time, so that late packets find theirs.  A frame leaves as soon as it and those
    before it are complete, else when the third one after it begins.

    Parameters
    ----------
    form : PacketFormat
    clock : callable
        Seconds since 1970.
    """

    def __init__(self, form: PacketFormat, clock: Callable[[], float] = time.time) -> None:
        self.form = form
        self.counts = StreamCounts()
        self._clock = clock
        self._open: list[_OpenFrame] = []
        self._current: _OpenFrame | None = None
        self._last_ended = True
        self._newest: tuple[int, int] | None = None  # number, header of the newest frame
        self._far: list[tuple[Bytes, int]] = []
        self._spare: list[Bytes] = []

    def feed(self, datagrams: Bytes, sizes: Sizes) -> Iterator[AssembledFrame]:
        """Yield the frames that a batch completes.

        Parameters
        ----------
        datagrams : (n, width) uint8
            One datagram a row; may be overwritten as soon as the iteration ends.
        sizes : (n,) int64
            Their lengths in bytes.
        """
        self.counts.datagrams += len(sizes)
        k = 0
        while k < len(sizes):
            if self._current is not None:
                placed = self._place(self._current, datagrams[k:], sizes[k:])
                if placed:
                    k += placed
                    self._drop_far()
                    continue
            yield from self._take_other(datagrams[k : k + 1], sizes[k : k + 1])
            k += 1

    def flush(self) -> Iterator[AssembledFrame]:
        """Yield the frames that are still open, as far as they came."""
        self._drop_far()
        while self._open:
            yield self._close_first()
        self._current = None

    def release(self, stream: Bytes) -> None:
        """Give a frame's stream back for use by a later frame."""
        self._spare.append(stream)

    def _place(self, frame: _OpenFrame, datagrams: Bytes, sizes: Sizes) -> int:
        """Put the leading packets that belong to `frame` into it, and return how many."""
        form = self.form
        placed: int = place_packets(
            datagrams,
            sizes,
            frame.header,
            form.payload_bytes,
            form.last_packet_bytes,
            frame.stream,
            frame.filled,
            frame.state,
        )
        return placed

    def _take_other(self, datagram: Bytes, size: Sizes) -> Iterator[AssembledFrame]:
        """Take a datagram that is no packet of the current frame."""
        length = int(size[0])
        if length == len(END_OF_FRAME) and datagram[0, :length].tobytes() == END_OF_FRAME:
            yield from self._end()
        elif not is_packet(datagram, size, self.form)[0]:
            self.counts.bad_sizes[length] += 1
            if length > len(END_OF_FRAME) and has_magic(datagram)[0]:
                self.counts.framed_bad_sizes[length] += 1
        else:
            yield from self._take_packet(datagram, size)

    def _end(self) -> Iterator[AssembledFrame]:
        counts, frame = self.counts, self._current
        if frame is None:
            return
        if len(counts.packets_of_frames) < FIRST_FRAMES and frame.is_in_line:
            counts.packets_of_frames.append(int(frame.state[GOT] + frame.state[CONFLICTS]))
        if frame.state[CURSOR] != len(frame.filled):
            frame.flags |= FrameFlag.ORDER
        frame.state[ENDED] = 1
        yield from self._close_done()

    def _take_packet(self, datagram: Bytes, size: Sizes) -> Iterator[AssembledFrame]:
        """Take a packet of another frame than the current one."""
        header = int(datagram[0, 6]) * 256 + int(datagram[0, 7])
        if self._newest is None:
            yield from self._take_far(datagram, size, header, 0)
            return
        number, newest = self._newest
        ahead = (header - newest + FRAME_NUMBERS // 2) % FRAME_NUMBERS - FRAME_NUMBERS // 2
        if ahead <= 0:
            known = next((frame for frame in self._open if frame.header == header), None)
            if known is not None:
                self._current = known
                self._place(known, datagram, size)
                yield from self._close_done()
                return
            if ahead > -OPEN_FRAMES:
                self.counts.stray_packets += 1
                return
        if not 0 < ahead < OPEN_FRAMES:
            yield from self._take_far(datagram, size, header, ahead)
            return
        self._begin(number + ahead, header)
        self._drop_far()
        self._place(self._open[-1], datagram, size)
        yield from self._close_done()

    def _take_far(self, datagram: Bytes, size: Sizes, header: int, ahead: int) -> Iterator[AssembledFrame]:
        """Keep a packet of a frame far from the newest until others confirm the number."""
        if self._far and not np.array_equal(self._far[0][0][0, 6:8], datagram[0, 6:8]):
            self._drop_far()
        self._far.append((datagram.copy(), int(size[0])))
        if len(self._far) < CONFIRMED_BY:
            return
        packets, self._far = self._far, []
        if self._newest is None:
            self._begin(header, header)
        elif 0 < ahead <= MAX_GAP:
            self._begin(self._newest[0] + ahead, header)
        else:
            yield from self.flush()
            self._begin(self._newest[0] + 1, header)
            self._open[-1].flags |= FrameFlag.ORDER | FrameFlag.RENUMBERED
        frame = self._open[-1]
        for packet, length in packets:
            self._place(frame, packet, np.array([length]))
        yield from self._close_done()

    def _drop_far(self) -> None:
        self.counts.stray_packets += len(self._far)
        self._far = []

    def _begin(self, number: int, header: int) -> None:
        """Open the frame of this number, and those before it of which nothing came."""
        first = number if self._newest is None else self._newest[0] + 1
        previous_ended = self._open[-1].ended if self._open else self._last_ended
        previous_ended = previous_ended and first == number
        for missing in range(first, number + 1):
            self._open.append(
                _OpenFrame(
                    missing,
                    (header - (number - missing)) % FRAME_NUMBERS,
                    self._spare.pop() if self._spare else np.empty(self.form.frame_bytes, np.uint8),
                    self.form.num_packets,
                    self._clock(),
                )
            )
        self._current = self._open[-1]
        if not previous_ended:
            for other in self._open:
                if not other.ended:
                    other.flags |= FrameFlag.ORDER
        self._newest = (number, header)

    def _close_done(self) -> Iterator[AssembledFrame]:
        """Close what is complete, and what has waited for its packets long enough."""
        while self._open and (self._open[0].done or len(self._open) > OPEN_FRAMES):
            yield self._close_first()

    def _close_first(self) -> AssembledFrame:
        frame = self._open.pop(0)
        self._last_ended = frame.ended
        if frame is self._current:
            self._current = None
        return frame.close(self.form)
