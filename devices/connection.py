"""Whether a device's IOC is there, how often it went away, and what was known of it last."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from ophyd import Device, Signal
from ophyd.status import StatusBase
from ophyd.utils import DisconnectedError, InvalidState

from nsbluesky.devices.status import DeviceLost

__all__ = ["Connection", "KnownConfiguration"]

AnyStatus = TypeVar("AnyStatus", bound=StatusBase)


class Connection:
    """The connection of all signals of a device.

    Looking at it costs nothing on the wire: the control layer tells when a channel is lost.

    Parameters
    ----------
    device : Device
        Its components exist already; lazy ones are left out.

    Attributes
    ----------
    losses : int
        How many channels were lost since the device was made; a channel that never was there is not lost.
    changed_s : float
        When one was lost or came back last, as of `time.monotonic`; -inf where that never was.
    has_channels : bool
        Whether there are any of an IOC; a twin in this process has none, and nothing to lose.
    settle_s : float or None
        How long a plan rests when a lost device is back.  None: plans do not wait for it.
    """

    def __init__(self, device: Device) -> None:
        self.losses = 0
        self.changed_s = -math.inf
        self.settle_s: float | None = None
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._away: dict[str, str] = {}
        self._listeners: list[Callable[[], None]] = []
        self._waiting: set[StatusBase] = set()
        leaves = [walk.item for walk in device.walk_signals(include_lazy=False)]
        self.has_channels = any(hasattr(leaf, "pvname") for leaf in leaves)
        for signal in [leaf for leaf in leaves if isinstance(leaf, Signal)]:
            signal.subscribe(self._on_metadata, event_type=signal.SUB_META, run=False)
            if signal.connected:
                self._seen.add(signal.name)

    @property
    def away(self) -> list[str]:
        """The channels (PVs, where they have names) that were there and are not now."""
        with self._lock:
            return sorted(self._away.values())

    def check(self, signal: Any) -> None:
        """Let a signal be asked for something only where it is not known to be away.

        ophyd would wait a second for it, and for the next one again: what is to be ended, when an IOC has died, would
        end after many seconds.

        Raises
        ------
        DisconnectedError
            If its channel was there and is not now.
        """
        with self._lock:
            if signal.name in self._away:
                raise DisconnectedError(f"{self._away[signal.name]}: the channel is lost")

    def listen(self, listener: Callable[[], None]) -> None:
        """Call this from now on when `away` has changed."""
        self._listeners.append(listener)

    def ignore(self, listener: Callable[[], None]) -> None:
        """Call it no more."""
        self._listeners.remove(listener)

    def fail_on_loss(self, status: AnyStatus) -> AnyStatus:
        """Let a status fail when a channel is lost, at once, and return it: nobody will tell that it is done.

        By its own time limit it would fail long after the device is back, and disturb what that does then.
        """
        self._waiting.add(status)
        status.add_callback(lambda done: self._waiting.discard(done))  # ophyd looks at the signature of a callback
        return status

    def _on_metadata(self, *, obj: Any, connected: bool = True, **_: Any) -> None:
        waiting: list[StatusBase] = []
        with self._lock:
            if connected:
                self._seen.add(obj.name)
                changed = self._away.pop(obj.name, None) is not None
            else:
                changed = obj.name in self._seen and obj.name not in self._away
                if changed:
                    self._away[obj.name] = str(getattr(obj, "pvname", obj.name))
                    self.losses += 1
                    waiting = list(self._waiting)
            if changed:
                self.changed_s = time.monotonic()
        for status in waiting:
            channel = getattr(obj, "pvname", obj.name)
            with suppress(InvalidState):  # of one that has just ended
                status.set_exception(DeviceLost(f"{channel} does not answer: its IOC went away"))
        if changed:
            for listener in list(self._listeners):
                listener()


class KnownConfiguration(Device):  # type: ignore[misc]
    """A device whose configuration, once it is described, can be read: as it was last, while its IOC is away.

    bluesky 1.15 asks for description and values one after the other, and does not ask again for values that it did
    not get: an IOC that goes away just then would cost the run at its next event.
    """

    _known: dict[str, Any] | None = None

    def describe_configuration(self) -> dict[str, Any]:
        """Describe the signals of kind config."""
        self._known = super().read_configuration()
        described: dict[str, Any] = super().describe_configuration()
        return described

    def read_configuration(self) -> dict[str, Any]:
        """Read the signals of kind config."""
        try:
            self._known = super().read_configuration()
        except (TimeoutError, DisconnectedError):
            if self._known is None:
                raise
        return self._known
