"""DarkAverager: dark frames in, their mean, standard deviation and the bad pixels and ADCs out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nsbluesky.callbacks.derived_run import Document
from nsbluesky.callbacks.frame_source import ReadFrames
from nsbluesky.callbacks.run_processor import RunProcessor
from nsbluesky.callbacks.stage import RunContext, Stage
from nsbluesky.cleaning.darks import RollingDarks
from nsbluesky.cleaning.layout import get_layout
from nsbluesky.streams import PRIMARY, exposure_of_dark

__all__ = ["AverageDarks", "DarkAverager"]


class AverageDarks(Stage):
    """The stage of one run: adds up dark frames; tells their statistics when the next frame with light comes.

    Darks that are taken again during the scan are told again, and replace older ones.
    """

    name = "darks"

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        self._darks: dict[int, RollingDarks] = {}
        self._came = False
        self._told = False

    def on_event_page(self, page: dict[str, Any]) -> Iterator[Document]:
        """Add dark frames, or close the statistics."""
        stream = self.stream_of(page)
        exposure = exposure_of_dark(stream)
        if exposure is not None:
            self._came = True
            frames = page["data"]["frame"]
            if exposure not in self._darks:
                settings = self.run.settings.cleaning
                self._darks[exposure] = RollingDarks(get_layout(settings, frames.shape[1:]), settings)
            self._darks[exposure].add(frames)
        elif stream == PRIMARY:
            yield from self._statistics()

    def on_stop(self, document: dict[str, Any]) -> Iterator[Document]:
        """Tell the statistics of a run that has nothing but darks."""
        if self.is_raw(document) and self._darks:
            yield from self._statistics()

    def _statistics(self) -> Iterator[Document]:
        settings = self.run.settings.cleaning
        are_wanted = settings.subtract_dark or settings.layout != "none"
        if are_wanted and not self._came and not self._told:
            self.run.warnings.append(
                "no dark frames: pedestals are taken from the frames themselves, bad pixels stay in (take darks)"
            )
        self._told = True
        for exposure, darks in sorted(self._darks.items()):
            if not darks.has_news:
                continue
            dark = darks.result()
            if dark.num_left_out:
                self.run.warnings.append(
                    f"{dark.num_left_out} dark frames are nothing like the others: left out of the average"
                )
            yield from self.run.derived.event(
                "dark_statistics",
                exposure=exposure,
                mean=dark.mean,
                std=dark.std,
                bad=dark.bad.astype(np.uint8),
                bad_adcs=[int(adc) for adc in dark.bad_adcs],
                num_frames=int(dark.num_frames),
                line_frequencies=dark.lines.frequencies.tolist(),
                line_amplitudes_adu=dark.lines.amplitudes_adu.tolist(),
                gain_steps=np.zeros((0, *dark.mean.shape), np.float32)
                if dark.gain_steps is None
                else dark.gain_steps,
            )


class DarkAverager(RunProcessor):
    """Callback: raw runs in, dark statistics out."""

    stages = (ReadFrames, AverageDarks)
