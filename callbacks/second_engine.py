"""ReconstructWithSecondEngine: the same frames by another engine too, to compare both while the scan runs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

from nsbluesky.callbacks.derived_run import Document
from nsbluesky.callbacks.picture_clock import PictureClock
from nsbluesky.callbacks.solver_documents import add_clean_frames, is_last_picture_due, picture_data
from nsbluesky.callbacks.stage import RunContext, Stage
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.sweep import Sweep

__all__ = ["ReconstructWithSecondEngine"]


class ReconstructWithSecondEngine(Stage):
    """The stage of one run: a second engine, where `PipelineSettings.second_engine` names one; at any time.

    It waits until the image knows its probe, and begins on a blank object with the frames, the orientation and the
    probe that the image has then; it gets all frames that come afterwards, and begins anew where the image finds
    another defocus or orientation.  It has half of the solver's time; once the scan is over it waits for the last
    picture of the image, which others wait for.  An engine that fails costs the image nothing.
    """

    name = "second_engine"

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        self._solver: IncrementalSolver | None = None
        self._engine = ""
        self._sweep: Sweep | None = None
        self._stopped = False
        self._final_told = False
        self._clock = PictureClock()
        self._deadline = math.inf

    @property
    def _settings(self) -> SolverSettings:
        """Those of the image but for the engine; the half-sets tell of the image alone."""
        settings = self.run.settings
        return settings.solver.replace(algorithm=settings.second_engine, quality_share=0.0)

    def configure(self) -> Iterator[Document]:
        """Begin anew with another engine, or none; go on with other settings."""
        if self.run.settings.second_engine != self._engine:
            self._solver = None
        elif self._solver is not None and self._settings != self._solver.settings:
            self._solver.configure(self._settings)
        else:
            return
        self._final_told, self._deadline = False, math.inf
        yield from ()

    def on_event_page(self, page: dict[str, Any]) -> Iterator[Document]:
        """Give clean frames to the solver."""
        if self.stream_of(page) == "clean" and self._solver is not None:
            add_clean_frames(self._solver, page)
            self._final_told = False
        yield from ()

    def on_stop(self, document: dict[str, Any]) -> Iterator[Document]:
        """Tell the solver that no more frames will come."""
        if self.is_raw(document):
            self._stopped = True
            if self._solver is not None:
                self._solver.finish()
        yield from ()

    @property
    def is_wanted(self) -> bool:
        """Whether an engine is named."""
        return bool(self.run.settings.second_engine)

    @property
    def queue(self) -> int:
        """How many frames are in no pass yet."""
        return 0 if self._solver is None else self._solver.num_unused

    @property
    def has_work(self) -> bool:
        """Whether there is an image to work beside, and frames to work on or a last picture to show."""
        first, solver = self.run.solver, self._solver
        if not self.run.settings.second_engine or first is None or first.state is None:
            return False
        if not first.knows_probe:  # the orientation may be looked for still: it begins anew with another one
            return False
        if not (self.run.image_is_final if self._stopped else self.run.settings.solver.live):
            return False
        if solver is None:
            return True
        if self._final_told:
            return False
        return solver.has_work or self._clock.is_due or is_last_picture_due(solver, self._deadline)

    def work(self, budget_s: float) -> Iterator[Document]:
        """Let the solver work, and publish."""
        first, solver = self.run.solver, self._solver
        assert first is not None
        if solver is None or self._is_out_of_date(solver, first):
            solver = self._solver = self._begin(first)
        if self._stopped and self._deadline == math.inf and self.run.settings.solver.live:
            self._deadline = time.monotonic() + self.run.settings.solver.final_s
        if solver.has_work:
            solver.step(budget_s)
            self._clock.has_news = solver.state is not None
        if is_last_picture_due(solver, self._deadline):
            self._final_told = True
            yield from self._picture(solver, final=True)
        elif self.run.settings.solver.live and self._clock.is_due:
            yield from self._picture(solver, final=False)

    def _is_out_of_date(self, solver: IncrementalSolver, first: IncrementalSolver) -> bool:
        """Return whether the image found another defocus or orientation since this solver began."""
        found_anew = first.sweep is not None and first.sweep is not self._sweep and first.sweep.accepted
        return found_anew or solver.frame_orientation != first.frame_orientation

    def _begin(self, first: IncrementalSolver) -> IncrementalSolver:
        self._engine, self._sweep = self.run.settings.second_engine, first.sweep
        solver = IncrementalSolver(
            self._settings,
            frame_px=first.frame_px,
            pixel_m=first.pixel_m,
            geometry=first.geometry,
            backend=self.run.backend,
            num_points=first.num_points,
        )
        solver.take_over(first)
        if self._stopped:
            solver.finish()
        return solver

    def _picture(self, solver: IncrementalSolver, final: bool) -> Iterator[Document]:
        picture = solver.picture()
        self._clock.begin_picture()
        if picture.num_frames == 0:
            return
        yield from self.run.derived.event(
            "second_engine",
            engine=self._engine,
            **picture_data(picture),
            coarse=solver.r_is_coarse,
            final=final,
        )
        self._clock.end_picture(self.run.settings.solver.publish_hz)
