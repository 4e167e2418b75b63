"""What an image begins with: the frames' central halves or whole ones, and a probe on a blank object."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.geometry import Geometry
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.canvas import bounding_box
from nsbluesky.solver.coarse import CentralHalf, can_be_halved, central_light, coarsened
from nsbluesky.solver.dose import DOSE_FRAMES
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.mean_light import MeanLight, mean_light
from nsbluesky.solver.start import near_field_probe, starting_probe, with_modes
from nsbluesky.solver.state import SolverState

__all__ = ["Beginning"]

CENTRAL_LIGHT = 0.8
"""Part of the photons that must fall on the central half of the detector for it to be used alone."""


class Beginning:
    """Makes the first state of an image, on the level that `level` returns.

    Parameters
    ----------
    frames : FrameStore
        The whole frames.
    geometry : Geometry
    backend : Backend
    pixel_m : float
        Object pixel of the whole frames.
    """

    def __init__(self, frames: FrameStore, geometry: Geometry, backend: Backend, pixel_m: float) -> None:
        self._frames = frames
        self._geometry = geometry
        self._backend = backend
        self._pixel_m = pixel_m

    def level(self, settings: SolverSettings) -> FrameStore:
        """Return the frames' central halves, where they are wanted and most of the light is there, or the frames.

        In the near field the centre of the detector is a part of the sample, and no coarser image of it.
        """
        frames = self._frames
        if settings.coarse_uses and not self._geometry.is_near and can_be_halved(frames.frame_px):
            light = self._light(frames, frames.active[:DOSE_FRAMES], settings)
            if central_light(light.pattern) >= CENTRAL_LIGHT:
                return CentralHalf(frames)
        return frames

    def _light(self, level: FrameStore, slots: npt.NDArray[np.intp], settings: SolverSettings) -> MeanLight:
        return mean_light(level, slots, with_background=settings.refine_background)

    def from_optic(self, level: FrameStore, settings: SolverSettings) -> SolverState:
        """Return a state with the mean pattern's amplitude and the defocus that is told."""
        light, geometry = self._light(level, level.active, settings), self._geometry
        mean, photons = light.pattern, light.photons
        if geometry.is_near:
            propagator = self._frames.propagator
            probe = near_field_probe(self._backend, propagator, mean, settings.modes, photons)
        else:
            defocus_m = geometry.optic.defocus_m if settings.defocus_m is None else settings.defocus_m
            pixel_m = self._pixel_m * self._frames.frame_px / level.frame_px
            probe = starting_probe(mean, defocus_m, geometry.wavelength_m, pixel_m, settings.modes, photons)
        return self._blank(level, self._backend.from_numpy(probe), light.background)

    def from_known(self, level: FrameStore, probe: Any, settings: SolverSettings) -> SolverState:
        """Return a state with a probe (modes, N, N) of whole frames, brought to the frames' photons and modes."""
        light = self._light(self._frames, self._frames.active, settings)
        known = self._backend.from_numpy(with_modes(probe, settings.modes, light.photons))
        if level is not self._frames:
            known = coarsened(self._backend, known)
        return self._blank(level, known, light.background)

    def from_probe(self, level: FrameStore, probe: Any, settings: SolverSettings) -> SolverState:
        """Return a state with this probe (modes, N, N), which is as `level` wants it."""
        light = self._light(level, level.active, settings)
        return self._blank(level, self._backend.from_numpy(probe), light.background)

    def _blank(self, level: FrameStore, probe: Any, background: float) -> SolverState:
        row0, column0, row1, column1 = bounding_box(level.corners_px[level.wanted], level.frame_px)
        canvas = self._backend.xp.ones((row1 - row0, column1 - column0), np.complex64)
        return SolverState(canvas, probe, (row0, column0), background)
