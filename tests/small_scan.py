"""A small simulated scan, of the far-field model written down independently of the solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nsbluesky.backend import Backend
from nsbluesky.geometry import Geometry, Optic
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.quality import align, nrmse

__all__ = ["PIXEL_M", "SIDE", "Scan", "finished", "object_error", "simulate", "smooth_image", "solved"]

PIXEL_M = 10e-9
SIDE = 48


@dataclass(frozen=True)
class Scan:
    """Frames with their truth; positions are whole object pixels, far from the stage's origin."""

    frames: Any
    translations_m: Any
    object: Any
    probe: Any
    geometry: Geometry
    defocus_m: float

    @property
    def seq_nums(self) -> Any:
        return np.arange(1, len(self.frames) + 1)

    def solver(
        self, backend: Backend, num_points: int | None = None, told_m: float | None = None, **settings: Any
    ) -> IncrementalSolver:
        """A solver of the scan, with another defocus of the optic where one is told."""
        geometry = self.geometry if told_m is None else self.geometry.replace(optic__defocus_m=told_m)
        return IncrementalSolver(
            SolverSettings(**{"modes": 1, "sweep_frames": 0} | settings),
            frame_px=SIDE,
            pixel_m=PIXEL_M,
            geometry=geometry,
            backend=backend,
            num_points=num_points,
        )


def finished(solver: IncrementalSolver) -> IncrementalSolver:
    """The solver, after its last passes."""
    solver.finish()
    while not solver.finished:
        solver.step(1.0)
    return solver


def solved(scan: Scan, backend: Backend, **settings: Any) -> IncrementalSolver:
    """A solver that was told the right defocus, at its end."""
    solver = scan.solver(backend, told_m=scan.defocus_m, **settings)
    solver.add_frames(scan.seq_nums, scan.frames, scan.translations_m)
    return finished(solver)


def object_error(solver: IncrementalSolver, scan: Scan) -> float:
    """Error of the object, away from its rim."""
    aligned = align(solver.picture().object, scan.object, 12)
    return nrmse(aligned.image, aligned.truth)


def smooth_image(shape: tuple[int, int], rng: np.random.Generator) -> Any:
    rows, columns = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None]
    envelope = np.exp(-((np.hypot(rows, columns) / 0.12) ** 2))
    image = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) * envelope).real
    return image / np.abs(image).max()


def simulate(photons: float = 3e5, lines: int = 11, step_px: float = 4.0, modes: int = 1, seed: int = 5) -> Scan:
    rng = np.random.default_rng(seed)
    geometry = Geometry(1000.0, 0.05, 30e-6, Optic(diameter_m=100e-6, outer_zone_m=40e-9))
    wavelength_m, aperture = geometry.wavelength_m, geometry.wavelength_m / 80e-9
    defocus_m = 2.0 * wavelength_m / aperture**2
    q = np.fft.fftfreq(SIDE, PIXEL_M)
    radius = np.hypot(q[:, None], q[None]) * wavelength_m / aperture
    pupil = (radius < 1) & (radius > 0.35)
    first = np.fft.fftshift(
        np.fft.ifft2(pupil * np.exp(-1j * np.pi * defocus_m / wavelength_m * (aperture * radius) ** 2))
    )
    second = first * (np.arange(SIDE) - SIDE / 2)
    second *= 0.4 * np.linalg.norm(first) / np.linalg.norm(second)
    probe = np.stack([first, second][:modes])
    probe = probe * np.sqrt(photons / (np.abs(probe) ** 2).sum())

    line = np.arange(lines) * step_px
    place = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    place = np.rint(place + rng.uniform(-0.25, 0.25, place.shape) * step_px).astype(int)
    place -= place.min(axis=0)
    shape = tuple(place.max(axis=0) + SIDE)
    truth = (0.8 + 0.2 * smooth_image(shape, rng)) * np.exp(0.8j * smooth_image(shape, rng))
    frames = np.empty((len(place), SIDE, SIDE), np.float32)
    for frame, (row, column) in zip(frames, place, strict=True):
        waves = probe * truth[row : row + SIDE, column : column + SIDE]
        field = np.fft.fftshift(np.fft.fft2(waves, norm="ortho"), axes=(-2, -1))
        frame[...] = rng.poisson((np.abs(field) ** 2).sum(axis=0))
    translations = (place[:, ::-1] + SIDE / 2 + [1000, -3000]) * PIXEL_M
    return Scan(frames, translations, truth, probe, geometry, defocus_m)
