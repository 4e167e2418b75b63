"""Whose turn it is: the search for defocus and orientation, or the image that forms beside it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from nsbluesky.geometry import Geometry
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.intake import Intake
from nsbluesky.solver.live_image import LiveImage
from nsbluesky.solver.pace import LEAST_BATCH
from nsbluesky.solver.probe_search import ProbeSearch

__all__ = ["SWEEP_SHARE", "Turns"]

SWEEP_SHARE = 3
"""Batches of a search for each batch of the image beside it."""


class Turns:
    """Lets a search and an image work by turns, batch by batch, and tells the image what the search has found.

    While frames come, there is a picture to look at: the image has its turns beside a search.  Once they are all
    here it waits for the search, as it may have to begin anew.

    Parameters
    ----------
    settings : SolverSettings
    geometry : Geometry
        Where an optic is declared, the image begins with that before any search.
    intake : Intake
        Its frames are turned where a search finds that they lie another way round.
    search : ProbeSearch
    image : LiveImage
    """

    def __init__(
        self, settings: SolverSettings, geometry: Geometry, intake: Intake, search: ProbeSearch, image: LiveImage
    ) -> None:
        self._settings = settings
        self._geometry = geometry
        self._intake = intake
        self._search = search
        self._image = image
        self._turn = 0

    def configure(self, settings: SolverSettings) -> None:
        """Go on with other settings."""
        self._settings = settings

    @property
    def has_work(self) -> bool:
        """Whether a batch of the search or of the image would improve the picture."""
        if self._image.is_in_pass or self._search.goes_on:
            return True
        if self._num_frames == 0:
            return False
        if self._search_is_due:
            return True
        return self._can_begin if self._image.state is None else self._image.wants_passes

    def one_batch(self) -> None:
        """Work for one batch, on what has its turn."""
        if not self._search.goes_on and self._search_is_due:
            self._search.begin(self._find_probe())
        self._turn = (self._turn + 1) % (SWEEP_SHARE + 1)
        shows = not self._image.rhythm.is_last and (self._image.state is not None or self._can_begin)
        if self._search.goes_on and not (shows and self._turn == 0):
            self._search.one_batch()
            return
        if self._image.state is None:
            self._image.begin()
        self._image.one_batch()

    def begin_anew(self) -> None:
        """Begin with the frames that are here as if they had just come."""
        self._search.begin_anew()
        self._image.forget()

    @property
    def _num_frames(self) -> int:
        return len(self._intake.frames.wanted)

    @property
    def _can_begin(self) -> bool:
        """Whether there are frames enough for a first picture, and a defocus that is worth one."""
        if self._image.rhythm.is_last:
            return True
        settings, geometry = self._settings, self._geometry
        is_declared = settings.defocus_m is not None or geometry.optic.outer_zone_m > 0
        is_known = is_declared or geometry.is_near or self._search.begins_warm
        waits_for_sweep = settings.sweep_frames > 0 and not is_known
        return not waits_for_sweep and self._num_frames >= min(settings.batch, LEAST_BATCH)

    @property
    def _search_is_due(self) -> bool:
        search = self._search  # frames are counted where that matters: this is asked before each batch
        return search.sweeps_wanted and search.is_due(self._num_frames, no_more=self._image.rhythm.is_last)

    def _find_probe(self) -> Iterator[None]:
        """Look at the frames that are here; begin anew with another defocus or orientation if that is better."""
        search, frames = self._search, self._intake.frames
        slots = search.frames_for_sweep(frames.active)
        yield from search.find_motion(frames, slots) if self._geometry.is_near else self._sweep(slots)
        if search.turn:
            self._intake.turn(search.turn)
            self.begin_anew()

    def _sweep(self, slots: npt.NDArray[np.intp]) -> Iterator[None]:
        """Sweep over the defocus, begin anew where another is better, and look which way round frames lie."""
        search, image = self._search, self._image
        level = image.beginning.level(self._settings)
        yield from search.find_defocus(level, slots)
        assert search.sweep is not None and search.best is not None
        has_nothing_better = self._geometry.optic.outer_zone_m == 0 and (image.state is None or image.is_warm)
        if search.sweep.warm_fits:
            if not image.is_warm:
                image.restart(search.best, level)
            image.is_warm = True
        elif search.sweep.accepted or has_nothing_better:
            image.restart(search.best, level)
        elif image.is_warm:
            image.restart_from_optic()
        yield from search.find_orientation(level, slots)
