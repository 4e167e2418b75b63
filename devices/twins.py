"""Pure-Python twins of the devices, for tests without EPICS: the same verbs, data keys and kinds of files."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt
from ophyd import Component, Device, Signal
from ophyd.positioner import SoftPositioner
from ophyd.status import DeviceStatus, Status

from nsbluesky.devices.detector import DATASET, StreamingDetector
from nsbluesky.devices.position_file import Positions
from nsbluesky.devices.shutter import ShutterVerbs
from nsbluesky.devices.stage import StreamingStage, Trajectory
from nsbluesky.devices.status import finished
from nsbluesky.file_uris import file_uri

__all__ = ["MakeFrame", "SimFCCD", "SimShutter", "SimStage"]

TRAVEL_UM = (-50.0, 50.0)
METRES_PER_UM = 1e-6

Frame = npt.NDArray[np.integer]


class MakeFrame(Protocol):
    """What makes a frame; `FrameSimulator.raw_frame` is one."""

    def __call__(self, x_m: float, y_m: float, *, shutter_open: bool, exposure_s: float, index: int) -> Frame:
        """Return the frame of the sample at (x, y) in metres."""


class SimShutter(ShutterVerbs, Device):  # type: ignore[misc]
    """A shutter that moves at once."""

    status = Component(Signal, value=0, kind="hinted")

    def __init__(self, *, name: str, **kwargs: Any) -> None:
        super().__init__("", name=name, **kwargs)

    @property
    def is_open(self) -> bool:
        """Whether light falls on the sample."""
        return bool(self.status.get() == 1)

    def set(self, value: str | int) -> DeviceStatus:
        """Move the blade."""
        self.status.put(self.number_of(value))
        return finished(self)


class SimTrajectory(Device):  # type: ignore[misc]
    """Follows a trajectory exactly, one point per trigger."""

    num_triggers = Component(Signal, value=0, kind="omitted")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._trajectory: Trajectory | None = None
        self._active = False

    def load(self, trajectory: Trajectory) -> None:
        """Hand over the set points and go to the first one."""
        self._trajectory = trajectory
        self._active = True
        self.num_triggers.put(0)
        self._go_to(0)

    def abort(self) -> None:
        """Leave the trajectory."""
        self._active = False

    def trigger_point(self) -> None:
        """Advance, if a trajectory is active."""
        if self._trajectory is None or not self._active:
            return
        count = int(self.num_triggers.get()) + 1
        self._active = count < len(self._trajectory.x)
        if self._active:
            self._go_to(count)
        self.num_triggers.put(count)

    def positions(self) -> tuple[Positions, Positions]:
        """Return the positions of the trajectory."""
        assert self._trajectory is not None
        return self._trajectory.x, self._trajectory.y

    def _go_to(self, index: int) -> None:
        assert self._trajectory is not None
        self.parent.x.set(float(self._trajectory.x[index]))
        self.parent.y.set(float(self._trajectory.y[index]))


class SimStage(StreamingStage):
    """A stage that is where it is told to be.

    Parameters
    ----------
    name : str
    directory : path
        Folder for the positions of fly scans.
    """

    x = Component(SoftPositioner, limits=TRAVEL_UM, egu="um", init_pos=0.0, kind="hinted")
    y = Component(SoftPositioner, limits=TRAVEL_UM, egu="um", init_pos=0.0, kind="hinted")
    fly = Component(SimTrajectory, "")

    def __init__(self, *, name: str, directory: str | Path, **kwargs: Any) -> None:
        super().__init__("", name=name, write_path=directory, **kwargs)


class SimFrameFile(Device):  # type: ignore[misc]
    """Writes frames with SWMR, as areaDetector's plugin does."""

    num_written = Component(Signal, value=0, kind="omitted")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._file: h5py.File | None = None
        self._path: Path | None = None

    def open(self) -> None:
        """Begin a new file."""
        self.close()
        directory: Path = self.parent.directory
        directory.mkdir(parents=True, exist_ok=True)
        shape = self.parent.frame_shape
        self._path = directory / f"{uuid.uuid4().hex}.h5"
        self._file = h5py.File(self._path, "w", libver="latest")
        self._file.create_dataset(
            DATASET, (0, *shape), self.parent.frame_dtype, maxshape=(None, *shape), chunks=(1, *shape)
        )
        self._file.swmr_mode = True
        self.num_written.put(0)

    def append(self, frame: Frame) -> None:
        """Write a frame and make it visible to readers."""
        assert self._file is not None
        data = self._file[DATASET]
        count = data.shape[0]
        data.resize(count + 1, axis=0)
        data[count] = frame
        data.flush()
        self.num_written.put(count + 1)

    def close(self) -> None:
        """Close the file, if one is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def count(self) -> int:
        """Return the frames in the file."""
        return int(self.num_written.get())

    def uri(self) -> str:
        """Return where the file is."""
        assert self._path is not None
        return file_uri(self._path)

    def complaint(self) -> str:
        """Return nothing: an error stops the camera's thread and shows as a stall."""
        return ""


class SimCamera(Device):  # type: ignore[misc]
    """Makes frames on a thread of its own."""

    exposure = Component(Signal, value=0.01, kind="config")
    period = Component(Signal, value=0.0, kind="config")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stop = threading.Event()
        self._index = 0

    def configure(self, exposure_s: float, period_s: float) -> None:
        """Set the times."""
        self.exposure.put(exposure_s)
        self.period.put(period_s)

    def start(self, num_frames: int) -> Status:
        """Begin; the status is done when the camera is idle again."""
        status = Status(self)
        self._stop.clear()
        threading.Thread(target=self._expose, args=(num_frames, status), name="sim-camera", daemon=True).start()
        return status

    def halt(self) -> None:
        """Stop before the next exposure."""
        self._stop.set()

    def _expose(self, num_frames: int, status: Status) -> None:
        detector: SimFCCD = self.parent
        exposure_s, period_s = self.exposure.get(), self.period.get()
        began = time.perf_counter()
        try:
            for i in range(num_frames):
                if self._stop.wait(max(began + exposure_s + i * period_s - time.perf_counter(), 0.0)):
                    break
                frame = detector.expose(exposure_s, self._index)
                self._index += 1
                detector.positions.fly.trigger_point()
                detector.file.append(frame)
        except Exception as error:
            status.set_exception(error)
        else:
            status.set_finished()


class SimFCCD(StreamingDetector):
    """A camera that looks at a twin stage through a twin shutter.

    Parameters
    ----------
    name : str
    directory : path
        Folder for the frames.
    stage, shutter : SimStage, SimShutter
        Where the sample is, and whether there is light.
    make_frame : callable
        Makes a frame; called on the camera's thread.
    frame_shape : (int, int)
        Rows and columns.
    frame_dtype : str
        Of a pixel.
    """

    camera = Component(SimCamera, "")
    file = Component(SimFrameFile, "")

    def __init__(
        self,
        *,
        name: str,
        directory: str | Path,
        stage: SimStage,
        shutter: SimShutter,
        make_frame: MakeFrame,
        frame_shape: tuple[int, int],
        frame_dtype: str = "<u2",
        **kwargs: Any,
    ) -> None:
        self.directory = Path(directory).resolve()
        self.positions = stage
        self._shutter = shutter
        self._make_frame = make_frame
        self._frame_shape = frame_shape
        self._frame_dtype = frame_dtype
        super().__init__("", name=name, **kwargs)

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        return self._frame_shape

    @property
    def frame_dtype(self) -> str:
        """Type of a pixel."""
        return self._frame_dtype

    @property
    def _source(self) -> str:
        return "simulated"

    def expose(self, exposure_s: float, index: int) -> Frame:
        """Return a frame of what is there now."""
        return self._make_frame(
            self.positions.x.position * METRES_PER_UM,
            self.positions.y.position * METRES_PER_UM,
            shutter_open=self._shutter.is_open,
            exposure_s=exposure_s,
            index=index,
        )
