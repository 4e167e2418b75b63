"""The order in which the Fast CCD sends the words of a raw frame, and back.

The sensor's 192 ADCs are read at the same time, one word of each per clock.  The stream is therefore the array
``S[t, s]`` of big-endian 16-bit words, with clock ``t = columns_per_adc · row + column`` of an ADC and channel ``s``
as sent.  ADC ``k`` comes on channel ``s(k) = 16·(11 − k mod 12) + g mod 4 + 4·(3 − g // 4)`` with ``g = k // 12``.
ADCs 96…191 are the top half of the image, ADCs 0…95 the bottom half, turned by 180°.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.layout import FCCDLayout
from nsbluesky.compiled import njit

__all__ = ["NUM_ADCS", "channels_as_sent", "descramble", "scramble", "stream_bytes"]

NUM_ADCS = 192
Words = npt.NDArray[np.uint16]


def channels_as_sent() -> npt.NDArray[np.int64]:
    """Return the channel s(k) of each ADC k, (192,) int64."""
    k = np.arange(NUM_ADCS)
    g = k // 12
    return 16 * (11 - k % 12) + g % 4 + 4 * (3 - g // 4)


def stream_bytes(layout: FCCDLayout) -> int:
    """Return the length of a frame's stream in bytes.

    Raises
    ------
    ValueError
        For a layout that is not two equal halves of 96 ADCs, which this camera does not send.
    """
    rows, halves = layout.rows, layout.halves
    if layout.adcs_per_half != NUM_ADCS // 2 or rows % 2 or halves != ((0, rows // 2), (rows // 2, rows)):
        raise ValueError(
            f"frames of {layout.rows} × {layout.columns} with {layout.adcs_per_half} ADCs side by side: the camera "
            f"sends two equal halves of {NUM_ADCS // 2} ADCs"
        )
    return 2 * layout.rows * layout.columns


def descramble(stream: npt.NDArray[np.uint8], layout: FCCDLayout, out: Words | None = None) -> Words:
    """Return the raw frame in a stream.

    Parameters
    ----------
    stream : (bytes,) uint8
        As the camera sends it: big-endian words.
    layout : FCCDLayout
    out : (rows, columns) uint16, optional
        Where to put the frame.

    Returns
    -------
    frame : (rows, columns) uint16
        As `nsbluesky.cleaning.layout` describes it, in the machine's byte order.
    """
    words = _words(stream, layout)
    if out is None:
        out = np.empty(layout.shape, np.uint16)
    elif out.shape != layout.shape or out.dtype != np.uint16 or not out.flags.c_contiguous:
        raise ValueError(f"out: {out.shape} {out.dtype}, expected contiguous {layout.shape} uint16")
    _to_frame(words, channels_as_sent().astype(np.uint64), layout.columns_per_adc, out)
    return out


def scramble(frame: Words, layout: FCCDLayout) -> npt.NDArray[np.uint8]:
    """Return the stream (bytes,) uint8 of a raw frame (rows, columns) uint16: the inverse of `descramble`."""
    if frame.shape != layout.shape:
        raise ValueError(f"frame of {frame.shape}: expected {layout.shape}")
    out = np.empty(stream_bytes(layout), np.uint8)
    source = np.ascontiguousarray(frame, dtype=np.uint16)
    _to_stream(source, channels_as_sent(), layout.columns_per_adc, _words(out, layout))
    return out


def _words(stream: npt.NDArray[np.uint8], layout: FCCDLayout) -> Words:
    size = stream_bytes(layout)
    if stream.shape != (size,) or stream.dtype != np.uint8 or not stream.flags.c_contiguous:
        raise ValueError(f"stream: {stream.shape} {stream.dtype}, expected ({size},) uint8 for {layout.shape}")
    return stream.view(np.uint16).reshape(-1, NUM_ADCS)


SWAP = np.dtype(np.uint16).newbyteorder("=") != np.dtype(">u2")
"""Whether this machine's byte order is not that of the stream."""


@njit(nogil=True, cache=True)
def _swapped(word: int) -> int:
    return ((word & 0xFF) << 8) | (word >> 8) if SWAP else word


@njit(nogil=True, cache=True)
def _to_frame(words: Words, channels: npt.NDArray[np.uint64], per_adc: int, frame: Words) -> None:
    rows, columns = frame.shape
    half = channels.size // 2
    for row in range(rows // 2):
        top, bottom = frame[row], frame[rows - 1 - row]
        for column in range(per_adc):
            sent = words[row * per_adc + column]
            for adc in range(half):
                place = np.uint64(adc * per_adc + column)  # an index without a sign is not looked at twice
                top[place] = _swapped(sent[channels[np.uint64(half + adc)]])
                bottom[np.uint64(columns - 1) - place] = _swapped(sent[channels[np.uint64(adc)]])


@njit(nogil=True, cache=True)
def _to_stream(frame: Words, channels: npt.NDArray[np.int64], per_adc: int, words: Words) -> None:
    rows, columns = frame.shape
    half = channels.size // 2
    for row in range(rows // 2):
        for adc in range(half):
            top, bottom = channels[half + adc], channels[adc]
            for column in range(per_adc):
                clock = row * per_adc + column
                place = adc * per_adc + column
                words[clock, top] = _swapped(frame[row, place])
                words[clock, bottom] = _swapped(frame[rows - 1 - row, columns - 1 - place])
