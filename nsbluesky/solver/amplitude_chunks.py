"""Measured amplitudes in memory: in chunks that are never moved, of half the bytes on request, beyond the device's.

What a device has no room for stays in pinned memory of the host, where its kernels read it over the bus.  On a host
there is one kind of memory; a limit puts later chunks beside it, by the same steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend, address_of, pinned
from nsbluesky.geometry import oriented
from nsbluesky.solver import amplitude_loops
from nsbluesky.solver.spectra import copy_centre

__all__ = ["AmplitudeChunks"]

CHUNK_BYTES = 2**26
LEAST_FRAMES = 16
"""Of a chunk, whatever their size."""

HALF_MOST = float(np.finfo(np.float16).max)

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
    chunk_bytes : int
        Of a chunk.  Where it holds no frame yet, a host has not given it any memory.
    """

    def __init__(
        self,
        frame_px: int,
        backend: Backend,
        *,
        half: bool = False,
        limit_bytes: int | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._frame_px = frame_px
        self._backend = backend
        self._dtype = np.dtype(np.float16 if half else np.float32)
        self._frame_bytes = frame_px * frame_px * self._dtype.itemsize
        self._limit_bytes = limit_bytes
        self._chunk_frames = max(LEAST_FRAMES, chunk_bytes // self._frame_bytes)
        self._size = 0
        self._chunks: list[Any] = []
        self._beyond: list[bool] = []
        self._addresses = np.empty(0, np.uint64)

    @property
    def nbytes(self) -> int:
        """Bytes of all amplitudes."""
        return self._size * self._frame_bytes

    def reserve(self, size: int) -> None:
        """Have room for slots below `size`."""
        self._size = max(self._size, size)
        while size > self._chunk_frames * len(self._chunks):
            self._add_chunk()

    def check(self, amplitudes: Any) -> None:
        """Raise a ValueError where amplitudes are too large for half precision: they would be infinite."""
        if self.is_half and bool((amplitudes > HALF_MOST).any()):
            raise ValueError(
                f"{float(amplitudes.max()) ** 2:.3g} photons on a pixel: expected at most {HALF_MOST**2:.3g} with "
                "half_precision_frames; leave it off, or scale the frames if they are no photons"
            )

    def write(self, slot: int, amplitude: Any) -> None:
        """Keep the amplitudes (N, N) float32 of a slot for which there is room."""
        beyond = self._beyond[slot // self._chunk_frames]
        self.stored(slot)[...] = self._backend.to_numpy(amplitude) if beyond else amplitude

    def rounded(self, amplitudes: Any) -> Any:
        """Return amplitudes float32 as they are once they were kept."""
        return amplitudes.astype(self._dtype, copy=False).astype(np.float32, copy=False)

    def stored(self, slot: int) -> Any:
        """Return the amplitudes (N, N) of a slot as they are kept and where they are kept."""
        return self._chunks[slot // self._chunk_frames][slot % self._chunk_frames]

    def read(self, slot: int) -> Any:
        """Return the amplitudes (N, N) float32 of a slot on the backend's device; not to be changed."""
        return self._backend.from_numpy(self.stored(slot)).astype(np.float32, copy=False)

    def copy(
        self,
        slots: npt.NDArray[np.intp],
        out: Any,
        scales: npt.NDArray[np.float32],
        backgrounds: npt.NDArray[np.float32],
    ) -> None:
        """Write the amplitudes of `slots` into the first rows of `out` (n, M, M) float32; on a host.

        Where M is less than N, these are the lowest frequencies.  Each frame is multiplied by its number of `scales`
        (n,), and then has its photons of `backgrounds` (n,) less.
        """
        chunks, places = np.divmod(slots, self._chunk_frames)
        numbers = set(chunks.tolist())
        for number in numbers:
            rows = np.flatnonzero(chunks == number) if len(numbers) > 1 else np.arange(len(slots))
            spectra, here = self._chunks[number], places[rows]
            if self.is_half:  # which loops do not take
                for row, place in zip(rows.tolist(), here.tolist(), strict=True):
                    copy_centre(spectra[place], out[row])
                spectra, here = out, rows
            amplitude_loops.copy_centres(spectra, here, rows, scales, backgrounds, out)

    @property
    def is_half(self) -> bool:
        """Whether float16 is kept."""
        return self._dtype == np.float16

    @property
    def side(self) -> int:
        """Side N of what is kept of a frame."""
        return self._frame_px

    def addresses(self, slots: npt.NDArray[np.intp]) -> npt.NDArray[np.uint64]:
        """Return where the amplitudes of `slots` lie (n,), in memory that the backend's device reads by itself.

        Pinned memory of the host is read over the bus.
        """
        chunks, places = np.divmod(slots, self._chunk_frames)
        return self._addresses[chunks] + (places * self._frame_bytes).astype(np.uint64)

    def turn(self, orientation: int) -> None:
        """Flip and swap the axes of all frames, as in `nsbluesky.geometry.Geometry.orientation`."""
        for chunk, beyond in zip(self._chunks, self._beyond, strict=True):
            xp: Any = np if beyond else self._backend.xp
            turned = oriented(xp.fft.fftshift(chunk, axes=(1, 2)), orientation)
            chunk[...] = xp.fft.ifftshift(turned, axes=(1, 2))

    def _add_chunk(self) -> None:
        shape = (self._chunk_frames, self._frame_px, self._frame_px)
        xp, beyond = self._backend.xp, self._is_full(self._chunk_frames * self._frame_bytes)
        self._chunks.append(pinned(xp, shape, self._dtype) if beyond else xp.zeros(shape, self._dtype))
        self._beyond.append(beyond)
        self._addresses = np.append(self._addresses, np.uint64(address_of(self._chunks[-1])))

    def _is_full(self, more_bytes: int) -> bool:
        """Return whether so many bytes more have no room on the device."""
        if self._limit_bytes is not None:
            return (self._beyond.count(False) + 1) * more_bytes > self._limit_bytes
        if not self._backend.on_device or self._backend.xp is np:
            return False
        xp = self._backend.xp
        free, total = xp.cuda.runtime.memGetInfo()
        return bool(free + xp.get_default_memory_pool().free_bytes() - more_bytes < RESERVE * total)
