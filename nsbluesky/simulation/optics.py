"""The light on the sample, behind a Fresnel zone plate or a diffuser, and what becomes of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nsbluesky.geometry import Optic, wavelength_m

__all__ = ["diffuser_light", "far_field", "fresnel", "near_field", "zone_plate_probe"]

SUPERSAMPLING = 8

GRAIN_PX = 4.0
"""Width of the speckles behind a diffuser."""


def far_field(wave: npt.NDArray[np.complexfloating]) -> npt.NDArray[np.complexfloating]:
    """Unitary Fourier transform over the last two axes; origin and zero frequency at N//2."""
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(wave, axes=axes), norm="ortho"), axes=axes)


def near_field(wave: npt.NDArray[np.complexfloating]) -> npt.NDArray[np.complexfloating]:
    """Inverse of `far_field`."""
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(wave, axes=axes), norm="ortho"), axes=axes)


def fresnel(wave: npt.NDArray[np.complexfloating], spread_px: float) -> npt.NDArray[np.complexfloating]:
    """Propagate waves (…, N, N) by the distance z with λ·z/dx² = `spread_px` (Goodman, eq. 4-21).

    The light must stay inside the array: what leaves it on one side comes in on the other.
    """
    f = (np.arange(wave.shape[-1]) - wave.shape[-1] // 2) / wave.shape[-1]
    return near_field(far_field(wave) * np.exp(-1j * np.pi * spread_px * (f[:, None] ** 2 + f**2)))


def diffuser_light(frame_px: int, photons: float) -> npt.NDArray[np.complex64]:
    """Return light (frame_px, frame_px) complex64 in √photon behind a diffuser: speckles inside of a soft disk.

    Structure of its own is what makes near-field ptychography solvable: without, shadows at all places are alike
    (Stockmar et al., Sci. Rep. 3, 1927 (2013)).

    Parameters
    ----------
    frame_px : int
    photons : float
        Σ|light|².
    """
    rng = np.random.default_rng(0)
    f = np.fft.fftshift(np.fft.fftfreq(frame_px))
    smooth = np.exp(-2 * (np.pi * GRAIN_PX / 4) ** 2 * (f[:, None] ** 2 + f**2))
    thickness = near_field(far_field(rng.standard_normal((frame_px, frame_px)) + 0j) * smooth).real
    # as strong as needed for phases of 1 rad, and so far behind it that phases have become light and dark
    light = fresnel(np.exp(1j * thickness / thickness.std()), spread_px=GRAIN_PX**2)
    line = np.arange(frame_px) - frame_px // 2
    radius = np.hypot(line[:, None], line) / frame_px
    light = light * 0.5 * (1 + np.tanh((0.34 - radius) / 0.025))
    return np.asarray(light * np.sqrt(photons / np.sum(np.abs(light) ** 2)), np.complex64)


def zone_plate_probe(
    optic: Optic, *, energy_eV: float, pixel_m: float, frame_px: int, photons: float
) -> npt.NDArray[np.complex64]:
    """Return the probe (frame_px, frame_px) complex64 in √photon, `defocus_m` behind the focus of a zone plate.

    The pupil is an annulus in spatial frequency, from the central stop to 1/(2Δr), with anti-aliased edges.  The
    distance z from the focus multiplies it by exp(−iπλz|q|²), Fresnel propagation (Goodman, Introduction to Fourier
    Optics, eq. 4-20).

    Parameters
    ----------
    optic : Optic
        `diameter_m`, `outer_zone_m` and `central_stop_m` make the pupil.
    energy_eV : float
    pixel_m : float
        Pixel of probe and object.
    frame_px : int
        Side of the probe.
    photons : float
        Σ|probe|².

    Raises
    ------
    ValueError
        Where the pupil does not fit into the frame, or the defocus spreads the light beyond it.
    """
    if not (optic.diameter_m > 0 and optic.outer_zone_m > 0):
        raise ValueError("a zone plate needs diameter_m and outer_zone_m above 0")
    if optic.outer_zone_m <= pixel_m:
        raise ValueError(f"outer_zone_m = {optic.outer_zone_m:g}: expected more than the object's pixel, {pixel_m:g}")
    wavelength = wavelength_m(energy_eV)
    field_m = frame_px * pixel_m
    spot_m = abs(optic.defocus_m) * wavelength / optic.outer_zone_m
    if spot_m > field_m / 2:
        raise ValueError(
            f"defocus_m = {optic.defocus_m:g} spreads the light over {spot_m:g} m: "
            f"expected at most half of the probe's field of {field_m:g} m"
        )
    outer = 1 / (2 * optic.outer_zone_m)
    inner = outer * optic.central_stop_m / optic.diameter_m
    fine = (np.arange(frame_px * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - 0.5 - frame_px // 2
    radius = np.hypot(fine[:, None], fine[None, :]) / field_m
    open_ = ((radius >= inner) & (radius <= outer)).astype(np.float64)
    shape = (frame_px, SUPERSAMPLING, frame_px, SUPERSAMPLING)
    amplitude = np.sqrt(open_.reshape(shape).mean(axis=(1, 3)))
    q = (np.arange(frame_px) - frame_px // 2) / field_m
    q_squared = q[:, None] ** 2 + q[None, :] ** 2
    probe = near_field(amplitude * np.exp(-1j * np.pi * wavelength * optic.defocus_m * q_squared))
    probe *= np.sqrt(photons / np.sum(np.abs(probe) ** 2))
    return np.asarray(probe, np.complex64)
