"""The scan stage: two motors for step scans, a trajectory for fly scans."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ophyd import Component, Device, EpicsMotor, EpicsSignal, EpicsSignalRO
from ophyd.status import DeviceStatus, MoveStatus
from ophyd.utils import DisconnectedError, InvalidState, LimitError

from nsbluesky.devices.connection import Connection, KnownConfiguration
from nsbluesky.devices.position_file import AXES, ROWS_PER_CHUNK, PositionFile, Positions
from nsbluesky.devices.status import (
    CountReached,
    DeviceError,
    DeviceLost,
    answering,
    await_reset,
    finished,
    label,
    on_thread,
)
from nsbluesky.devices.stream_assets import Asset, StreamAssets, StreamKey
from nsbluesky.file_uris import file_uri

__all__ = ["ScanStage", "StreamingStage", "Trajectory", "TrajectoryLogic"]

log = logging.getLogger(__name__)

PUT_TIMEOUT_S = 30.0
PREPARE_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 2.0
"""For which a pause waits for a motor to stand; one that is gone never tells."""


@dataclass(frozen=True)
class Trajectory:
    """Set points of a fly scan, in the motors' unit; the stage goes to the next one with each camera trigger."""

    x: Positions
    y: Positions

    def __post_init__(self) -> None:
        """Check the shapes."""
        if self.x.ndim != 1 or self.x.shape != self.y.shape or self.x.size == 0:
            raise ValueError(
                f"trajectory of x {self.x.shape} and y {self.y.shape}: expected two equal rows of points"
            )


class TrajectoryLogic(Protocol):
    """Follows a trajectory."""

    num_triggers: Any
    """Monitored signal: points that were triggered."""

    def load(self, trajectory: Trajectory) -> None:
        """Hand over the set points and go to the first one; blocks."""

    def abort(self) -> None:
        """Leave the trajectory."""

    def positions(self) -> tuple[Positions, Positions]:
        """Return the positions read at each trigger so far (or more)."""


class StreamingStage(KnownConfiguration):
    """Verbs of step and fly scans over two axes and a trajectory logic.

    In fly scans the positions travel as the frames do, by StreamResource and StreamDatum: the RunEngine collects
    several devices into one stream only so.  Both axes go into one small file that this device writes itself.

    Parameters
    ----------
    write_path : path
        Folder for the positions of fly scans.
    stall_s : float
        A fly scan fails when no point is triggered for so long.
    """

    x: Any
    y: Any
    fly: TrajectoryLogic

    def __init__(self, *args: Any, write_path: str | Path, stall_s: float = 30.0, **kwargs: Any) -> None:
        self.write_path = Path(write_path).resolve()
        self._stall_s = stall_s
        self._file: PositionFile | None = None
        self._assets: StreamAssets | None = None
        self._num_points = 0
        self._flying = False
        self._paused = False
        self._completing: CountReached | None = None
        self._wanted: Trajectory | None = None
        super().__init__(*args, **kwargs)
        self.connection = Connection(self)
        self._losses_known: int | None = 0
        self._preparing = threading.Lock()

    def check_trajectory(self, x: Positions, y: Positions) -> None:
        """Check that every point lies within the soft limits.

        Raises
        ------
        LimitError
            Says which axis, how far the points go and what the limits are.
        """
        for axis, values in ((self.x, x), (self.y, y)):
            for value in (float(np.min(values)), float(np.max(values))):
                try:
                    axis.check_value(value)
                except LimitError:
                    raise LimitError(
                        f"{axis.name}: the scan reaches {value:.6g} {axis.egu}, the soft limits are {axis.limits}: "
                        f"move the stage, take a smaller scan, or widen the limits"
                    ) from None

    def prepare(self, value: Trajectory) -> DeviceStatus:
        """Load a trajectory, go to its first point and begin a new file of positions."""
        self._wanted = value
        return self.connection.fail_on_loss(on_thread(self, lambda: self._prepare(value), PREPARE_TIMEOUT_S))

    def _prepare(self, value: Trajectory) -> None:
        with self._preparing:  # one that the IOC's end interrupted may not be over yet
            losses, self._losses_known = self.connection.losses, None  # what fails half-way has no trajectory
            self._flying = self._paused = False
            self._give_up()
            self._close_file()
            self.fly.load(value)
            if self._wanted is not value:  # stopped or unstaged before it was there
                self.fly.abort()
                raise DeviceError(f"{self.name}: the trajectory is not wanted any more")
            self.write_path.mkdir(parents=True, exist_ok=True)
            file = PositionFile(self.write_path / f"{self.name}_{uuid.uuid4().hex}.h5")
            self._num_points = len(value.x)
            self._assets = StreamAssets(self._stream_keys(), lambda: file_uri(file.path), ROWS_PER_CHUNK)
            self._file, self._losses_known = file, losses

    def kickoff(self) -> DeviceStatus:
        """Wait for the camera's triggers."""
        if self._file is None:
            raise DeviceError(f"{self.name}: prepare(Trajectory(...)) comes before kickoff")
        self._check_not_lost()
        self._flying = self._completing is None or not self._completing.done
        return finished(self)

    def complete(self) -> DeviceStatus:
        """Return a status that is done when every point was triggered: the same one, where it is asked again."""
        self._check_not_lost()
        if self._completing is not None:
            return self._completing

        def stalled(count: int) -> str:
            return (
                f"{self.name}: no trigger for {self._stall_s:g} s, {label(self.fly.num_triggers)} says "
                f"{count} of {self._num_points}: check that the camera's trigger reaches the stage"
            )

        self._completing = CountReached(
            self,
            self.fly.num_triggers,
            self._num_points,
            stall_s=self._stall_s,
            paused=lambda: self._paused,
            stalled=stalled,
        )
        self._completing.add_callback(self._on_completed)
        return self._completing

    def pause(self) -> None:
        """Let the clock of `complete` stand still; the stage waits for triggers anyway."""
        self._paused = True
        if self.lost and self._completing is not None:
            self._completing.give_up()

    def resume(self) -> None:
        """Let the clock run, from its beginning."""
        if self._completing is not None:
            self._completing.restart()
        self._paused = False

    @property
    def lost(self) -> bool:
        """Whether the IOC was away since the trajectory was loaded: it is gone, and `prepare` loads another."""
        return self._losses_known != self.connection.losses

    def describe_collect(self) -> dict[str, Any]:
        """Describe the positions of fly scans."""
        return {key.name: key.data_key for key in self._stream_keys()}

    def get_index(self) -> int:
        """Return how many points were triggered; of a lost trajectory, how many were told."""
        if self.lost:
            return 0 if self._assets is None else self._assets.told
        return int(self.fly.num_triggers.get())

    def collect_asset_docs(self, index: int | None = None) -> Iterator[Asset]:
        """Write the positions read since the last call, up to `index` in all, and yield their documents.

        A plain read (no `index`), as in a step scan or for the baseline, has documents only while a fly scan runs.
        """
        if self._assets is None or self._file is None or (index is None and not self._flying):
            return
        start = self._assets.told
        stop = self.get_index() if index is None else index
        if stop > start:
            x, y = self.fly.positions()
            if min(len(x), len(y)) < stop:
                raise DeviceLost(
                    f"{self.name}: {stop} points were triggered, but the controller has the positions of {len(x)}: "
                    "it was started again"
                )
            self._file.append(x[start:stop], y[start:stop])
            yield from self._assets.documents(stop)

    def stop(self, *, success: bool = False) -> None:
        """Leave the trajectory and stop both axes."""
        self._wanted = None
        self._give_up()
        try:
            self.fly.abort()
        finally:  # axes may be of another IOC
            super().stop(success=success)

    def unstage(self) -> list[Any]:
        """Leave a trajectory that is not at its end, and close the file of positions.

        Nobody waits for its points any more: after a halt, which stops no stage, the clock would stop the next scan.
        """
        self._give_up()
        self._leave_trajectory()
        self._close_file()
        unstaged: list[Any] = super().unstage()
        return unstaged

    def _give_up(self) -> None:
        completing, self._completing = self._completing, None
        self._flying = False
        if completing is not None:
            completing.give_up()

    def _on_completed(self, status: CountReached) -> None:
        if status is self._completing:  # else it is of an earlier flight
            self._flying = False

    def _check_not_lost(self) -> None:
        if self.lost:
            raise DeviceLost(
                f"{self.name}: its IOC was away, and the trajectory with it; prepare(Trajectory(...)) loads another"
            )

    def _leave_trajectory(self) -> None:
        """Abort a trajectory that still waits for triggers: the next scan's would move the stage along it."""
        wanted, self._wanted = self._wanted, None
        if wanted is None:
            return
        try:
            self.connection.check(self.fly.num_triggers)
            if int(self.fly.num_triggers.get()) < len(wanted.x):
                self.fly.abort()
        except (TimeoutError, DisconnectedError) as error:
            log.warning("%s may still wait for triggers: %s", self.name, error)

    def _close_file(self) -> None:
        file, self._file, self._assets = self._file, None, None
        if file is not None:
            file.close()

    def _stream_keys(self) -> list[StreamKey]:
        return [
            StreamKey(axis.name, PositionFile.dataset(short), (), "<f8", f"{self.name}.fly", axis.egu)
            for short, axis in zip(AXES, (self.x, self.y), strict=True)
        ]


class Axis(EpicsMotor):  # type: ignore[misc]
    """A motor record whose descriptors always carry the engineering unit, and whose moves end with its IOC."""

    _last_move: MoveStatus | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._ended = threading.Event()
        super().__init__(*args, **kwargs)

    @property
    def egu(self) -> str:
        """The engineering unit."""
        with answering(self.motor_egu, "stage"):
            return str(super().egu)

    def move(self, position: float, wait: bool = True, **kwargs: Any) -> MoveStatus:
        """Go to a position; see `ophyd.EpicsMotor.move`."""
        self.check_value(position)  # a move that is refused does not end, and a stop would wait for it
        self._ended.clear()
        self._last_move = self.parent.connection.fail_on_loss(super().move(position, wait=wait, **kwargs))
        return self._last_move

    def stop(self, *, success: bool = False) -> None:
        """Stop; where that is `success`, as in a pause, the move has ended well before this returns.

        ophyd tells it from another thread, which then forgets all that waited: a move that a plan begins before that,
        when it goes on, would end at once, or never.
        """
        self.parent.connection.check(self.motor_stop)
        super().stop(success=success)
        move = self._last_move
        if success and move is not None:
            self._ended.wait(STOP_TIMEOUT_S)
            with suppress(InvalidState):
                move.set_finished()

    def _done_moving(self, *args: Any, **kwargs: Any) -> None:
        super()._done_moving(*args, **kwargs)
        self._ended.set()

    def describe(self) -> dict[str, Any]:
        """Describe the readback and the set point."""
        described: dict[str, Any] = super().describe()
        for key in described.values():
            key["units"] = self.egu
        return described


class FlyTrajectory(Device):  # type: ignore[misc]
    """``FLY:``: set points in, positions per trigger out."""

    x = Component(EpicsSignal, "X", put_complete=True, kind="omitted")
    y = Component(EpicsSignal, "Y", put_complete=True, kind="omitted")
    num_points = Component(EpicsSignal, "NumPoints", put_complete=True, kind="omitted")
    execute = Component(EpicsSignal, "Execute", put_complete=True, kind="omitted")
    abort_command = Component(EpicsSignal, "Abort", put_complete=True, kind="omitted")
    state = Component(EpicsSignalRO, "State_RBV", string=True, kind="omitted")
    message = Component(EpicsSignalRO, "Message_RBV", string=True, kind="omitted")
    num_triggers = Component(EpicsSignalRO, "NumTriggers_RBV", auto_monitor=True, kind="omitted")
    x_readback = Component(EpicsSignalRO, "X_RBV", kind="omitted")
    y_readback = Component(EpicsSignalRO, "Y_RBV", kind="omitted")

    def load(self, trajectory: Trajectory) -> None:
        """Hand over the set points and go to the first one; blocks.

        Raises
        ------
        DeviceError
            If the controller refuses the trajectory.
        """
        for signal, value in (
            (self.x, trajectory.x),
            (self.y, trajectory.y),
            (self.num_points, len(trajectory.x)),
            (self.execute, 1),
        ):
            signal.set(value, timeout=PUT_TIMEOUT_S).wait(PUT_TIMEOUT_S)
        if self.state.get() == "Error":
            raise DeviceError(f"{self.name}: the trajectory is refused: {self.message.get()}")
        await_reset(self.num_triggers, PUT_TIMEOUT_S)

    def abort(self) -> None:
        """Leave the trajectory."""
        self.parent.connection.check(self.abort_command)
        self.abort_command.put(1, use_complete=False)

    def positions(self) -> tuple[Positions, Positions]:
        """Return the positions read at each trigger so far."""
        return np.atleast_1d(self.x_readback.get()), np.atleast_1d(self.y_readback.get())


class ScanStage(StreamingStage):
    """Two motor records, ``X`` and ``Y``, and a trajectory, ``FLY:``, below one prefix."""

    x = Component(Axis, "X", kind="hinted")
    y = Component(Axis, "Y", kind="hinted")
    fly = Component(FlyTrajectory, "FLY:")
