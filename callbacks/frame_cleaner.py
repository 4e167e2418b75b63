"""FrameCleaner: raw frames in, photons on a square centred on the zero order out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.dark_averager import AverageDarks
from nsbluesky.callbacks.derived_run import Document
from nsbluesky.callbacks.frame_source import ReadFrames
from nsbluesky.callbacks.run_processor import RunProcessor
from nsbluesky.callbacks.stage import FramesFailed, RunContext, Stage
from nsbluesky.cleaning.background import overscan_drift
from nsbluesky.cleaning.clean import clean
from nsbluesky.cleaning.darks import DarkStatistics
from nsbluesky.cleaning.exposures import combine_exposures
from nsbluesky.cleaning.flags import FluxMonitor, weights_of
from nsbluesky.cleaning.layout import get_layout
from nsbluesky.cleaning.plan import CleaningPlan, make_plan, plan_for
from nsbluesky.cleaning.spikes import InterferenceLines
from nsbluesky.streams import PRIMARY, num_exposures

__all__ = ["CleanFrames", "FrameCleaner"]


@dataclasses.dataclass
class Exposure:
    """One exposure of a point, cleaned."""

    frame: npt.NDArray[np.float32]
    flags: int
    time: float
    x_m: float
    y_m: float


class CleanFrames(Stage):
    """The stage of one run: finds the centre on the first frames, then cleans every block with one fixed plan.

    With several exposures a point, each has darks and a plan of its own, and they are combined.
    """

    name = "clean"

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        self._settings = run.settings.cleaning
        self._darks: dict[int, DarkStatistics] = {}
        self._plans: list[CleaningPlan] = []
        self._held: list[dict[str, Any]] = []
        self._num_exposures = num_exposures(run.start)
        self._points: dict[int, dict[int, Exposure]] = {}
        self._flux = FluxMonitor(self._settings)
        self._drift_told = False

    def on_event(self, event: dict[str, Any]) -> Iterator[Document]:
        """Take the dark statistics."""
        if self.stream_of(event) == "dark_statistics":
            data = event["data"]
            dark = DarkStatistics(
                mean=data["mean"],
                std=data["std"],
                bad=data["bad"].astype(bool),
                bad_adcs=np.asarray(data["bad_adcs"], dtype=np.intp),
                num_frames=data["num_frames"],
                lines=InterferenceLines(np.array(data["line_frequencies"]), np.array(data["line_amplitudes_adu"])),
            )
            self._darks[int(data["exposure"])] = dark
            if self._plans:
                self._renew(int(data["exposure"]), dark)
        yield from ()

    def on_event_page(self, page: dict[str, Any]) -> Iterator[Document]:
        """Clean a block of frames, or hold it until the centre is known."""
        if self.stream_of(page) != PRIMARY:
            return
        if not self._plans:
            self._held.append(page)
            held = sum(len(held["seq_num"]) for held in self._held)
            if held < self._settings.center_frames * self._num_exposures:
                return
            yield from self._begin()
        else:
            yield from self._clean(page)

    def on_stop(self, document: dict[str, Any]) -> Iterator[Document]:
        """Clean what was held in a run of few frames, and combine points whose last exposure never came."""
        if self.is_raw(document):
            if self._held:
                yield from self._begin()
            yield from self._combined(list(self._points))

    def _begin(self) -> Iterator[Document]:
        """Fix the centre and the plans, and clean what was held."""
        held, self._held = self._held, []
        frames = np.concatenate([page["data"]["frame"] for page in held])
        seq_nums = np.concatenate([page["seq_num"] for page in held])
        run = self.run
        layout = get_layout(self._settings, frames.shape[1:])
        try:
            settings = self._settings
            for exposure in self._longest_first():
                dark = self._darks.get(exposure)
                plan = plan_for(
                    frames[(seq_nums - 1) % self._num_exposures == exposure],
                    settings,
                    layout,
                    dark,
                    energy_eV=run.geometry.energy_eV,
                    pixel_size_m=run.geometry.pixel_size_m,
                    xp=run.backend.xp,
                )
                settings = settings.replace(center_px=plan.center)  # the same for all
                self._plans.append(plan)
        except ValueError as error:
            self._plans = []
            raise FramesFailed(str(error), [k for page in held for k in page["seq_num"]]) from error
        if self._num_exposures > 1:
            order = self._longest_first()
            self._plans = [self._plans[order.index(k)] for k in range(self._num_exposures)]
        mask = np.bitwise_or.reduce([run.backend.to_numpy(plan.mask) for plan in self._plans])
        row, column = self._plans[0].center
        yield from run.derived.event(
            "detector",
            center_row_px=float(row),
            center_column_px=float(column),
            mask=np.ascontiguousarray(run.geometry.orient(mask)),
            pixel_size_m=run.geometry.pixel_size_m * self._settings.pixel_ratio,
        )
        for page in held:
            yield from self._clean(page)

    def _longest_first(self) -> list[int]:
        """Return the exposures' numbers; the centre is found best on the longest one."""
        if self._num_exposures == 1:
            return [0]
        return sorted(range(self._num_exposures), key=lambda k: -self._exposures_s[k])

    @property
    def _exposures_s(self) -> list[float]:
        return [float(time) for time in self.run.start["ptycho"]["exposures_s"]]

    def _renew(self, exposure: int, dark: DarkStatistics) -> None:
        """Take newer darks; what the detector's mask was made of stays, as the solver knows it."""
        old = self._plans[exposure]
        former_bad = self.run.backend.to_numpy(old.mask)
        plan = make_plan(
            old.settings,
            old.layout,
            dark,
            old.center,
            energy_eV=self.run.geometry.energy_eV,
            pixel_size_m=self.run.geometry.pixel_size_m,
            xp=old.xp,
        )
        if not np.array_equal(self.run.backend.to_numpy(plan.mask), former_bad):
            self.run.warnings.append("newer dark frames show other bad pixels than the first ones: mask unchanged")
        self._plans[exposure] = plan
        self._drift_told = False

    def _clean(self, page: dict[str, Any]) -> Iterator[Document]:
        frames, flags = self._photons(page)
        data = page["data"]
        if self._num_exposures == 1:
            yield from self._page(page["seq_num"], page["time"], frames, flags, data["x_m"], data["y_m"])
            return
        complete = []
        for row, seq_num in enumerate(page["seq_num"]):
            point, exposure = divmod(int(seq_num) - 1, self._num_exposures)
            exposures = self._points.setdefault(point + 1, {})
            exposures[exposure] = Exposure(
                frames[row], int(flags[row]), page["time"][row], data["x_m"][row], data["y_m"][row]
            )
            if len(exposures) == self._num_exposures:
                complete.append(point + 1)
        yield from self._combined(complete)

    def _photons(self, page: dict[str, Any]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint16]]:
        """Return a block's frames, each cleaned by the plan of its exposure, and their flags."""
        backend = self.run.backend
        raw = page["data"]["frame"]
        exposure = (np.asarray(page["seq_num"]) - 1) % self._num_exposures
        px = self._settings.frame_px
        frames, flags = np.empty((len(raw), px, px), np.float32), np.zeros(len(raw), np.uint16)
        for k, plan in enumerate(self._plans):
            rows = np.flatnonzero(exposure == k)
            if len(rows):
                part = raw if len(rows) == len(raw) else raw[rows]
                cleaned = clean(part, plan, threads=backend.threads)
                frames[rows], flags[rows] = backend.to_numpy(cleaned.frames), cleaned.flags
                self._watch_drift(backend.from_numpy(part[-1]), plan)
        return np.ascontiguousarray(self.run.geometry.orient(frames)), flags

    def _watch_drift(self, frame: Any, plan: CleaningPlan) -> None:
        """Warn once where the overscan has moved since the darks were taken."""
        if self._drift_told or not self._darks:
            return
        drift = overscan_drift(frame, plan.background)
        if drift > self._settings.dark_drift_adu:
            self._drift_told = True
            self.run.warnings.append(
                f"the pedestal moved by {drift:.0f} ADU since the dark frames (dark_drift_adu = "
                f"{self._settings.dark_drift_adu:g}): the overscan takes it out; take darks again"
            )

    def _combined(self, points: list[int]) -> Iterator[Document]:
        """Combine the exposures of points, and forget them."""
        if not points:
            return
        rows = []
        for point in points:
            exposures = self._points.pop(point)
            frames = np.stack([e.frame for e in exposures.values()])
            flags = np.array([e.flags for e in exposures.values()], np.uint16)
            times = [self._exposures_s[k] for k in exposures]
            frame, together = combine_exposures(frames, flags, times)
            frame *= np.float32(max(self._exposures_s) / max(times))  # the longest one may be missing
            rows.append((frame, together, list(exposures.values())[-1]))
        yield from self._page(
            points,
            [last.time for *_, last in rows],
            np.stack([frame for frame, *_ in rows]),
            np.array([flag for _, flag, _ in rows], np.uint16),
            np.array([last.x_m for *_, last in rows]),
            np.array([last.y_m for *_, last in rows]),
        )

    def _page(
        self,
        seq_nums: list[int],
        times: list[float],
        frames: npt.NDArray[np.float32],
        flags: npt.NDArray[np.uint16],
        x_m: npt.NDArray[np.float64],
        y_m: npt.NDArray[np.float64],
    ) -> Iterator[Document]:
        photons = np.asarray(np.nansum(frames, axis=(1, 2), dtype=np.float64))
        flags |= self._flux.flags(photons)
        for seq_num, flag in zip(seq_nums, flags.tolist(), strict=True):
            if flag:
                self.run.flagged[int(seq_num)] = flag
            else:
                self.run.flagged.pop(int(seq_num), None)
        yield from self.run.derived.page(
            "clean",
            seq_nums,
            times,
            frame=frames,
            x_m=x_m,
            y_m=y_m,
            photons=photons,
            weight=weights_of(flags),
            flags=flags,
        )


class FrameCleaner(RunProcessor):
    """Callback: raw runs in, clean frames out."""

    stages = (ReadFrames, AverageDarks, CleanFrames)
