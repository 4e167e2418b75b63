"""Coarse to fine: the central half of the detector first, as frames of half the side and twice the object pixel.

Low frequencies of object and probe settle slowest, and cost as much as all others on whole frames.  On the central
half a pass costs a quarter, a pixel of the object is twice as wide, and each window spans as much of the sample as
before; so slow errors go first, at little cost.  What it found is then put on the fine grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.hold_out import HoldOut
from nsbluesky.solver.propagation import FarField
from nsbluesky.solver.spectra import centre_of, corners_of_spectrum
from nsbluesky.solver.state import SolverState

__all__ = ["CentralHalf", "Derived", "can_be_halved", "central_light", "coarsened", "refined"]


def can_be_halved(frame_px: int) -> bool:
    """Return whether frames of that side have a central half whose own centre is a pixel."""
    return frame_px % 4 == 0


def central_light(mean_intensity: npt.NDArray[Any]) -> float:
    """Return the part of the photons of a pattern (N, N), FFT order, that falls on the central half."""
    total = float(mean_intensity.sum())
    return float(centre_of(np, mean_intensity).sum()) / total if total > 0 else 0.0


class Derived:
    """A column that follows from those of the whole frames."""

    def __init__(self, value_of: Callable[[Any], npt.NDArray[Any]], sources: tuple[Any, ...]) -> None:
        self._value_of = value_of
        self._sources = sources

    @property
    def version(self) -> tuple[Any, ...]:
        """Another one after each change of those, and than that of any other column."""
        return id(self), *(source.version for source in self._sources)

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Return the values for slots."""
        return self._value_of(index)


class CentralHalf(FrameStore):
    """The central halves of the frames of a store, for reading; slots, weights and uses are those of the store.

    Parameters
    ----------
    whole : FrameStore
    """

    def __init__(self, whole: FrameStore) -> None:
        self._whole = whole
        self._amplitudes = whole._amplitudes
        self._good_of: tuple[Any, Any] = (None, None)
        self._hold_out_of: tuple[HoldOut | None, HoldOut | None] = (None, None)
        self.frame_px = whole.frame_px // 2
        self.backend = whole.backend
        self.propagator = FarField(whole.backend)
        self.slots, self.seq_nums = whole.slots, whole.seq_nums
        self.weights, self.uses = whole.weights, whole.uses
        self.flux, self.backgrounds, self.variation = whole.flux, whole.backgrounds, whole.variation
        self.suspended, self.misfits = whole.suspended, whole.misfits
        self.residuals, self.light_sums = whole.residuals, whole.light_sums
        self.photons, self.amplitude_sums = whole.central_photons, whole.central_amplitude_sums
        places = whole.corners_px, whole.shifts_px
        self.corners_px = Derived(lambda index: self._corners(index), places)  # type: ignore[assignment]
        self.shifts_px = Derived(  # type: ignore[assignment]
            lambda index: self._positions(index) - self._corners(index), places
        )

    @property
    def whole(self) -> FrameStore:
        """The whole frames."""
        return self._whole

    @property
    def good(self) -> Any:
        """Usable pixels (N/2, N/2)."""
        whole, centre = self._good_of
        if whole is not self._whole.good:
            whole = self._whole.good
            centre = centre_of(self.backend.xp, whole)
            self._good_of = (whole, centre)  # one assignment, for several threads read this
        return centre

    @property
    def hold_out(self) -> HoldOut | None:  # type: ignore[override]
        """Which of the central pixels are held out."""
        whole, centre = self._hold_out_of
        if whole is not self._whole.hold_out:
            whole = self._whole.hold_out
            centre = None if whole is None else HoldOut(centre_of(self.backend.xp, whole.numbers), whole.count)
            self._hold_out_of = (whole, centre)
        return centre

    @property
    def has_gaps(self) -> bool:
        """Whether `amplitudes` of any frame may be those of a pixel that is not used."""
        return self._whole.has_gaps

    def _positions(self, index: Any) -> npt.NDArray[np.float64]:
        """Return the first row and column of windows, in coarse pixels and with fractions."""
        return np.asarray(self._whole.places_px(index) / 2)

    def _corners(self, index: Any) -> npt.NDArray[np.int64]:
        return np.rint(self._positions(index)).astype(np.int64)

    def amplitude(self, slot: int) -> Any:
        """Return the central amplitudes (N/2, N/2) float32 of a slot, FFT order."""
        return centre_of(self.backend.xp, super().amplitude(slot))

    def mean_intensity(self, slots: npt.NDArray[np.intp]) -> Any:
        """Return the mean photons (N/2, N/2), FFT order."""
        return centre_of(self.backend.xp, self._whole.mean_intensity(slots))


def coarsened(backend: Backend, probe: Any) -> Any:
    """Return a centred probe (modes, N, N) on pixels of twice the width (modes, N/2, N/2)."""
    return backend.ifft2(centre_of(backend.xp, backend.fft2(probe.copy())))


def refined(backend: Backend, state: SolverState) -> SolverState:
    """Return a coarse state on the fine grid, with no passes yet: object interpolated, spectrum of the probe wider.

    Pixel i of the fine grid lies at i/2 on the coarse one, for the object as for the probe, whose centre N/2 lies
    at N/4.
    """
    xp = backend.xp
    fine = xp.stack([_with_midpoints(xp, _with_midpoints(xp, canvas).T).T for canvas in state.objects])
    rim = ((0, 0), (1, 1), (1, 1))  # a fine window may begin a pixel before its coarse one, or end after it
    padded = xp.ascontiguousarray(xp.pad(fine, rim, mode="edge"))  # along rows, as all loops over it go
    return SolverState(
        padded.reshape(*state.object.shape[:-2], *padded.shape[1:]),
        _widened(backend, state.probe),
        (2 * state.origin_px[0] - 1, 2 * state.origin_px[1] - 1),
        state.background,
        passes=0,
        r_factor=state.r_factor,
        variation=None if state.variation is None else _widened(backend, state.variation),
    )


def _widened(backend: Backend, probe: Any) -> Any:
    """Return a centred probe (modes, N, N) on pixels of half the width (modes, 2N, 2N)."""
    spectrum = backend.fft2(probe.copy())
    modes, side, _ = spectrum.shape
    wide = backend.xp.zeros((modes, 2 * side, 2 * side), np.complex64)
    for rows, columns in corners_of_spectrum(side):
        wide[:, rows, columns] = spectrum[:, rows, columns]
    return backend.ifft2(wide)


def _with_midpoints(xp: Any, image: Any) -> Any:
    """Return (2H, W): the rows of an image (H, W) and, after each, the cubic between it and the next."""
    padded = xp.pad(image, ((1, 2), (0, 0)), mode="edge")
    fine = xp.empty((2 * len(image), image.shape[1]), image.dtype)
    fine[::2] = image
    fine[1::2] = (9 * (padded[1:-2] + padded[2:-1]) - padded[:-3] - padded[3:]) / 16
    return fine
