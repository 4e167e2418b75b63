"""The starting probe: the mean pattern's amplitude with a defocus phase, and weak further modes.

What decides the success of a reconstruction is the defocus of its starting probe (see `nsbluesky.solver.sweep`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nsbluesky.backend import Backend
from nsbluesky.geometry import Optic
from nsbluesky.solver.modes import probe_power
from nsbluesky.solver.propagation import Propagator

__all__ = [
    "blank_canvas",
    "centred_on",
    "defocus_candidates_m",
    "near_field_probe",
    "numerical_aperture",
    "propagated",
    "starting_probe",
    "with_modes",
    "with_states",
]

FAINT = 0.01
"""The mean pattern counts as dark below this part of its maximum."""

MODE_POWER = 0.05
"""Power of each further mode at the start, relative to the first."""


def _frequencies(side: int, pixel_m: float) -> tuple[Any, Any]:
    line = np.fft.fftfreq(side, pixel_m)
    return line[:, None], line[None, :]


def numerical_aperture(mean_intensity: Any, optic: Optic, wavelength_m: float, pixel_m: float) -> float:
    """Return the probe's numerical aperture: the optic's λ/(2Δr), or else from the mean pattern.

    Without an optic, the aperture is that of the uniform disc with the pattern's second moment, over pixels above
    5 % of its maximum (what a sample scatters is fainter).

    Parameters
    ----------
    mean_intensity : (N, N) float
        Mean photons, FFT order.
    optic : Optic
    wavelength_m, pixel_m : float
        Wavelength and object pixel.
    """
    if optic.outer_zone_m > 0:
        return wavelength_m / (2 * optic.outer_zone_m)
    rows, columns = _frequencies(len(mean_intensity), pixel_m)
    bright = _bright(mean_intensity, 0.05)
    row, column = _centroid(bright) / pixel_m
    second_moment = (bright * ((rows - row) ** 2 + (columns - column) ** 2)).sum() / bright.sum()
    return float(wavelength_m * max(math.sqrt(2 * second_moment), 1 / (len(mean_intensity) * pixel_m)))


def defocus_candidates_m(
    aperture: float, optic: Optic, wavelength_m: float, window_m: float, sweep_range: float, count: int
) -> Any:
    """Return the distances to try, in equal steps around the optic's defocus; one alone is that.

    With a known optic: ± `sweep_range` depths of field λ/NA² in `count` steps.  Without: as far as the defocused
    probe, 2·z·NA wide, still fits in most of the window, in steps of half a depth of field.

    Parameters
    ----------
    aperture : float
        Numerical aperture.
    optic : Optic
    wavelength_m, window_m : float
        Wavelength; width of a window N·dx.
    sweep_range : float
    count : int

    Returns
    -------
    (k,) float64
    """
    depth_m = wavelength_m / aperture**2
    half_m = sweep_range * depth_m
    if optic.outer_zone_m == 0:
        half_m = max(half_m, 0.4 * window_m / aperture)
        count = max(count, 2 * math.ceil(half_m / (0.5 * depth_m)) + 1)
    return optic.defocus_m + (np.linspace(-half_m, half_m, count) if count > 1 else np.zeros(1))


def starting_probe(
    mean_intensity: Any, defocus_m: float, wavelength_m: float, pixel_m: float, modes: int, power: float
) -> Any:
    """Return P = F⁻¹[√I · exp(−iπλz|q|²)], centred, with weak modes P·x, P·y, … after it.

    The phase is centred on the pattern's own centroid, so that a pattern off the zero frequency gives a tilted but
    centred probe.

    Parameters
    ----------
    mean_intensity : (N, N) float
        Mean photons, FFT order.
    defocus_m : float
        Focus to sample, positive downstream.
    wavelength_m, pixel_m : float
        Wavelength and object pixel.
    modes : int
    power : float
        Σ|P|² over all modes, photons a frame.

    Returns
    -------
    (modes, N, N) complex64
    """
    side = len(mean_intensity)
    rows, columns = _frequencies(side, pixel_m)
    bright = _bright(mean_intensity)
    row, column = _centroid(bright) / pixel_m
    phase = -math.pi * wavelength_m * defocus_m * ((rows - row) ** 2 + (columns - column) ** 2)
    first = np.fft.fftshift(np.fft.ifft2(np.sqrt(bright) * np.exp(1j * phase), norm="ortho"))
    return with_modes(first[None], modes, power)


def near_field_probe(backend: Backend, propagator: Propagator, mean_intensity: Any, modes: int, power: float) -> Any:
    """Return the light on the sample that makes the mean frame, with a flat phase on the detector, and weak modes.

    Parameters
    ----------
    backend : Backend
    propagator : Propagator
    mean_intensity, modes, power
        As in `starting_probe`.

    Returns
    -------
    (modes, N, N) complex64
    """
    field = backend.from_numpy(np.sqrt(np.maximum(mean_intensity, 0)).astype(np.complex64))
    first = backend.to_numpy(propagator.back(field[None, None]))
    return with_modes(first[0], modes, power)


def with_modes(probe: Any, modes: int, power: float) -> Any:
    """Return a probe (any, N, N) with exactly `modes` modes and Σ|P|² = `power`; missing ones are from the first."""
    missing = max(0, modes - len(probe))
    further = _further_modes(probe[0], modes - 1)[modes - 1 - missing :] if missing else []
    complete = np.stack([*probe[:modes], *further]).astype(np.complex64)
    return complete * np.float32(math.sqrt(power / probe_power(np, complete)))


def centred_on(probe: Any, mean_intensity: Any) -> Any:
    """Return a probe (modes, N, N) with a ramp such that its far field lies where the mean pattern does.

    Where the zero order is on the detector's pixels is a little different in each scan.

    Parameters
    ----------
    probe : (modes, N, N) complex
        Centred.
    mean_intensity : (N, N) float
        Mean photons, FFT order.
    """
    own = (np.abs(np.fft.fft2(probe)) ** 2).sum(axis=0)
    steps = _centroid(_bright(mean_intensity)) - _centroid(_bright(own))
    line = np.arange(len(mean_intensity)) - len(mean_intensity) // 2
    down, right = (np.exp(2j * np.pi * step * line) for step in steps)
    return (probe * down[:, None] * right[None, :]).astype(np.complex64)


def propagated(probe: Any, distance_m: float, wavelength_m: float, pixel_m: float) -> Any:
    """Return a probe (modes, N, N) as it is so far downstream: F⁻¹[F[P] · exp(−iπλz|q|²)]."""
    rows, columns = _frequencies(probe.shape[-1], pixel_m)
    phase = -math.pi * wavelength_m * distance_m * (rows**2 + columns**2)
    spectrum = np.fft.fft2(np.fft.ifftshift(probe, axes=(-2, -1)))
    return np.fft.fftshift(np.fft.ifft2(spectrum * np.exp(1j * phase)), axes=(-2, -1)).astype(np.complex64)


def _bright(intensity: Any, least: float = FAINT) -> Any:
    """Return an intensity where it is more than this part of its maximum, 0 elsewhere."""
    return np.where(intensity > least * intensity.max(), intensity, 0)


def _centroid(bright: Any) -> Any:
    """Return the centroid (row, column) of a pattern (N, N) in FFT order, in cycles a pixel of the object."""
    line = np.fft.fftfreq(len(bright))
    return np.array([bright.sum(axis=1) @ line, bright.sum(axis=0) @ line]) / bright.sum()


def blank_canvas(backend: Backend, shape: tuple[int, int], states: int = 1) -> Any:
    """Return an object (H, W), or (states, H, W) where there are several, that nothing is known of."""
    return with_states(backend, backend.xp.ones(shape, np.complex64), states)


def with_states(backend: Backend, canvas: Any, count: int) -> Any:
    """Return a canvas (H, W) as it is, or as one of `count` states (count, H, W) of which the others are weak.

    They must not be alike, else they stay so: each is the first with waves of its own over the whole canvas.
    """
    if canvas.ndim > 2 or count == 1:
        return canvas
    xp = backend.xp
    rows, columns = (xp.arange(size)[:, None] / size for size in canvas.shape)
    states = [canvas]
    for number in range(1, count):
        wave = xp.exp(2j * np.pi * number * (rows + (-1) ** number * columns.T))
        states.append(np.float32(math.sqrt(MODE_POWER)) * canvas * wave)
    return xp.stack(states).astype(np.complex64)


def _further_modes(first: Any, count: int) -> list[Any]:
    """Return P·x, P·y, P·x², P·xy, … about the probe's centre, each with `MODE_POWER` of the first."""
    side = len(first)
    weight = np.abs(first) ** 2 / (np.abs(first) ** 2).sum()
    line = np.arange(side) - side / 2
    y = np.broadcast_to((line - (weight.sum(axis=1) * line).sum())[:, None], first.shape)
    x = np.broadcast_to((line - (weight.sum(axis=0) * line).sum())[None, :], first.shape)
    orders = [(total - k, k) for total in range(1, count + 2) for k in range(total + 1)][:count]
    found = []
    for power_x, power_y in orders:
        mode = first * x**power_x * y**power_y
        norm = math.sqrt(MODE_POWER * (np.abs(first) ** 2).sum() / (np.abs(mode) ** 2).sum())
        found.append(mode * norm)
    return found
