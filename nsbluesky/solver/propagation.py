"""From the exit wave to the detector and back: far field or near field, as the geometry says.

Both are unitary, so that the way back is the adjoint as well: what gradients need.  Waves lie centred on N//2, fields
on the detector have that pixel first ("FFT order"), as measured amplitudes are kept; so all that works on the
detector is the same for both.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.geometry import Geometry
from nsbluesky.solver.shifts import turn

__all__ = ["FarField", "NearField", "Propagator", "make_propagator", "propagator_of"]

Shifts = npt.NDArray[np.float64] | None
"""What is left of a pixel (n, 2: row, column) of the frames' places; None where they lie on whole pixels.  Exit waves
are made of windows on whole pixels and a probe that is moved by the rest against them, so they lie that far from
where they should.  No intensity in the far field can tell; in the near field they are moved back."""


class Propagator(Protocol):
    """What waves (n, modes, N, N) become on the detector."""

    @property
    def is_far(self) -> bool:
        """Whether the detector sees the Fourier transform."""

    def forward(self, waves: Any, shifts_px: Shifts = None) -> Any:
        """Return the fields on the detector; `waves` may be overwritten."""

    def back(self, fields: Any, shifts_px: Shifts = None) -> Any:
        """Return the exit waves of fields; `fields` may be overwritten."""

    def propagate(self, waves: Any, shifts_px: Shifts = None) -> tuple[Any, float]:
        """Return the fields on the detector but for a factor, and that; `waves` may be overwritten.

        The factor of a Fourier transform is a pass over all fields, which whoever reads them next saves.
        """

    def propagate_back(self, fields: Any, shifts_px: Shifts = None) -> Any:
        """Return the exit waves of fields but for the same factor; `fields` may be overwritten."""

    def with_slopes(self, waves: Any, modes: int, shifts_px: Shifts = None) -> Any:
        """Return fields, and their derivatives by the place of the frame.

        Parameters
        ----------
        waves : (n, modes or 3·modes, N, N) complex
            Exit waves, and where wanted those with the derivatives of the probe by the rest of a pixel along rows and
            columns in its place; may be overwritten.
        modes : int
        shifts_px : (n, 2) float64, optional
        """


class FarField:
    """The Fourier transform of the exit wave."""

    is_far = True

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def forward(self, waves: Any, shifts_px: Shifts = None) -> Any:
        """Return the fields on the detector; `waves` may be overwritten."""
        return self._backend.fft2(waves)

    def back(self, fields: Any, shifts_px: Shifts = None) -> Any:
        """Return the exit waves of fields; `fields` may be overwritten."""
        return self._backend.ifft2(fields)

    def propagate(self, waves: Any, shifts_px: Shifts = None) -> tuple[Any, float]:
        """Return the fields but for a factor, and that; `waves` may be overwritten."""
        return self._backend.fft2(waves, unitary=False), waves.shape[-1] ** -1

    def propagate_back(self, fields: Any, shifts_px: Shifts = None) -> Any:
        """Return the exit waves but for the same factor; `fields` may be overwritten."""
        return self._backend.ifft2(fields, unitary=False)

    def with_slopes(self, waves: Any, modes: int, shifts_px: Shifts = None) -> Any:
        """Return the fields of waves and derivatives, which move with the probe alone."""
        return self._backend.fft2(waves)


class NearField:
    """Fresnel propagation of the exit wave: its spectrum times exp(−iπ·spread·|f|²).

    This is a line for the rows times one for the columns (Goodman, Introduction to Fourier Optics, eq. 4-21).

    Parameters
    ----------
    backend : Backend
    frame_px : int
        Side N.
    spread_px : float
        λ·z/dx², at most N (`nsbluesky.geometry.Geometry.spread_px`).
    """

    is_far = False

    def __init__(self, backend: Backend, frame_px: int, spread_px: float) -> None:
        self._backend = backend
        frequency = np.fft.fftfreq(frame_px)
        self._frequency = frequency
        # the pixel N//2 comes first
        self._line = np.exp(-1j * np.pi * spread_px * frequency**2 + 2j * np.pi * (frame_px // 2) * frequency)

    def forward(self, waves: Any, shifts_px: Shifts = None) -> Any:
        """Return the fields on the detector; `waves` may be overwritten."""
        return self._turned(self._backend.fft2(waves), self._lines(shifts_px))

    def back(self, fields: Any, shifts_px: Shifts = None) -> Any:
        """Return the exit waves of fields; `fields` may be overwritten."""
        return self._turned(self._backend.fft2(fields), self._lines(shifts_px).conj())

    def propagate(self, waves: Any, shifts_px: Shifts = None) -> tuple[Any, float]:
        """Return the fields, and 1; `waves` may be overwritten."""
        return self.forward(waves, shifts_px), 1.0

    def propagate_back(self, fields: Any, shifts_px: Shifts = None) -> Any:
        """Return the exit waves; `fields` may be overwritten."""
        return self.back(fields, shifts_px)

    def with_slopes(self, waves: Any, modes: int, shifts_px: Shifts = None) -> Any:
        """Return the fields of waves and derivatives, which move with the probe and are moved back."""
        spectrum = self._backend.fft2(waves)
        if spectrum.shape[1] > modes:
            slope = self._backend.from_numpy((2j * np.pi * self._frequency).astype(spectrum.dtype))
            spectrum[:, modes : 2 * modes] += slope[:, None] * spectrum[:, :modes]
            spectrum[:, 2 * modes :] += slope * spectrum[:, :modes]
        return self._turned(spectrum, self._lines(shifts_px))

    def _lines(self, shifts_px: Shifts) -> npt.NDArray[np.complex128]:
        """Return what rows and columns of spectra are multiplied by, (n or 1, 2, N)."""
        if shifts_px is None:
            return np.broadcast_to(self._line, (1, 2, len(self._line)))
        return np.asarray(self._line * np.exp(2j * np.pi * np.asarray(shifts_px)[:, :, None] * self._frequency))

    def _turned(self, spectrum: Any, lines: npt.NDArray[np.complex128]) -> Any:
        return self._backend.ifft2(turn(self._backend, spectrum, lines))


def make_propagator(backend: Backend, frame_px: int, spread_px: float | None) -> Propagator:
    """Return the near field of that spread, or the far field where it is None."""
    return FarField(backend) if spread_px is None else NearField(backend, frame_px, spread_px)


def propagator_of(backend: Backend, geometry: Geometry, frame_px: int, pixel_m: float) -> Propagator:
    """Return what the geometry says, for frames of that side and that object pixel.

    Raises
    ------
    SettingsError
        Where the near field cannot be sampled by such frames.
    """
    spread_px = geometry.spread_px(frame_px, pixel_m) if geometry.is_near else None
    return make_propagator(backend, frame_px, spread_px)
