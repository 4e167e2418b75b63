"""The simulated ``HDF1:`` plugin: frames to ``/entry/data/data`` with SWMR, written on a thread of its own."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from caproto import ChannelType
from caproto.server import PVGroup, pvproperty

from nsbluesky.camera.frame_file import EPICS_EPOCH_S, TIMESTAMP, FrameFile
from nsbluesky.simulation.ioc_frames import Frame, Shot

__all__ = ["HDF5Group", "ShotFile"]

QUEUE_SIZE = 64
NO_YES = ["No", "Yes"]


def _text(name: str, value: str, **keywords: Any) -> Any:
    return pvproperty(
        name=name, value=value, dtype=ChannelType.CHAR, max_length=512, string_encoding="utf-8", **keywords
    )


def _choice(name: str, value: str, choices: list[str], **keywords: Any) -> Any:
    return pvproperty(name=name, value=value, dtype=ChannelType.ENUM, enum_strings=choices, **keywords)


class ShotFile(FrameFile):
    """A file of frames with the shots' truth, which goes beside it when it closes."""

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        super().__init__(path, shape, {TIMESTAMP: "<f8"})
        self._shots: list[Shot] = []

    def append_shot(self, frame: Frame, shot: Shot, taken_s: float) -> int:
        """Write a frame, make it visible to readers, and return how many there are."""
        count = self.append(frame, NDArrayTimeStamp=taken_s - EPICS_EPOCH_S)
        self._shots.append(shot)
        return count

    def close(self) -> None:
        """Close the file and keep where the sample really was."""
        super().close()
        with h5py.File(self.path.with_suffix(".truth.h5"), "w") as truth:
            for name in ("index", "x_m", "y_m", "shutter_open", "exposure_s"):
                truth[name] = np.array([getattr(shot, name) for shot in self._shots])


class HDF5Group(PVGroup):  # type: ignore[misc]
    """The part of areaDetector's NDFileHDF5 that a streaming detector needs; ``_RBV`` names are aliases."""

    SETPOINTS = (
        "EnableCallbacks",
        "BlockingCallbacks",
        "FilePath",
        "FileName",
        "FileTemplate",
        "FileNumber",
        "AutoIncrement",
        "AutoSave",
        "FileWriteMode",
        "LazyOpen",
        "SWMRMode",
        "CreateDirectory",
        "NumCapture",
        "Capture",
        "Compression",
        "NDArrayPort",
    )

    enable = _choice("EnableCallbacks", "Enable", ["Disable", "Enable"])
    blocking = _choice("BlockingCallbacks", "No", NO_YES)
    path = _text("FilePath", "")
    path_exists = _choice("FilePathExists_RBV", "No", NO_YES, read_only=True)
    file_name = _text("FileName", "frames")
    template = _text("FileTemplate", "%s%s_%6.6d.h5")
    number = pvproperty(name="FileNumber", value=0)
    auto_increment = _choice("AutoIncrement", "Yes", NO_YES)
    auto_save = _choice("AutoSave", "No", NO_YES)
    write_mode = _choice("FileWriteMode", "Stream", ["Single", "Capture", "Stream"])
    lazy_open = _choice("LazyOpen", "Yes", NO_YES)
    swmr = _choice("SWMRMode", "On", ["Off", "On"])
    swmr_active = _choice("SWMRActive_RBV", "Off", ["Off", "Active"], read_only=True)
    create_directory = pvproperty(name="CreateDirectory", value=0)
    num_capture = pvproperty(name="NumCapture", value=0)
    num_captured = pvproperty(name="NumCaptured_RBV", value=0, read_only=True)
    capture = _choice("Capture", "Done", ["Done", "Capture"])
    compression = _choice("Compression", "None", ["None", "N-bit", "szip", "zlib", "Blosc", "BSLZ4", "LZ4", "JPEG"])
    full_name = _text("FullFileName_RBV", "", read_only=True)
    write_status = _choice("WriteStatus", "Write OK", ["Write OK", "Write error"], read_only=True)
    write_message = _text("WriteMessage", "", read_only=True)
    dropped = pvproperty(name="DroppedArrays_RBV", value=0, read_only=True)
    queue_size = pvproperty(name="QueueSize", value=QUEUE_SIZE, read_only=True)
    queue_free = pvproperty(name="QueueFree", value=QUEUE_SIZE, read_only=True)
    array_port = pvproperty(name="NDArrayPort", value="FCCD", dtype=ChannelType.STRING)
    port = pvproperty(name="PortName_RBV", value="HDF1", dtype=ChannelType.STRING, read_only=True)
    width = pvproperty(name="ArraySize0_RBV", value=0, read_only=True)
    height = pvproperty(name="ArraySize1_RBV", value=0, read_only=True)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.frame_shape = (0, 0)
        self._file: ShotFile | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hdf5")
        self._room = asyncio.Semaphore(QUEUE_SIZE)
        self._writes: set[asyncio.Task[None]] = set()

    @path.putter
    async def path(self, instance: Any, value: str) -> str:
        """Add the slash that areaDetector adds, and say whether the folder is there."""
        value = value if value.endswith("/") else value + "/"
        await self.path_exists.write("Yes" if Path(value).is_dir() else "No")
        return value

    @capture.putter
    async def capture(self, instance: Any, value: str) -> str:
        """Open a file, or close the open one after its last frame."""
        if value == "Capture" and self._file is None:
            return await self._open()
        if value == "Done":
            await self.close()
        return value

    async def _open(self) -> str:
        try:
            full = self.template.value % (self.path.value, self.file_name.value, self.number.value)
            self._file = await self._on_thread(ShotFile, Path(full), self.frame_shape)
        except (OSError, TypeError, ValueError) as error:
            await self._fail(f"cannot open the file: {error}")
            return "Done"
        await self.write_status.write("Write OK")
        await self.write_message.write("")
        await self.full_name.write(full)
        await self.num_captured.write(0)
        await self.swmr_active.write("Active")
        if self.auto_increment.value == "Yes":
            await self.number.write(self.number.value + 1)
        return "Capture"

    async def process(self, frame: Frame, shot: Shot) -> None:
        """Queue a frame for the file; waits only where the queue is full."""
        if self._file is None or self.enable.value != "Enable":
            return
        taken_s = time.time()
        await self._room.acquire()
        write = asyncio.create_task(self._write(self._file, frame, shot, taken_s))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)

    async def _write(self, file: ShotFile, frame: Frame, shot: Shot, taken_s: float) -> None:
        try:
            count = await self._on_thread(file.append_shot, frame, shot, taken_s)
        except OSError as error:
            await self._fail(f"cannot write frame {shot.index}: {error}")
        else:
            await self.num_captured.write(count)
        finally:
            self._room.release()

    async def drain(self) -> None:
        """Wait till every queued frame is in the file."""
        if self._writes:
            await asyncio.wait(self._writes)

    async def close(self) -> None:
        """Close the file after its last frame; harmless where none is open."""
        await self.drain()
        file, self._file = self._file, None
        if file is not None:
            await self._on_thread(file.close)
            await self.swmr_active.write("Off")

    async def _fail(self, message: str) -> None:
        await self.write_message.write(message[:500])
        await self.write_status.write("Write error")

    async def _on_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
