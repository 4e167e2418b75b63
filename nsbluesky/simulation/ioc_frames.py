"""Frames made ahead of the camera's trigger, on threads of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Frame", "FramesAhead", "Shot"]

Frame = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Shot:
    """One exposure as nature sees it: where the sample really was, and whether there was light."""

    index: int
    x_m: float
    y_m: float
    shutter_open: bool
    exposure_s: float


class FramesAhead:
    """Make frames before they are asked for.

    A trajectory's positions are known once it is loaded, so its frames can be made while the stage is still on its
    way.  A frame that was not foreseen (the shutter closed meanwhile) is made when it is asked for.

    Parameters
    ----------
    make : callable
        Makes the frame of one shot; called on the workers' threads.
    depth : int
        Frames that wait in memory at most.
    workers : int
        Threads.
    """

    def __init__(self, make: Callable[[Shot], Frame], depth: int, workers: int) -> None:
        self._make = make
        self._depth = depth
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="frames")
        self._upcoming: deque[Shot] = deque()
        self._waiting: deque[tuple[Shot, Future[Frame]]] = deque()

    def expect(self, shots: Iterable[Shot]) -> None:
        """Start on the frames of these shots, in their order, and forget any others."""
        shots = list(shots)
        if shots == [shot for shot, _ in self._waiting] + list(self._upcoming):
            return
        self._forget()
        self._upcoming.extend(shots)
        self._fill()

    def take(self, shot: Shot) -> Future[Frame]:
        """Return the frame of a shot, as a future."""
        if not self._waiting or self._waiting[0][0] != shot:
            self._forget()
            return self._pool.submit(self._make, shot)
        frame = self._waiting.popleft()[1]
        self._fill()
        return frame

    def waiting(self) -> list[Future[Frame]]:
        """Return the frames in the pool, made or being made."""
        return [frame for _, frame in self._waiting]

    def close(self) -> None:
        """Stop the threads."""
        self._forget()
        self._pool.shutdown()

    def _fill(self) -> None:
        while self._upcoming and len(self._waiting) < self._depth:
            shot = self._upcoming.popleft()
            self._waiting.append((shot, self._pool.submit(self._make, shot)))

    def _forget(self) -> None:
        self._upcoming.clear()
        for _, frame in self._waiting:
            frame.cancel()
        self._waiting.clear()
