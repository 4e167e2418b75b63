"""The simulated ``cam1:`` and ``image1:``: exposures at the rate asked for, frames to the file and to viewers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from caproto import ChannelType
from caproto.server import PVGroup, pvproperty

from nsbluesky.simulation.ioc_frames import Frame, FramesAhead, Shot

__all__ = ["CameraGroup", "ImageGroup", "Surroundings"]

INT32_MAX = 2**31 - 1


def _choice(name: str, value: str, choices: list[str], **keywords: Any) -> Any:
    return pvproperty(name=name, value=value, dtype=ChannelType.ENUM, enum_strings=choices, **keywords)


def _number(name: str, value: float, **keywords: Any) -> Any:
    return pvproperty(name=name, value=value, **keywords)


class Surroundings(Protocol):
    """What the camera needs of the beamline around it."""

    def shots(self, first_index: int, num: int, exposure_s: float) -> Iterable[Shot]:
        """Return what the next exposures would see."""

    async def triggered(self) -> None:
        """Tell the stage that an exposure was made."""

    async def publish(self, frame: Frame, shot: Shot) -> None:
        """Hand a frame to the plugins."""

    async def drain(self) -> None:
        """Wait for the plugins."""


class CameraGroup(PVGroup):  # type: ignore[misc]
    """The part of ADFastCCD's camera that devices and people use; ``_RBV`` names are aliases of their set points."""

    SETPOINTS = (
        "Acquire",
        "AcquireTime",
        "AcquirePeriod",
        "NumImages",
        "ImageMode",
        "TriggerMode",
        "ArrayCounter",
        "ArrayCallbacks",
        "DataType",
        "ColorMode",
        "SizeX",
        "SizeY",
        "MinX",
        "MinY",
        "BinX",
        "BinY",
        "OverscanCols",
        "OverscanRows",
        "FCRICGain",
        "FCRICClamp",
        "WaitForPlugins",
    )

    acquire = _choice("Acquire", "Done", ["Done", "Acquire"])
    exposure = _number("AcquireTime", 0.01, precision=6, units="s")
    period = _number("AcquirePeriod", 0.1, precision=6, units="s")
    num_images = _number("NumImages", 1)
    image_mode = _choice("ImageMode", "Multiple", ["Single", "Multiple", "Continuous"])
    trigger_mode = _choice("TriggerMode", "Internal", ["Internal", "External 1", "External 2", "External 1+2"])
    array_counter = _number("ArrayCounter", 0)
    array_callbacks = _choice("ArrayCallbacks", "Enable", ["Disable", "Enable"])
    images_done = _number("NumImagesCounter_RBV", 0, read_only=True)
    state = _choice(
        "DetectorState_RBV",
        "Idle",
        ["Idle", "Acquire", "Readout", "Correct", "Saving", "Aborting", "Error", "Waiting"],
        read_only=True,
    )
    status = pvproperty(
        name="StatusMessage_RBV",
        value="",
        dtype=ChannelType.CHAR,
        max_length=256,
        string_encoding="utf-8",
        read_only=True,
    )
    data_type = _choice("DataType", "UInt16", ["Int8", "UInt8", "Int16", "UInt16"])
    color_mode = _choice("ColorMode", "Mono", ["Mono"])
    width = _number("ArraySizeX_RBV", 0, read_only=True)
    height = _number("ArraySizeY_RBV", 0, read_only=True)
    num_bytes = _number("ArraySize_RBV", 0, read_only=True)
    max_width = _number("MaxSizeX_RBV", 0, read_only=True)
    max_height = _number("MaxSizeY_RBV", 0, read_only=True)
    size_x = _number("SizeX", 0)
    size_y = _number("SizeY", 0)
    min_x = _number("MinX", 0)
    min_y = _number("MinY", 0)
    bin_x = _number("BinX", 1)
    bin_y = _number("BinY", 1)
    overscan_columns = _number("OverscanCols", 2)
    overscan_rows = _number("OverscanRows", 0)
    gain = _choice("FCRICGain", "Auto", ["Auto", "x2", "x1"])
    clamp = _choice("FCRICClamp", "Off", ["Off", "On"])
    wait_for_plugins = _choice("WaitForPlugins", "Yes", ["No", "Yes"])
    last_frame = _number("LastFrame_RBV", 0, read_only=True)
    dropped_packets = _number("DroppedPck_RBV", 0, read_only=True)
    bad_packets = _number("BadPck_RBV", 0, read_only=True)
    reset_statistics = _choice("ResetStats", "Done", ["Done", "Reset"])
    frame_buffer = _number("FrameBuffer_RBV", 0, read_only=True)
    packet_buffer = _number("PacketBuffer_RBV", 0, read_only=True)
    manufacturer = pvproperty(name="Manufacturer_RBV", value="nsbluesky", dtype=ChannelType.STRING, read_only=True)
    model = pvproperty(name="Model_RBV", value="Simulated FCCD", dtype=ChannelType.STRING, read_only=True)
    sdk = pvproperty(name="SDKVersion_RBV", value="simulated", dtype=ChannelType.STRING, read_only=True)
    firmware = pvproperty(name="FirmwareVersion_RBV", value="simulated", dtype=ChannelType.STRING, read_only=True)
    port = pvproperty(name="PortName_RBV", value="FCCD", dtype=ChannelType.STRING, read_only=True)

    def __init__(
        self,
        *args: Any,
        surroundings: Surroundings,
        frames: FramesAhead,
        shape: tuple[int, int],
        max_rate_hz: float,
        lost_frames: frozenset[int],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._surroundings = surroundings
        self._frames = frames
        self._min_period_s = 1 / max_rate_hz
        self._lost = lost_frames
        self._stop = asyncio.Event()
        self._exposures: asyncio.Task[None] | None = None
        self._shape = shape

    async def set_shape(self) -> None:
        """Publish the size of a frame."""
        rows, columns = self._shape
        for channel in (self.width, self.max_width, self.size_x):
            await channel.write(columns)
        for channel in (self.height, self.max_height, self.size_y):
            await channel.write(rows)
        await self.num_bytes.write(2 * rows * columns)

    @acquire.putter
    async def acquire(self, instance: Any, value: str) -> str:
        """Start or stop; put completion means that the camera is idle and every frame is in the file."""
        if value == "Acquire" and self._exposures is None:
            self._stop.clear()
            await instance.write("Acquire", verify_value=False)
            self._exposures = asyncio.create_task(self._expose())
        elif value == "Done":
            self._stop.set()
        if self._exposures is not None:
            await asyncio.shield(self._exposures)
        return "Done"

    @reset_statistics.putter
    async def reset_statistics(self, instance: Any, value: str) -> str:
        """Forget lost packets."""
        if value == "Reset":
            await self.dropped_packets.write(0)
            await self.bad_packets.write(0)
        return "Done"

    async def _expose(self) -> None:
        await self.state.write("Acquire")
        await self.images_done.write(0)
        final = "Idle"
        try:
            await self._expose_burst()
        except Exception as error:
            final = "Error"
            await self.status.write(f"{type(error).__name__}: {error}"[:250])
        finally:
            if self.wait_for_plugins.value == "Yes":
                await self._surroundings.drain()
            self._exposures = None
            await self.state.write(final)

    async def _expose_burst(self) -> None:
        exposure_s = max(float(self.exposure.value), 0.0)
        period_s = max(float(self.period.value), exposure_s, self._min_period_s)
        mode = self.image_mode.value
        num = {"Single": 1, "Multiple": max(int(self.num_images.value), 1), "Continuous": INT32_MAX}[mode]
        first = int(self.array_counter.value)
        if mode != "Continuous":
            self.expect(num)
        began = time.perf_counter()
        for i in range(num):
            if await self._stopped_before(began + exposure_s + i * period_s):
                return
            (shot,) = self._surroundings.shots(first + i, 1, exposure_s)
            frame = await asyncio.wrap_future(self._frames.take(shot))
            await self._surroundings.triggered()
            await self._publish(frame, shot)
            await self.images_done.write(i + 1)

    def expect(self, num: int) -> None:
        """Start on the next frames before they are triggered."""
        first = int(self.array_counter.value)
        self._frames.expect(self._surroundings.shots(first, num, max(float(self.exposure.value), 0.0)))

    async def _stopped_before(self, due: float) -> bool:
        """Wait till `due` (`time.perf_counter`), or till somebody stops the camera."""
        if self._stop.is_set():  # asyncio looks at nothing where no time is left, as when frames come late
            return True
        try:
            await asyncio.wait_for(self._stop.wait(), max(due - time.perf_counter(), 0.0))
        except TimeoutError:
            return False
        return True

    async def _publish(self, frame: Frame, shot: Shot) -> None:
        if shot.index in self._lost:
            await self.dropped_packets.write(self.dropped_packets.value + 1)
        else:
            await self._surroundings.publish(frame, shot)
        await self.last_frame.write((shot.index + 1) & 0xFFFF)
        await self.array_counter.write(shot.index + 1)


class ImageGroup(PVGroup):  # type: ignore[misc]
    """``image1:``: a frame now and then for viewers; Channel Access has no uint16, so the bits travel as int16."""

    SETPOINTS = ("EnableCallbacks",)

    enable = _choice("EnableCallbacks", "Enable", ["Disable", "Enable"])
    unique_id = _number("UniqueId_RBV", 0, read_only=True)
    width = _number("ArraySize0_RBV", 0, read_only=True)
    height = _number("ArraySize1_RBV", 0, read_only=True)
    depth = _number("ArraySize2_RBV", 0, read_only=True)
    dimensions = _number("NDimensions_RBV", 2, read_only=True)
    data_type = _choice("DataType_RBV", "UInt16", ["Int8", "UInt8", "Int16", "UInt16"], read_only=True)
    color_mode = _choice("ColorMode_RBV", "Mono", ["Mono"], read_only=True)
    port = pvproperty(name="PortName_RBV", value="image1", dtype=ChannelType.STRING, read_only=True)
    data = pvproperty(name="ArrayData", value=[0], dtype=ChannelType.INT, max_length=1940 * 1152, read_only=True)

    def __init__(self, *args: Any, max_rate_hz: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._min_period_s = 1 / max_rate_hz
        self._published = -np.inf

    async def process(self, frame: Frame, shot: Shot) -> None:
        """Publish the frame if the last one is old enough."""
        now = time.monotonic()
        if self.enable.value != "Enable" or now - self._published < self._min_period_s:
            return
        self._published = now
        rows, columns = frame.shape
        await self.width.write(columns)
        await self.height.write(rows)
        await self.data.write(frame.view(np.int16).ravel())
        await self.unique_id.write(shot.index)
