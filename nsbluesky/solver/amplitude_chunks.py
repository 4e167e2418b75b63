"""Measured amplitudes in memory: in chunks that are never moved, of half the bytes on request, beyond the device's.

What a device has no room for stays in pinned memory of the host, from where a batch's frames are sent when they are
used.  On a host there is one kind of memory; a limit puts later chunks beside it, by the same steps.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend, pinned
from nsbluesky.geometry import oriented

__all__ = ["CHUNK_FRAMES", "AmplitudeChunks"]

CHUNK_FRAMES = 64

RESERVE = 0.25
"""Part of a device's memory that frames leave to all else: waves, object, sums, transforms."""


class AmplitudeChunks:
    """√photons (N, N) by slot, FFT order.

    Parameters
    ----------
    frame_px : int
        Side N.
    backend : Backend
    half : bool
        Keep float16.  Amplitudes are rounded by 1/2048 of their value at most: 2 % of photon noise at 400
        photons a pixel, and as much as it at 10⁶.
    limit_bytes : int, optional
        Of frames on the backend's device; by default what a GPU has, but for `RESERVE`.
    """

    def __init__(
        self, frame_px: int, backend: Backend, *, half: bool = False, limit_bytes: int | None = None
    ) -> None:
        self._frame_px = frame_px
        self._backend = backend
        self._dtype = np.dtype(np.float16 if half else np.float32)
        self._limit_bytes = limit_bytes
        self._chunks: list[Any] = []
        self._beyond: list[bool] = []
        self._sent: Any = None

    @property
    def nbytes(self) -> int:
        """Bytes of all amplitudes."""
        return sum(int(chunk.nbytes) for chunk in self._chunks)

    @property
    def nbytes_beyond(self) -> int:
        """Bytes of those that the device had no room for."""
        return sum(int(chunk.nbytes) for chunk, beyond in zip(self._chunks, self._beyond, strict=True) if beyond)

    def reserve(self, size: int) -> None:
        """Have room for slots below `size`."""
        while size > CHUNK_FRAMES * len(self._chunks):
            self._add_chunk()

    def write(self, slot: int, amplitude: Any) -> None:
        """Keep the amplitudes (N, N) float32 of a slot for which there is room."""
        beyond = self._beyond[slot // CHUNK_FRAMES]
        self.stored(slot)[...] = self._backend.to_numpy(amplitude) if beyond else amplitude

    def stored(self, slot: int) -> Any:
        """Return the amplitudes (N, N) of a slot as they are kept and where they are kept."""
        return self._chunks[slot // CHUNK_FRAMES][slot % CHUNK_FRAMES]

    def read(self, slot: int) -> Any:
        """Return the amplitudes (N, N) float32 of a slot on the backend's device; not to be changed."""
        return self._backend.from_numpy(self.stored(slot)).astype(np.float32, copy=False)

    def copy(self, slots: npt.NDArray[np.intp], out: Any, scales: npt.NDArray[np.float32] | None = None) -> None:
        """Write the amplitudes of `slots` into the first rows of `out` (n, N, N) float32, on the backend's device.

        Each is multiplied by its number of `scales` (n,), where these are given.
        """
        beyond = []
        for row, slot in enumerate(slots.tolist()):
            if self._backend.on_device and self._beyond[slot // CHUNK_FRAMES]:
                beyond.append(row)
            elif scales is None:
                out[row] = self.stored(slot)
            else:
                self._backend.xp.multiply(self.stored(slot), scales[row], out=out[row])
        if beyond:
            self._send([int(slots[row]) for row in beyond], out, beyond)
            if scales is not None:
                rows = self._backend.xp.asarray(beyond)
                out[rows] *= self._backend.xp.asarray(scales[beyond])[:, None, None]

    def turn(self, orientation: int) -> None:
        """Flip and swap the axes of all frames, as in `nsbluesky.geometry.Geometry.orientation`."""
        for chunk, beyond in zip(self._chunks, self._beyond, strict=True):
            xp: Any = np if beyond else self._backend.xp
            turned = oriented(xp.fft.fftshift(chunk, axes=(1, 2)), orientation)
            chunk[...] = xp.fft.ifftshift(turned, axes=(1, 2))

    def _add_chunk(self) -> None:
        shape = (CHUNK_FRAMES, self._frame_px, self._frame_px)
        xp, beyond = self._backend.xp, self._is_full(math.prod(shape) * self._dtype.itemsize)
        self._chunks.append(pinned(xp, shape, self._dtype) if beyond else xp.zeros(shape, self._dtype))
        self._beyond.append(beyond)

    def _is_full(self, more_bytes: int) -> bool:
        """Return whether so many bytes more have no room on the device."""
        if self._limit_bytes is not None:
            return self.nbytes - self.nbytes_beyond + more_bytes > self._limit_bytes
        if not self._backend.on_device:
            return False
        xp = self._backend.xp
        free, total = xp.cuda.runtime.memGetInfo()
        return bool(free + xp.get_default_memory_pool().free_bytes() - more_bytes < RESERVE * total)

    def _send(self, slots: list[int], out: Any, rows: list[int]) -> None:
        """Send frames of the host to rows of `out` in one piece."""
        xp = self._backend.xp
        if self._sent is None or len(self._sent) < len(slots):
            self._sent = pinned(xp, (len(slots), self._frame_px, self._frame_px), self._dtype)
        xp.cuda.get_current_stream().synchronize()  # what was sent before has arrived
        for place, slot in enumerate(slots):
            self._sent[place] = self.stored(slot)
        arrived = xp.empty((len(slots), self._frame_px, self._frame_px), self._dtype)
        arrived.set(self._sent[: len(slots)])
        out[xp.asarray(rows)] = arrived
