"""The passes after the last frame: of which engine, how many, and which of them are without momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nsbluesky.backend import Backend
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.pace import RESTING_PASSES, most_passes, rests
from nsbluesky.solver.schedule import stage_of, stages_of, tells_passes
from nsbluesky.solver.settling import SETTLED, Settling
from nsbluesky.solver.state import SolverState

__all__ = ["LastPasses"]

ROUND = 5
"""Passes between two looks at an image."""

LEAST_USES = 25
"""Uses of each frame, on average, before an image counts as settled: one with a wrong probe sways at first."""


class LastPasses:
    """Plans the last passes: as many as are told, or until the image has settled.

    Parameters
    ----------
    settings : SolverSettings
    backend : Backend

    Attributes
    ----------
    least : int
        Passes at least, of all engines of the schedule; all of them where numbers are told.
    are_told : bool
        Whether settings tell how many there are.

    Raises
    ------
    SettingsError
        For an unknown engine.
    """

    def __init__(self, settings: SolverSettings, backend: Backend) -> None:
        self._stages = stages_of(settings)
        self.are_told = tells_passes(settings)
        self._settling = Settling(backend)
        self.least = sum(stage.passes for stage in self._stages)
        self.begin()

    def begin(self, passes_done: int = 0) -> None:
        """Begin anew after so many of them: frames, settings or modes are others, and the image has to settle."""
        self._settling.reset()
        self._next_look = passes_done
        self._end: int | None = None

    def settle(self, passes_done: int, passes: int) -> None:
        """Say that the image has settled, and ends with so many passes without momentum."""
        self._end = passes_done + passes

    @property
    def stages(self) -> tuple[str, ...]:
        """The engines, one after another."""
        return tuple(stage.algorithm for stage in self._stages)

    @property
    def wanted(self) -> int:
        """Passes that are wanted, of all engines, as far as is known."""
        if self.are_told:
            return self.least
        return self._next_look + ROUND + RESTING_PASSES if self._end is None else self._end

    def stage(self, passes_done: int) -> int:
        """Return the number of the stage whose turn it is after so many passes."""
        return stage_of(self._stages, passes_done)[0]

    def rest(self, passes_done: int) -> bool:
        """Return whether passes are without momentum after so many."""
        if not self.are_told:
            return self._end is not None
        stage, left = stage_of(self._stages, passes_done)
        return rests(self._stages[stage].passes, left)

    def look(
        self, passes_done: int, state: SolverState, frames: FrameStore, uses: float, positions_move: bool
    ) -> None:
        """Look at the image where it is time: before a pass over whole frames, which had so many uses on average.

        It has not settled while its frames' positions are on their way.
        """
        if self.are_told or self._end is not None or passes_done < self._next_look:
            return
        correlation = self._settling.correlation(state, frames)
        has_settled = uses >= LEAST_USES and correlation < SETTLED and not positions_move
        if has_settled or passes_done >= most_passes(len(frames.active), len(state.objects)):
            self.settle(passes_done, RESTING_PASSES)
        else:
            self._next_look = passes_done + ROUND

    def contents(self) -> dict[str, Any]:
        """Return how far they are, for a checkpoint."""
        return {"next_look": self._next_look, "end": self._end, **self._settling.contents()}

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned."""
        self._next_look, self._end = contents["next_look"], contents["end"]
        self._settling.restore(contents)
