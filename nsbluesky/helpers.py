"""Threads that help with calls of a few hundred microseconds.

Each is woken by a lock and tells by another that it is done, which takes a third of what an executor's queue and
futures take.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

__all__ = ["share"]


class _Task:
    """Work for one helper."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error

    def end(self) -> None:
        self._done.release()

    def wait(self) -> BaseException | None:
        self._done.acquire()
        return self._error


class _Helper:
    """A thread that does one task after the other and is idle, and known to be, in between."""

    def __init__(self) -> None:
        self._woken = threading.Lock()
        self._woken.acquire()
        self._task: _Task | None = None
        threading.Thread(target=self._run, name="nsbluesky-math", daemon=True).start()

    def begin(self, work: Callable[[], None]) -> _Task:
        task = self._task = _Task(work)
        self._woken.release()
        return task

    def _run(self) -> None:
        while True:
            self._woken.acquire()
            task, self._task = self._task, None
            assert task is not None
            task.run()
            _idle.append(self)  # before whoever waits goes on, and may want it again
            task.end()


_idle: list[_Helper] = []
os.register_at_fork(after_in_child=_idle.clear)  # threads do not live on in a child


def _helper() -> _Helper:
    try:
        return _idle.pop()
    except IndexError:
        return _Helper()


def share(work: Callable[[], None], threads: int) -> None:
    """Call `work` on so many threads at once, this one among them, and return when all have ended.

    Raises
    ------
    BaseException
        What one of the calls raised, this thread's first.
    """
    tasks = [_helper().begin(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        errors = [error for error in [task.wait() for task in tasks] if error is not None]
    if errors:
        raise errors[0]
