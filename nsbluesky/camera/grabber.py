"""A UDP frame grabber: the camera's packets to an HDF5 file, with a record of what was lost.

One thread takes datagrams from the kernel and puts frames together, the calling one descrambles and writes them.
Both are compiled or in the kernel for most of their time, where they do not wait for one another.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from nsbluesky.camera.assembler import FIRST_FRAMES, AssembledFrame, FrameAssembler, FrameFlag
from nsbluesky.camera.datagrams import DatagramBatch, enlarge_buffer
from nsbluesky.camera.descramble import descramble, stream_bytes
from nsbluesky.camera.frame_file import EPICS_EPOCH_S, FrameFile, room_for_frame
from nsbluesky.camera.packets import HEADER_BYTES, PacketFormat
from nsbluesky.cleaning.layout import LAYOUTS, FCCDLayout
from nsbluesky.cleaning.words import LOST_WORDS
from nsbluesky.disk_space import require_space

__all__ = ["LOST_RANGES", "Grabber", "GrabberError", "GrabberSettings"]

LOST_RANGES = "/entry/instrument/detector/lost_packets"
COUNTS = "nsbluesky_grab"
ATTRIBUTE_TYPES = {"NDArrayUniqueId": "<i4", "NDArrayTimeStamp": "<f8", "LostPackets": "<i4", "FrameFlags": "<i4"}
BATCH = 128
POLL_S = 0.1
RECEIVER_NICE = -10
DIRECT_PART = 4
"""Frames go directly to the disk while so small a part of the queue waits, else to the kernel's cache: that is faster
than a slow disk, but takes the time of a processor for it, which other programs may want."""
FEW_DATAGRAMS = 100
FEW_FRAMES = 3
UNPLACED = FrameFlag.AMBIGUOUS | FrameFlag.CONFLICT
"""Packets may lie in wrong places: the file has 0x2000 in their stead, as for a frame that never came."""


class GrabberError(Exception):
    """No frames can be had: no camera, one of another kind, or a port that is taken."""


class OtherCameraError(GrabberError):
    """What comes are no frames of this layout in packets of this size."""


@dataclass(frozen=True)
class GrabberSettings:
    """What the grabber listens to.

    Attributes
    ----------
    host, port : str, int
        Address of this machine that the camera sends to; port 0 takes a free one.
    payload_bytes : int
        Of each packet.
    buffer_bytes : int
        Asked of the kernel for packets that wait.
    timeout_s : float
        After so long without a packet the camera is missing, or has ended.
    queue_frames : int
        Frames that wait in memory for the disk at most: 600 MB, and 1.7 s at 146 frames a second.
    """

    host: str = "127.0.0.1"
    port: int = 49201
    payload_bytes: int = 4096
    buffer_bytes: int = 256 << 20
    timeout_s: float = 10.0
    queue_frames: int = 256

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port = {self.port}: expected 0 to 65535")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s = {self.timeout_s}: expected more than 0")
        for name, (least, most) in {"buffer_bytes": (1, 2**31 - 1), "queue_frames": (1, 10_000)}.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} = {getattr(self, name)}: expected {least} to {most}")


class Grabber:
    """Listens from its making on, so that a camera may start before `record`.

    Parameters
    ----------
    layout : FCCDLayout
    settings : GrabberSettings

    Raises
    ------
    GrabberError
        Where the address cannot be listened to.
    """

    def __init__(self, layout: FCCDLayout, settings: GrabberSettings | None = None) -> None:
        self.settings = settings or GrabberSettings()
        self.layout = layout
        self.format = PacketFormat(stream_bytes(layout), self.settings.payload_bytes)
        self.assembler = FrameAssembler(self.format)
        self._frames: queue.Queue[AssembledFrame | BaseException | None] = queue.Queue(self.settings.queue_frames)
        self._stop = threading.Event()
        self._has_recorded = False
        self._cpu_s = {"receive": 0.0, "write": 0.0}
        _compile(self.format, layout)
        self._socket = _listen(self.settings)
        self.buffer_bytes = enlarge_buffer(self._socket, socket.SO_RCVBUF, self.settings.buffer_bytes)
        seconds, fraction = divmod(POLL_S, 1)
        timeout = struct.pack("ll", int(seconds), int(fraction * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that packets are to be sent to."""
        host, port = self._socket.getsockname()
        return host, port

    def stop(self) -> None:
        """Let `record` end with what came so far; from any thread."""
        self._stop.set()

    def close(self) -> None:
        """Free the port."""
        self._stop.set()
        self._socket.close()

    def __enter__(self) -> Grabber:
        """Return the grabber, which is closed at the end of the block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Free the port."""
        self.close()

    def record(
        self,
        path: Path,
        num_frames: int | None = None,
        each: Callable[[AssembledFrame], object] | None = None,
    ) -> dict[str, Any]:
        """Write the next frames to a new file and return what came and what was lost; once for each grabber.

        It ends after `num_frames` frames, those lost included, after `stop`, or when no packet came for `timeout_s`.

        Parameters
        ----------
        path : Path
            HDF5; others may read it while it grows (SWMR).
        num_frames : int, optional
        each : callable, optional
            Told every frame once it is in the file.

        Raises
        ------
        GrabberError
            Where no packet comes at all, or only such of another camera; where the file exists already, or cannot be
            written; where this grabber has recorded before.
        """
        if self._has_recorded:
            raise GrabberError(f"cannot write {path}: this grabber has recorded already: make another one")
        file = _new_file(path, self.layout.shape)
        self._has_recorded = True
        counts = _FrameCounts()
        receiver = threading.Thread(target=self._receive, args=(num_frames,), name="grabber", daemon=True)
        receiver.start()
        started = time.thread_time()
        image = room_for_frame(self.layout.shape)
        try:
            while num_frames is None or counts.frames < num_frames:
                frame = self._frames.get()
                if frame is None:
                    break
                if isinstance(frame, OtherCameraError):
                    counts = _FrameCounts()  # what is in the file are no frames
                if isinstance(frame, BaseException):
                    raise frame
                self._write(file, frame, image)
                counts.add(frame)
                counts.most_queued = max(counts.most_queued, self._frames.qsize())
                if each is not None:
                    each(frame)
                self.assembler.release(frame.stream)
        finally:
            self._stop.set()
            while receiver.is_alive():  # it may wait for room in the queue
                _empty(self._frames)
                receiver.join(POLL_S)
            self._cpu_s["write"] = time.thread_time() - started
            summary = self._summary(counts)
            with contextlib.suppress(OSError, RuntimeError):  # of a full disk, which was told before
                file.close()
                if counts.frames:
                    _note_losses(path, counts, summary)
            if not counts.frames:
                path.unlink()
        return summary

    def _write(self, file: FrameFile, frame: AssembledFrame, image: npt.NDArray[np.uint16]) -> None:
        if frame.flags & UNPLACED:
            image[:] = LOST_WORDS[1]
        else:
            descramble(frame.stream, self.layout, image)
        try:
            require_space(file.path.parent, image.nbytes)
            file.append(
                image,
                direct=self._frames.qsize() <= self.settings.queue_frames // DIRECT_PART,
                NDArrayUniqueId=frame.number,
                NDArrayTimeStamp=frame.timestamp_s - EPICS_EPOCH_S,
                LostPackets=frame.num_lost,
                FrameFlags=int(frame.flags),
            )
        except OSError as error:
            raise GrabberError(
                f"cannot write frame {frame.number} to {file.path} ({_reason(error)}): "
                f"the {file.count} frames before it are there; make room, or choose another disk"
            ) from error

    def _receive(self, num_frames: int | None) -> None:
        if sys.platform == "linux":  # where a thread can be first, if this user may say so
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), RECEIVER_NICE)
        try:
            self._receive_frames(num_frames)
            self._frames.put(None)
        except BaseException as error:
            self._frames.put(error)
        finally:
            self._cpu_s["receive"] = time.thread_time()

    def _receive_frames(self, num_frames: int | None) -> None:
        assembler = self.assembler
        batch = DatagramBatch(np.zeros((BATCH, self.format.packet_bytes + HEADER_BYTES), np.uint8))
        frames = 0
        last = time.monotonic()
        while (num_frames is None or frames < num_frames) and not self._stop.is_set():
            count = batch.receive(self._socket)
            if count:
                last = time.monotonic()
            elif time.monotonic() - last > self.settings.timeout_s:
                break
            for frame in assembler.feed(batch.datagrams[:count], batch.sizes[:count]):
                self._frames.put(frame)
                frames += 1
            if frames < FIRST_FRAMES:
                self._check_kind()
        for frame in assembler.flush():
            self._frames.put(frame)
            frames += 1
        if frames == 0 and not self._stop.is_set():
            self._check_kind(few_datagrams=1)
            host, port = self.address
            raise GrabberError(
                f"no packet came to {host}:{port} within {self.settings.timeout_s:g} s: "
                "expected a camera that sends to this address"
            )

    def _check_kind(self, few_datagrams: int = FEW_DATAGRAMS) -> None:
        """Refuse a camera whose packets or frames have another size."""
        counts, form = self.assembler.counts, self.format
        framed = counts.framed_bad_sizes
        if framed.total() >= few_datagrams and 2 * framed.total() > counts.datagrams:
            payload = framed.most_common(1)[0][0] - HEADER_BYTES
            raise OtherCameraError(
                f"packets of {payload} bytes: expected {form.payload_bytes}, beside {HEADER_BYTES} of header; "
                f"set the payload to {payload}"
            )
        if counts.datagrams >= few_datagrams and counts.bad_sizes.total() == counts.datagrams:
            raise OtherCameraError(
                f"{counts.datagrams} datagrams came that are no packets of a Fast CCD: expected headers of 8 bytes, "
                "the last six F0 F1 F2 F3 F4 and the frame number; something else sends to this port"
            )
        found = counts.packets_of_frames[1 : 1 + FEW_FRAMES]  # the first one may have begun before
        if len(found) == FEW_FRAMES and len(set(found)) == 1:
            self._check_layout(found[0])

    def _check_layout(self, found: int) -> None:
        """Refuse a camera whose frames have more packets than expected, or just as many as another layout's.

        Fewer than that are packets that get lost at the end of each frame: they are recorded, and flagged.
        """
        form, fitting = self.format, self._layouts_of(found)
        if found > form.num_packets or (found < form.num_packets and fitting):
            rows, columns = self.layout.shape
            advice = f"the layout may be {' or '.join(fitting)}" if fitting else "no layout known here has that size"
            raise OtherCameraError(
                f"frames of {found} packets of {form.payload_bytes} bytes: expected {form.num_packets}, for "
                f"{rows} × {columns}; {advice}"
            )

    def _layouts_of(self, found: int) -> list[str]:
        """Return the names of other layouts with so many packets of which this grabber knows the size."""
        own, sizes = self.format, self.assembler.counts.framed_bad_sizes
        names = []
        for name, layout in LAYOUTS.items():
            form = PacketFormat(stream_bytes(layout), own.payload_bytes)
            short = form.last_packet_bytes not in (own.packet_bytes, own.last_packet_bytes)
            if form != own and form.num_packets == found + short and (sizes[form.last_packet_bytes] or not short):
                names.append(name)
        return names

    def _summary(self, counts: _FrameCounts) -> dict[str, Any]:
        stream = self.assembler.counts
        return {
            "frames": counts.frames,
            "exact_frames": counts.exact,
            "lost_frames": counts.fillers,
            "frames_with_lost_packets": counts.with_lost,
            "lost_packets": counts.lost_packets,
            "frames_out_of_order": counts.out_of_order,
            "frames_in_conflict": counts.in_conflict,
            "doubled_packets": counts.doubled,
            "stray_packets": stream.stray_packets,
            "bad_datagrams": stream.bad_sizes.total(),
            "frames_per_s": counts.rate,
            "receive_cpu_ms_per_frame": 1e3 * self._cpu_s["receive"] / max(counts.frames, 1),
            "write_cpu_ms_per_frame": 1e3 * self._cpu_s["write"] / max(counts.frames, 1),
            "most_queued_frames": counts.most_queued,
            "buffer_bytes": self.buffer_bytes,
            "buffer_limited": self.buffer_bytes < self.settings.buffer_bytes,
            "lost": counts.described(),
        }


class _FrameCounts:
    """Counts what was written, and lists what was lost."""

    def __init__(self) -> None:
        self.frames = self.exact = self.fillers = self.with_lost = self.lost_packets = 0
        self.out_of_order = self.in_conflict = self.doubled = self.most_queued = 0
        self.ranges: list[tuple[int, int, int]] = []
        self._first_s = self._last_s = 0.0

    def add(self, frame: AssembledFrame) -> None:
        self._first_s = self._first_s or frame.timestamp_s
        self._last_s = frame.timestamp_s
        self.frames += 1
        self.exact += not frame.flags
        self.doubled += frame.doubled
        self.lost_packets += frame.num_lost
        filler = FrameFlag.FILLER in frame.flags
        self.fillers += filler
        self.with_lost += FrameFlag.LOST in frame.flags and not filler
        self.out_of_order += FrameFlag.ORDER in frame.flags
        self.in_conflict += FrameFlag.CONFLICT in frame.flags
        self.ranges += [(frame.number, int(first), int(stop)) for first, stop in frame.lost]

    @property
    def rate(self) -> float:
        """Frames per second between the first packets of the first and the last frame."""
        return (self.frames - 1) / (self._last_s - self._first_s) if self._last_s > self._first_s else 0.0

    def described(self, most: int = 100) -> list[str]:
        """Return the ranges as text; a long list is cut, the file has all."""
        texts = [f"frame {number}: packets {first} to {stop - 1}" for number, first, stop in self.ranges[:most]]
        more = len(self.ranges) - most
        return [*texts, f"and {more} more"] if more > 0 else texts


def _compile(form: PacketFormat, layout: FCCDLayout) -> None:
    """Compile what runs on every packet, or load it from the cache, before the first one waits for it."""
    stream = np.zeros(form.frame_bytes, np.uint8)
    descramble(stream, layout)
    packets = form.packets(stream, 0)
    sizes = np.full(len(packets), form.packet_bytes)
    sizes[-1] = form.last_packet_bytes
    assembler = FrameAssembler(form)
    for _ in (*assembler.feed(packets, sizes), *assembler.flush()):
        pass


def _new_file(path: Path, shape: tuple[int, int]) -> FrameFile:
    if path.exists():
        raise GrabberError(f"{path} exists: expected a new file; raw frames are never overwritten")
    try:
        return FrameFile(path, shape, ATTRIBUTE_TYPES)
    except OSError as error:
        raise GrabberError(f"cannot write {path} ({_reason(error)}): expected a file in a writable folder") from error


def _reason(error: OSError) -> str:
    """Return the system's words: those of HDF5 are long."""
    return os.strerror(error.errno) if error.errno else str(error)


def _listen(settings: GrabberSettings) -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        udp.bind((settings.host, settings.port))
    except OSError as error:
        udp.close()
        if error.errno == errno.EADDRINUSE:
            reason = "it is in use: end the other grabber, or choose another port"
        else:
            reason = f"{error.strerror or error}: expected an address of this machine"
        raise GrabberError(f"cannot listen at {settings.host}:{settings.port}: {reason}") from error
    return udp


def _empty(frames: queue.Queue[Any]) -> None:
    try:
        while True:
            frames.get_nowait()
    except queue.Empty:
        pass


def _note_losses(path: Path, counts: _FrameCounts, summary: dict[str, Any]) -> None:
    """Add what was lost to a closed file: while others read it with SWMR, nothing new may be made in it."""
    with h5py.File(path, "r+", libver="latest") as file:
        dataset = file.create_dataset(LOST_RANGES, data=np.array(counts.ranges, np.int64).reshape(-1, 3))
        dataset.attrs["columns"] = ["frame number", "first packet", "last packet + 1"]
        file.attrs[COUNTS] = json.dumps(summary)
