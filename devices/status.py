"""Status objects for what takes time: work on a thread, and a count that has to arrive somewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ophyd import Device
from ophyd.status import DeviceStatus, Status, SubscriptionStatus
from ophyd.utils import DisconnectedError, InvalidState

__all__ = [
    "CountReached",
    "DeviceError",
    "DeviceLost",
    "all_done",
    "answering",
    "await_reset",
    "finished",
    "label",
    "on_thread",
]


class DeviceError(RuntimeError):
    """A device did not do what it was asked for; the message says what, and where to look."""


class DeviceLost(DeviceError):
    """The IOC of a device was away, and what was going on there with it."""


def label(signal: Any) -> str:
    """Return what people know a signal by: its PV, or its name where it has none."""
    return str(getattr(signal, "pvname", signal.name))


@contextmanager
def answering(signal: Any, part: str) -> Iterator[None]:
    """Turn ophyd's errors of a signal that does not answer into one that says where to look.

    Parameters
    ----------
    signal : Signal
    part : str
        Of the beamline: "camera", "stage" or "shutter".

    Raises
    ------
    DeviceError
        Where the signal cannot be reached.
    """
    try:
        yield
    except (TimeoutError, DisconnectedError) as error:
        raise DeviceError(
            f"{label(signal)} does not answer: is the {part}'s IOC running? does it have this PV? ({error})"
        ) from None


def finished(device: Device) -> DeviceStatus:
    """Return a status that is done already."""
    status = DeviceStatus(device)
    status.set_finished()
    return status


def on_thread(device: Device, work: Callable[[], None], timeout_s: float) -> DeviceStatus:
    """Run blocking work on a thread of its own; the status carries its exception."""
    status = DeviceStatus(device, timeout=timeout_s, call_stop_on_failure=False)

    def run() -> None:
        try:
            work()
        except Exception as error:
            with suppress(InvalidState):  # the status may have failed before, as the IOC went away
                status.set_exception(error)
        else:
            with suppress(InvalidState):
                status.set_finished()

    threading.Thread(target=run, name=f"{device.name}-work", daemon=True).start()
    return status


def all_done(device: Device, *statuses: Status) -> DeviceStatus:
    """Return a status that is done when all others are, and that fails with the exception of the first that fails.

    (``a & b`` of ophyd fails, too, but forgets why.)
    """
    result = DeviceStatus(device, call_stop_on_failure=False)
    lock = threading.RLock()  # a failed DeviceStatus stops its device, which ends its other statuses, from in here

    def on_done(status: Status) -> None:
        with lock:
            if result.done:
                return
            error = status.exception(timeout=0)
            with suppress(InvalidState):  # it may fail by itself, as the IOC went away
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


class CountReached(DeviceStatus):  # type: ignore[misc]
    """Done when a monitored counter reaches a goal.

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

    def __init__(
        self,
        device: Device,
        counter: Any,
        goal: int,
        *,
        stall_s: float,
        paused: Callable[[], bool],
        stalled: Callable[[int], str],
    ) -> None:
        super().__init__(device)
        self._counter = counter
        self._goal = goal
        self._stall_s = stall_s
        self._paused = paused
        self._stalled = stalled
        self._count = 0
        self._news = threading.Event()
        self._ending = threading.RLock()  # as above
        counter.subscribe(self._on_count, run=True)
        self.add_callback(self._forget)
        threading.Thread(target=self._watch, name=f"{device.name}-watch", daemon=True).start()

    def give_up(self) -> None:
        """Be done without the goal: somebody stopped the device on purpose."""
        self._end(None)

    def restart(self) -> None:
        """Let the clock begin anew, before it runs again: else what went by in a pause would count."""
        self._news.set()

    def _on_count(self, *, value: int, **_: Any) -> None:
        self._count = value
        if value >= self._goal:
            self._end(None)
        self._news.set()

    def _watch(self) -> None:
        while not self.done:
            arrived = self._news.wait(self._stall_s)
            has_stalled = not arrived and not self._paused() and not self._news.is_set()  # a pause may end just now
            self._news.clear()
            if has_stalled:
                self._end(DeviceError(self._stalled(self._count)))

    def _end(self, error: Exception | None) -> None:
        with self._ending:
            if self.done:
                return
            if error is None:
                self.set_finished()
            else:
                self.set_exception(error)

    def _forget(self, _: Any) -> None:
        self._counter.clear_sub(self._on_count)
        self._news.set()
