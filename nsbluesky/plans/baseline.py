"""Devices that are read before and after a scan, beside those of the RunEngine's own baseline."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
from bluesky.protocols import Readable
from bluesky.utils import Msg, make_decorator
from event_model import EventModelValidationError

__all__ = ["Baseline", "baseline_devices", "with_baseline"]

Plan = Generator[Msg, Any, Any]

Baseline = Sequence[Readable]  # type: ignore[type-arg]
"""Bare, for bluesky-queueserver knows devices by it."""

STREAM = "baseline"


def baseline_devices(baseline: Baseline | None, default: list[Any]) -> list[Any]:
    """Return the devices that are asked for, or raise a ValueError where they are none."""
    if baseline is None:
        return default
    devices = list(baseline) if np.iterable(baseline) else [None]
    if not all(isinstance(device, Readable) for device in devices):
        raise ValueError(f"baseline = {baseline!r:.80}: expected devices, as in [stage]; [] for none")
    return devices


def _baseline_wrapper(plan: Plan, devices: Baseline) -> Plan:
    """Read devices before and after a run, unless the RunEngine's `SupplementalData` has begun a baseline of others.

    A stream has one set of devices, and bluesky's own `baseline_wrapper` would fail the run.
    """
    is_ours = False

    def before() -> Plan:
        nonlocal is_ours
        try:
            yield from bps.declare_stream(*devices, name=STREAM)
        except EventModelValidationError:
            yield from bps.null()  # a plan that ended here would hand the error on, in bluesky 1.15
            return
        is_ours = True
        yield from bps.trigger_and_read(devices, name=STREAM)

    def after(close: Msg) -> Plan:
        if is_ours:
            yield from bps.trigger_and_read(devices, name=STREAM)
        return (yield close)

    def insert(message: Msg) -> tuple[Plan | None, Plan | None]:
        if message.command == "open_run":
            return None, before()
        return (after(message) if message.command == "close_run" else None), None

    return (yield from bpp.plan_mutator(plan, insert if devices else lambda _: (None, None)))


with_baseline = make_decorator(_baseline_wrapper)
