"""A detector that streams frames into HDF5: the verbs of step and fly scans over two replaceable logics.

`camera` makes frames, `file` writes them.  `AreaDetector` composes them from EPICS devices and `SimFCCD` from Python,
so both behave alike.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ophyd.status import DeviceStatus, Status
from ophyd.utils import WaitTimeoutError

from nsbluesky.devices.connection import Connection, KnownConfiguration
from nsbluesky.devices.status import CountReached, DeviceError, DeviceLost, all_done, finished, label, on_thread
from nsbluesky.devices.stream_assets import Asset, StreamAssets, StreamKey

__all__ = ["Acquisition", "CameraLogic", "FileLogic", "StreamingDetector"]

log = logging.getLogger(__name__)

PREPARE_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
STALL_PERIODS = 5
DATASET = "/entry/data/data"


@dataclass(frozen=True)
class Acquisition:
    """What a detector is prepared for; it always begins a new file.

    Attributes
    ----------
    exposure_s : float
    num_frames : int
        Frames of a fly scan, from `kickoff` to `complete`; a step scan triggers one by one and ignores it.
    period_s : float
        From frame to frame; at least the exposure.
    """

    exposure_s: float
    num_frames: int = 1
    period_s: float = 0.0

    def __post_init__(self) -> None:
        """Check every value."""
        if not (math.isfinite(self.exposure_s) and self.exposure_s > 0):
            raise ValueError(f"exposure_s = {self.exposure_s!r}: expected a positive number of seconds")
        if self.num_frames < 1:
            raise ValueError(f"num_frames = {self.num_frames!r}: expected at least 1")
        if not (math.isfinite(self.period_s) and self.period_s >= 0):
            raise ValueError(f"period_s = {self.period_s!r}: expected ≥ 0 seconds")


class CameraLogic(Protocol):
    """Makes frames."""

    exposure: Any
    """Signal to set: seconds; only scans with several exposures a point use it."""

    def configure(self, exposure_s: float, period_s: float) -> None:
        """Set the times; blocks."""

    def start(self, num_frames: int) -> Status:
        """Begin; the status is done when the camera is idle again."""

    def halt(self) -> None:
        """Ask it to stop; does not wait."""


class FileLogic(Protocol):
    """Writes frames."""

    num_written: Any
    """Monitored signal: frames in the open file."""

    def open(self) -> None:
        """Begin a new file; blocks."""

    def close(self) -> None:
        """Close it, if one is open; blocks."""

    def count(self) -> int:
        """Return the frames in the file as of now."""

    def uri(self) -> str:
        """Return where the file is; there is a frame in it."""

    def complaint(self) -> str:
        """Return what the writer complains about, or nothing."""


class StreamingDetector(KnownConfiguration):
    """Step: ``trigger``, ``read``.  Fly: ``prepare``, ``kickoff``, ``complete``, ``collect_asset_docs``.

    Each `prepare` begins a new file and so a new StreamResource: prepare once per stream.  Without `prepare`, the
    first `trigger` begins a file.  A pause of the RunEngine holds the camera; `held` tells plans to kick it off
    again, which goes on where it stood.

    When the IOC went away, its file is given up: frames that documents tell of (`told`) stay as they are, `lost` is
    True, and `prepare` begins anew with another file.

    Parameters
    ----------
    stall_s : float
        An acquisition fails when no frame reaches the file for so long (and 5 periods).
    """

    camera: CameraLogic
    file: FileLogic

    def __init__(self, *args: Any, stall_s: float = 10.0, **kwargs: Any) -> None:
        self._stall_s = stall_s
        self._prepared: Acquisition | None = None
        self._assets: StreamAssets | None = None
        self._idle: Status | None = None
        self._arriving: CountReached | None = None
        self._completing: CountReached | None = None
        self._goal = 0
        self._flying = False
        self._held = False
        self.pause_shutter: Any = None
        self._preparing = threading.Lock()
        super().__init__(*args, **kwargs)
        self.connection = Connection(self)
        self._losses_known: int | None = 0

    # what a subclass says of its frames

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        raise NotImplementedError

    @property
    def frame_dtype(self) -> str:
        """Type of a pixel, as NumPy writes it."""
        return "<u2"

    @property
    def dataset(self) -> str:
        """Where the frames are in the file."""
        return DATASET

    @property
    def image_key(self) -> str:
        """Data key of the frames."""
        return f"{self.name}_image"

    @property
    def dark_signals(self) -> tuple[str, ...]:
        """Names in `read_configuration` that darks depend on, beside the exposure time."""
        return ()

    @property
    def _source(self) -> str:
        raise NotImplementedError

    # verbs of both kinds of scan

    def prepare(self, value: Acquisition) -> DeviceStatus:
        """Set the times and begin a new file."""
        return self.connection.fail_on_loss(on_thread(self, lambda: self._prepare(value), PREPARE_TIMEOUT_S))

    def _prepare(self, value: Acquisition) -> None:
        with self._preparing:  # one that the IOC's end interrupted may not be over yet
            was_lost, losses = self.lost, self.connection.losses
            self._losses_known = None  # what fails half-way, as the IOC is still away, has no file
            if self._arriving is not None:
                self._arriving.give_up()
            self._completing = None
            if was_lost:
                self._flying = self._held = False
                self._idle = None
                self.camera.halt()  # where only the network was away, it goes on
            self._await_idle()
            self._close_file()
            self.camera.configure(value.exposure_s, max(value.period_s, value.exposure_s))
            self._open_file()
            self._prepared, self._losses_known = value, losses

    def stage(self) -> list[Any]:
        """Forget earlier acquisitions."""
        self._prepared = None
        self._flying = self._held = False
        self._completing = None
        self._losses_known = self.connection.losses
        if self.is_idle:
            self._idle = None  # whether the last acquisition failed is history
        staged: list[Any] = super().stage()
        return staged

    def unstage(self) -> list[Any]:
        """Stop the camera and close the file; a camera that does not answer is unstaged, too."""
        try:
            self.stop()
        finally:
            try:
                self._close_file()
            finally:
                unstaged: list[Any] = super().unstage()
        return unstaged

    def stop(self, *, success: bool = False) -> None:
        """Stop the camera and wait till it is idle; frames that were made are in the file."""
        self._flying = self._held = False
        arriving, self._completing = self._arriving, None
        try:
            if self.lost:
                self._let_go()
                self.camera.halt()  # where only the network was away, it goes on
            else:
                self._halt()
        finally:
            if arriving is not None:
                arriving.give_up()

    @contextmanager
    def closing_on_pause(self, shutter: Any) -> Iterator[None]:
        """Name the shutter that closes when the RunEngine pauses: the sample gets no dose that is not measured.

        The RunEngine pauses its devices in no order, but a shutter must not close before the camera is idle; so it is
        the detector that does both.  Only for plans that open it again: in any other one, what comes after a pause
        would be dark.
        """
        former, self.pause_shutter = self.pause_shutter, shutter
        try:
            yield
        finally:
            self.pause_shutter = former

    def pause(self) -> None:
        """Hold the camera, then close the shutter (the RunEngine's pause); what does not answer is let go."""
        try:
            if not self._preparing.locked():  # else nothing is exposed yet, and the plan prepares anew
                if self.lost:
                    raise self._lost_error()
                self._halt()
                self._held = self._flying and self.file.count() < self._goal
                if not self._flying and self._arriving is not None:
                    self._arriving.give_up()  # of a trigger, which the plan does again: nothing stalls meanwhile
        except DeviceError as error:
            log.warning("%s", error)
            self._let_go()
        if self.pause_shutter is not None:
            try:
                self.pause_shutter.close().wait(STOP_TIMEOUT_S)
            except Exception as error:
                log.warning("%s may be open: %s", self.pause_shutter.name, error)

    def resume(self) -> None:
        """Leave the camera held: the plan opens the shutter first, then kicks it off again."""

    @property
    def held(self) -> bool:
        """Whether a fly scan waits for another `kickoff` after a pause."""
        return self._held

    @property
    def lost(self) -> bool:
        """Whether the IOC was away since the file was begun: it is given up, and `prepare` begins another."""
        return self._losses_known != self.connection.losses

    @property
    def told(self) -> int:
        """How many frames of the file documents were made for."""
        return 0 if self._assets is None else self._assets.told

    @property
    def is_idle(self) -> bool:
        """Whether nothing that this device asked of the camera goes on."""
        return self._idle is None or bool(self._idle.done)

    def describe(self) -> dict[str, Any]:
        """Describe the frames and the signals of kind normal."""
        return {**self.describe_collect(), **super().describe()}

    def describe_collect(self) -> dict[str, Any]:
        """Describe the frames."""
        return {self.image_key: self._stream_key().data_key}

    def collect_asset_docs(self, index: int | None = None) -> Iterator[Asset]:
        """Yield documents for the frames in the file, up to `index` of them."""
        if self._assets is not None:
            count = self.get_index()
            yield from self._assets.documents(count if index is None else min(index, count))

    def get_index(self) -> int:
        """Return how many frames are in the file; of a lost one, how many were told."""
        return self.told if self.lost else int(self.file.num_written.get())

    # step

    def trigger(self) -> DeviceStatus:
        """Take one frame; done when it is in the file and the camera is idle."""
        self._check_not_lost()
        if self._assets is None:
            self._open_file()
        assert self._assets is not None
        count = self.file.count()
        self._assets.skip_to(count)  # frames of an interrupted point belong to no event
        self._idle = self.camera.start(1)
        return self.connection.fail_on_loss(all_done(self, self._idle, self._frames_written(count + 1)))

    # fly

    def kickoff(self) -> DeviceStatus:
        """Begin the prepared frames, or go on after a pause; harmless while they are being taken."""
        if self._prepared is None:
            raise DeviceError(f"{self.name}: prepare(Acquisition(...)) comes before kickoff")
        self._check_not_lost()
        count = self.file.count() if self._flying else 0
        if not self._flying or self._held:
            self._goal = self._prepared.num_frames
            if not self._flying:
                self._completing = None
            elif self._completing is not None:
                self._completing.restart()
            self._flying, self._held = True, False
            self._idle = self.camera.start(self._goal - count)
        return finished(self)

    def complete(self) -> DeviceStatus:
        """Return a status that is done when every frame is in the file: the same one, where it is asked again.

        After a pause the RunEngine asks again what it asked since the last checkpoint, and the plan has the former.
        """
        self._check_not_lost()
        if self._completing is not None:
            return self._completing
        if not self._flying:
            raise DeviceError(f"{self.name}: kickoff comes before complete")
        self._completing = self._frames_written(self._goal)
        self._completing.add_callback(self._on_completed)
        return self._completing

    # parts

    def _on_completed(self, status: CountReached) -> None:
        if status is self._completing:  # else it is of an earlier flight
            self._flying = False

    def _check_not_lost(self) -> None:
        if self.lost:
            raise self._lost_error()

    def _lost_error(self) -> DeviceLost:
        return DeviceLost(
            f"{self.name}: its IOC was away or did not answer, so its file is given up: "
            f"prepare(Acquisition(...)) begins another"
        )

    def _let_go(self) -> None:
        """Ask nothing more of a camera that does not answer; its file is given up."""
        self._losses_known = None
        self._idle = None
        self._flying = self._held = False
        if self._arriving is not None:
            self._arriving.give_up()

    def _stream_key(self) -> StreamKey:
        return StreamKey(self.image_key, self.dataset, self.frame_shape, self.frame_dtype, self._source)

    def _open_file(self) -> None:
        self.file.open()
        self._assets = StreamAssets([self._stream_key()], self.file.uri)

    def _close_file(self) -> None:
        self._assets = None
        self.file.close()

    def _frames_written(self, goal: int) -> CountReached:
        periods = 0.0 if self._prepared is None else max(self._prepared.period_s, self._prepared.exposure_s)
        stall_s = self._stall_s + STALL_PERIODS * periods

        def stalled(count: int) -> str:
            why = self.file.complaint() or "check that the camera runs and that its file plugin writes"
            return (
                f"{self.name}: no frame reached the file for {stall_s:.3g} s, {label(self.file.num_written)} says "
                f"{count} of {goal}: {why}"
            )

        self._arriving = CountReached(
            self, self.file.num_written, goal, stall_s=stall_s, paused=lambda: self._held, stalled=stalled
        )
        return self._arriving

    def _halt(self) -> None:
        if not self.is_idle:
            try:
                self.camera.halt()
                self._await_idle()
            finally:
                self._idle = None  # a camera that never answers must not block what comes after its restart

    def _await_idle(self) -> None:
        idle = self._idle
        if idle is None:
            return
        try:
            idle.wait(STOP_TIMEOUT_S)
        except WaitTimeoutError:
            raise DeviceError(
                f"{self.name}: the camera is still busy after {STOP_TIMEOUT_S:g} s: stop it, or restart its IOC"
            ) from None
