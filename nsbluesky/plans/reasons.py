"""What a run's stop document and the session say of a scan that failed: the device's own words."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from bluesky.utils import FailedStatus, Msg

__all__ = ["saying_why"]

Plan = Generator[Msg, Any, Any]


def saying_why(plan: Callable[[], Plan]) -> Callable[[], Plan]:
    """Decorate a plan: where a device failed at what the RunEngine waited for, raise its error's own words.

    The RunEngine raises a `bluesky.utils.FailedStatus` whose text is a status object, and a run keeps the text alone.

    Raises
    ------
    FailedStatus
        With the text of the error that is its cause.
    """

    def told() -> Plan:
        try:
            return (yield from plan())
        except FailedStatus as failed:
            cause = failed.__cause__
            if cause is None or not str(cause):
                raise
            raise FailedStatus(str(cause)) from cause

    return told
