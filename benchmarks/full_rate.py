"""A Fast CCD at its full rate on one machine: the virtual camera and `nsbluesky grab` as parts of a detector.

Camera and grabber are processes of their own, the camera on the first processor and the grabber on the last, as
``taskset`` would have it.  A camera is no program of the machine that its frames come to; and where Linux may place
them, who sends draws who receives to its own processor, whatever else both have to do.  What the detector does itself
is to look, twenty times a second, how many frames are in the file.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from ophyd import Component, Device, Signal
from ophyd.status import Status

from nsbluesky.camera.descramble import scramble, stream_bytes
from nsbluesky.camera.frame_file import DATASET
from nsbluesky.camera.virtual_fccd import VirtualFCCD
from nsbluesky.cleaning.layout import LAYOUTS
from nsbluesky.devices.detector import StreamingDetector
from nsbluesky.devices.twins import SimShutter, SimStage
from nsbluesky.file_uris import file_uri
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import gold_balls

LAYOUT = LAYOUTS["cosmic"]
LOOK_S = 0.05
END_S = 20.0
CAMERA_NICE = -10
SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class PreparedFrames:
    """Frames in the camera's order in a file: to make them is not what the camera costs.

    Attributes
    ----------
    path : Path
        Darks, then the frames of the scan, one after the other.
    num_dark : int
    """

    path: Path
    num_dark: int

    def streams(self, first: int, count: int) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield frames, each in the same memory."""
        stream = np.empty(stream_bytes(LAYOUT), np.uint8)
        with self.path.open("rb") as file:
            file.seek(first * stream.nbytes)
            for _ in range(count):
                file.readinto(stream.data)
                yield stream


def simulator() -> FrameSimulator:
    """Return what makes the frames; the same in every process."""
    return FrameSimulator(gold_balls(), layout="cosmic", seed=0)


def prepare_frames(
    path: Path, places_m: npt.NDArray[np.float64], *, num_dark: int, exposure_s: float
) -> PreparedFrames:
    """Make the frames of a scan on all cores, and write them to a file."""
    total = num_dark + len(places_m)
    with path.open("wb") as file:
        file.truncate(total * stream_bytes(LAYOUT))
    edges = np.linspace(0, total, multiprocessing.cpu_count() + 1).astype(int)
    parts = [(path, places_m, num_dark, exposure_s, *edges[k : k + 2].tolist()) for k in range(len(edges) - 1)]
    with SPAWN.Pool(len(parts)) as pool:
        pool.starmap(_prepare_part, parts)
    return PreparedFrames(path, num_dark)


def _prepare_part(
    path: Path, places_m: npt.NDArray[np.float64], num_dark: int, exposure_s: float, start: int, stop: int
) -> None:
    make = simulator().raw_frame
    with path.open("r+b") as file:
        file.seek(start * stream_bytes(LAYOUT))
        for index in range(start, stop):
            lit = index >= num_dark
            x_m, y_m = places_m[index - num_dark] if lit else (0.0, 0.0)
            frame = make(x_m, y_m, shutter_open=lit, exposure_s=exposure_s, index=index)
            file.write(scramble(frame, LAYOUT).data)
        os.fsync(file.fileno())  # or it goes to the disk while the grabber needs that


class Camera(Device):
    """The virtual camera, in a process that begins with an acquisition and ends with it."""

    exposure = Component(Signal, value=0.0, kind="config")
    period = Component(Signal, value=0.0, kind="config")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.process: Any = None
        self.sent: list[dict[str, float]] = []
        """What it said at the end of each acquisition."""

    def configure(self, exposure_s: float, period_s: float) -> None:
        """Set the times."""
        self.exposure.put(exposure_s)
        self.period.put(period_s)

    def start(self, num_frames: int) -> Status:
        """Send frames; the status is done when all are sent."""
        status = Status(self)
        detector: GrabbedFCCD = self.parent
        first = detector.frames.num_dark if detector.shutter.is_open else 0
        ours, theirs = SPAWN.Pipe(duplex=False)
        arguments = theirs, detector.file.address, detector.frames, first, num_frames, 1 / self.period.get()
        self.process = SPAWN.Process(target=_send, args=arguments, daemon=True)
        self.process.start()

        def wait() -> None:
            self.sent.append(ours.recv())
            status.set_finished()

        threading.Thread(target=wait, name="camera-wait", daemon=True).start()
        return status

    def halt(self) -> None:
        """End the process."""
        self.process.terminate()


def _send(
    pipe: Any, address: tuple[str, int], frames: PreparedFrames, first: int, count: int, rate_hz: float
) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with contextlib.suppress(OSError):  # it waits for nobody, where this user may say so
        os.setpriority(os.PRIO_PROCESS, 0, CAMERA_NICE)
    with VirtualFCCD(address, LAYOUT, rate_hz=rate_hz) as camera:
        counts = camera.send_streams(frames.streams(first, count))
    pipe.send({"frames": counts.frames, "behind_s": counts.behind_s, "cpu_s": counts.cpu_s})


class GrabbedFile(Device):
    """What `nsbluesky grab` writes: a process for each file."""

    num_written = Component(Signal, value=0, kind="omitted")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.address = ("", 0)
        self.process: subprocess.Popen[str] | None = None
        self.summaries: list[dict[str, Any]] = []
        """What each process said at its end."""
        self.last_s = 0.0
        """When a frame was seen last, as of `time.monotonic`."""
        self._path = Path()
        self._over = threading.Event()
        self._follower: threading.Thread | None = None

    def open(self) -> None:
        """Start a grabber, and wait till it listens."""
        self.close()
        self._path = self.parent.directory / f"{uuid.uuid4().hex}.h5"
        command = [sys.executable, "-m", "nsbluesky.cli", "grab", str(self._path), "--port", "0", "--json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        os.sched_setaffinity(self.process.pid, {max(os.sched_getaffinity(0))})
        assert self.process.stderr is not None
        host, _, port = self.process.stderr.readline().split()[-1].partition(":")
        self.address = (host, int(port))
        self.num_written.put(0)
        self._over.clear()
        self._follower = threading.Thread(target=self._follow, name="grabber-follow", daemon=True)
        self._follower.start()

    def close(self) -> None:
        """Let the grabber end as Ctrl-C does."""
        self._over.set()
        if self._follower is not None:
            self._follower.join()
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGINT)
            told, _ = process.communicate(timeout=END_S)
            self.summaries.append(json.loads(told))

    def count(self) -> int:
        """Return the frames in the file."""
        return int(self.num_written.get())

    def uri(self) -> str:
        """Return where the file is."""
        return file_uri(self._path)

    def complaint(self) -> str:
        """Return nothing: the grabber says what it has lost at its end."""
        return ""

    def _opened(self) -> h5py.File | None:
        """Return the file once others may follow it, till when its writer locks it; None if all is over."""
        while not self._over.wait(LOOK_S):
            with contextlib.suppress(OSError):
                return h5py.File(self._path, "r", libver="latest", swmr=True)
        return None

    def _follow(self) -> None:
        """Tell how many frames there are, and trigger the stage as often."""
        file = self._opened()
        if file is None:
            return
        with file:
            data = file[DATASET]
            while not self._over.wait(LOOK_S):
                data.refresh()
                count = data.shape[0]
                if count > self.count():
                    self.last_s = time.monotonic()
                    if self.parent.shutter.is_open:
                        self.parent.stage_device.fly.num_triggers.put(count)
                    self.num_written.put(count)


class GrabbedFCCD(StreamingDetector):
    """The virtual camera behind the grabber, as a detector of plans.

    Parameters
    ----------
    name : str
    directory : path
        Where files of frames go.
    stage, shutter : SimStage, SimShutter
    frames : PreparedFrames
    """

    camera = Component(Camera, "")
    file = Component(GrabbedFile, "")

    def __init__(
        self,
        *,
        name: str,
        directory: Path,
        stage: SimStage,
        shutter: SimShutter,
        frames: PreparedFrames,
        **kwargs: Any,
    ) -> None:
        self.directory = directory.resolve()
        self.stage_device, self.shutter, self.frames = stage, shutter, frames
        super().__init__("", name=name, **kwargs)

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        return LAYOUT.shape

    @property
    def _source(self) -> str:
        return "virtual camera"
