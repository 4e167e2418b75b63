"""Positions between pixels: the probe is moved by the fraction, in Fourier space, and the windows stay on the grid.

The fractions are taken in steps of 1/`SolverSettings.subpixel` pixel, so that frames of one batch share a moved
probe; each frame names its own by a number.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.solver import kernels

__all__ = ["MovedProbe", "finer", "largest_nearby", "light_around", "lines_of", "ramps", "steps_of", "turn"]


RINGING = np.float32(0.25)
"""Part of the largest Σ |O|² that the step of a probe is divided by at least, where it was moved by fractions of a
pixel: what a bright pixel of the object asks of the probe is then spread along rows and columns, and up to so much of
its energy falls where |O| may be small.  Without, one such pixel let the probe grow a hundredfold in a batch."""

FINER = 4
"""Steps within each of `SolverSettings.subpixel` in passes that average noise.  400 simulated frames of 64² with 1e6
photons each, anywhere between pixels, were left with an error of 0.0196 by quarters alone, of 0.0098 where passes
without momentum had sixteenths, and of 0.0080 where all last passes had, each of which takes half as long again; with
1e5 photons, of 0.028 and 0.022."""


def finer(subpixel: int) -> int:
    """Return the steps of a pixel in passes that average noise; whole pixels stay whole."""
    return FINER * subpixel if subpixel > 1 else 1


def steps_of(shifts_px: npt.NDArray[np.floating[Any]], subpixel: int) -> npt.NDArray[np.int64]:
    """Return shifts (n, 2) in whole steps of 1/`subpixel` pixel."""
    return np.asarray(np.rint(shifts_px * subpixel), np.int64)


def ramps(xp: Any, shifts_px: Any, side: int) -> Any:
    """Return exp(−2πi q·s) (n, N, N) complex64, FFT order, for shifts (n, 2: row, column) in pixels."""
    turns = -2j * np.pi * np.asarray(shifts_px)[:, :, None] * np.fft.fftfreq(side)
    lines = xp.asarray(np.exp(turns).astype(np.complex64))
    return lines[:, 0, :, None] * lines[:, 1, None, :]


@lru_cache(maxsize=4096)
def _line(step: int, subpixel: int, side: int) -> npt.NDArray[np.complex64]:
    return np.asarray(np.exp(-2j * np.pi * step / subpixel * np.fft.fftfreq(side)), np.complex64)


def lines_of(steps: npt.NDArray[np.int64], subpixel: int, side: int) -> npt.NDArray[np.complex64]:
    """Return what `ramps` are made of for shifts (n, 2) in steps: a line for the rows and one for the columns each.

    Returns
    -------
    (n, 2, N) complex64
    """
    return np.array([[_line(step, subpixel, side) for step in pair] for pair in steps.tolist()])


def turn(backend: Backend, spectra: Any, lines: npt.NDArray[np.complexfloating[Any, Any]]) -> Any:
    """Multiply spectra (n, modes, N, N) by the product of a line for the rows and one for the columns each.

    `lines` (n or 1, 2, N) are in host memory; the spectra are overwritten and returned.
    """
    both = backend.from_numpy(lines.astype(spectra.dtype, order="C", copy=False))
    if backend.on_device:
        spectra *= both[:, 0, None, :, None]
        spectra *= both[:, 1, None, None, :]
    else:
        kernels.multiply_lines(spectra, both)
    return spectra


def light_around(backend: Backend, light: Any) -> Any:
    """Return what sums that were moved by fractions of a pixel are divided by, for Σ |O|² (N, N): never far below it.

    What was moved back lies beside the |O|² that belong to it, and rings far from them.
    """
    xp = backend.xp
    nearby = largest_nearby(xp, light) if backend.on_device else kernels.largest_nearby(light, np.empty_like(light))
    return xp.maximum(nearby, RINGING * light.max())


def largest_nearby(xp: Any, image: Any) -> Any:
    """Return the largest value of each pixel (H, W) and its eight neighbours; opposite rims touch."""
    tall = xp.maximum(image, xp.maximum(xp.roll(image, 1, axis=0), xp.roll(image, -1, axis=0)))
    return xp.maximum(tall, xp.maximum(xp.roll(tall, 1, axis=1), xp.roll(tall, -1, axis=1)))


class MovedProbe:
    """A probe moved by the fractions of some frames, and the way back for what is summed with it.

    Parameters
    ----------
    backend : Backend
    probe : (modes, N, N) complex64
    field : (modes, N, N) complex64
        Its Fourier transform.
    steps : (n, 2) int
        Shift of each frame in steps of 1/`subpixel` pixel, equal ones in a row: each row of them shares a probe.
    subpixel : int

    Attributes
    ----------
    probes : (k, modes, N, N) complex64
        The probe, once for each row of equal shifts.
    which : (n,) int
        Which of them is that of each frame.
    """

    def __init__(self, backend: Backend, probe: Any, field: Any, steps: npt.NDArray[np.int64], subpixel: int) -> None:
        self._backend = backend
        self._lines: Any = None
        if not steps.any():
            self.which = np.zeros(len(steps), np.int64)
            self.probes = probe[None]
            return
        begins = np.concatenate([[True], (steps[1:] != steps[:-1]).any(axis=1)])
        self.which = begins.cumsum() - 1
        self._lines = lines_of(steps[begins], subpixel, probe.shape[-1])
        self._lines[:, 0] /= probe.shape[-1]  # the factor of unitary transforms, which those here go without
        self.probes = backend.ifft2(self._spread(field), unitary=False)

    def back(self, sums: Any) -> Any:
        """Return Σ_k of `sums` (k, modes, N, N), each moved back by its shift, (modes, N, N); overwrites `sums`."""
        if self._lines is None:
            return sums[0]
        return self._backend.ifft2(self._gathered(self._backend.fft2(sums, unitary=False)))

    def _spread(self, field: Any) -> Any:
        """Return the field (k, modes, N, N) as it is with each shift."""
        backend, xp = self._backend, self._backend.xp
        spectra = xp.empty((len(self._lines), *field.shape), field.dtype)
        if backend.on_device:
            spectra[...] = field
            return turn(backend, spectra, self._lines)
        kernels.spread_lines(field, self._lines.astype(field.dtype, copy=False), spectra)
        return spectra

    def _gathered(self, spectra: Any) -> Any:
        """Return the sum of fields (k, modes, N, N), each without its shift."""
        backend, lines = self._backend, self._lines.conj()
        if backend.on_device:
            return turn(backend, spectra, lines).sum(axis=0)
        total = np.empty(spectra.shape[1:], spectra.dtype)
        kernels.gather_lines(spectra, lines.astype(spectra.dtype, copy=False), total)
        return total
