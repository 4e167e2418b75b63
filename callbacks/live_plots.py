"""LivePlots: the newest of everything in a derived run, for windows and for plans; it never draws."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from event_model import DocumentRouter, Event, EventDescriptor, EventPage, RunStart, RunStop, unpack_event_page

from nsbluesky.callbacks.live_parts import (
    Corrections,
    DarkStatistics,
    DefocusSweep,
    Detector,
    Fit,
    Frame,
    HalvesCorrelation,
    History,
    LowResolution,
    RunInfo,
    ShownPicture,
    StageHealth,
)
from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.settings import PipelineSettings, SettingsError
from nsbluesky.streams import exposure_of_dark, exposures_s, holds_frames, ptycho_of, scan_of
from nsbluesky.trajectories import make_trajectory

__all__ = ["LivePlots"]

log = logging.getLogger(__name__)

MAX_WARNINGS = 50
"""Warnings that are kept; the oldest go first."""

_OWN_STREAMS = (
    "dark_statistics",
    "detector",
    "low_resolution",
    "geometry",
    "positions",
    "diffraction_fit",
    "frc",
    "reconstruction",
    "second_engine",
    "settings",
    "health",
)


class LivePlots(DocumentRouter):
    """Callback of the derived run that keeps what a window shows: newest wins, nothing queues.

    Fed from one thread, read from any (`snapshot`).  Feeding takes microseconds and never waits for a window; a
    document that cannot be used is told in the state's health under "LivePlots", never raised.  The run that started
    last is shown; what still comes from an earlier one is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._state = LiveState()
        self._frame_table = _FrameTable()
        self._streams: dict[str, str] = {}
        self._units: dict[str, Mapping[str, str]] = {}

    def snapshot(self) -> LiveState:
        """Return the state as it is now: consistent, frozen, and without a copy of any image."""
        with self._lock:
            positions, seq_nums, photons = self._frame_table.measured()
            if positions is not self._state.positions_m:
                self._state = replace(self._state, positions_m=positions, seq_nums=seq_nums, photons=photons)
            return self._state

    def clear(self) -> None:
        """Show nothing until the next run starts."""
        with self._lock:
            self._frame_table = _FrameTable()
            self._state = LiveState(version=self._state.version + 1)
        self._streams.clear()

    def __call__(self, name: str, doc: dict[str, Any], validate: bool = False) -> tuple[str, dict[str, Any]]:
        """Take one document of a derived run."""
        try:
            super().__call__(name, doc, validate)
        except Exception as error:  # what is shown must never disturb what is computed
            log.exception("LivePlots cannot use a %s document", name)
            message = f"cannot show a document {name!r}: {type(error).__name__}: {error}"
            failed = StageHealth("LivePlots", "error", message)
            self._change(health=MappingProxyType({**self._state.health, failed.stage: failed}))
        return name, doc

    def start(self, doc: RunStart) -> RunStart | None:
        """Begin anew with this run; runs other than derived ones are not shown."""
        start = cast(Mapping[str, Any], doc)
        if start.get("plan_name") != "ptycho_processing":
            return None
        scan = scan_of(start)
        run = RunInfo(
            uid=start["uid"],
            raw_uid=start["raw_uid"],
            label=_label(start),
            num_points=scan.get("num_points"),
            start_time=float(start["time"]),
            planned_m=_planned_m(scan),
            exposures_s=exposures_s(start),
            rate_hz=scan.get("rate_hz"),
            darks_from=str(ptycho_of(start).get("darks_from", "")),
            settings=_told_settings(start.get("settings", {})),
            sample=start.get("sample"),
        )
        self._streams.clear()
        self._units.clear()
        with self._lock:
            self._frame_table = _FrameTable()
            self._state = LiveState(version=self._state.version + 1, run=run)
        return None

    def descriptor(self, doc: EventDescriptor) -> EventDescriptor | None:
        """Remember the name of a stream and the units of its keys."""
        if self._state.run is None or doc["run_start"] != self._state.run.uid:
            return None
        self._streams[doc["uid"]] = doc["name"]
        units = {key: str(entry["units"]) for key, entry in doc["data_keys"].items() if entry.get("units")}
        self._units[doc["name"]] = MappingProxyType(units)
        return None

    def event(self, doc: Event) -> Event:
        """Take one event."""
        stream = self._streams.get(doc["descriptor"], "")
        if _is_of_frames(stream):
            filled = doc["filled"].get("frame", True) is not False
            self._frames(stream, [doc["seq_num"]], {key: [value] for key, value in doc["data"].items()}, filled)
        elif stream in _OWN_STREAMS:
            getattr(self, f"_{stream}")(doc["data"], float(doc["time"]))
        elif stream:
            self._change(streams=MappingProxyType({**self._state.streams, stream: doc["data"]}))
        return doc

    def event_page(self, doc: EventPage) -> EventPage:
        """Take a block of events."""
        stream = self._streams.get(doc["descriptor"], "")
        if _is_of_frames(stream):
            self._frames(stream, doc["seq_num"], doc["data"], all(doc["filled"].get("frame", [True])[-1:]))
        else:
            for event in unpack_event_page(doc):
                self.event(event)
        return doc

    def stop(self, doc: RunStop) -> RunStop | None:
        """Note how the run ended."""
        run = self._state.run
        if run is not None and doc["run_start"] == run.uid:
            self._change(run=replace(run, exit_status=doc["exit_status"], reason=doc.get("reason", "")))
        return None

    # ---- one method per stream

    def _frames(self, stream: str, seq_nums: Sequence[int], data: Mapping[str, Any], filled: bool) -> None:
        """Show the last frame of a block; a service's small copies are not always filled."""
        if not len(seq_nums):
            return
        if "x_m" in data and "y_m" in data:
            with self._lock:
                self._frame_table.add(seq_nums, data["x_m"], data["y_m"], data.get("photons"))
        if filled:
            frame = Frame(data["frame"][-1], int(seq_nums[-1]), self._exposure(stream, int(seq_nums[-1])))
            self._change(**{"clean" if stream == "clean" else "raw": frame})

    def _exposure(self, stream: str, seq_num: int) -> int:
        """Return which exposure of its point a frame is."""
        of_dark, run = exposure_of_dark(stream), self._state.run
        if of_dark is not None or run is None or stream == "clean":
            return of_dark or 0
        return (seq_num - 1) % run.exposures

    def _dark_statistics(self, data: Mapping[str, Any], time_s: float) -> None:
        bad_adcs = tuple(int(adc) for adc in data["bad_adcs"])
        exposure = int(data.get("exposure", 0))
        found = (data["mean"], data["std"], data["bad"], bad_adcs, int(data["num_frames"]))
        others = {number: dark for number, dark in self._state.darks.items() if number != exposure}
        self._change(darks=MappingProxyType({**others, exposure: DarkStatistics(*found, exposure)}))

    def _detector(self, data: Mapping[str, Any], time_s: float) -> None:
        center = (float(data["center_row_px"]), float(data["center_column_px"]))
        self._change(detector=Detector(center, data["mask"], float(data["pixel_size_m"])))

    def _low_resolution(self, data: Mapping[str, Any], time_s: float) -> None:
        images = (data["transmission"], data["dpc_x"], data["dpc_y"])
        self._change(
            low_resolution=LowResolution(
                *images,
                _extent(data["extent_m"]),
                int(data["num_frames"]),
                self._units["low_resolution"],
                data.get("dark_field"),
            ),
        )

    def _geometry(self, data: Mapping[str, Any], time_s: float) -> None:
        self._change(
            sweep=DefocusSweep(
                defocus_m=float(data["defocus_m"]),
                sweep_defocus_m=np.asarray(data["sweep_defocus_m"], dtype=np.float64),
                sweep_residual=np.asarray(data["sweep_residual"], dtype=np.float64),
                confidence=float(data["confidence"]),
                accepted=bool(data["accepted"]),
                warm_run=str(data.get("warm_run", "")),
                warm_age_s=float(data.get("warm_age_s", math.nan)),
                warm_residual=float(data.get("warm_residual", math.nan)),
                warm_fits=bool(data.get("warm_fits", False)),
            )
        )

    def _positions(self, data: Mapping[str, Any], time_s: float) -> None:
        self._change(
            corrections=Corrections(
                seq_nums=np.asarray(data["raw_seq_num"], np.int64),
                positions_m=np.stack([data["x_m"], data["y_m"]], axis=1),
                scatter_m=float(data["scatter_m"]),
                scale=(float(data["scale_x"]), float(data["scale_y"])),
                rotation_rad=float(data["rotation_rad"]),
                shear_rad=float(data["shear_rad"]),
            )
        )

    def _diffraction_fit(self, data: Mapping[str, Any], time_s: float) -> None:
        self._change(fit=Fit(int(data["raw_seq_num"]), data["data"], data["model"], float(data["r_frame"])))

    def _frc(self, data: Mapping[str, Any], time_s: float) -> None:
        self._change(frc=HalvesCorrelation(data["frequency_1_m"], data["correlation"], data["half_bit"]))

    def _settings(self, data: Mapping[str, Any], time_s: float) -> None:
        """Note what was changed while the run goes on."""
        assert self._state.run is not None
        self._change(run=replace(self._state.run, settings=_told_settings(json.loads(data["settings"]))))

    def _reconstruction(self, data: Mapping[str, Any], time_s: float) -> None:
        history = self._state.history.extended(self._elapsed_s(time_s), picture := _picture(data))
        if isinstance(data["object"], str):  # not filled: an earlier image, of which a late viewer gets the numbers
            self._change(history=history)
        else:
            self._change(reconstruction=picture, history=history)

    def _second_engine(self, data: Mapping[str, Any], time_s: float) -> None:
        picture, before = _picture(data), self._state.second
        history = self._state.second_history
        if before is None or before.engine != picture.engine:
            history = History()
        self._change(second=picture, second_history=history.extended(self._elapsed_s(time_s), picture))

    def _elapsed_s(self, time_s: float) -> float:
        assert self._state.run is not None  # events of unknown streams come no further than `event`
        return time_s - self._state.run.start_time

    def _health(self, data: Mapping[str, Any], time_s: float) -> None:
        told = StageHealth(
            stage=str(data["stage"]),
            state=str(data["state"]),
            message=str(data["message"]),
            rate_hz=float(data["rate_hz"]),
            queue=int(data["queue"]),
            latency_s=float(data["latency_s"]),
            num_frames=int(data["num_frames"]),
        )
        warnings = self._state.warnings
        if told.state == "warning" and told.message not in warnings:
            warnings = (*warnings, told.message)[-MAX_WARNINGS:]
        self._change(
            health=MappingProxyType({**self._state.health, told.stage: told}),
            summary=told,
            warnings=warnings,
            lost=tuple(int(k) for k in data["lost"]),
            bad=tuple(int(k) for k in data["bad"]),
            flagged=tuple(int(k) for k in data["flagged"]),
        )

    def _change(self, **parts: Any) -> None:
        with self._lock:
            self._state = replace(self._state, version=self._state.version + 1, **parts)


class _FrameTable:
    """A row for each seq_num in a buffer that doubles, so that adding costs the same at the end of a long scan."""

    def __init__(self) -> None:
        self._rows: npt.NDArray[np.float64] = np.full((256, 3), np.nan)
        self._measured: tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.float64]] | None = None

    def add(
        self, seq_nums: Sequence[int], x_m: npt.ArrayLike, y_m: npt.ArrayLike, photons: npt.ArrayLike | None
    ) -> None:
        """Set frames; a seq_num that comes again replaces the earlier one."""
        rows = np.asarray(seq_nums, dtype=np.int64)
        while rows.max() >= len(self._rows):
            self._rows = np.concatenate([self._rows, np.full_like(self._rows, np.nan)])
        self._rows[rows, 0] = x_m
        self._rows[rows, 1] = y_m
        if photons is not None:
            self._rows[rows, 2] = photons
        self._measured = None

    def measured(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return points (n, 2), seq_nums and photons in the order of seq_num; the same arrays until one is added."""
        if self._measured is None:
            seq_nums = np.flatnonzero(np.isfinite(self._rows[:, :2]).all(axis=1))
            rows = self._rows[seq_nums]
            self._measured = rows[:, :2], seq_nums, rows[:, 2]
        return self._measured


def _is_of_frames(stream: str) -> bool:
    return stream == "clean" or holds_frames(stream)


def _picture(data: Mapping[str, Any]) -> ShownPicture:
    return ShownPicture(
        object=data["object"],
        probe=data["probe"],
        pixel_size_m=float(data["pixel_size_m"]),
        extent_m=_extent(data["extent_m"]),
        r_factor=float(data["r_factor"]),
        num_frames=int(data["num_frames"]),
        num_passes=float(data["num_passes"]),
        coverage=float(data["coverage"]),
        newest_age_s=float(data.get("newest_age_s", math.nan)),
        final=bool(data["final"]),
        coarse=bool(data.get("coarse", False)),
        resolution_m=float(data.get("resolution_half_bit_m", math.nan)),
        one_seventh_m=float(data.get("resolution_one_seventh_m", math.nan)),
        r_held_out=float(data.get("r_held_out", math.nan)),
        engine=str(data.get("engine", "")),
    )


def _told_settings(told: Mapping[str, Any]) -> PipelineSettings | None:
    try:
        return PipelineSettings.from_dict(told)
    except SettingsError:  # of another version
        return None


def _planned_m(scan: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Return the points (n, 2) of a scan relative to its centre; none where its start document does not tell them."""
    try:
        shape = (int(scan["shape"][0]), int(scan["shape"][1]))
        return 1e-6 * make_trajectory(scan["pattern"], shape, float(scan["step_um"]), int(scan.get("seed", 0)))
    except (KeyError, TypeError, ValueError, IndexError):  # a scan of another plan
        return np.empty((0, 2))


def _extent(values: Sequence[float]) -> tuple[float, float, float, float]:
    x0, x1, y0, y1 = (float(value) for value in values)
    return x0, x1, y0, y1


def _label(start: Mapping[str, Any]) -> str:
    name = f"run {start['raw_uid'][:8]}"
    try:
        return " · ".join([name, *_details(ptycho_of(start), scan_of(start))])
    except (TypeError, ValueError):  # of metadata that somebody typed
        return name


def _details(ptycho: Mapping[str, Any], scan: Mapping[str, Any]) -> list[str]:
    parts = []
    if "pattern" in scan:
        parts.append(str(scan["pattern"]).replace("_", " "))
    if "shape" in scan:
        parts.append(" × ".join(str(n) for n in scan["shape"]))
    if "step_um" in scan:
        parts.append(f"step {np.mean(scan['step_um']):.3g} µm")
    if "energy_eV" in ptycho:
        parts.append(f"{ptycho['energy_eV']:.5g} eV")
    return parts
