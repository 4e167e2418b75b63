"""The simulated shutter: a set point and a status, 4 ms apart."""

from __future__ import annotations

import asyncio
from typing import Any

from caproto import ChannelType
from caproto.server import PVGroup, pvproperty

__all__ = ["ShutterGroup"]

TRAVEL_S = 0.004


class ShutterGroup(PVGroup):  # type: ignore[misc]
    """``Cmd`` (Close, Open) and ``Status_RBV`` (Closed, Open)."""

    command = pvproperty(name="Cmd", value="Close", dtype=ChannelType.ENUM, enum_strings=["Close", "Open"])
    status = pvproperty(
        name="Status_RBV", value="Closed", dtype=ChannelType.ENUM, enum_strings=["Closed", "Open"], read_only=True
    )

    @command.putter
    async def command(self, instance: Any, value: str) -> str:
        """Move the blade, then say so."""
        await asyncio.sleep(TRAVEL_S)
        await self.status.write("Open" if value == "Open" else "Closed")
        return value

    @property
    def is_open(self) -> bool:
        """Whether light falls on the sample."""
        return bool(self.status.value == "Open")
