"""The simulated ``Stats1:``: numbers of each frame, while it is enabled."""

from __future__ import annotations

from caproto import ChannelType
from caproto.server import PVGroup, pvproperty

from nsbluesky.simulation.ioc_frames import Frame

__all__ = ["StatisticsGroup"]


class StatisticsGroup(PVGroup):  # type: ignore[misc]
    """The part of areaDetector's NDPluginStats that beamlines plot; disabled at first, as there."""

    SETPOINTS = ("EnableCallbacks",)

    enable = pvproperty(
        name="EnableCallbacks", value="Disable", dtype=ChannelType.ENUM, enum_strings=["Disable", "Enable"]
    )
    total = pvproperty(name="Total_RBV", value=0.0, read_only=True)
    mean = pvproperty(name="MeanValue_RBV", value=0.0, read_only=True)
    maximum = pvproperty(name="MaxValue_RBV", value=0.0, read_only=True)

    async def process(self, frame: Frame) -> None:
        """Publish the numbers of a frame."""
        if self.enable.value != "Enable":
            return
        total = float(frame.sum())
        await self.total.write(total)
        await self.mean.write(total / frame.size)
        await self.maximum.write(float(frame.max()))
