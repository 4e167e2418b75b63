"""Which defocus has the starting probe, and which way round do the frames lie?  Looked for over the first frames.

In the near field the mean frame tells the probe, and how shadows move, which way round frames lie.  Where an earlier
scan left its probe, that is the start, and the sweep beside the image judges it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.geometry import Geometry
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.coarse import coarsened
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.mean_light import MeanLight, mean_light
from nsbluesky.solver.orientation import LEAST_FRAMES, Orientation, OrientationSearch
from nsbluesky.solver.shadow_motion import ShadowMotion, ShadowMotionSearch
from nsbluesky.solver.start import centred_on, defocus_candidates_m, numerical_aperture, with_modes
from nsbluesky.solver.state import SolverState
from nsbluesky.solver.sweep import DefocusSweep, Sweep

__all__ = ["ProbeSearch"]

SWEEPS = 3
"""Sweeps at most, each over more frames than the one before, while none is accepted."""

SWEEP = "sweep_"
"""What the names of a sweep's values begin with in a checkpoint."""

Slots = npt.NDArray[np.intp]


class ProbeSearch:
    """Decides when to look for defocus and orientation, and looks, in small slices of time.

    Parameters
    ----------
    settings : SolverSettings
    geometry : Geometry
    backend : Backend
    window_m : float
        Width of a frame's window on the sample.

    Attributes
    ----------
    sweep : Sweep or None
        The latest defocus sweep.
    best : SolverState or None
        What its winner has come to.
    warm : (modes, N, N) complex64 or None
        The probe with which an earlier scan ended.
    orientation : Orientation or None
        What was found of the detector's orientation, relative to what frames were taken for.
    motion : ShadowMotion or None
        How shadows move, in the near field.
    turn : int
        What is to be done to frames after `find_orientation`, as `Geometry.orientation`; 0 for nothing.
    """

    def __init__(self, settings: SolverSettings, geometry: Geometry, backend: Backend, window_m: float) -> None:
        self._settings = settings
        self.sweep: Sweep | None = None
        self.best: SolverState | None = None
        self.warm: npt.NDArray[np.complex64] | None = None
        self.orientation: Orientation | None = None
        self.motion: ShadowMotion | None = None
        self.turn = 0
        self._geometry = geometry
        self._backend = backend
        self._window_m = window_m
        self._swept: list[int] = []
        self._work: Iterator[None] | None = None

    @property
    def _can_sweep(self) -> bool:
        settings = self._settings
        known = settings.sweep_frames == 0 or settings.defocus_m is not None
        return not known and not self._geometry.is_near  # where the mean frame tells the probe

    @property
    def _looks_at_motion(self) -> bool:
        settings = self._settings
        return self._geometry.is_near and settings.find_orientation and settings.sweep_frames > 0

    @property
    def sweeps_wanted(self) -> bool:
        """Whether there will be a sweep, or a look at how shadows move, or another one."""
        if len(self._swept) >= SWEEPS:
            return False
        if self._looks_at_motion:
            return self.orientation is None or not self.orientation.certain
        return self._can_sweep and (self.sweep is None or not self.sweep.accepted)

    @property
    def begins_warm(self) -> bool:
        """Whether an image begins with the warm probe: a sweep will tell how it fits, or told that it fits best."""
        refuted = self.sweep is not None and not self.sweep.warm_fits
        return self.warm is not None and self._can_sweep and not refuted

    def is_due(self, num_frames: int, no_more: bool) -> bool:
        """Return whether a search should begin: at first, and again with more frames while it told nothing."""
        if not self.sweeps_wanted:
            return False
        if not self._swept:
            return num_frames >= self._settings.sweep_frames or no_more
        return num_frames >= 2 * self._swept[-1]

    @property
    def goes_on(self) -> bool:
        """Whether there is a search that has begun and not ended."""
        return self._work is not None

    def begin(self, work: Iterator[None]) -> None:
        """Begin a search: `frames_for_sweep`, and `find_defocus` and `find_orientation` or, near, `find_motion`."""
        self._work = work

    def one_batch(self) -> None:
        """Work for one batch on the search that goes on."""
        assert self._work is not None
        if next(self._work, self) is self:
            self._work = None

    def is_open(self, num_frames: int, no_more: bool) -> bool:
        """Return whether the defocus is in question: a search goes on, or is due, or the first is still to come."""
        return self.goes_on or self.is_due(num_frames, no_more) or not self.has_begun

    @property
    def has_told(self) -> bool:
        """Whether a sweep told which probe to go on with, or none will."""
        return self.sweep is not None or not self.sweeps_wanted

    @property
    def has_begun(self) -> bool:
        """Whether there was a sweep, or none is wanted."""
        return bool(self._swept) or not self.sweeps_wanted

    def skip(self) -> None:
        """Take the probe for known: no sweeps any more."""
        self._swept, self.warm, self._work = [0] * SWEEPS, None, None

    def configure(self, settings: SolverSettings) -> None:
        """Go on with other settings; forget a search that would have other modes, or is not asked for any more."""
        before, self._settings = self._settings, settings
        if self.goes_on and (settings.modes, settings.defocus_m) != (before.modes, before.defocus_m):
            self._work = None
            self._swept.pop()

    def begin_anew(self) -> None:
        """Forget the sweeps: the frames are not what they were taken for."""
        self.sweep, self._swept, self._work = None, [], None

    def frames_for_sweep(self, active: Slots) -> Slots:
        """Return the slots of the next sweep, and count it."""
        slots = active[: self._settings.sweep_frames << len(self._swept)]
        self._swept.append(len(slots))
        return slots

    def warm_probe(self, level: FrameStore, slots: Slots) -> npt.NDArray[np.complex64]:
        """Return the warm probe as these frames want it: their pixels, modes, photons and zero order."""
        assert self.warm is not None
        probe = self._backend.from_numpy(self.warm)
        if level.frame_px < self.warm.shape[-1]:
            probe = coarsened(self._backend, probe)
        light = self._light(level, slots)
        complete = with_modes(self._backend.to_numpy(probe), self._settings.modes, light.photons)
        return np.asarray(centred_on(complete, light.pattern), np.complex64)

    def _light(self, level: FrameStore, slots: Slots) -> MeanLight:
        return mean_light(level, slots, with_background=self._settings.refine_background)

    def find_defocus(self, level: FrameStore, slots: Slots) -> Iterator[None]:
        """Sweep over these frames; `sweep` and `best` are there afterwards."""
        settings, optic, wavelength_m = self._settings, self._geometry.optic, self._geometry.wavelength_m
        pixel_m = self._window_m / level.frame_px
        light = self._light(level, slots)
        aperture = numerical_aperture(light.pattern, optic, wavelength_m, pixel_m)
        candidates_m = defocus_candidates_m(
            aperture, optic, wavelength_m, self._window_m, settings.sweep_range, settings.sweep_candidates
        )
        search = DefocusSweep(
            level,
            slots,
            candidates_m,
            settings,
            self._backend,
            light=light,
            wavelength_m=wavelength_m,
            pixel_m=pixel_m,
            warm=None if self.warm is None else self.warm_probe(level, slots),
        )
        yield from search.run()
        self.sweep, self.best = search.sweep, search.best

    def find_orientation(self, level: FrameStore, slots: Slots) -> Iterator[None]:
        """Look whether the frames fit the stage as they are, where that is asked for and not known."""
        self.turn = 0
        known = self.orientation is not None and self.orientation.certain
        if known or not self._settings.find_orientation or len(slots) < LEAST_FRAMES:
            return
        assert self.sweep is not None
        search = OrientationSearch(
            level,
            slots,
            self.sweep,
            self._geometry.optic.defocus_m,
            self._settings,
            self._backend,
            light=self._light(level, slots),
            wavelength_m=self._geometry.wavelength_m,
            pixel_m=self._window_m / level.frame_px,
        )
        yield from search.run()
        self.orientation = search.found
        self.turn = 0 if search.found is None else search.found.turn

    def find_motion(self, frames: FrameStore, slots: Slots) -> Iterator[None]:
        """Look how shadows move, and so whether the frames fit the stage as they are."""
        search = ShadowMotionSearch.of(frames, slots)
        yield from search.run()
        self.motion, self.turn = search.found, 0
        if self.motion is not None:
            self.orientation = self.motion.orientation
            self.turn = self.orientation.turn

    def contents(self) -> dict[str, Any]:
        """Return what was found, for a checkpoint; a sweep that goes on begins anew with it."""
        sweep = {} if self.sweep is None else asdict(self.sweep)
        warm = {} if self.warm is None else {"warm": self.warm}
        return {
            **warm,
            "swept": self._swept[:-1] if self.goes_on else self._swept,
            "orientation": None if self.orientation is None else asdict(self.orientation),
            "motion": None if self.motion is None else asdict(self.motion),
            **{f"{SWEEP}{name}": value for name, value in sweep.items()},
        }

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned."""
        self._swept, self.warm, self._work = contents["swept"], contents.get("warm"), None
        self.orientation = None if contents["orientation"] is None else Orientation(**contents["orientation"])
        self.motion = None if contents["motion"] is None else ShadowMotion(**contents["motion"])
        sweep = {name.removeprefix(SWEEP): value for name, value in contents.items() if name.startswith(SWEEP)}
        self.sweep = Sweep(**sweep) if sweep else None
