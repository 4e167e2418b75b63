"""A virtual Fast CCD: sends raw frames as packets over UDP, at any rate, with planned faults."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from nsbluesky.camera.datagrams import DatagramBatch, enlarge_buffer
from nsbluesky.camera.descramble import scramble, stream_bytes
from nsbluesky.camera.packets import END_OF_FRAME, FRAME_NUMBERS, PACKET_NUMBERS, PacketFormat
from nsbluesky.cleaning.layout import FCCDLayout

__all__ = ["PacketFaults", "VirtualFCCD"]

MAX_CHUNK = 64
PAUSE_S = 1e-3
"""Packets due within this time are sent together: to pause for each would take a core, and pauses are no shorter."""
SEND_BUFFER_BYTES = 4 << 20


@dataclass(frozen=True)
class PacketFaults:
    """What goes wrong on the way, as probabilities; the same seed gives the same faults.

    Attributes
    ----------
    lost, doubled, late, renumbered : float
        Of each packet.
    lost_ends, lost_frames : float
        Of each frame.
    late_by : int
        Packets by which a late one comes later, at most.
    seed : int
    """

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    renumbered: float = 0.0
    lost_ends: float = 0.0
    lost_frames: float = 0.0
    late_by: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("lost", "doubled", "late", "renumbered", "lost_ends", "lost_frames"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected a probability, 0 to 1")
        if self.late_by < 1:
            raise ValueError(f"late_by = {self.late_by}: expected at least 1")

    def __bool__(self) -> bool:
        """Return whether anything goes wrong at all."""
        return any(getattr(self, item.name) for item in fields(self) if item.name not in ("late_by", "seed"))


@dataclass
class SentCounts:
    """What was sent, and what went wrong as planned.

    Attributes
    ----------
    frames : int
        Frames, those lost included.
    lost_frames, lost_ends : int
        Frames and end markers kept back.
    lost_packets, doubled, late, renumbered : int
        Packets kept back (those of lost frames included), sent twice, late, with another number.
    behind_s : float
        The most that the camera was behind its rate.
    cpu_s : float
        CPU time of sending.
    """

    frames: int = 0
    lost_frames: int = 0
    lost_packets: int = 0
    doubled: int = 0
    late: int = 0
    renumbered: int = 0
    lost_ends: int = 0
    behind_s: float = 0.0
    cpu_s: float = 0.0


class VirtualFCCD:
    """Sends frames to an address.

    Parameters
    ----------
    address : (str, int)
        Host and port of a grabber.
    layout : FCCDLayout
    payload_bytes : int
    rate_hz : float
        Frames per second, the packets of each spread evenly; 0 sends as fast as it can.
    first_number : int
        Number of the first frame.
    faults : PacketFaults, optional
    """

    def __init__(
        self,
        address: tuple[str, int],
        layout: FCCDLayout,
        *,
        payload_bytes: int = 4096,
        rate_hz: float = 0.0,
        first_number: int = 0,
        faults: PacketFaults | None = None,
    ) -> None:
        if rate_hz < 0:
            raise ValueError(f"rate_hz = {rate_hz}: expected 0 or more")
        self.format = PacketFormat(stream_bytes(layout), payload_bytes)
        self.layout = layout
        self.counts = SentCounts()
        self._rate_hz = rate_hz
        self._number = first_number
        self._faults = faults or PacketFaults()
        self._rng = np.random.default_rng(self._faults.seed)
        self._late: list[tuple[int, npt.NDArray[np.uint8], int]] = []
        self._stop = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.connect(address)
        except OSError as error:
            self._socket.close()
            raise ValueError(
                f"cannot send to {address[0]}:{address[1]}: {error.strerror}: expected the address of who listens"
            ) from error
        enlarge_buffer(self._socket, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        n = self.format.num_packets
        self._batch = DatagramBatch(np.zeros((n + 1, self.format.packet_bytes), np.uint8))
        self._batch.sizes[n - 1] = self.format.last_packet_bytes
        self._batch.sizes[n] = len(END_OF_FRAME)
        self._batch.datagrams[n, : len(END_OF_FRAME)] = np.frombuffer(END_OF_FRAME, np.uint8)

    def __enter__(self) -> VirtualFCCD:
        """Return the camera, which is closed at the end of the block."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Free the socket."""
        self.close()

    def close(self) -> None:
        """End a `send` that is under way, and free the socket."""
        self._stop.set()
        self._socket.close()

    def stop(self) -> None:
        """Let `send` end after the frame it sends; from any thread."""
        self._stop.set()

    def send(self, frames: Iterable[npt.NDArray[np.uint16]]) -> SentCounts:
        """Send raw frames (rows, columns) and return what was done."""
        self.send_streams(scramble(frame, self.layout) for frame in frames)
        return self.counts

    def send_streams(self, streams: Iterable[npt.NDArray[np.uint8]]) -> SentCounts:
        """Send frames that are in the stream's order already, (bytes,) uint8."""
        counts = self.counts
        cpu_s = time.thread_time()
        due = time.monotonic()
        for stream in streams:
            if self._stop.is_set():
                break
            self.format.packets(stream, self._number, self._batch.datagrams[:-1])
            self._send_paced(self._faulty() if self._faults else self._batch, due)
            self._number += 1
            counts.frames += 1
            if self._rate_hz:
                due += 1 / self._rate_hz
                counts.behind_s = max(counts.behind_s, time.monotonic() - due)
        counts.cpu_s += time.thread_time() - cpu_s
        return counts

    def _send_paced(self, batch: DatagramBatch, due: float) -> None:
        total = len(batch.sizes)
        chunk = MAX_CHUNK
        if self._rate_hz:
            chunk = min(max(int(PAUSE_S * self._rate_hz * total), 1), MAX_CHUNK)
        for start in range(0, total, chunk):
            if self._rate_hz:
                ahead = due + start / total / self._rate_hz - time.monotonic()
                if ahead > 0:
                    time.sleep(ahead)
            batch.send(self._socket, start, min(start + chunk, total))

    def _faulty(self) -> DatagramBatch:
        """Return the datagrams of the frame in the batch as they arrive, with those late from frames before."""
        rng, faults, counts = self._rng, self._faults, self.counts
        total = len(self._batch.sizes)
        arrivals = [(place, datagram, size) for place, datagram, size in self._late]
        self._late = []
        frame_lost = rng.random() < faults.lost_frames
        end_lost = frame_lost or rng.random() < faults.lost_ends
        counts.lost_frames += frame_lost
        counts.lost_ends += end_lost
        lost, doubled, late, renumbered = (
            rng.random(total - 1) < p for p in (faults.lost, faults.doubled, faults.late, faults.renumbered)
        )
        lost |= frame_lost
        for k in range(total - 1):
            if lost[k]:
                counts.lost_packets += 1
                continue
            datagram, place = self._batch.datagrams[k], k
            if renumbered[k]:
                counts.renumbered += 1
                datagram = self._renumbered(datagram)
            if late[k]:
                counts.late += 1
                place += int(rng.integers(1, faults.late_by + 1))
            size = int(self._batch.sizes[k])
            arrivals += [(place, datagram, size)] * (2 if doubled[k] else 1)
            counts.doubled += bool(doubled[k])
        if not end_lost:
            arrivals.append((total - 1, self._batch.datagrams[-1], len(END_OF_FRAME)))
        self._late = [(place - total, datagram.copy(), size) for place, datagram, size in arrivals if place >= total]
        now = sorted((item for item in arrivals if item[0] < total), key=lambda item: item[0])
        batch = DatagramBatch(
            np.array([datagram for _, datagram, _ in now], np.uint8).reshape(-1, self.format.packet_bytes)
        )
        batch.sizes[:] = [size for _, _, size in now]
        return batch

    def _renumbered(self, datagram: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return a copy with another packet number or another frame number."""
        copy = datagram.copy()
        if self._rng.random() < 0.5:
            copy[0] = (int(copy[0]) + int(self._rng.integers(1, PACKET_NUMBERS))) % PACKET_NUMBERS
        else:
            number = int(copy[6]) * 256 + int(copy[7]) + int(self._rng.integers(1, FRAME_NUMBERS))
            copy[6:8] = divmod(number % FRAME_NUMBERS, 256)
        return copy
