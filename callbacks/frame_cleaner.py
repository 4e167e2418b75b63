"""FrameCleaner: raw frames in, photons on a square centred on the zero order out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nsbluesky.callbacks.dark_averager import AverageDarks
from nsbluesky.callbacks.derived_run import Document
from nsbluesky.callbacks.frame_source import ReadFrames
from nsbluesky.callbacks.run_processor import RunProcessor
from nsbluesky.callbacks.stage import FramesFailed, RunContext, Stage
from nsbluesky.cleaning.clean import CleaningPlan, clean, plan_for
from nsbluesky.cleaning.darks import DarkStatistics
from nsbluesky.cleaning.layout import get_layout

__all__ = ["CleanFrames", "FrameCleaner"]


class CleanFrames(Stage):
    """The stage of one run: finds the centre on the first frames, then cleans every block with one fixed plan."""

    name = "clean"

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        self._settings = run.settings.cleaning
        self._dark: DarkStatistics | None = None
        self._plan: CleaningPlan | None = None
        self._held: list[dict[str, Any]] = []

    def on_event(self, event: dict[str, Any]) -> Iterator[Document]:
        """Take the dark statistics."""
        if self.stream_of(event) == "dark_statistics":
            data = event["data"]
            self._dark = DarkStatistics(
                mean=data["mean"],
                std=data["std"],
                bad=data["bad"].astype(bool),
                bad_adcs=np.asarray(data["bad_adcs"], dtype=np.intp),
                num_frames=data["num_frames"],
            )
        yield from ()

    def on_event_page(self, page: dict[str, Any]) -> Iterator[Document]:
        """Clean a block of frames, or hold it until the centre is known."""
        if self.stream_of(page) != "primary":
            return
        if self._plan is None:
            self._held.append(page)
            if sum(len(held["seq_num"]) for held in self._held) < self._settings.center_frames:
                return
            yield from self._begin()
        else:
            yield from self._clean(page)

    def on_stop(self, document: dict[str, Any]) -> Iterator[Document]:
        """Clean what was held in a run of few frames."""
        if self.is_raw(document) and self._held:
            yield from self._begin()

    def _begin(self) -> Iterator[Document]:
        """Fix the centre and the plan, and clean what was held."""
        held, self._held = self._held, []
        frames = np.concatenate([page["data"]["frame"] for page in held])
        layout = get_layout(self._settings.layout, frames.shape[1:])
        energy_eV, xp = self.run.geometry.energy_eV, self.run.backend.xp
        try:
            self._plan = plan_for(frames, self._settings, layout, self._dark, energy_eV=energy_eV, xp=xp)
        except ValueError as error:
            raise FramesFailed(str(error), [k for page in held for k in page["seq_num"]]) from error
        row, column = self._plan.center
        yield from self.run.derived.event(
            "detector",
            center_row_px=float(row),
            center_column_px=float(column),
            mask=np.ascontiguousarray(self.run.geometry.orient(self.run.backend.to_numpy(self._plan.mask))),
            pixel_size_m=self.run.geometry.pixel_size_m * self._settings.pixel_ratio,
        )
        for page in held:
            yield from self._clean(page)

    def _clean(self, page: dict[str, Any]) -> Iterator[Document]:
        assert self._plan is not None
        backend = self.run.backend
        frames = backend.to_numpy(clean(backend.from_numpy(page["data"]["frame"]), self._plan))
        frames = np.ascontiguousarray(self.run.geometry.orient(frames))
        yield from self.run.derived.page(
            "clean",
            page["seq_num"],
            page["time"],
            frame=frames,
            x_m=page["data"]["x_m"],
            y_m=page["data"]["y_m"],
            photons=frames.sum(axis=(1, 2), dtype=np.float64),
        )


class FrameCleaner(RunProcessor):
    """Callback: raw runs in, clean frames out."""

    stages = (ReadFrames, AverageDarks, CleanFrames)
