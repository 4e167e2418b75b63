"""Frames in a row: devices that fly together, and documents that follow them, through pauses and lost IOCs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import FailedStatus, Msg, short_uid

from nsbluesky.devices.status import DeviceError, DeviceLost
from nsbluesky.lost_ioc import outlasting, undisturbed

__all__ = ["fly"]

Plan = Generator[Msg, Any, Any]

FLUSH_PERIOD_S = 0.1
"""Documents are emitted so often."""


def fly(
    fccd: Any,
    others: Sequence[Any],
    shutter: Any,
    light: str,
    stream: str,
    num_frames: int,
    prepare: Callable[[int], Plan],
) -> Plan:
    """Take frames in a row and emit their documents till all are there.

    The RunEngine forgets what it waits for when it pauses, and it rewinds to the last checkpoint: so this plan looks
    at the statuses itself, and collects where nothing is rewound (the rows of a file are not taken twice).

    Parameters
    ----------
    fccd : Device
    others : sequence of Device
        Which fly with it.
    shutter : Device
    light : {"open", "close"}
        What the shutter is set to before frames come.
    stream : str
    num_frames : int
    prepare : callable
        Returns the plan that prepares all devices for the frames from this one on: 0, or after an IOC was away the
        first that no document tells of.
    """
    devices = [*others, fccd]
    taken, declared = 0, False

    def documents() -> Plan:  # bluesky would complain of its own plan where an abort comes before its first message
        yield from bps.collect(*devices, name=stream, return_payload=False)

    def collect() -> Plan:
        yield from bpp.rewindable_wrapper(documents(), False)

    def leave(_: Exception) -> Plan:
        for device in reversed(devices):
            yield from undisturbed(bps.stop(device))
        yield from collect()

    @bpp.contingency_decorator(except_plan=leave)  # type: ignore[untyped-decorator]
    def follow(wanted: int) -> Plan:
        yield from bps.checkpoint()  # a pause from here on must not prepare again: it would end the statuses below
        yield from bps.abs_set(shutter, light, wait=True)
        for device in devices:
            yield from bps.kickoff(device, wait=True)
        yield from bps.checkpoint()
        group = short_uid("complete")
        statuses = []
        for device in devices:
            statuses.append((yield from bps.complete(device, group=group)))
        while True:
            yield from bps.checkpoint()
            if getattr(fccd, "held", False):  # the RunEngine paused and went on
                yield from bps.abs_set(shutter, light, wait=True)
                yield from bps.kickoff(fccd, wait=True)
            done = all(status is None or status.done for status in statuses)
            if not done:
                yield from bps.sleep(FLUSH_PERIOD_S)
            yield from collect()
            if lost := [device.name for device in devices if getattr(device, "lost", False)]:
                raise DeviceLost(f"the IOC of {' and '.join(lost)} was away in the middle of a fly scan")
            if done and fccd.told < wanted:  # an error or a pause that came between may have ended it early
                for status in statuses:  # whose callback the RunEngine may not have had yet
                    if status is not None and not status.success:
                        raise FailedStatus(status) from status.exception()
                raise DeviceError(f"{fccd.name}: {fccd.told} of {wanted} frames are there, though all are said to be")
            if done:
                return

    def fly_the_rest() -> Plan:
        nonlocal taken, declared
        first = taken
        if first == num_frames:
            return
        yield from bps.checkpoint()
        if not declared:
            yield from bps.declare_stream(*devices, name=stream, collect=True)
            declared = True
            yield from bps.checkpoint()
        # before it is prepared: the simulated beamline makes frames ahead as soon as it knows the trajectory
        yield from bps.abs_set(shutter, light, wait=True)
        yield from prepare(first)
        try:
            yield from follow(num_frames - first)
        finally:
            taken = first + fccd.told

    yield from outlasting([*devices, shutter], fly_the_rest)
