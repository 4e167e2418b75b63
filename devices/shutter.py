"""A shutter: set "open" or "close", or 1 or 0 as it reads; done when its status says so."""

from __future__ import annotations

from typing import Any

from ophyd import Component, Device, EpicsSignal, EpicsSignalRO
from ophyd.status import DeviceStatus, SubscriptionStatus

from nsbluesky.devices.connection import Connection
from nsbluesky.devices.status import answering

__all__ = ["POSITIONS", "Shutter", "ShutterVerbs"]

POSITIONS = ("close", "open")
"""What a shutter can be set to; the index is the PV's number."""


class ShutterVerbs:
    """What every shutter can do beside `set`."""

    def set(self, value: str | int) -> DeviceStatus:
        """Move the blade: "open" or "close", or the number that the shutter reads there."""
        raise NotImplementedError

    def open(self) -> DeviceStatus:
        """Open; in a plan ``bps.abs_set(shutter, "open", wait=True)``."""
        return self.set("open")

    def close(self) -> DeviceStatus:
        """Close; in a plan ``bps.abs_set(shutter, "close", wait=True)``."""
        return self.set("close")

    @staticmethod
    def check_value(value: str | int) -> None:
        """Check a value for `set`.

        Raises
        ------
        ValueError
            For anything but "open" and "close", and 1 and 0.
        """
        ShutterVerbs.number_of(value)

    @staticmethod
    def number_of(value: str | int) -> int:
        """Return the PV's number of a value for `set`.

        What a shutter reads is a value, too: ``bluesky.preprocessors.reset_positions_wrapper`` sets it again.
        """
        for number, word in enumerate(POSITIONS):
            if value in (word, number):
                return number
        raise ValueError(f"shutter {value!r}: expected 'open' or 'close' (or 1 or 0, as it reads)")


class Shutter(ShutterVerbs, Device):  # type: ignore[misc]
    """A shutter behind two PVs: a command and a status, 0 closed and 1 open.

    Parameters
    ----------
    timeout_s : float
        How long the blade may take.
    """

    command = Component(EpicsSignal, "Cmd", kind="omitted")
    status = Component(EpicsSignalRO, "Status_RBV", auto_monitor=True, kind="hinted")

    def __init__(self, prefix: str, *, name: str, timeout_s: float = 5.0, **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self._timeout_s = timeout_s
        self.connection = Connection(self)

    @property
    def is_open(self) -> bool:
        """Whether the status says open."""
        return bool(self.status.get() == 1)

    def describe(self) -> dict[str, Any]:
        """Describe the status."""
        with answering(self.status, "shutter"):
            described: dict[str, Any] = super().describe()
        return described

    def set(self, value: str | int) -> DeviceStatus:
        """Move the blade; done when the status agrees."""
        wanted = self.number_of(value)
        with answering(self.command, "shutter"):
            self.command.put(wanted)
        moved = SubscriptionStatus(self.status, lambda *, value, **_: value == wanted, timeout=self._timeout_s)
        return self.connection.fail_on_loss(moved)
