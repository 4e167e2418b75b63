"""Ptychography as Bluesky plans: one run with a dark stream, the scan, and the geometry in its start document.

Both plans check every argument and the soft limits before anything moves or a run opens.  Pause and resume, stop and
abort leave a valid run, the camera idle, the shutter closed.  Where an IOC goes away and comes back, they go on with
the frames that are not taken (`nsbluesky.lost_ioc`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import numpy.typing as npt
from bluesky.protocols import Readable
from bluesky.utils import FailedStatus, Msg, make_decorator, short_uid
from event_model import EventModelValidationError

from nsbluesky.devices.detector import Acquisition
from nsbluesky.devices.stage import Trajectory
from nsbluesky.devices.status import DeviceError, DeviceLost
from nsbluesky.geometry import Geometry, length_in_m
from nsbluesky.lost_ioc import outlasting, undisturbed
from nsbluesky.recorded_darks import DarkRun, DarkStream, RecordedDarks, find_darks
from nsbluesky.streams import PRIMARY, dark_stream
from nsbluesky.trajectories import is_number, make_trajectory

__all__ = ["ptycho_darks", "ptycho_fly_scan", "ptycho_points", "ptycho_scan", "take_darks"]

Plan = Generator[Msg, Any, Any]

Baseline = Sequence[Readable]  # type: ignore[type-arg]
"""Bare, for bluesky-queueserver knows devices by it."""

BASELINE = "baseline"

FLUSH_PERIOD_S = 0.1
"""Documents of a fly scan are emitted so often."""

METRES_PER_UM = 1e-6

OWN_NAMES = frozenset(("ptycho", "uid", "time", "run", "command", "obj"))
"""In a start document, or in the message that opens a run: what plan and RunEngine say themselves."""


def ptycho_scan(
    fccd: Any,
    stage: Any,
    shutter: Any,
    *,
    geometry: Geometry,
    shape: tuple[int, int] = (20, 20),
    step_um: float = 0.1,
    pattern: str = "jittered_raster",
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
    points = _Pattern(pattern, shape, step_um, seed)
    scan = _Scan(fccd, stage, shutter, geometry, points, _exposures(exposure_s), num_dark, darks_from, center_um)
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
    points = _Places(_places(points_um))
    scan = _Scan(fccd, stage, shutter, geometry, points, _exposures(exposure_s), num_dark, darks_from, None)
    return (yield from _step_scan(scan, "ptycho_points", baseline, md))


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
    exposures_s = _exposures(exposure_s)
    _check(geometry, exposures_s, num_dark)
    if num_dark == 0:
        raise ValueError("num_dark = 0: expected at least 1 for a run of darks")
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
    @bpp.run_decorator(md={**about, **_checked_md(md)})  # type: ignore[untyped-decorator]
    def inner() -> Plan:
        for k, one_s in enumerate(exposures_s):
            yield from take_darks(fccd, shutter, num_dark, exposure_s=one_s, stream=dark_stream(k))

    return (yield from inner())


def ptycho_fly_scan(
    fccd: Any,
    stage: Any,
    shutter: Any,
    *,
    geometry: Geometry,
    shape: tuple[int, int] = (20, 20),
    step_um: float = 0.1,
    pattern: str = "jittered_raster",
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
    if isinstance(exposure_s, Sequence):
        raise ValueError(f"exposure_s = {exposure_s!r}: expected one number in a fly scan; ptycho_scan takes several")
    points = _Pattern(pattern, shape, step_um, seed)
    scan = _Scan(fccd, stage, shutter, geometry, points, (exposure_s,), num_dark, darks_from, center_um)
    period_s = _period(rate_hz, exposure_s)
    x0, y0, x, y = yield from _place(scan)

    def measure() -> Plan:
        yield from _darks(scan, period_s)
        yield from _fly(fccd, [stage], shutter, "open", PRIMARY, len(x), prepare)

    def prepare(first: int) -> Plan:
        yield from bps.prepare(stage, Trajectory(x[first:], y[first:]), wait=True)
        yield from bps.prepare(fccd, Acquisition(exposure_s, len(x) - first, period_s), wait=True)

    md = {**scan.metadata("ptycho_fly_scan", rate_hz=rate_hz), **_checked_md(md)}
    return (yield from _run(scan, measure, (x0, y0), baseline, md))


def take_darks(
    fccd: Any, shutter: Any, num_dark: int, *, exposure_s: float, period_s: float = 0.0, stream: str = "dark"
) -> Plan:
    """Take frames with the shutter closed into a stream and a file of their own (a stub: needs a run)."""
    if num_dark == 0:
        return

    def prepare(first: int) -> Plan:
        yield from bps.prepare(fccd, Acquisition(exposure_s, num_dark - first, period_s), wait=True)

    yield from _fly(fccd, [], shutter, "close", stream, num_dark, prepare)


def _darks(scan: _Scan, period_s: float = 0.0) -> Plan:
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


def _step_scan(scan: _Scan, name: str, baseline: Baseline | None, md: Mapping[str, Any] | None) -> Plan:
    """Measure the points of a scan one by one."""
    fccd, stage, shutter, exposures_s = scan.fccd, scan.stage, scan.shutter, scan.exposures_s
    devices = fccd, stage, shutter
    x0, y0, x, y = yield from _place(scan)

    def leave(_: Exception) -> Plan:
        yield from bps.stop(fccd)
        yield from bps.stop(stage)

    @bpp.contingency_decorator(except_plan=leave)  # type: ignore[untyped-decorator]
    def measure() -> Plan:
        yield from _darks(scan)
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

    md = {**scan.metadata(name), **_checked_md(md)}
    return (yield from _run(scan, measure, (x0, y0), baseline, md))


@dataclass(frozen=True)
class _Pattern:
    """Points around a centre."""

    pattern: str
    shape: tuple[int, int]
    step_um: float
    seed: int

    def points_um(self) -> npt.NDArray[np.float64]:
        """Return the points (n, 2: x, y) relative to the centre."""
        return make_trajectory(self.pattern, self.shape, self.step_um, self.seed)

    def metadata(self) -> dict[str, Any]:
        """Return what the start document says of them."""
        return {
            "pattern": self.pattern,
            "step_um": float(self.step_um),
            "shape": [int(n) for n in self.shape],
            "num_points": len(self.points_um()),
            "seed": int(self.seed),
        }


@dataclass(frozen=True)
class _Places:
    """Points on the stage, one by one."""

    places_um: tuple[tuple[float, float], ...]

    def points_um(self) -> npt.NDArray[np.float64]:
        """Return the points (n, 2: x, y) on the stage."""
        return np.array(self.places_um, np.float64)

    def metadata(self) -> dict[str, Any]:
        """Return what the start document says of them."""
        return {"pattern": "points", "num_points": len(self.places_um)}


@dataclass(frozen=True)
class _Scan:
    """The arguments that the plans share, checked."""

    fccd: Any
    stage: Any
    shutter: Any
    geometry: Geometry
    points: _Pattern | _Places
    exposures_s: tuple[float, ...]
    num_dark: int
    darks_from: str | None
    center_um: tuple[float, float] | None

    def __post_init__(self) -> None:
        _check(self.geometry, self.exposures_s, self.num_dark)
        if self.center_um is not None and not _is_place(self.center_um):
            raise ValueError(f"center_um = {self.center_um!r}: expected x and y in µm, or None")
        self.points.points_um()

    @functools.cached_property
    def dark_run(self) -> DarkRun | None:
        """The earlier run whose darks are taken; first asked for before anything moves."""
        return None if self.darks_from is None else find_darks(self.darks_from, self.fccd, self.exposures_s)

    def metadata(self, plan_name: str, **scan: Any) -> dict[str, Any]:
        """Return what the start document says (docs/reference/documents.md)."""
        keys = {"image": self.fccd.image_key, "x": self.stage.x.name, "y": self.stage.y.name}
        points = self.points.metadata()
        reused = {} if self.dark_run is None else {"darks_from": self.dark_run.uid}
        return {
            "plan_name": plan_name,
            "detectors": [self.fccd.name],
            "motors": [self.stage.x.name, self.stage.y.name],
            "num_points": points["num_points"],
            "hints": {"dimensions": [([self.stage.x.name, self.stage.y.name], "primary")]},
            "ptycho": {
                **self.geometry.to_dict(),
                "keys": keys,
                "exposures_s": [float(exposure_s) for exposure_s in self.exposures_s],
                **reused,
                "scan": {**points, **scan},
            },
        }


def _check(geometry: Geometry, exposures_s: tuple[float, ...], num_dark: int) -> None:
    if not isinstance(geometry, Geometry):
        raise ValueError(f"geometry = {geometry!r}: expected an nsbluesky.geometry.Geometry")
    for exposure_s in exposures_s:
        if not (is_number(exposure_s) and exposure_s > 0):
            raise ValueError(f"exposure_s = {exposure_s!r}: expected a positive number of seconds")
    if not (is_number(num_dark) and int(num_dark) == num_dark and num_dark >= 0):
        raise ValueError(f"num_dark = {num_dark!r}: expected a number of frames, 0 for none")


def _checked_md(md: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if md is not None and not (isinstance(md, Mapping) and all(isinstance(name, str) for name in md)):
        raise ValueError(f"md = {md!r:.80}: expected a mapping of names, as in {{'sample': 'gold'}}")
    if taken := OWN_NAMES.intersection(md or ()):
        names = ", ".join(map(repr, sorted(taken)))
        raise ValueError(f"md has {names}: expected names that the plan and the RunEngine leave free")
    return md or {}


def _is_place(value: Any) -> bool:
    return np.shape(value) == (2,) and all(is_number(um) for um in value)


def _places(points_um: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    points = list(points_um) if np.iterable(points_um) else []
    if not points or not all(_is_place(point) for point in points):
        raise ValueError(f"points_um = {points_um!r:.80}: expected at least one (x, y) in µm")
    return tuple((float(x), float(y)) for x, y in points)


def _baseline_devices(baseline: Baseline | None, scan: _Scan) -> list[Any]:
    if baseline is None:
        return [scan.stage, scan.shutter]
    devices = list(baseline) if np.iterable(baseline) else [None]
    if not all(isinstance(device, Readable) for device in devices):
        raise ValueError(f"baseline = {baseline!r:.80}: expected devices, as in [stage]; [] for none")
    return devices


def _exposures(exposure_s: Any) -> tuple[float, ...]:
    several = isinstance(exposure_s, Sequence) and not isinstance(exposure_s, str)
    exposures_s = tuple(exposure_s) if several else (exposure_s,)
    if not exposures_s:
        raise ValueError("exposure_s is empty: expected seconds, or several as in (0.1, 0.01)")
    return exposures_s


def _period(rate_hz: float, exposure_s: float) -> float:
    if not (is_number(rate_hz) and rate_hz > 0):
        raise ValueError(f"rate_hz = {rate_hz!r}: expected a positive number of points a second")
    if exposure_s * rate_hz > 1 + 1e-9:
        raise ValueError(
            f"rate_hz = {rate_hz:g} leaves {1 / rate_hz:.4g} s a point, exposure_s is {exposure_s:g}: "
            f"take at most {1 / exposure_s:.4g} Hz"
        )
    return 1 / rate_hz


def _place(scan: _Scan) -> Plan:
    """Return the centre, and the points in the motors' unit; the soft limits allow them, and the darks fit."""
    _ = scan.dark_run
    unit_x, unit_y = (float(length_in_m(1.0, motor.egu)) for motor in (scan.stage.x, scan.stage.y))
    if scan.center_um is None:
        x0 = yield from bps.rd(scan.stage.x, default_value=0.0)
        y0 = yield from bps.rd(scan.stage.y, default_value=0.0)
    else:
        x0, y0 = (um * METRES_PER_UM / unit for um, unit in zip(scan.center_um, (unit_x, unit_y), strict=True))
    points_m = scan.points.points_um() * METRES_PER_UM
    from_x, from_y = (0.0, 0.0) if isinstance(scan.points, _Places) else (x0, y0)
    x = from_x + points_m[:, 0] / unit_x
    y = from_y + points_m[:, 1] / unit_y
    scan.stage.check_trajectory(x, y)
    return x0, y0, x, y


def _run(
    scan: _Scan,
    measure: Callable[[], Plan],
    center: tuple[float, float],
    baseline: Baseline | None,
    md: Mapping[str, Any],
) -> Plan:
    """Open a run around a measurement, and leave the shutter closed however it ends."""
    scan.fccd.close_on_pause(scan.shutter)
    slow = _baseline_devices(baseline, scan)

    def back() -> Plan:
        yield from bps.checkpoint()
        yield from bps.mv(scan.stage.x, center[0], scan.stage.y, center[1])

    @bpp.stage_decorator([scan.fccd, scan.stage])  # type: ignore[untyped-decorator]
    @_baseline_decorator(slow)  # type: ignore[untyped-decorator]
    @bpp.run_decorator(md=dict(md))  # type: ignore[untyped-decorator]
    @bpp.finalize_decorator(lambda: _close(scan.shutter))  # type: ignore[untyped-decorator]
    def inner() -> Plan:
        yield from measure()
        yield from outlasting([scan.stage], back)

    return (yield from inner())


def _baseline_wrapper(plan: Plan, devices: Baseline) -> Plan:
    """Read devices before and after a run, unless the RunEngine's `SupplementalData` has begun a baseline of others.

    A stream has one set of devices, and bluesky's own `baseline_wrapper` would fail the run.
    """
    is_ours = False

    def before() -> Plan:
        nonlocal is_ours
        try:
            yield from bps.declare_stream(*devices, name=BASELINE)
        except EventModelValidationError:
            yield from bps.null()  # a plan that ended here would hand the error on, in bluesky 1.15
            return
        is_ours = True
        yield from bps.trigger_and_read(devices, name=BASELINE)

    def after(close: Msg) -> Plan:
        if is_ours:
            yield from bps.trigger_and_read(devices, name=BASELINE)
        return (yield close)

    def insert(message: Msg) -> tuple[Plan | None, Plan | None]:
        if message.command == "open_run":
            return None, before()
        return (after(message) if message.command == "close_run" else None), None

    return (yield from bpp.plan_mutator(plan, insert if devices else lambda _: (None, None)))


_baseline_decorator = make_decorator(_baseline_wrapper)


def _fly(
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
        for device in devices:
            yield from bps.kickoff(device, wait=True)
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


def _open(shutter: Any) -> Plan:
    yield from bps.abs_set(shutter, "open", wait=True)


def _close(shutter: Any) -> Plan:
    yield from bps.abs_set(shutter, "close", wait=True)
