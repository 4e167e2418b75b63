"""What the plans are asked for: checked before anything moves, and told in the start document."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.geometry import Geometry
from nsbluesky.recorded_darks import DarkRun, find_darks
from nsbluesky.trajectories import is_number, make_trajectory

__all__ = ["Pattern", "Places", "Scan", "check_common", "checked_md", "exposures_of", "period_of", "places_of"]

OWN_NAMES = frozenset(("ptycho", "uid", "time", "run", "command", "obj"))
"""In a start document, or in the message that opens a run: what plan and RunEngine say themselves."""

LEAST_STEP = 1e-4
"""Of the widest window that the detector allows: less than a pixel of the object moves nothing that a frame shows."""


@dataclass(frozen=True)
class Pattern:
    """Points around a centre."""

    pattern: str
    shape: tuple[int, int]
    step_um: float
    seed: int

    def points_um(self) -> npt.NDArray[np.float64]:
        """Return the points (n, 2: x, y) relative to the centre."""
        return make_trajectory(self.pattern, self.shape, self.step_um, self.seed)

    def metadata(self) -> dict[str, Any]:
        """Return what the start document says of them."""
        return {
            "pattern": self.pattern,
            "step_um": float(self.step_um),
            "shape": [int(n) for n in self.shape],
            "num_points": len(self.points_um()),
            "seed": int(self.seed),
        }


@dataclass(frozen=True)
class Places:
    """Points on the stage, one by one."""

    places_um: tuple[tuple[float, float], ...]

    @property
    def step_um(self) -> float:
        """From one point to the next, as a rule; infinite where there is one place alone."""
        steps_um = np.hypot(*np.diff(self.points_um(), axis=0).T)
        return float(np.median(steps_um[steps_um > 0])) if steps_um.any() else math.inf

    def points_um(self) -> npt.NDArray[np.float64]:
        """Return the points (n, 2: x, y) on the stage."""
        return np.array(self.places_um, np.float64)

    def metadata(self) -> dict[str, Any]:
        """Return what the start document says of them."""
        return {"pattern": "points", "num_points": len(self.places_um)}


@dataclass(frozen=True)
class Scan:
    """The arguments that the plans share, checked."""

    fccd: Any
    stage: Any
    shutter: Any
    geometry: Geometry
    points: Pattern | Places
    exposures_s: tuple[float, ...]
    num_dark: int
    darks_from: str | None
    center_um: tuple[float, float] | None

    def __post_init__(self) -> None:
        """Raise a ValueError where an argument cannot be."""
        check_common(self.geometry, self.exposures_s, self.num_dark)
        if self.center_um is not None and not _is_place(self.center_um):
            raise ValueError(f"center_um = {self.center_um!r}: expected x and y in µm, or None")
        self.points.points_um()
        if not self.geometry.is_near:
            _check_units(self.points, self.geometry)

    @functools.cached_property
    def dark_run(self) -> DarkRun | None:
        """The earlier run whose darks are taken; first asked for before anything moves."""
        return None if self.darks_from is None else find_darks(self.darks_from, self.fccd, self.exposures_s)

    def metadata(self, plan_name: str, **scan: Any) -> dict[str, Any]:
        """Return what the start document says (docs/reference/documents.md)."""
        keys = {"image": self.fccd.image_key, "x": self.stage.x.name, "y": self.stage.y.name}
        points = self.points.metadata()
        reused = {} if self.dark_run is None else {"darks_from": self.dark_run.uid}
        return {
            "plan_name": plan_name,
            "detectors": [self.fccd.name],
            "motors": [self.stage.x.name, self.stage.y.name],
            "num_points": points["num_points"],
            "hints": {"dimensions": [([self.stage.x.name, self.stage.y.name], "primary")]},
            "ptycho": {
                **self.geometry.to_dict(),
                "keys": keys,
                "exposures_s": [float(exposure_s) for exposure_s in self.exposures_s],
                **reused,
                "scan": {**points, **scan},
            },
        }


def _check_units(points: Pattern | Places, geometry: Geometry) -> None:
    """Raise a ValueError where a frame sees no step, as with a step in metres or a distance in millimetres."""
    window_um = geometry.object_pixel_m(1) * 1e6
    if points.step_um < LEAST_STEP * window_um:
        told, wanted = ("step_um =", "a step") if isinstance(points, Pattern) else ("points_um in steps of", "points")
        raise ValueError(
            f"{told} {points.step_um:g}, where a frame can show {window_um:.3g} µm: expected {wanted} in µm, and in "
            f"the geometry energy_eV = {geometry.energy_eV:g} in eV and detector_distance_m = "
            f"{geometry.detector_distance_m:g} and pixel_size_m = {geometry.pixel_size_m:g} in m"
        )


def check_common(geometry: Geometry, exposures_s: tuple[float, ...], num_dark: int) -> None:
    """Raise a ValueError where what all plans have in common cannot be."""
    if not isinstance(geometry, Geometry):
        raise ValueError(f"geometry = {geometry!r}: expected an nsbluesky.geometry.Geometry")
    for exposure_s in exposures_s:
        if not (is_number(exposure_s) and exposure_s > 0):
            raise ValueError(f"exposure_s = {exposure_s!r}: expected a positive number of seconds")
    if not (is_number(num_dark) and int(num_dark) == num_dark and num_dark >= 0):
        raise ValueError(f"num_dark = {num_dark!r}: expected a number of frames, 0 for none")


def checked_md(md: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return more for the start document, or raise a ValueError: no mapping, or with names that are taken."""
    if md is not None and not (isinstance(md, Mapping) and all(isinstance(name, str) for name in md)):
        raise ValueError(f"md = {md!r:.80}: expected a mapping of names, as in {{'sample': 'gold'}}")
    if taken := OWN_NAMES.intersection(md or ()):
        names = ", ".join(map(repr, sorted(taken)))
        raise ValueError(f"md has {names}: expected names that the plan and the RunEngine leave free")
    return md or {}


def _is_place(value: Any) -> bool:
    return np.shape(value) == (2,) and all(is_number(um) for um in value)


def places_of(points_um: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return the points, or raise a ValueError where they are none."""
    points = list(points_um) if np.iterable(points_um) else []
    if not points or not all(_is_place(point) for point in points):
        raise ValueError(f"points_um = {points_um!r:.80}: expected at least one (x, y) in µm")
    return tuple((float(x), float(y)) for x, y in points)


def exposures_of(exposure_s: Any) -> tuple[float, ...]:
    """Return one exposure, or several, as several; what each of them is `check_common` checks."""
    several = isinstance(exposure_s, Sequence) and not isinstance(exposure_s, str)
    exposures_s = tuple(exposure_s) if several else (exposure_s,)
    if not exposures_s:
        raise ValueError("exposure_s is empty: expected seconds, or several as in (0.1, 0.01)")
    return exposures_s


def period_of(rate_hz: float, exposure_s: float) -> float:
    """Return the seconds from point to point, or raise a ValueError where the exposure is longer."""
    if not (is_number(rate_hz) and rate_hz > 0):
        raise ValueError(f"rate_hz = {rate_hz!r}: expected a positive number of points a second")
    if exposure_s * rate_hz > 1 + 1e-9:
        raise ValueError(
            f"rate_hz = {rate_hz:g} leaves {1 / rate_hz:.4g} s a point, exposure_s is {exposure_s:g}: "
            f"take at most {1 / exposure_s:.4g} Hz"
        )
    return 1 / rate_hz
