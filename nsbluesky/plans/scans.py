"""The scans of ptychography, and what they have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg

from nsbluesky import trajectories
from nsbluesky.devices.detector import Acquisition
from nsbluesky.devices.stage import Trajectory
from nsbluesky.geometry import Geometry, length_in_m
from nsbluesky.lost_ioc import outlasting
from nsbluesky.plans.arguments import Pattern, Places, Scan, checked_md, exposures_of, period_of, places_of
from nsbluesky.plans.baseline import Baseline, baseline_devices, with_baseline
from nsbluesky.plans.darks import darks_of
from nsbluesky.plans.flying import fly
from nsbluesky.plans.reasons import saying_why
from nsbluesky.refusals import refusing
from nsbluesky.streams import PRIMARY

__all__ = ["ptycho_fly_scan", "ptycho_points", "ptycho_scan"]

Plan = Generator[Msg, Any, Any]

METRES_PER_UM = 1e-6


def ptycho_scan(
    fccd: Any,
    stage: Any,
    shutter: Any,
    *,
    geometry: Geometry,
    shape: tuple[int, int] = (20, 20),
    step_um: float = 0.1,
    pattern: trajectories.Pattern = "jittered_raster",
    exposure_s: float | Sequence[float] = 0.01,
    num_dark: int = 25,
    darks_from: str | None = None,
    seed: int = 0,
    center_um: tuple[float, float] | None = None,
    baseline: Baseline | None = None,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Measure point by point: move, expose, read.

    Parameters
    ----------
    fccd, stage, shutter : Device
        `FCCD`, `ScanStage` and `Shutter`, or their twins.
    geometry : Geometry
        Goes into the start document; the processing reads it there.
    shape : (int, int)
        Rows (y) and columns (x).
    step_um : float
        From point to point.
    pattern : {"jittered_raster", "raster", "spiral", "fermat"}
    exposure_s : float or sequence of float
        Several exposures, as in ``(0.1, 0.01)``, are taken one after the other at each point, an event each; the
        processing combines them: the long one where it is not saturated, the short one elsewhere.
    num_dark : int
        Frames with the shutter closed before the scan, for each exposure in a stream and a file of their own; 0 for
        none.
    darks_from : str, optional
        Take no darks but those of an earlier run: its uid (the beginning will do), or "latest" for the newest run in
        the user's document log whose darks fit.  Exposures, shape of the frames and gain must be the same.
    seed : int
        Of the jittered raster.
    center_um : (float, float), optional
        x and y of the scan's centre on the stage; where the stage stands by default.  The stage is left there.
    baseline : sequence of devices, optional
        Read before and after the scan; stage and shutter by default.  Where the RunEngine reads others, as its
        `SupplementalData` says, those alone are read.
    md : mapping, optional
        More for the start document.

    Returns
    -------
    str
        The run's uid.

    Raises
    ------
    ValueError, LimitError
        Before anything moves.
    """
    with refusing():
        points = Pattern(pattern, shape, step_um, seed)
        scan = Scan(fccd, stage, shutter, geometry, points, exposures_of(exposure_s), num_dark, darks_from, center_um)
    return (yield from _step_scan(scan, "ptycho_scan", baseline, md))


def ptycho_points(
    fccd: Any,
    stage: Any,
    shutter: Any,
    *,
    geometry: Geometry,
    points_um: Sequence[tuple[float, float]],
    exposure_s: float | Sequence[float] = 0.01,
    num_dark: int = 25,
    darks_from: str | None = None,
    baseline: Baseline | None = None,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Measure points given one by one, as those of frames that were lost.

    Other parameters, result and exceptions as in `ptycho_scan`.

    Parameters
    ----------
    points_um : sequence of (float, float)
        x and y on the stage.  The stage goes back to where it was.
    """
    with refusing():
        points = Places(places_of(points_um))
        scan = Scan(fccd, stage, shutter, geometry, points, exposures_of(exposure_s), num_dark, darks_from, None)
    return (yield from _step_scan(scan, "ptycho_points", baseline, md))


def ptycho_fly_scan(
    fccd: Any,
    stage: Any,
    shutter: Any,
    *,
    geometry: Geometry,
    shape: tuple[int, int] = (20, 20),
    step_um: float = 0.1,
    pattern: trajectories.Pattern = "jittered_raster",
    exposure_s: float = 0.01,
    rate_hz: float = 10.0,
    num_dark: int = 25,
    darks_from: str | None = None,
    seed: int = 0,
    center_um: tuple[float, float] | None = None,
    baseline: Baseline | None = None,
    md: Mapping[str, Any] | None = None,
) -> Plan:
    """Measure while the camera triggers the stage: `rate_hz` points a second.

    Parameters, result and exceptions as in `ptycho_scan`, with one exposure a point, which `rate_hz` must allow.
    """
    with refusing():
        if isinstance(exposure_s, Sequence):
            raise ValueError(
                f"exposure_s = {exposure_s!r}: expected one number in a fly scan; ptycho_scan takes several"
            )
        points = Pattern(pattern, shape, step_um, seed)
        scan = Scan(fccd, stage, shutter, geometry, points, (exposure_s,), num_dark, darks_from, center_um)
        period_s = period_of(rate_hz, exposure_s)
        more = checked_md(md)
    center, x, y = yield from _place(scan)

    def measure() -> Plan:
        yield from darks_of(scan, period_s)
        yield from fly(fccd, [stage], shutter, "open", PRIMARY, len(x), prepare)

    def prepare(first: int) -> Plan:
        # a trajectory goes there by itself, but past the RunEngine: what puts back all that moved has to see it
        yield from bps.mv(stage.x, float(x[first]), stage.y, float(y[first]))
        yield from bps.prepare(stage, Trajectory(x[first:], y[first:]), wait=True)
        yield from bps.prepare(fccd, Acquisition(exposure_s, len(x) - first, period_s), wait=True)

    about = {**scan.metadata("ptycho_fly_scan", rate_hz=rate_hz), **more}
    return (yield from _run(scan, measure, center, baseline, about))


def _step_scan(scan: Scan, name: str, baseline: Baseline | None, md: Mapping[str, Any] | None) -> Plan:
    """Measure the points of a scan one by one."""
    fccd, stage, shutter, exposures_s = scan.fccd, scan.stage, scan.shutter, scan.exposures_s
    devices = fccd, stage, shutter
    with refusing():
        more = checked_md(md)
    center, x, y = yield from _place(scan)

    def leave(_: Exception) -> Plan:
        yield from bps.stop(fccd)
        yield from bps.stop(stage)

    @bpp.contingency_decorator(except_plan=leave)  # type: ignore[untyped-decorator]
    def measure() -> Plan:
        yield from darks_of(scan)
        yield from outlasting(devices, prepare)
        for point in zip(x.tolist(), y.tolist(), strict=True):
            for one_s in exposures_s:
                yield from outlasting(devices, functools.partial(expose, *point, one_s))

    def prepare() -> Plan:
        yield from bps.checkpoint()
        yield from bps.prepare(fccd, Acquisition(max(exposures_s)), wait=True)

    def expose(x: float, y: float, exposure_s: float) -> Plan:
        if fccd.lost:
            yield from prepare()
        yield from bps.checkpoint()
        yield from bps.mv(stage.x, x, stage.y, y)
        yield from _open(shutter)
        if len(exposures_s) > 1:
            yield from bps.abs_set(fccd.camera.exposure, exposure_s, wait=True)
        yield from bps.trigger_and_read([fccd, stage], name=PRIMARY)

    return (yield from _run(scan, measure, center, baseline, {**scan.metadata(name), **more}))


def _place(scan: Scan) -> Plan:
    """Return the centre, and the points in the motors' unit; the soft limits allow them, and the darks fit."""
    with refusing():
        _ = scan.dark_run
    unit_x, unit_y = (float(length_in_m(1.0, motor.egu)) for motor in (scan.stage.x, scan.stage.y))
    if scan.center_um is None:
        x0 = yield from bps.rd(scan.stage.x, default_value=0.0)
        y0 = yield from bps.rd(scan.stage.y, default_value=0.0)
    else:
        x0, y0 = (um * METRES_PER_UM / unit for um, unit in zip(scan.center_um, (unit_x, unit_y), strict=True))
    points_m = scan.points.points_um() * METRES_PER_UM
    from_x, from_y = (0.0, 0.0) if isinstance(scan.points, Places) else (x0, y0)
    x = from_x + points_m[:, 0] / unit_x
    y = from_y + points_m[:, 1] / unit_y
    with refusing():
        scan.stage.check_trajectory(x, y)
    return (x0, y0), x, y


def _run(
    scan: Scan,
    measure: Callable[[], Plan],
    center: tuple[float, float],
    baseline: Baseline | None,
    md: Mapping[str, Any],
) -> Plan:
    """Open a run around a measurement, and leave the shutter closed however it ends."""
    with refusing():
        slow = baseline_devices(baseline, [scan.stage, scan.shutter])

    def back() -> Plan:
        yield from bps.checkpoint()
        yield from bps.mv(scan.stage.x, center[0], scan.stage.y, center[1])

    @bpp.stage_decorator([scan.fccd, scan.stage])  # type: ignore[untyped-decorator]
    @with_baseline(slow)  # type: ignore[untyped-decorator]
    @bpp.run_decorator(md=dict(md))  # type: ignore[untyped-decorator]
    @saying_why
    @bpp.finalize_decorator(lambda: _close(scan.shutter))  # type: ignore[untyped-decorator]
    def inner() -> Plan:
        yield from measure()
        yield from outlasting([scan.stage], back)

    with scan.fccd.closing_on_pause(scan.shutter):
        return (yield from inner())


def _open(shutter: Any) -> Plan:
    yield from bps.abs_set(shutter, "open", wait=True)


def _close(shutter: Any) -> Plan:
    yield from bps.abs_set(shutter, "close", wait=True)
