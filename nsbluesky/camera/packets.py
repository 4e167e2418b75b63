"""How the Fast CCD cuts a frame's stream into UDP datagrams.

Every packet has a header of 8 bytes, ``!BBHHH``: the packet's number in its frame (8 bits, wraps), 0xF0, 0xF1F2,
0xF3F4 and the frame's number (16 bits, wraps); then its payload.  The last packet of a frame carries what is left.
The end of a frame is a datagram of its own, the 8 bytes F0 F1 F2 DE AD F0 0D 01, which names no frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "END_OF_FRAME",
    "FRAME_NUMBERS",
    "HEADER_BYTES",
    "PACKET_NUMBERS",
    "PacketFormat",
    "has_magic",
    "is_packet",
]

HEADER_BYTES = 8
END_OF_FRAME = bytes.fromhex("F0F1F2DEADF00D01")
PACKET_NUMBERS = 256
FRAME_NUMBERS = 65536
MAGIC = np.frombuffer(bytes.fromhex("F0F1F2F3F4"), np.uint8)
MAX_PAYLOAD = 65507 - HEADER_BYTES

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PacketFormat:
    """How a frame of `frame_bytes` is cut.

    Attributes
    ----------
    frame_bytes : int
        Length of a frame's stream.
    payload_bytes : int
        Of each packet but the last: 4096 at COSMIC, 8184 with jumbo frames.
    """

    frame_bytes: int
    payload_bytes: int = 4096

    def __post_init__(self) -> None:
        """Check that the numbers fit together."""
        if self.frame_bytes < 1:
            raise ValueError(f"frame_bytes = {self.frame_bytes}: expected at least 1")
        if self.frame_bytes % 2:
            raise ValueError(f"frame_bytes = {self.frame_bytes}: expected an even number, 16-bit words")
        if not 8 <= self.payload_bytes <= MAX_PAYLOAD or self.payload_bytes % 2:
            raise ValueError(
                f"payload_bytes = {self.payload_bytes}: expected an even number from 8 to {MAX_PAYLOAD}, "
                "16-bit words in a UDP datagram"
            )

    @property
    def num_packets(self) -> int:
        """Packets of a frame."""
        return -(-self.frame_bytes // self.payload_bytes)

    @property
    def packet_bytes(self) -> int:
        """Length of a full packet, header included."""
        return HEADER_BYTES + self.payload_bytes

    @property
    def last_packet_bytes(self) -> int:
        """Length of the last packet, header included."""
        return HEADER_BYTES + self.frame_bytes - (self.num_packets - 1) * self.payload_bytes

    def packets(self, stream: Bytes, frame_number: int, out: Bytes | None = None) -> Bytes:
        """Return a frame's packets, (num_packets, packet_bytes) uint8; of the last, `last_packet_bytes` count."""
        if stream.shape != (self.frame_bytes,):
            raise ValueError(f"stream of {stream.shape}: expected ({self.frame_bytes},)")
        n = self.num_packets
        packets = np.zeros((n, self.packet_bytes), np.uint8) if out is None else out
        packets[:, 0] = np.arange(n) % PACKET_NUMBERS
        packets[:, 1:6] = MAGIC
        packets[:, 6:8] = divmod(frame_number % FRAME_NUMBERS, 256)
        full = (n - 1) * self.payload_bytes
        packets[:-1, HEADER_BYTES:] = stream[:full].reshape(n - 1, self.payload_bytes)
        packets[-1, HEADER_BYTES : self.last_packet_bytes] = stream[full:]
        return packets


def has_magic(datagrams: Bytes) -> npt.NDArray[np.bool_]:
    """Return which datagrams (n, width) have the constants of a packet's header, (n,) bool."""
    found: npt.NDArray[np.bool_] = (datagrams[:, 1:6] == MAGIC).all(axis=1)
    return found


def is_packet(datagrams: Bytes, sizes: npt.NDArray[np.integer], form: PacketFormat) -> npt.NDArray[np.bool_]:
    """Return which datagrams (n, width) have the length and the constants of a packet, (n,) bool."""
    right_size: npt.NDArray[np.bool_] = (sizes == form.packet_bytes) | (sizes == form.last_packet_bytes)
    return right_size & has_magic(datagrams)
