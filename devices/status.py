"""Status objects for what takes time: work on a thread, and a count that has to arrive somewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ophyd import Device
from ophyd.status import DeviceStatus, Status, SubscriptionStatus

__all__ = ["DeviceError", "all_done", "await_reset", "count_reached", "on_thread"]


class DeviceError(RuntimeError):
    """A device did not do what it was asked for; the message says what, and where to look."""


def on_thread(device: Device, work: Callable[[], None], timeout_s: float) -> DeviceStatus:
    """Run blocking work on a thread of its own; the status carries its exception."""
    status = DeviceStatus(device, timeout=timeout_s)

    def run() -> None:
        try:
            work()
        except Exception as error:
            status.set_exception(error)
        else:
            status.set_finished()

    threading.Thread(target=run, name=f"{device.name}-work", daemon=True).start()
    return status


def all_done(device: Device, *statuses: Status) -> DeviceStatus:
    """Return a status that is done when all others are, and that fails with the exception of the first that fails.

    (``a & b`` of ophyd fails, too, but forgets why.)
    """
    result = DeviceStatus(device)
    lock = threading.Lock()

    def on_done(status: Status) -> None:
        with lock:
            if result.done:
                return
            error = status.exception(timeout=0)
            if error is not None:
                result.set_exception(error)
            elif all(s.done and s.exception(timeout=0) is None for s in statuses):
                result.set_finished()

    for status in statuses:
        status.add_callback(on_done)
    return result


def await_reset(counter: Any, timeout_s: float) -> None:
    """Block till the monitor of a counter has seen its reset: put completion may overtake a monitor."""
    SubscriptionStatus(counter, lambda *, value, **_: value == 0, timeout=timeout_s).wait(timeout_s)


def count_reached(
    device: Device,
    counter: Any,
    goal: int,
    *,
    stall_s: float,
    paused: Callable[[], bool],
    stalled: Callable[[int], str],
) -> DeviceStatus:
    """Return a status that is done when a monitored counter reaches a goal.

    Parameters
    ----------
    device : Device
        Owner of the status.
    counter : Signal
        Monitored; its value is the count.
    goal : int
    stall_s : float
        The status fails if the count does not change for so long.
    paused : callable
        Whether the clock stands still.
    stalled : callable
        Makes the error message from the last count.
    """
    status = DeviceStatus(device)
    news = threading.Event()
    lock = threading.Lock()
    last = 0

    def on_count(*, value: int, **_: Any) -> None:
        nonlocal last
        with lock:
            last = value
            if value >= goal and not status.done:
                status.set_finished()
        news.set()

    def watch() -> None:
        while not status.done:
            arrived = news.wait(stall_s)
            news.clear()
            with lock:
                if not arrived and not paused() and not status.done:
                    status.set_exception(DeviceError(stalled(last)))

    def forget(_: Any) -> None:
        counter.clear_sub(on_count)
        news.set()

    counter.subscribe(on_count, run=True)
    status.add_callback(forget)
    threading.Thread(target=watch, name=f"{device.name}-watch", daemon=True).start()
    return status
