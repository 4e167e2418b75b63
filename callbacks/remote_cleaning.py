"""Cleaning on workers: they read a block of frames by reference, clean it and send back photons.

Any `concurrent.futures.Executor` will do: threads, processes, Dask's.  What is the same for all blocks, the recipe,
lies in a file beside the frames, so that a task is a few hundred bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend, get_backend
from nsbluesky.callbacks.derived_run import split_page
from nsbluesky.callbacks.frame_readers import FrameRange
from nsbluesky.cleaning.background import overscan_drift
from nsbluesky.cleaning.clean import clean
from nsbluesky.cleaning.darks import DarkStatistics
from nsbluesky.cleaning.layout import get_layout
from nsbluesky.cleaning.plan import CleaningPlan, make_plan
from nsbluesky.cleaning.spikes import InterferenceLines
from nsbluesky.geometry import Geometry
from nsbluesky.settings import CleaningSettings

__all__ = ["CleanBlock", "Recipe", "RemoteCleaning", "Task", "clean_block", "clean_exposures"]

STALLED_S = 120.0
"""Time without a block from the workers after which those that wait are given back: the processing may try itself."""


@dataclasses.dataclass(frozen=True, eq=False)
class CleanBlock:
    """What becomes of a block of raw frames.

    Attributes
    ----------
    frames : (n, frame_px, frame_px) float32
        Photons, oriented.
    flags : (n,) uint16
    drift_adu : float
        Of the overscan since the darks; 0 without darks.
    """

    frames: npt.NDArray[np.float32]
    flags: npt.NDArray[np.uint16]
    drift_adu: float


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """What a `CleaningPlan` is made of.

    Attributes
    ----------
    settings : CleaningSettings
        With the centre.
    shape : (int, int)
        Of raw frames.
    dark : DarkStatistics or None
    mean : (rows, columns) float32 or None
        Mean of the first frames, assembled.
    energy_eV, pixel_size_m : float
    """

    settings: CleaningSettings
    shape: tuple[int, int]
    dark: DarkStatistics | None
    mean: npt.NDArray[np.float32] | None
    energy_eV: float
    pixel_size_m: float

    def plan(self, xp: Any) -> CleaningPlan:
        """Return the plan; the same on every machine."""
        center = self.settings.center_px
        assert center is not None
        layout = get_layout(self.settings, self.shape)
        return make_plan(
            self.settings,
            layout,
            self.dark,
            center,
            energy_eV=self.energy_eV,
            pixel_size_m=self.pixel_size_m,
            mean=self.mean,
            xp=xp,
        )

    def save(self, path: Path) -> None:
        """Write the recipe to a file, never a part of it."""
        about = {
            "settings": self.settings.to_dict(),
            "shape": list(self.shape),
            "energy_eV": self.energy_eV,
            "pixel_size_m": self.pixel_size_m,
        }
        arrays: dict[str, Any] = {"about": np.array(json.dumps(about))}
        if self.mean is not None:
            arrays["mean_image"] = self.mean
        if self.dark is not None:
            arrays |= {f"dark.{key}": value for key, value in vars(self.dark).items() if value is not None}
            arrays["dark.lines"] = np.stack([self.dark.lines.frequencies, self.dark.lines.amplitudes_adu])
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Return the recipe of a file."""
        with np.load(path, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            told = {key.removeprefix("dark."): arrays[key] for key in arrays if key.startswith("dark.")}
            dark = None
            if told:
                told |= {"num_frames": int(told["num_frames"]), "lines": InterferenceLines(*told["lines"])}
                dark = DarkStatistics(**told)
            rows, columns = about["shape"]
            settings = CleaningSettings.from_dict(about["settings"])
            mean = arrays.get("mean_image")
            return cls(settings, (rows, columns), dark, mean, about["energy_eV"], about["pixel_size_m"])


def clean_exposures(
    raw: Any, exposure: npt.NDArray[np.intp], plans: Sequence[CleaningPlan], backend: Backend, geometry: Geometry
) -> CleanBlock:
    """Clean frames, each by the plan of its exposure.

    Parameters
    ----------
    raw : (n, rows, columns) uint16
        In host memory.
    exposure : (n,) int
        Which of the plans.
    plans : sequence of CleaningPlan
    backend : Backend
    geometry : Geometry
        Tells the orientation.
    """
    px = plans[0].frame_px
    frames, flags, drift = np.empty((len(raw), px, px), np.float32), np.zeros(len(raw), np.uint16), 0.0
    for k, plan in enumerate(plans):
        rows = np.flatnonzero(exposure == k)
        if len(rows):
            part = raw if len(rows) == len(raw) else raw[rows]
            cleaned = clean(part, plan, threads=backend.working)
            frames[rows], flags[rows] = backend.to_numpy(cleaned.frames), cleaned.flags
            drift = max(drift, overscan_drift(backend.from_numpy(part[-1]), plan.background))
    return CleanBlock(np.ascontiguousarray(geometry.orient(frames)), flags, drift)


def clean_block(
    frames: FrameRange,
    exposure: npt.NDArray[np.intp],
    recipes: Sequence[Path],
    backend_name: str,
    geometry: Geometry,
) -> CleanBlock:
    """Read and clean a block of frames: the task of a worker."""
    backend = get_backend(backend_name, threads=1)
    with _LOADING:
        plans = [_plan(path, backend.name) for path in recipes]
    return clean_exposures(frames.read(), exposure, plans, backend, geometry)


_LOADING = threading.Lock()
"""NumPy reads a file's header by `ast`, which fails now and then where two threads of CPython 3.11 do that at once
("SystemError: AST constructor recursion depth mismatch"); and one of two that want the same plan makes it."""


@functools.lru_cache(maxsize=8)
def _plan(path: Path, backend_name: str) -> CleaningPlan:
    return Recipe.load(path).plan(get_backend(backend_name, threads=1).xp)


@dataclasses.dataclass(eq=False)
class Task:
    """A page of raw frames for the workers.

    Attributes
    ----------
    page : dict
        Its frames are a `FrameRange`.
    exposure : (n,) int
    future : Future, optional
        None until the workers have it.
    """

    page: dict[str, Any]
    exposure: npt.NDArray[np.intp]
    future: Future[CleanBlock] | None = None

    def result(self) -> CleanBlock:
        """Return what became of the page, or raise what the workers failed with."""
        assert self.future is not None
        return self.future.result()


class RemoteCleaning:
    """The blocks of one run that are at the workers; results come back in the order of the blocks.

    Parameters
    ----------
    executor : Executor
    directory : Path
        For recipes; the workers must see it under the same path.
    backend_name : str
        "numpy", "cupy", or "auto" for what each worker has.
    geometry : Geometry
    """

    def __init__(self, executor: Executor, directory: Path, backend_name: str, geometry: Geometry) -> None:
        self._executor = executor
        self._directory = directory
        self._backend_name = backend_name
        self._geometry = geometry
        self._recipes: tuple[Path, ...] = ()
        self._written: list[Path] = []
        self._tasks: deque[Task] = deque()
        self._heard = time.monotonic()

    @property
    def num_frames(self) -> int:
        """How many frames are at the workers."""
        return sum(len(task.page["seq_num"]) for task in self._tasks)

    def use(self, recipes: Sequence[Recipe], name: str) -> None:
        """Clean by these recipes from now on, one for each exposure; `name` is that of the run."""
        paths = [self._directory / f"{name}-{len(self._written) + k}.npz" for k in range(len(recipes))]
        for path, recipe in zip(paths, recipes, strict=True):
            recipe.save(path)
        self._recipes = tuple(paths)
        self._written += paths

    def submit(self, page: dict[str, Any], exposure: npt.NDArray[np.intp]) -> None:
        """Give a page to the workers; where they take nothing any more, its task has failed with `BrokenExecutor`."""
        if not self._tasks:
            self._heard = time.monotonic()
        task = Task(page, exposure)
        self._begin(task)
        self._tasks.append(task)

    def submit_one_by_one(self, task: Task) -> None:
        """Give the frames of a task that failed to the workers again, before all others.

        Each waits for the one before it: of two frames at a worker that dies, nobody could tell which killed it.
        """
        again = [Task(page, task.exposure[k : k + 1]) for k, page in enumerate(split_page(task.page))]
        self._tasks.extendleft(reversed(again))

    def finished(self, wait_s: float = 0.0) -> Iterator[Task]:
        """Yield what is finished, in the order in which it was given; wait for the first one.

        Where the workers hang, what waits has failed with `BrokenExecutor`.
        """
        while self._tasks:
            first = self._tasks[0]
            future = first.future or self._begin(first)
            wait([future], wait_s)
            if future.done():
                self._heard = time.monotonic()
            elif time.monotonic() - self._heard <= STALLED_S:
                return
            else:
                future.cancel()
                first.future = _failed(f"no block has come back for {STALLED_S:g} s")
            wait_s = 0.0
            yield self._tasks.popleft()

    def close(self) -> None:
        """Take back what no worker has begun, and remove the recipes."""
        for task in self._tasks:
            if task.future is not None:
                task.future.cancel()
        self._tasks.clear()
        for path in self._written:
            path.unlink(missing_ok=True)

    def _begin(self, task: Task) -> Future[CleanBlock]:
        frames = task.page["data"]["frame"]
        arguments = frames, task.exposure, self._recipes, self._backend_name, self._geometry
        try:
            future = self._executor.submit(clean_block, *arguments)
        except Exception as error:
            future = _failed(str(error))
        task.future = future
        return future


def _failed(reason: str) -> Future[CleanBlock]:
    future: Future[CleanBlock] = Future()
    future.set_exception(BrokenExecutor(reason))
    return future
