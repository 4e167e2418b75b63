"""What the stages of a run did so far, as windows and the service tell it, and the clock that knows it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["RunActivity", "StageActivity", "StageClock"]


@dataclass(frozen=True)
class StageActivity:
    """What a stage did so far.

    Attributes
    ----------
    stage : str
    num_blocks : int
        Documents that it made.
    busy_s : float
        Time that it took.
    age_s : float
        Since it made the last of them.
    block_s : float
        Since it began what it does just now; 0 where it rests.
    rate_hz, MB_s : float
        Documents that it made a second, and the megabytes of their arrays, lately.
    queue : int
        Frames that wait in it.
    state : str
        "busy", "idle", or "error" where it has raised in this run.
    error : str
        What it raised last; "" where it has not.
    """

    stage: str
    num_blocks: int
    busy_s: float
    age_s: float
    block_s: float
    rate_hz: float
    MB_s: float
    queue: int
    state: str
    error: str = ""


@dataclass(frozen=True)
class RunActivity:
    """What the stages of a run did so far.

    Attributes
    ----------
    raw_uid, derived_uid : str
    num_frames : int
        Clean frames so far.
    stages : tuple of StageActivity
        In the order of the data.
    """

    raw_uid: str
    derived_uid: str
    num_frames: int
    stages: tuple[StageActivity, ...]


class StageClock:
    """How long a stage has worked, on what since when, and how much it makes; read from any thread."""

    def __init__(self) -> None:
        self.num_blocks = 0
        """Documents that the stage made."""
        self._num_bytes = 0
        self._busy_s = 0.0
        self._last = self._looked = time.monotonic()
        self._since: float | None = None
        self._queue = 0
        self._rate_hz = self._MB_s = 0.0
        self._looked_at = (0, 0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time within as work of the stage."""
        self._since = began = time.monotonic()
        try:
            yield
        finally:
            self._busy_s += time.monotonic() - began
            self._since = None

    def count(self, num_bytes: int) -> None:
        """Note that the stage made a document, with arrays of so many bytes."""
        self.num_blocks += 1
        self._num_bytes += num_bytes
        self._last = time.monotonic()

    def look(self, queue: int) -> None:
        """Note the rate since the last look, and how many frames wait in the stage."""
        elapsed_s = time.monotonic() - self._looked
        if elapsed_s > 0:
            blocks, num_bytes = self._looked_at
            self._rate_hz = (self.num_blocks - blocks) / elapsed_s
            self._MB_s = 1e-6 * (self._num_bytes - num_bytes) / elapsed_s
        self._looked += elapsed_s
        self._looked_at = self.num_blocks, self._num_bytes
        self._queue = queue

    def activity(self, stage: str, error: str | None) -> StageActivity:
        """Return what the stage of that name did so far; `error` is what it raised last, None where it has not."""
        now, since = time.monotonic(), self._since
        return StageActivity(
            stage=stage,
            num_blocks=self.num_blocks,
            busy_s=self._busy_s,
            age_s=now - self._last,
            block_s=0.0 if since is None else now - since,
            rate_hz=self._rate_hz,
            MB_s=self._MB_s,
            queue=self._queue,
            state="error" if error is not None else "idle" if since is None else "busy",
            error=error or "",
        )
