"""A plan outlasts what devices tell when their IOC goes away and comes back, at whatever moment they tell it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import bluesky.plan_stubs as bps
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus, Msg, RequestAbort, RunEngineInterrupted, short_uid
from ophyd import Component, Device, Signal
from ophyd.status import DeviceStatus, Status

from nsbluesky import lost_ioc
from nsbluesky.devices.connection import Connection
from nsbluesky.devices.status import DeviceError, DeviceLost
from nsbluesky.lost_ioc import outlasting

TIMEOUT_S = 20.0
MOMENTS = 16
"""Messages after the first error; the plan below goes on for fewer."""


class Channel(Signal):
    """A signal with a name on the wire."""

    pvname = "IOC:channel"


class Motor(Device):
    """Moves until it is told that it has arrived; its channel can be taken away."""

    channel = Component(Channel, value=0)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connection = Connection(self)
        self.moves: list[Status] = []

    def set(self, value: float) -> Status:
        self.moves.append(Status(self))
        return self.moves[-1]

    def connect(self, connected: bool) -> None:
        """Let the channel go or come, as the control layer tells it: on a thread of ophyd's, which may be late."""
        known = threading.Event()
        self.connection.listen(known.set)
        self.channel._metadata["connected"] = connected
        self.channel._run_metadata_callbacks()
        assert known.wait(TIMEOUT_S)
        self.connection.ignore(known.set)


@pytest.fixture
def motors(monkeypatch: pytest.MonkeyPatch) -> tuple[Motor, Motor]:
    monkeypatch.setattr(lost_ioc, "LOOK_S", 0.001)
    monkeypatch.setattr(lost_ioc, "NOTICE_S", 0.02)
    return Motor("", name="x"), Motor("", name="y")


def moving(motors: tuple[Motor, Motor], attempts: list[int]) -> Callable[[], Any]:
    """Return what moves both; the IOC is away and back in the middle of the first attempt."""

    def attempt() -> Any:
        attempts.append(len(attempts))
        yield from bps.checkpoint()
        group = short_uid("move")
        for motor in motors:
            yield from bps.abs_set(motor, 1.0, group=group)
        if len(attempts) == 1:
            for connected in (False, True):
                for motor in motors:
                    motor.connect(connected)
            motors[0].moves[-1].set_exception(DeviceLost("x went away"))
        else:
            for motor in motors:
                motor.moves[-1].set_finished()
        yield from bps.wait(group)
        yield from bps.null()

    return attempt


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_second_error_of_the_same_loss_comes_at_any_moment(
    RE: RunEngine, motors: tuple[Motor, Motor], moment: int
) -> None:
    """Also while the plan waits, and in the attempt after that."""
    attempts: list[int] = []
    messages = 0

    def hook(_: Msg) -> None:
        nonlocal messages
        first, second = (motor.moves[0] if motor.moves else None for motor in motors)
        if first is None or second is None or not first.done or second.done:
            return
        if messages == moment:
            second.set_exception(DeviceLost("y went away"))
        messages += 1

    RE.msg_hook = hook
    RE(outlasting(motors, moving(motors, attempts)))
    assert len(attempts) in (2, 3)
    assert all(motor.moves[-1].success for motor in motors)


def test_an_error_without_a_loss_ends_the_plan(RE: RunEngine, motors: tuple[Motor, Motor]) -> None:
    def attempt() -> Any:
        yield from bps.checkpoint()
        raise ValueError("not an IOC's fault")

    with pytest.raises(ValueError, match="not an IOC's fault"):
        RE(outlasting(motors, attempt))


class Twin(Motor):
    """Has no IOC."""

    channel = Component(Signal, value=0)


def test_no_loss_is_waited_for_where_there_is_no_ioc(RE: RunEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    RE.msg_hook = lambda message: messages.append(message.command)

    def attempt() -> Any:
        yield from bps.checkpoint()
        raise ValueError("the sample is not there")

    monkeypatch.setattr(lost_ioc, "LOOK_S", 0.001)
    with pytest.raises(ValueError, match="the sample is not there"):
        RE(outlasting([Twin("", name="twin")], attempt))
    assert messages.count("sleep") == 1


def test_a_loss_may_become_known_after_its_error(
    RE: RunEngine, motors: tuple[Motor, Motor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where only one of the devices has an IOC."""
    monkeypatch.setattr(lost_ioc, "NOTICE_S", TIMEOUT_S)
    attempts: list[int] = []

    def attempt() -> Any:
        attempts.append(len(attempts))
        yield from bps.checkpoint()
        if len(attempts) == 1:
            raise ValueError("no answer")

    sleeps = 0

    def hook(message: Msg) -> None:
        nonlocal sleeps
        sleeps += message.command == "sleep"
        if sleeps == 3:
            for connected in (False, True):
                motors[0].connect(connected)

    RE.msg_hook = hook
    RE(outlasting([motors[0], Twin("", name="twin")], attempt))
    assert attempts == [0, 1]


def test_an_error_long_after_a_loss_ends_the_plan(
    RE: RunEngine, motors: tuple[Motor, Motor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_ioc, "LATE_S", 0.0)
    attempts: list[int] = []
    with pytest.raises(FailedStatus):
        RE(outlasting(motors, moving(motors, attempts)))
    assert attempts == [0]


def test_an_abort_ends_the_plan(RE: RunEngine, motors: tuple[Motor, Motor]) -> None:
    attempts: list[int] = []

    def attempt() -> Any:
        yield from moving(motors, attempts)()

    def hook(message: Msg) -> None:
        if message.command == "sleep":
            threading.Thread(target=RE.abort).start()

    def outlast() -> Any:
        try:
            yield from outlasting(motors, attempt)
        except RequestAbort:
            attempts.append(-1)
            raise

    motors[0].connection.settle_s = 10.0
    RE.msg_hook = hook
    with pytest.raises(RunEngineInterrupted):
        RE(outlast())
    assert attempts == [0, -1]


def test_a_status_fails_with_its_channel(motors: tuple[Motor, Motor]) -> None:
    motor, _ = motors
    done, waiting = DeviceStatus(motor), DeviceStatus(motor, call_stop_on_failure=False)
    for status in (done, waiting):
        assert motor.connection.fail_on_loss(status) is status
    done.set_finished()
    done.wait(TIMEOUT_S)
    motor.connect(False)
    assert isinstance(waiting.exception(TIMEOUT_S), DeviceError)
    assert done.exception(0) is None
    late = motor.connection.fail_on_loss(DeviceStatus(motor))
    motor.connect(True)
    assert not late.done, "a channel that comes back disturbs nobody"
    late.set_finished()
