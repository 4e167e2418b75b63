"""What is known of object and probe beforehand, held at the end of every pass, whatever the engine.

The probe may be kept within a circle, and within the image of the optic's pupil.  The object may be kept from letting
through more than a part of the empty beam, and its phase on one side of the empty beam's.  Data leave open the
object's scale, its global phase and a phase ramp, so these are told by the empty places of the picture first
(`nsbluesky.solver.vacuum`); where there are none, the object is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.geometry import Geometry, Optic
from nsbluesky.settings import SettingsError, SolverSettings
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.gauge import phase_ramp
from nsbluesky.solver.picture import covered_area, illumination
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.vacuum import Vacuum, find_vacuum

__all__ = ["Constraints", "pupil_shape", "radius_shape", "with_amplitude_below", "with_phase_sign"]

SOFT_EDGE = 0.1
"""Part of the radius over which the probe falls to 0 outside of it."""

PUPIL_MARGIN_PX = 1.0
"""The pupil is open so much further than its edges, and as soft: a probe that fills its window has no sharp ones."""

SIGNS = {"any": 0, "negative": -1, "positive": 1}

REMEMBERED_PASSES = 3
"""Passes for which the empty beam is what it was, where it does not stand out: values that were held at a bound do
not scatter as those of the empty beam do, until the next update has moved them."""

RIM = 1e-3
"""The object is held where its illumination is at least this part of the largest."""


class Constraints:
    """What the settings ask for, on frames of any level.

    Parameters
    ----------
    settings : SolverSettings
    geometry : Geometry
    backend : Backend
    window_m : float
        Width N·dx of a window.

    Attributes
    ----------
    vacuum : Vacuum or None
        The empty beam as it was found last; None where there was none for some passes, or none was looked for.

    Raises
    ------
    SettingsError
        If the pupil is asked for and the geometry tells of none, or the circle is as wide as the window.
    """

    def __init__(self, settings: SolverSettings, geometry: Geometry, backend: Backend, window_m: float) -> None:
        if settings.probe_pupil and geometry.optic.outer_zone_m <= 0:
            raise SettingsError(
                "solver.probe_pupil = True, but the geometry tells of no optic: expected its outer_zone_m; "
                "give it, or set probe_pupil = False"
            )
        if settings.probe_pupil and geometry.is_near:
            raise SettingsError(
                "solver.probe_pupil = True in the near field: expected False, for no pupil is seen there"
            )
        if 2 * settings.probe_radius_m >= window_m:
            raise SettingsError(
                f"solver.probe_radius_m = {settings.probe_radius_m:g}: expected less than half of a window, "
                f"{window_m / 2:g}; 0 for no bound"
            )
        self.reset()
        self._settings = settings
        self._optic = geometry.optic
        self._backend = backend
        self._window_m = window_m

    def reset(self) -> None:
        """Forget the empty beam: the image begins anew."""
        self.vacuum: Vacuum | None = None
        self._missed = 0
        self._place: tuple[int, ...] = ()

    def contents(self) -> dict[str, Any]:
        """Return what was found of the empty beam, for a checkpoint."""
        found = {} if self.vacuum is None else asdict(self.vacuum)
        return {"missed": self._missed, "place": list(self._place), **found}

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned."""
        found = dict(contents)
        self._missed, self._place = found.pop("missed"), tuple(found.pop("place"))
        self.vacuum = Vacuum(**found) if found else None

    def hold_probe(self, state: SolverState) -> None:
        """Keep the probe, and how it varies, where light can be."""
        if not (self._settings.probe_pupil or self._settings.probe_radius_m):
            return
        shapes = self._shapes(state.probe)
        state.probe = self._held(state.probe, *shapes)
        if state.variation is not None:
            state.variation = self._held(state.variation, *shapes)

    def _shapes(self, probe: Any) -> tuple[Any, Any]:
        """Return the shapes (N, N) of the probe's Fourier transform and of the probe; None where there is none."""
        xp, side, settings = self._backend.xp, probe.shape[-1], self._settings
        pupil = circle = None
        if settings.probe_pupil:
            centre = tuple(
                side * step / (2 * math.pi) for step in phase_ramp(probe[0], xp.ones(probe[0].shape, np.float32))
            )
            pupil = xp.asarray(pupil_shape(side, self._window_m, self._optic, centre))
        if settings.probe_radius_m:
            circle = xp.asarray(radius_shape(side, self._window_m, settings.probe_radius_m))
        return pupil, circle

    def _held(self, fields: Any, pupil: Any, circle: Any) -> Any:
        if pupil is not None:
            fields = self._backend.ifft2(self._backend.fft2(fields.copy()) * pupil)
        return fields if circle is None else fields * circle

    def hold_object(self, state: SolverState, frames: FrameStore) -> None:
        """Keep the object within its bounds, relative to the empty beam, as far as noise goes.

        Bounds are wider by one standard deviation of the pixels of the empty beam.  Without, one half of their noise
        is cut off and the other left, which moves them against the sample: at 10⁶ photons a frame errors grew
        threefold, where now they shrink a little at every dose.

        Parameters
        ----------
        state : SolverState
        frames : FrameStore
            Of the level that the state is of.
        """
        most, sign = self._settings.object_most, SIGNS[self._settings.object_phase]
        if not (most or sign):
            return
        xp = self._backend.xp
        lit, covered = self._lit(state, frames)
        found = find_vacuum(self._backend.to_numpy(state.object), covered, sign)
        self._missed = 0 if found is not None else self._missed + 1
        place = (*state.origin_px, *state.shape)
        if found is None and self._missed <= REMEMBERED_PASSES and place == self._place:
            found = self.vacuum  # whose ramp is told by rows and columns of the canvas
        self.vacuum, self._place = found, place
        if found is None:
            return
        wave = found.wave(xp, state.object.shape)
        held = state.object / wave
        if most:
            held = with_amplitude_below(xp, held, most + found.noise)
        if sign:
            held = with_phase_sign(xp, held, sign, found.noise)
        state.object = xp.where(lit, held * wave, state.object)

    def _lit(self, state: SolverState, frames: FrameStore) -> tuple[Any, npt.NDArray[np.bool_]]:
        """Return where the object is known at all, and where it is known well."""
        xp = self._backend.xp
        light = illumination(self._backend, state, frames, frames.active)
        power = xp.sum(xp.abs(state.probe) ** 2, axis=0)
        well = covered_area(xp, light, float(power.max()))
        return light > RIM * light.max(), self._backend.to_numpy(well)


def radius_shape(side: int, window_m: float, radius_m: float) -> npt.NDArray[np.float32]:
    """Return a circle (N, N) about N//2: 1 up to the radius, 0 from a little further out."""
    line = (np.arange(side) - side // 2) * (window_m / side)
    return _falling((np.hypot(line[:, None], line[None, :]) - radius_m) / (SOFT_EDGE * radius_m))


def pupil_shape(
    side: int, window_m: float, optic: Optic, centre_px: tuple[float, ...] = (0.0, 0.0)
) -> npt.NDArray[np.float32]:
    """Return the pupil of a zone plate (N, N), FFT order: 1 where light passes, 0 elsewhere, with soft edges.

    In spatial frequency it is open from its central stop to 1/(2Δr).

    Parameters
    ----------
    side : int
    window_m : float
        Width of the probe's window; one frequency step is its inverse.
    optic : Optic
    centre_px : (float, float)
        Row and column of its centre, which lies elsewhere than at 0 where frames are not centred.
    """
    outer = window_m / (2 * optic.outer_zone_m)
    inner = outer * optic.central_stop_m / optic.diameter_m if optic.diameter_m > 0 else 0.0
    line = np.fft.fftfreq(side, 1 / side)
    down, right = ((line - centre + side / 2) % side - side / 2 for centre in centre_px)
    radius = np.hypot(down[:, None], right[None, :])
    margin = PUPIL_MARGIN_PX
    shape = _falling((radius - outer - margin) / margin)
    return shape * _falling((inner - margin - radius) / margin) if inner > margin else shape


def _falling(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return 1 where the distance is negative, 0 from 1 on, and half a cosine between."""
    return (0.5 + 0.5 * np.cos(np.pi * np.clip(distance, 0, 1))).astype(np.float32)


def with_amplitude_below(xp: Any, image: Any, most: float) -> Any:
    """Return the nearest image (H, W) whose amplitude is at most `most`."""
    amplitude = xp.abs(image)
    return image * (np.float32(most) / xp.maximum(amplitude, np.float32(most)))


def with_phase_sign(xp: Any, image: Any, sign: int, margin: float = 0.0) -> Any:
    """Return the nearest image (H, W) with no phase on the wrong side of 0, by more than `margin` radians.

    A phase that is off by a quarter of a turn and more is left: it is the right way round, by more than a half.
    """
    turn = np.exp(1j * sign * margin).astype(np.complex64)
    turned = image * turn
    wrong = (sign * turned.imag < 0) & (turned.real > 0)
    return xp.where(wrong, turned.real * turn.conj(), image)
