"""The simulated scan stage: two motor records, and a trajectory that advances by one point per camera trigger."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from caproto import ChannelType
from caproto.ioc_examples.fake_motor_record import FakeMotor
from caproto.server import PVGroup, SubGroup, pvproperty

__all__ = ["MAX_POINTS", "FlyGroup", "StageGroup"]

MAX_POINTS = 65536
"""Length of the waveforms."""

TRAVEL_UM = (-50.0, 50.0)
VELOCITY_UM_S = 2000.0
TICK_HZ = 100.0
RESOLUTION_UM = 1e-4
METRES_PER_UM = 1e-6

Positions = npt.NDArray[np.float64]


@dataclass
class Trajectory:
    """A loaded trajectory: read back and true positions of every point (n, 2: x, y) in µm, and where it stands."""

    readback_um: Positions
    true_um: Positions
    triggered: int = 0

    @property
    def finished(self) -> bool:
        """Whether every point has had its trigger."""
        return self.triggered >= len(self.readback_um)


class FlyGroup(PVGroup):  # type: ignore[misc]
    """Waveforms of set points in, waveforms of read back positions out, one point per camera trigger."""

    x = pvproperty(name="X", value=[0.0], max_length=MAX_POINTS)
    y = pvproperty(name="Y", value=[0.0], max_length=MAX_POINTS)
    num_points = pvproperty(name="NumPoints", value=0)
    execute = pvproperty(name="Execute", value="Done", dtype=ChannelType.ENUM, enum_strings=["Done", "Execute"])
    abort = pvproperty(name="Abort", value="Done", dtype=ChannelType.ENUM, enum_strings=["Done", "Abort"])
    state = pvproperty(
        name="State_RBV",
        value="Idle",
        dtype=ChannelType.ENUM,
        enum_strings=["Idle", "Moving", "Running", "Done", "Aborted", "Error"],
        read_only=True,
    )
    message = pvproperty(
        name="Message_RBV", value="", dtype=ChannelType.CHAR, max_length=256, string_encoding="utf-8", read_only=True
    )
    num_triggers = pvproperty(name="NumTriggers_RBV", value=0, read_only=True)
    x_readback = pvproperty(name="X_RBV", value=[0.0], max_length=MAX_POINTS, read_only=True)
    y_readback = pvproperty(name="Y_RBV", value=[0.0], max_length=MAX_POINTS, read_only=True)

    @execute.putter
    async def execute(self, instance: Any, value: str) -> str:
        """Check the trajectory, go to its first point and wait there for triggers (put completion: it waits)."""
        if value == "Execute":
            await self.parent.arm()
        return "Done"

    @abort.putter
    async def abort(self, instance: Any, value: str) -> str:
        """Leave the trajectory; the stage stays where it is."""
        if value == "Abort":
            await self.parent.disarm()
        return "Done"

    def points_um(self) -> Positions:
        """Return the set points (n, 2: x, y) in µm.

        Raises
        ------
        ValueError
            If the waveforms and ``NumPoints`` do not agree, or a point lies outside the travel.
        """
        count = int(self.num_points.value)
        x, y = (np.atleast_1d(np.asarray(axis.value, dtype=np.float64)) for axis in (self.x, self.y))
        if not 1 <= count <= MAX_POINTS:
            raise ValueError(f"NumPoints = {count}: expected 1 to {MAX_POINTS}")
        if len(x) < count or len(y) < count:
            raise ValueError(f"NumPoints = {count}, but X has {len(x)} and Y has {len(y)} points")
        points = np.column_stack([x[:count], y[:count]])
        low, high = TRAVEL_UM
        if not (np.all(points >= low) and np.all(points <= high)):
            raise ValueError(f"a point lies outside the travel of {low} to {high} um")
        return points


class StageGroup(PVGroup):  # type: ignore[misc]
    """Motor records ``X`` and ``Y`` in µm, and the trajectory ``FLY:``.

    Parameters
    ----------
    following_error_um, position_noise_um : float
        Standard deviations of readback − set point in a trajectory, and of the true position − readback.
    seed : int
    """

    x = SubGroup(
        FakeMotor,
        prefix="X",
        velocity=VELOCITY_UM_S,
        precision=4,
        resolution=RESOLUTION_UM,
        user_limits=TRAVEL_UM,
        tick_rate_hz=TICK_HZ,
    )
    y = SubGroup(
        FakeMotor,
        prefix="Y",
        velocity=VELOCITY_UM_S,
        precision=4,
        resolution=RESOLUTION_UM,
        user_limits=TRAVEL_UM,
        tick_rate_hz=TICK_HZ,
    )
    fly = SubGroup(FlyGroup, prefix="FLY:")

    def __init__(
        self, *args: Any, following_error_um: float, position_noise_um: float, seed: int, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._following_error_um = following_error_um
        self._position_noise_um = position_noise_um
        self._random = np.random.default_rng([seed, 1])
        self._trajectory: Trajectory | None = None
        self.on_armed: Callable[[int], Awaitable[None]] | None = None

    async def set_units(self) -> None:
        """Give the motor records their engineering unit and the limits that clients check against."""
        low, high = TRAVEL_UM
        for motor in (self.x.motor, self.y.motor):
            fields = motor.field_inst
            await fields.engineering_units.write("um")
            limits = {
                "lower_ctrl_limit": low,
                "upper_ctrl_limit": high,
                "lower_disp_limit": low,
                "upper_disp_limit": high,
            }
            await motor.write_metadata(units="um", **limits)
            await fields.user_readback_value.write_metadata(units="um", **limits)

    async def arm(self) -> None:
        """Take the loaded trajectory and go to its first point."""
        try:
            points = self.fly.points_um()
        except ValueError as error:
            await self.fly.message.write(str(error))
            await self.fly.state.write("Error")
            return
        readback = points + self._random.normal(0.0, self._following_error_um, points.shape)
        true = readback + self._random.normal(0.0, self._position_noise_um, points.shape)
        await self.fly.message.write("")
        await self.fly.num_triggers.write(0)
        await self.fly.state.write("Moving")
        self._trajectory = Trajectory(readback, true)
        if self.on_armed is not None:
            await self.on_armed(len(points))
        await self._move_to(points[0])
        if self._trajectory is not None:
            await self.fly.state.write("Running")

    async def disarm(self) -> None:
        """Leave the trajectory."""
        if self._trajectory is not None:
            self._trajectory = None
            await self._rest_at(self._readback_um())
            await self.fly.state.write("Aborted")

    def next_positions_m(self, num: int) -> Positions:
        """Return the true positions (num or fewer, 2: x, y) in metres of the next triggers; no trigger is used up."""
        path = self._trajectory
        if path is not None:
            return path.true_um[path.triggered : path.triggered + num] * METRES_PER_UM
        # no trajectory: the stage rests, and keeps its unknown error until it moves again
        return np.tile(self._resting_um() * METRES_PER_UM, (num, 1))

    async def trigger(self) -> None:
        """Advance the trajectory, if one runs, and publish what the encoders read."""
        path = self._trajectory
        if path is None:
            return
        path.triggered += 1
        read = path.readback_um[: path.triggered]
        await self.fly.x_readback.write(read[:, 0])
        await self.fly.y_readback.write(read[:, 1])
        await self.x.motor.field_inst.user_readback_value.write(float(read[-1, 0]))
        await self.y.motor.field_inst.user_readback_value.write(float(read[-1, 1]))
        # last, because clients take positions up to this number
        await self.fly.num_triggers.write(path.triggered)
        if path.finished:
            self._trajectory = None
            await self._rest_at(read[-1])
            await self.fly.state.write("Done")

    def _readback_um(self) -> Positions:
        return np.array([m.motor.field_inst.user_readback_value.value for m in (self.x, self.y)], dtype=np.float64)

    def _resting_um(self) -> Positions:
        """The true position at rest: an error that depends on the place only, as the same place gives the same."""
        readback = self._readback_um()
        key = [int(abs(value) / RESOLUTION_UM) for value in readback]
        return readback + np.random.default_rng([*key, 2]).normal(0.0, self._position_noise_um, 2)

    async def _rest_at(self, position_um: Positions) -> None:
        for motor, value in zip((self.x.motor, self.y.motor), position_um, strict=True):
            await motor.write(float(value))

    async def _move_to(self, position_um: Positions) -> None:
        await self._rest_at(position_um)
        while not np.allclose(self._readback_um(), position_um, rtol=0, atol=RESOLUTION_UM):
            await asyncio.sleep(1 / TICK_HZ)
