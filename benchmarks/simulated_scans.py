"""Simulated scans of one size and dose, far from any real sample's luck: a strong object, a zone plate's probe.

The object has amplitudes of 0.5 … 1 and phases of ± π/2 with the spectrum of natural pictures, and a star; the
probe is the light of an annular pupil out of focus, with some astigmatism, which no starting probe knows of.
Positions are whole pixels, so that every code that reads the data has the exact model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nsbluesky.geometry import Geometry, Optic, wavelength_m

PIXEL_M = 10e-9
ENERGY_EV = 1000.0
DISTANCE_M = 0.05
OUTER, INNER = 0.20, 0.06
"""Radii of the pupil, as parts of the detector's width."""
DEFOCUS_RAD = {128: 12.0, 64: 6.0}
"""Phase at the pupil's edge that makes the probe about a third of the window wide."""
STEP_PX = {128: 11.0, 64: 5.5}


@dataclass(frozen=True)
class SimulatedScan:
    """Frames with their truth.

    Attributes
    ----------
    frames : (n, N, N) float32
        Photons, zero frequency at N//2.
    translations_m : (n, 2) float64
        x, y.
    object, probe : complex64
        The truth; the probe (N, N) in √photon, centred.
    start : (N, N) complex64
        A probe with 20 % less defocus, no astigmatism and the right number of photons.
    geometry : Geometry
    defocus_m, depth_m : float
        The probe's defocus, and a depth of field λ/NA².
    """

    frames: Any
    translations_m: Any
    object: Any
    probe: Any
    start: Any
    geometry: Geometry
    defocus_m: float
    depth_m: float

    @property
    def side(self) -> int:
        """Side N of a frame."""
        return int(self.frames.shape[-1])


def zone_plate_probe(side: int, defocus_rad: float, astigmatism_rad: float) -> Any:
    """Return the light (N, N) of an annular pupil with phases at its edge; Σ|P|² = 1, centred."""
    line = np.fft.fftfreq(side)
    down, right = line[:, None], line[None, :]
    radius = np.hypot(down, right)
    edge = 0.35 / side
    pupil = 1 / (1 + np.exp((radius - OUTER) / edge)) - 1 / (1 + np.exp((radius - INNER) / edge))
    phase = defocus_rad * (radius / OUTER) ** 2 + astigmatism_rad * (right**2 - down**2) / OUTER**2
    probe = np.fft.fftshift(np.fft.ifft2(pupil * np.exp(1j * phase)))
    return probe / np.linalg.norm(probe)


def picture(shape: tuple[int, int], rng: np.random.Generator) -> Any:
    """Return values 0 … 1 (H, W) with the 1/q spectrum of natural pictures and edges of all directions."""
    rows, columns = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None, :]
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) / np.maximum(np.hypot(rows, columns), 0.01)).real
    noise /= noise.std()
    down, right = np.indices(shape) - np.array(shape)[:, None, None] / 2
    star = np.where(np.hypot(down, right) < 0.4 * min(shape), np.sign(np.sin(18 * np.arctan2(down, right))), 0)
    return 1 / (1 + np.exp(-(noise + star)))


def strong_object(shape: tuple[int, int], rng: np.random.Generator) -> Any:
    """Return amplitudes of 0.5 … 1 and phases of ± π/2 everywhere (H, W)."""
    return (0.5 + 0.5 * picture(shape, rng)) * np.exp(1j * np.pi * (picture(shape, rng) - 0.5))


def sample_with_holes(shape: tuple[int, int], rng: np.random.Generator) -> Any:
    """Return a sample (H, W) that is empty in a third of its area, absorbs elsewhere, and has a negative phase."""
    values = picture(shape, rng)
    empty, full = np.quantile(values, (0.33, 1.0))
    return np.exp(-(0.4 + 1.2j) * np.clip((values - empty) / (full - empty), 0, 1))


def restless_probes(probe: Any, count: int, size: float, rng: np.random.Generator) -> Any:
    """Return a probe for each of `count` frames (n, N, N), Σ|P|² = 1: its defocus breathes, its light wanders.

    With `size` 1, the phase at the pupil's edge changes by ± 0.5 rad, seven times in a scan, and the amplitude across
    the pupil by about ± 20 %, as a beam that moves on the lens: 5 % of the light is another than the mean probe's.
    """
    time = np.arange(count) / count
    frequency = np.fft.fftfreq(len(probe)) / OUTER
    down, right = frequency[:, None], frequency[None, :]
    breath = 0.5 * size * np.sin(2 * np.pi * 7 * time + 1)
    wander = 0.45 * size * np.cumsum(rng.normal(size=(count, 2)), axis=0) / np.sqrt(count)
    wander -= wander.mean(axis=0)
    pupil = np.fft.fft2(np.fft.ifftshift(probe))
    probes = np.empty((count, *probe.shape), complex)
    for one, phase, (by_row, by_column) in zip(probes, breath, wander, strict=True):
        changed = pupil * np.exp(1j * phase * (down**2 + right**2)) * (1 + by_row * down + by_column * right)
        one[...] = np.fft.fftshift(np.fft.ifft2(changed))
        one /= np.linalg.norm(one)
    return probes


def simulated_scan(
    side: int,
    lines: int,
    photons: float,
    seed: int = 1,
    *,
    sample: Callable[[tuple[int, int], np.random.Generator], Any] = strong_object,
    restless: float = 0.0,
) -> SimulatedScan:
    """Return lines × lines frames of side² with about that many photons each.

    Parameters
    ----------
    side, lines : int
    photons : float
    seed : int
    sample : callable
        Makes the object of a shape.
    restless : float
        How much the probe changes over the scan, as `restless_probes` says; `probe` is its mean then.
    """
    rng = np.random.default_rng(seed)
    step = STEP_PX[side]
    line = np.arange(lines) * step
    place = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    place = np.rint(place + rng.uniform(-0.2 * step, 0.2 * step, place.shape)).astype(int)
    place -= place.min(axis=0)
    height, width = place.max(axis=0) + side
    truth = sample((height, width), rng)
    probe = zone_plate_probe(side, DEFOCUS_RAD[side], 0.4)
    probes = restless_probes(probe, len(place), restless, rng) if restless else [probe] * len(place)
    windows = (truth[row : row + side, column : column + side] for row, column in place)
    waves = (light * window for light, window in zip(probes, windows, strict=True))
    power = np.array([np.abs(np.fft.fftshift(np.fft.fft2(wave, norm="ortho"))) ** 2 for wave in waves])
    scale = photons / power.sum(axis=(1, 2)).mean()
    frames = rng.poisson(power * scale).astype(np.float32)
    start = zone_plate_probe(side, 0.8 * DEFOCUS_RAD[side], 0.0) * np.sqrt(frames.sum(axis=(1, 2)).mean())
    wave_m = wavelength_m(ENERGY_EV)
    aperture = OUTER * wave_m / PIXEL_M
    optic = Optic(diameter_m=240e-6, outer_zone_m=PIXEL_M / (2 * OUTER))
    geometry = Geometry(ENERGY_EV, DISTANCE_M, wave_m * DISTANCE_M / (side * PIXEL_M), optic)
    # exp(−iπλz|q|²) has the phase −πz·NA²/λ at the pupil's edge
    defocus_m = -DEFOCUS_RAD[side] * wave_m / (np.pi * aperture**2)
    return SimulatedScan(
        frames=frames,
        translations_m=(place[:, ::-1] + side / 2) * PIXEL_M,
        object=truth.astype(np.complex64),
        probe=(np.mean(probes, axis=0) * np.sqrt(scale)).astype(np.complex64),
        start=start.astype(np.complex64),
        geometry=geometry,
        defocus_m=float(defocus_m),
        depth_m=float(wave_m / aperture**2),
    )
