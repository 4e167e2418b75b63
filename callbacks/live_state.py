"""LiveState: what a live window shows, as data made of parts.

A part is replaced as a whole when a newer document comes, so whoever draws compares parts by identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.callbacks.live_parts import (
    Corrections,
    DarkStatistics,
    DefocusSweep,
    Detector,
    Fit,
    FloatArray,
    Frame,
    HalvesCorrelation,
    History,
    LowResolution,
    RunInfo,
    ShownPicture,
    StageHealth,
)

__all__ = ["LiveState"]


@dataclass(frozen=True, eq=False)
class LiveState:
    """The newest of everything; None and empty parts have not come yet.

    Attributes
    ----------
    version : int
        Grows with every document that changed something.
    run : RunInfo or None
    raw, clean : Frame or None
        Newest raw and clean frame.
    darks : mapping of int to DarkStatistics
        Those of each exposure of a point: 0, 1, …; the latest that was told comes last.
    detector : Detector or None
    positions_m : ndarray
        (n, 2) x and y of the frames measured so far, by seq_num.
    seq_nums : ndarray
        (n,) their numbers.
    photons : ndarray
        (n,) photons of each of them; NaN where the clean frame has not come.
    low_resolution : LowResolution or None
    sweep : DefocusSweep or None
    corrections : Corrections or None
    fit : Fit or None
        Of a frame, with the newest picture.
    frc : HalvesCorrelation or None
        Where the solver tells the resolution.
    reconstruction : ShownPicture or None
    history : History
    second, second_history
        The same of the second engine (`PipelineSettings.second_engine`).
    health : mapping of str to StageHealth
        By stage, in the order in which they first told.
    summary : StageHealth or None
        The newest health document, whatever its stage: rate, queue, latency and frames of the run.
    warnings : tuple of str
        Each different warning once, oldest first.
    lost, bad, flagged : tuple of int
        seq_num of frames that are missing, that could not be processed, and that look suspicious.
    streams : mapping of str to mapping
        Data of the newest event of every other stream, as a stage of one's own emits it.
    """

    version: int = 0
    run: RunInfo | None = None
    raw: Frame | None = None
    clean: Frame | None = None
    darks: Mapping[int, DarkStatistics] = field(default_factory=dict)
    detector: Detector | None = None
    positions_m: FloatArray = field(default_factory=lambda: np.empty((0, 2)))
    seq_nums: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    photons: FloatArray = field(default_factory=lambda: np.empty(0))
    low_resolution: LowResolution | None = None
    sweep: DefocusSweep | None = None
    corrections: Corrections | None = None
    fit: Fit | None = None
    frc: HalvesCorrelation | None = None
    reconstruction: ShownPicture | None = None
    history: History = field(default_factory=History)
    second: ShownPicture | None = None
    second_history: History = field(default_factory=History)
    health: Mapping[str, StageHealth] = field(default_factory=lambda: MappingProxyType({}))
    summary: StageHealth | None = None
    warnings: tuple[str, ...] = ()
    lost: tuple[int, ...] = ()
    bad: tuple[int, ...] = ()
    flagged: tuple[int, ...] = ()
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def errors(self) -> list[StageHealth]:
        """The stages that have raised."""
        return [stage for stage in self.health.values() if stage.state == "error"]

    @property
    def finished(self) -> bool:
        """Whether the run's stop document came."""
        return self.run is not None and self.run.exit_status is not None

    @property
    def dark(self) -> DarkStatistics | None:
        """The darks that were told last."""
        return list(self.darks.values())[-1] if self.darks else None

    @property
    def coming_m(self) -> FloatArray:
        """(n, 2) x and y of the points of the scan that have not been measured; (0, 2) where nobody knows.

        The plan tells its points relative to its centre; where that is, the measured points say.
        """
        planned_m, points = self._planned_on_stage_m, self._points
        coming = np.ones(len(planned_m), np.bool_)
        coming[points[points < len(planned_m)]] = False
        return np.asarray(planned_m[coming])

    @property
    def _points(self) -> npt.NDArray[np.int64]:
        """(n,) of each frame, the number of its point in the plan, from 0."""
        return np.asarray((self.seq_nums - 1) // (self.run.exposures if self.run is not None else 1))

    @property
    def _planned_on_stage_m(self) -> FloatArray:
        """(n, 2) x and y of all points of the plan on the stage; (0, 2) where nobody knows."""
        if self.run is None or not len(self.run.planned_m) or not len(self.positions_m):
            return np.empty((0, 2))
        points = self._points
        known = (points >= 0) & (points < len(self.run.planned_m))
        if not known.any():
            return np.empty((0, 2))
        center = np.median(self.positions_m[known] - self.run.planned_m[points[known]], axis=0)
        return np.asarray(self.run.planned_m + center)

    def places_m(self, seq_nums: Sequence[int]) -> dict[int, tuple[float, float]]:
        """Return x and y of frames, as measured or, where they are missing, as planned; unknown ones are left out.

        Parameters
        ----------
        seq_nums : sequence of int
        """
        measured = dict(zip(self.seq_nums.tolist(), self.positions_m.tolist(), strict=True))
        planned_m, exposures = self._planned_on_stage_m, self.run.exposures if self.run is not None else 1
        places: dict[int, tuple[float, float]] = {}
        for seq_num in seq_nums:
            point = (seq_num - 1) // exposures
            if seq_num in measured:
                places[seq_num] = (measured[seq_num][0], measured[seq_num][1])
            elif 0 <= point < len(planned_m):
                places[seq_num] = (float(planned_m[point, 0]), float(planned_m[point, 1]))
        return places
