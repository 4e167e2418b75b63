"""The place of each packet in its frame: compiled, as 85,000 packets come in a second.

The packet number has 8 bits and wraps within a frame.  The place is the one nearest to where the packets before
ended; where that is taken by another packet, the next one of the same number.  A single packet far out of line never
moves that point on: two in a row do.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nsbluesky.camera.packets import HEADER_BYTES
from nsbluesky.compiled import njit

__all__ = ["place_packets"]

CURSOR, GOT, LATE, DOUBLED, CONFLICTS, ENDED, JUMP, SKIPPED, STATE_SIZE = range(9)
"""The state of a frame: next place expected, packets placed, late, doubled, in conflict; whether the end marker came;
the place that would confirm a jump; packets placed while one before them was missing."""

IN_LINE = 16
"""Packets that may be lost in a row before the ones after them need confirmation."""
NEAR = 8
"""Within this many places of the expected one a different packet is a conflict, not one of the next wrap."""

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


@njit(nogil=True, cache=True)
def _same(datagram: Bytes, stream: Bytes, at: int, length: int) -> bool:
    for k in range(length):  # noqa: SIM110 - compiled: a generator would be slower
        if datagram[HEADER_BYTES + k] != stream[at + k]:
            return False
    return True


@njit(nogil=True, cache=True)
def _copy(source: Bytes, target: Bytes) -> None:
    for k in range(source.size):  # compiled to a copy of whole words, which ``target[:] = source`` is not
        target[k] = source[k]


@njit(nogil=True, cache=True)
def _find_place(
    datagram: Bytes,
    size: int,
    payload: int,
    last_size: int,
    stream: Bytes,
    filled: npt.NDArray[np.bool_],
    cursor: int,
) -> tuple[int, int]:
    """Return the place of a packet and 0; −1 and DOUBLED or CONFLICTS where there is none."""
    n = filled.size
    nearest = cursor + (int(datagram[0]) - cursor + 128) % 256 - 128
    for step in range(2 * (n // 256 + 2)):
        wraps = (step + 1) // 2 if step % 2 else -(step // 2)
        place = nearest + 256 * wraps
        expected = last_size if place == n - 1 else payload + HEADER_BYTES
        if not 0 <= place < n or size != expected:
            continue
        if not filled[place]:
            return place, 0
        if _same(datagram, stream, place * payload, size - HEADER_BYTES):
            return -1, DOUBLED
        if abs(place - cursor) <= NEAR:
            break
    return -1, CONFLICTS


@njit(nogil=True, cache=True)
def place_packets(
    datagrams: Bytes,
    sizes: Ints,
    header: int,
    payload: int,
    last_size: int,
    stream: Bytes,
    filled: npt.NDArray[np.bool_],
    state: Ints,
) -> int:
    """Put the packets of one frame into its stream, up to the first datagram that is none of it.

    Parameters
    ----------
    datagrams : (n, width) uint8
    sizes : (n,) int64
    header : int
        The frame's number in 16 bits.
    payload, last_size : int
        Bytes of a full payload, and of the frame's last packet with its header.
    stream : (frame_bytes,) uint8
        Written.
    filled : (num_packets,) bool
        Which packets are there; written.
    state : (8,) int64
        Written.

    Returns
    -------
    taken : int
        How many datagrams were packets of the frame.
    """
    for k in range(sizes.size):
        row, size = datagrams[k], sizes[k]
        if size != payload + HEADER_BYTES and size != last_size:
            return k
        if row[1] != 0xF0 or row[2] != 0xF1 or row[3] != 0xF2 or row[4] != 0xF3 or row[5] != 0xF4:
            return k
        if row[6] != header >> 8 or row[7] != header & 0xFF:
            return k
        cursor = int(state[CURSOR])
        place, problem = _find_place(row, size, payload, last_size, stream, filled, cursor)
        if place < 0:
            state[problem] += 1
            continue
        if place != state[GOT]:
            state[SKIPPED] += 1
        at = place * payload
        _copy(row[HEADER_BYTES:size], stream[at : at + size - HEADER_BYTES])
        filled[place] = True
        state[GOT] += 1
        if place < cursor or state[ENDED]:
            state[LATE] += 1
        if cursor <= place <= cursor + IN_LINE or (place == state[JUMP] and place > cursor):
            state[CURSOR] = place + 1
        state[JUMP] = place + 1
    return sizes.size
