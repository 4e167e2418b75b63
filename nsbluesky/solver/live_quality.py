"""How good the image is while the scan runs: by its two halves, and by pixels that it never saw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nsbluesky.backend import Backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.forecast import frames_for_resolution
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.halves import HalfSets
from nsbluesky.solver.held_out import held_out_r, spaced
from nsbluesky.solver.quality import Quality
from nsbluesky.solver.shifts import finer
from nsbluesky.solver.state import SolverState

__all__ = ["LiveQuality"]

HELD_OUT_FRAMES = 64
"""Frames on which held-out pixels are looked at."""


class LiveQuality:
    """Works on the half-sets beside the image, and judges it.

    Parameters
    ----------
    settings : SolverSettings
    backend : Backend
    pixel_m : float
        Object pixel.

    Attributes
    ----------
    halves : HalfSets
    """

    def __init__(self, settings: SolverSettings, backend: Backend, pixel_m: float) -> None:
        self.halves = HalfSets(settings, backend)
        self._settings = settings
        self._backend = backend
        self._pixel_m = pixel_m
        self._due = 0.0
        self._resolutions: list[tuple[int, float]] = []

    def configure(self, settings: SolverSettings) -> None:
        """Go on with other settings; where they change what the halves are made of, these begin anew."""
        before, self._settings = self._settings, settings
        if (settings.held_out, settings.batch) != (before.held_out, before.batch):
            self.halves = HalfSets(settings, self._backend)

    def reset(self) -> None:
        """Begin anew, as the image did."""
        self.halves.reset()
        self._resolutions.clear()

    def work(self, state: SolverState, frames: FrameStore, count: int) -> Iterator[None]:
        """Let the half-sets have their share of what the image had, `count` frames."""
        if self._settings.quality_share == 0:
            return
        self._due += self._settings.quality_share * count
        while self._due >= self._settings.batch:
            used = self.halves.batch(state, frames)
            self._due = self._due - used if used else 0.0
            yield

    def judge(self, state: SolverState | None, frames: FrameStore, *, is_coarse: bool) -> Quality:
        """Return how good the image is by itself: while `is_coarse` by R alone."""
        if state is None:
            return Quality(math.nan, math.nan, math.nan, math.nan, None)
        if is_coarse:
            return Quality(state.r_factor, math.nan, math.nan, math.nan, None)
        found = self.halves.compare(frames, self._pixel_m)
        used = int(np.sum(frames.uses[frames.wanted] > 0))
        half_bit_m = math.nan if found is None else found.resolution_m
        if math.isfinite(half_bit_m) and (not self._resolutions or self._resolutions[-1][0] != used):
            self._resolutions.append((used, half_bit_m))
        slots = spaced(frames.active[frames.uses[frames.active] > 0], HELD_OUT_FRAMES)
        return Quality(
            r_factor=state.r_factor,
            r_held_out=held_out_r(self._backend, state, frames, slots, finer(self._settings.subpixel)),
            half_bit_m=half_bit_m,
            one_seventh_m=math.nan if found is None else found.one_seventh_resolution_m,
            frc=found,
        )

    def frames_for(self, resolution_m: float) -> int | None:
        """Return how many frames a resolution (½ bit) is expected to take; None until that can be told."""
        return frames_for_resolution(self._resolutions, resolution_m)

    def contents(self) -> dict[str, Any]:
        """Return what is known so far, for a checkpoint."""
        return {**self.halves.contents(), "due": self._due, "resolutions": self._resolutions}

    def restore(self, contents: Mapping[str, Any], frames: FrameStore) -> None:
        """Take up what `contents` returned."""
        self.halves.restore(contents, frames)
        self._due = contents["due"]
        self._resolutions = [(used, resolution_m) for used, resolution_m in contents["resolutions"]]
