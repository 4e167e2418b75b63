"""FrameCleaner: raw frames in, photons on a square centred on the zero order out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.dark_averager import AverageDarks
from nsbluesky.callbacks.derived_run import Document
from nsbluesky.callbacks.frame_readers import FrameRange
from nsbluesky.callbacks.frame_source import ReadFrames
from nsbluesky.callbacks.point_exposures import CleanFrame, PointExposures
from nsbluesky.callbacks.remote_cleaning import CleanBlock, Recipe, RemoteCleaning, Task, clean_exposures
from nsbluesky.callbacks.run_processor import RunProcessor
from nsbluesky.callbacks.stage import DocumentError, FramesFailed, RunContext, Stage
from nsbluesky.cleaning.darks import DarkStatistics
from nsbluesky.cleaning.flags import FluxMonitor, weights_of
from nsbluesky.cleaning.layout import get_layout
from nsbluesky.cleaning.plan import CleaningPlan, center_and_mean
from nsbluesky.cleaning.spikes import InterferenceLines
from nsbluesky.cleaning.words import as_counts, never_measured
from nsbluesky.streams import PRIMARY, exposure_of_dark, exposures_s, num_exposures

__all__ = ["CleanFrames", "FrameCleaner"]

WAIT_S = 0.02
"""How long to wait for a worker before documents are looked at again."""


class CleanFrames(Stage):
    """The stage of one run: finds the centre on the first frames, then cleans every block with one fixed plan.

    With several exposures a point, each has darks and a plan of its own, and they are combined.  Where there are
    workers, they read and clean the blocks; what they did comes on in the order of the blocks.
    """

    name = "clean"

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        self._settings = run.settings.cleaning
        self._darks: dict[int, DarkStatistics] = {}
        self._recipes: list[Recipe] = []
        self._plans: list[CleaningPlan] = []
        self._held: list[dict[str, Any]] = []
        self._awaited: set[int] = set()
        self._waiting: list[dict[str, Any]] = []
        self._num_exposures = num_exposures(run.start)
        self._points = PointExposures(exposures_s(run.start))
        self._flux = FluxMonitor(self._settings)
        self._drift_told = False
        self._remote: RemoteCleaning | None = None
        if run.workers is not None:
            self._remote = RemoteCleaning(
                run.workers.executor, run.workers.directory, run.settings.backend, run.geometry
            )

    def configure(self) -> Iterator[Document]:
        """Clean frames that come from now on with other settings; the detector's mask stays."""
        settings = self.run.settings.cleaning
        if settings == self._settings:
            return
        self._settings = settings
        self._flux.configure(settings)
        for exposure, recipe in enumerate(self._recipes):
            settings_here = settings.replace(center_px=recipe.settings.center_px)
            self._recipes[exposure] = recipe = dataclasses.replace(recipe, settings=settings_here)
            self._plans[exposure] = recipe.plan(self._plans[exposure].xp)
        if self._recipes:
            self._tell_workers()
        yield from ()

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
                gain_steps=data["gain_steps"] if len(data["gain_steps"]) else None,
                lines=InterferenceLines(np.array(data["line_frequencies"]), np.array(data["line_amplitudes_adu"])),
            )
            self._darks[int(data["exposure"])] = dark
            if self._plans:
                self._renew(int(data["exposure"]), dark)
            self._awaited.discard(int(data["exposure"]))
            if not self._awaited:
                yield from self._take_waiting()

    def on_event_page(self, page: dict[str, Any]) -> Iterator[Document]:
        """Clean a block of frames, or hold it until the darks' statistics are there and the centre is known.

        The statistics of darks follow right behind the first block of frames that comes after them.
        """
        exposure = exposure_of_dark(self.stream_of(page))
        if exposure is not None:
            self._awaited.add(exposure)
        elif self.stream_of(page) == PRIMARY:
            if self._awaited and not self._waiting:
                self._waiting.append(page)
                return
            self._awaited.clear()  # the statistics could not be made
            yield from self._take_waiting()
            yield from self._take(page)

    def _take_waiting(self) -> Iterator[Document]:
        waiting, self._waiting = self._waiting, []
        for page in waiting:
            self.run.watch.begin(self.run.start["uid"], self.name, PRIMARY, page["seq_num"])
            try:
                yield from self._take(page)
            except FramesFailed:
                raise
            except Exception as error:  # the document at hand is another one: these are the frames that failed
                raise FramesFailed(str(error), page["seq_num"]) from error

    def _take(self, page: dict[str, Any]) -> Iterator[Document]:
        if not self._plans:
            self._held.append(page)
            held = sum(len(held["seq_num"]) for held in self._held)
            if held < self._settings.center_frames * self._num_exposures:
                return
            yield from self._begin()
        else:
            yield from self._clean(page)
            yield from self._finished()

    def on_stop(self, document: dict[str, Any]) -> Iterator[Document]:
        """Clean what was held in a run of few frames, and combine points whose last exposure never came."""
        if self.is_raw(document):
            yield from self._take_waiting()
            if self._held:
                yield from self._begin()
            if self._num_exposures > 1:
                while self._remote is not None and self._remote.num_frames:
                    yield from self._finished(WAIT_S)
                yield from self._combined(self._points.rest())

    @property
    def queue(self) -> int:
        """How many frames are at the workers."""
        return self._remote.num_frames if self._remote is not None else 0

    @property
    def has_work(self) -> bool:
        """Whether workers have something that is to come on."""
        return self.queue > 0

    def work(self, budget_s: float) -> Iterator[Document]:
        """Take what workers have done."""
        yield from self._finished(min(budget_s, WAIT_S))

    def close(self) -> None:
        """Take back what workers have not begun."""
        if self._remote is not None:
            self._remote.close()

    def _begin(self) -> Iterator[Document]:
        """Fix the centre and the plans, and clean what was held."""
        held, self._held = self._held, []
        seq_nums = np.concatenate([page["seq_num"] for page in held])
        run = self.run
        try:
            frames = np.concatenate([page["data"]["frame"] for page in held])
            settings = self._settings
            layout = get_layout(settings, frames.shape[1:])
            recipes: dict[int, Recipe] = {}
            silent = never_measured(as_counts(frames), layout)  # in no exposure
            energy_eV, pixel_size_m = run.geometry.energy_eV, run.geometry.pixel_size_m
            for exposure in self._longest_first():
                dark = self._darks.get(exposure)
                some = frames[(seq_nums - 1) % self._num_exposures == exposure]
                center, mean = center_and_mean(some, settings, layout, dark, energy_eV=energy_eV, silent=silent)
                settings = settings.replace(center_px=center)  # the same for all
                recipes[exposure] = Recipe(settings, frames.shape[1:], dark, mean, energy_eV, pixel_size_m)
            self._recipes = [recipes[exposure] for exposure in sorted(recipes)]
            self._plans = [recipe.plan(run.backend.xp) for recipe in self._recipes]
        except ValueError as error:
            raise FramesFailed(str(error), [k for page in held for k in page["seq_num"]]) from error
        self._tell_workers()
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
        times = exposures_s(self.run.start)
        return sorted(range(self._num_exposures), key=lambda k: -times[k])

    def _renew(self, exposure: int, dark: DarkStatistics) -> None:
        """Take newer darks; what the detector's mask was made of stays, as the solver knows it."""
        old = self._plans[exposure]
        former_bad = self.run.backend.to_numpy(old.mask)
        recipe = dataclasses.replace(self._recipes[exposure], dark=dark)
        plan = recipe.plan(old.xp)
        if not np.array_equal(self.run.backend.to_numpy(plan.mask), former_bad):
            self.run.warnings.append("newer dark frames show other bad pixels than the first ones: mask unchanged")
        self._plans[exposure], self._recipes[exposure] = plan, recipe
        self._tell_workers()
        self._drift_told = False

    def _tell_workers(self) -> None:
        if self._remote is not None:
            self._remote.use(self._recipes, self.run.derived.uid)

    def _clean(self, page: dict[str, Any]) -> Iterator[Document]:
        exposure = (np.asarray(page["seq_num"]) - 1) % self._num_exposures
        if self._remote is not None and isinstance(page["data"]["frame"], FrameRange):
            self._remote.submit(page, exposure)
            return
        frames, run = np.asarray(page["data"]["frame"]), self.run
        yield from self._cleaned(page, clean_exposures(frames, exposure, self._plans, run.backend, run.geometry))

    def _lose_workers(self, error: BaseException) -> None:
        """Clean here what the workers cannot, and tell it once."""
        message = f"the workers are gone ({type(error).__name__}: {error}): frames are cleaned without them"
        if message not in self.run.warnings:
            self.run.warnings.append(message)

    def _finished(self, wait_s: float = 0.0) -> Iterator[Document]:
        """Take what the workers have done; frames of a block that failed are tried one by one."""
        if self._remote is None:
            return
        for task in self._remote.finished(wait_s):
            try:
                block = task.result()
            except DocumentError as error:
                yield from self._failed(task, error, readable=False)
            except (BrokenExecutor, CancelledError) as error:
                self._lose_workers(error)
                frames = np.asarray(task.page["data"]["frame"])
                block = clean_exposures(frames, task.exposure, self._plans, self.run.backend, self.run.geometry)
                yield from self._cleaned(task.page, block)
            except Exception as error:
                yield from self._failed(task, error, readable=True)
            else:
                yield from self._cleaned(task.page, block)

    def _failed(self, task: Task, error: Exception, readable: bool) -> Iterator[Document]:
        assert self._remote is not None
        seq_nums = list(task.page["seq_num"])
        if len(seq_nums) > 1:
            self._remote.submit_one_by_one(task)
        elif readable:
            raise FramesFailed(f"a worker failed on it: {error}", seq_nums) from error
        else:
            self.run.lost[int(seq_nums[0])] = str(error)
        yield from ()

    def _cleaned(self, page: dict[str, Any], block: CleanBlock) -> Iterator[Document]:
        """Bring on a block that was cleaned, here or by a worker."""
        self._watch_drift(block.drift_adu)
        frames, flags, data = block.frames, block.flags, page["data"]
        if self._num_exposures == 1:
            yield from self._page(page["seq_num"], page["time"], frames, flags, data["x_m"], data["y_m"])
            return
        complete: dict[int, CleanFrame] = {}
        for row, seq_num in enumerate(page["seq_num"]):
            exposure = CleanFrame(frames[row], int(flags[row]), page["time"][row], data["x_m"][row], data["y_m"][row])
            complete |= self._points.add(int(seq_num), exposure)
        yield from self._combined(complete)

    def _watch_drift(self, drift_adu: float) -> None:
        """Warn once where the overscan has moved since the darks were taken."""
        if self._drift_told or not self._darks or drift_adu <= self._settings.dark_drift_adu:
            return
        self._drift_told = True
        self.run.warnings.append(
            f"the pedestal moved by {drift_adu:.0f} ADU since the dark frames (dark_drift_adu = "
            f"{self._settings.dark_drift_adu:g}): the overscan takes it out; take darks again"
        )

    def _combined(self, points: dict[int, CleanFrame]) -> Iterator[Document]:
        """Bring on points whose exposures are combined."""
        if points:
            frames = points.values()
            yield from self._page(
                list(points),
                [one.time for one in frames],
                np.stack([one.frame for one in frames]),
                np.array([one.flags for one in frames], np.uint16),
                np.array([one.x_m for one in frames]),
                np.array([one.y_m for one in frames]),
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
