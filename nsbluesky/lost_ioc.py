"""What a session does when an IOC goes away in the middle of a scan: hold the plan, and take again what is not whole.

`SuspendWhileAway` holds the RunEngine till the devices are back; `outlasting` is the part of a plan that goes on from
there.  Neither knows cameras or stages: a device takes part when it has a `connection`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.suspenders import SuspenderBase
from bluesky.utils import Msg, RunEngineControlException, single_gen

__all__ = ["SuspendWhileAway", "outlasting", "undisturbed"]

log = logging.getLogger(__name__)

Plan = Generator[Msg, Any, Any]

NOTICE_S = 2.0
"""An error may be there before the loss that made it is known, and a suspender needs a moment."""

LATE_S = 60.0
"""An error so soon after a channel came or went is taken for its consequence: an IOC that has just begun is slow, and
what waited for the former one may tell of it late."""

LOOK_S = 0.1


class SuspendWhileAway(SuspenderBase):
    """Suspend while channels of these devices are away; resume some time after the last of them is back.

    Channels that were never there do not suspend: a session may run without its camera.

    Parameters
    ----------
    *devices : Device
        With a `connection`, as the camera, the stage and the shutter have.
    sleep : float
        Seconds from the last channel's return till the plan goes on.

    Examples
    --------
    ``RE.install_suspender(SuspendWhileAway(fccd, stage, shutter))``
    """

    def __init__(self, *devices: Any, sleep: float = 1.0) -> None:
        super().__init__(self, sleep=sleep)  # type: ignore[no-untyped-call]
        self.devices = devices
        self._changed = threading.Event()
        self._removed = threading.Event()

    @property
    def away(self) -> list[str]:
        """The channels that are away."""
        return [channel for device in self.devices for channel in device.connection.away]

    def __repr__(self) -> str:
        """Name the devices."""
        return f"SuspendWhileAway({', '.join(device.name for device in self.devices)})"

    def install(self, RE: Any, *, event_type: str | None = None) -> None:
        """Watch the devices for a RunEngine."""
        self.RE = RE
        self._removed.clear()
        self._changed.set()
        for device in self.devices:
            device.connection.settle_s = self._sleep
            device.connection.listen(self._changed.set)
        threading.Thread(target=self._watch, name="suspend-while-away", daemon=True).start()

    def remove(self) -> None:
        """Watch no more, and let go a plan that is held."""
        for device in self.devices:
            device.connection.settle_s = None
            device.connection.ignore(self._changed.set)
        self._removed.set()
        self._changed.set()
        super().remove()  # type: ignore[no-untyped-call]

    def subscribe(self, *_: Any, **__: Any) -> None:
        """Do nothing: the base class watches a signal, and here the suspender itself stands for it."""

    clear_sub = subscribe

    def _should_suspend(self, value: int) -> bool:
        return value > 0

    def _should_resume(self, value: int) -> bool:
        return value == 0

    def _get_justification(self) -> str:
        away = self.away
        if not away:
            return ""
        channels = f"{away[0]} does" if len(away) == 1 else f"{away[0]} and {len(away) - 1} more do"
        return f"{channels} not answer: the plan goes on when they are back"

    def _watch(self) -> None:
        """Tell the base class of changes.

        It needs the RunEngine's loop for that, which may just be blocked by a device that waits for the same IOC.
        """
        timeout: float | None = None
        while True:
            self._changed.wait(timeout)
            self._changed.clear()
            if self._removed.is_set():
                return
            try:
                self(len(self.away))
                timeout = None
            except RuntimeError:
                timeout = LOOK_S


def outlasting(devices: Sequence[Any], attempt: Callable[[], Plan]) -> Plan:
    """Run a plan; where it fails and one of its devices is or just was away, run it again when all are back.

    Parameters
    ----------
    devices : sequence of Device
        Those with a `connection` are looked at.
    attempt : callable
        Returns the plan; what it has finished before, it leaves out the next time.

    Returns
    -------
    object
        What the plan returned.

    Raises
    ------
    Exception
        What `attempt` raised, where no device was away, or one is for some seconds and no suspender watches it.
    """
    connections = [device.connection for device in devices if hasattr(device, "connection")]
    rewindable = None
    while True:
        try:
            if rewindable is None:
                rewindable = yield Msg("rewindable", None, None)
            return (yield from attempt())
        except RunEngineControlException:
            raise
        except Exception as error:
            if not (yield from _back_again(connections)):
                raise
            log.warning("once more, as an IOC was away: %s", error)
            # an error that ends a suspension leaves it off
            yield from undisturbed(single_gen(Msg("rewindable", None, rewindable)))


def undisturbed(plan: Plan) -> Plan:
    """Run a plan; an error in it is one more of the same loss, as two motors that moved both tell of it."""
    try:
        yield from plan
    except RunEngineControlException:
        raise
    except Exception as error:
        log.info("one more error of the same loss: %s", error)


def _back_again(connections: Sequence[Any]) -> Plan:
    """Return whether channels were lost and all are back.

    A suspender holds this plan in between, but not always: the RunEngine ends a suspension when a move or an exposure
    that was under way fails.  So this plan waits by itself, too, where a suspender was installed.
    """
    noticed_s = time.monotonic() + (NOTICE_S if any(c.has_channels for c in connections) else 0.0)
    while True:
        yield from undisturbed(bps.checkpoint())  # what failed is not done again by the RunEngine
        yield from undisturbed(bps.sleep(LOOK_S))
        away = [connection for connection in connections if connection.away]
        if not away and time.monotonic() - max((c.changed_s for c in connections), default=-math.inf) < LATE_S:
            break
        if time.monotonic() > noticed_s and not any(c.settle_s is not None for c in away):
            return False
    yield from undisturbed(bps.sleep(max(c.settle_s or 0.0 for c in connections)))
    return True
