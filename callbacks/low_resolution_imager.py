"""LowResolutionImager: clean frames in; transmission, phase contrast and dark field on the scan's grid out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nsbluesky.callbacks.dark_averager import AverageDarks
from nsbluesky.callbacks.derived_run import Document
from nsbluesky.callbacks.frame_cleaner import CleanFrames
from nsbluesky.callbacks.frame_source import ReadFrames
from nsbluesky.callbacks.picture_clock import PictureClock
from nsbluesky.callbacks.run_processor import RunProcessor
from nsbluesky.callbacks.stage import RunContext, Stage
from nsbluesky.low_resolution import LowResolutionAccumulator

__all__ = ["ImageLowResolution", "LowResolutionImager"]


class ImageLowResolution(Stage):
    """The stage of one run: sums and centres of mass per frame, an image of them at most so often a second."""

    name = "low_resolution"

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        self._accumulator: LowResolutionAccumulator | None = None
        self._clock = PictureClock()

    def on_event(self, event: dict[str, Any]) -> Iterator[Document]:
        """Take the detector's mask."""
        if self.stream_of(event) == "detector":
            self._accumulator = LowResolutionAccumulator(event["data"]["mask"])
        yield from ()

    def on_event_page(self, page: dict[str, Any]) -> Iterator[Document]:
        """Add clean frames."""
        if self.stream_of(page) == "clean" and self._accumulator is not None:
            data = page["data"]
            self._accumulator.add(np.asarray(page["seq_num"]), data["frame"], data["x_m"], data["y_m"])
            self._clock.has_news = self._accumulator.num_frames > 0
            if self._clock.is_due:
                yield from self._image()

    def on_stop(self, document: dict[str, Any]) -> Iterator[Document]:
        """Image what came after the last picture."""
        if self.is_raw(document) and self._clock.has_news:
            yield from self._image()

    @property
    def has_work(self) -> bool:
        """Whether frames came since the last picture."""
        return self._clock.is_due

    def work(self, budget_s: float) -> Iterator[Document]:
        """Image what came since the last picture."""
        yield from self._image()

    def _image(self) -> Iterator[Document]:
        assert self._accumulator is not None
        self._clock.begin_picture()
        self._clock.end_picture(self.run.settings.solver.publish_hz)
        result = self._accumulator.result()
        yield from self.run.derived.event(
            "low_resolution",
            transmission=result.transmission,
            dpc_x=result.dpc_x,
            dpc_y=result.dpc_y,
            dark_field=result.dark_field,
            extent_m=np.asarray(result.extent_m, dtype=np.float64),
            illumination=result.illumination,
            num_frames=int(result.num_frames),
        )


class LowResolutionImager(RunProcessor):
    """Callback: raw runs in, low-resolution images out."""

    stages = (ReadFrames, AverageDarks, CleanFrames, ImageLowResolution)
