"""Frames with the shutter closed: in a run of their own, before a scan, or taken over from an earlier run."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg

from nsbluesky.devices.detector import Acquisition
from nsbluesky.geometry import Geometry
from nsbluesky.plans.arguments import Scan, check_common, checked_md, exposures_of
from nsbluesky.plans.flying import fly
from nsbluesky.plans.reasons import saying_why
from nsbluesky.recorded_darks import DarkStream, RecordedDarks
from nsbluesky.refusals import refusing
from nsbluesky.streams import dark_stream

__all__ = ["darks_of", "ptycho_darks", "take_darks"]

Plan = Generator[Msg, Any, Any]


def ptycho_darks(
    fccd: Any,
    shutter: Any,
    *,
    geometry: Geometry,
    exposure_s: float | Sequence[float] = 0.01,
    num_dark: int = 25,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Take frames with the shutter closed in a run of their own: to look at the camera, and for scans after it.

    A scan takes its own darks unless `darks_from` tells otherwise.

    Parameters, result and exceptions as in `ptycho_scan`; at least one frame.
    """
    with refusing():
        exposures_s = exposures_of(exposure_s)
        check_common(geometry, exposures_s, num_dark)
        if num_dark == 0:
            raise ValueError("num_dark = 0: expected at least 1 for a run of darks")
        more = checked_md(md)
    about = {
        "plan_name": "ptycho_darks",
        "detectors": [fccd.name],
        "ptycho": {
            **geometry.to_dict(),
            "keys": {"image": fccd.image_key},
            "exposures_s": list(exposures_s),
            "scan": {"pattern": "darks", "num_points": 0},
        },
    }

    @bpp.stage_decorator([fccd])  # type: ignore[untyped-decorator]
    @bpp.run_decorator(md={**about, **more})  # type: ignore[untyped-decorator]
    @saying_why
    def inner() -> Plan:
        for k, one_s in enumerate(exposures_s):
            yield from take_darks(fccd, shutter, num_dark, exposure_s=one_s, stream=dark_stream(k))

    return (yield from inner())


def take_darks(
    fccd: Any, shutter: Any, num_dark: int, *, exposure_s: float, period_s: float = 0.0, stream: str = "dark"
) -> Plan:
    """Take frames with the shutter closed into a stream and a file of their own (a stub: needs a run)."""
    if num_dark == 0:
        return

    def prepare(first: int) -> Plan:
        yield from bps.prepare(fccd, Acquisition(exposure_s, num_dark - first, period_s), wait=True)

    yield from fly(fccd, [], shutter, "close", stream, num_dark, prepare)


def darks_of(scan: Scan, period_s: float = 0.0) -> Plan:
    """Take the darks of a scan, or tell of those that it takes over from an earlier run."""
    for k, exposure_s in enumerate(scan.exposures_s):
        if scan.dark_run is None:
            yield from take_darks(
                scan.fccd,
                scan.shutter,
                scan.num_dark,
                exposure_s=exposure_s,
                period_s=period_s,
                stream=dark_stream(k),
            )
        elif (recorded := scan.dark_run.of(exposure_s)) is not None:
            yield from _tell_darks(scan.fccd, recorded, dark_stream(k))


def _tell_darks(fccd: Any, recorded: DarkStream, stream: str) -> Plan:
    darks = RecordedDarks(fccd, recorded)
    yield from bps.declare_stream(darks, name=stream, collect=True)
    for _ in range(darks.num_parts):
        yield from bpp.rewindable_wrapper(bps.collect(darks, name=stream, return_payload=False), False)
