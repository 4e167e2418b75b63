"""Beamlines of twins: real plans, documents and files, without EPICS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nsbluesky.devices.twins import MakeFrame, SimFCCD, SimShutter, SimStage
from nsbluesky.settings import PipelineSettings, SolverSettings
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import gold_balls

METRES_PER_UM = 1e-6
RIM_PX = 10

QUICK_SOLVER: dict[str, Any] = {"sweep_candidates": 3, "sweep_passes": 2, "sweep_frames": 10, "passes_final": 2}
"""Enough to see that frames become a picture, not enough for a good one."""


@dataclass(frozen=True)
class Twins:
    fccd: SimFCCD
    stage: SimStage
    shutter: SimShutter

    @classmethod
    def make(
        cls, directory: Path, make_frame: MakeFrame, frame_shape: tuple[int, int], stall_s: float = 10.0, **more: Any
    ) -> Self:
        """Make them; all their files go to `directory`."""
        stage, shutter = SimStage(name="stage", directory=directory), SimShutter(name="shutter")
        fccd = SimFCCD(
            name="fccd",
            directory=directory,
            stage=stage,
            shutter=shutter,
            make_frame=make_frame,
            frame_shape=frame_shape,
            stall_s=stall_s,
        )
        return cls(fccd=fccd, stage=stage, shutter=shutter, **more)

    @property
    def devices(self) -> tuple[SimFCCD, SimStage, SimShutter]:
        return self.fccd, self.stage, self.shutter


@dataclass(frozen=True)
class TwinBeamline(Twins):
    """Twins that look at the simulated sample."""

    simulator: FrameSimulator

    @property
    def scan_range_um(self) -> float:
        return min(self.simulator.sample.scan_range_m) / METRES_PER_UM

    def settings(self, **solver: Any) -> PipelineSettings:
        """Settings of the processing on the backend that every machine has."""
        return PipelineSettings(
            cleaning=self.simulator.cleaning_settings, solver=SolverSettings(**solver), backend="numpy"
        )

    def arguments(self, shape: tuple[int, int], points_across: int = 20, **more: Any) -> dict[str, Any]:
        """Keyword arguments of a plan whose step would cover the sample with `points_across` points."""
        step_um = self.scan_range_um / points_across
        return {"geometry": self.simulator.geometry, "shape": shape, "step_um": step_um, "num_dark": 4, **more}


def make_twin_beamline(directory: Path, seed: int = 0) -> TwinBeamline:
    simulator = FrameSimulator(gold_balls(), layout="none", seed=seed)
    return TwinBeamline.make(directory, simulator.raw_frame, simulator.shape, simulator=simulator)
