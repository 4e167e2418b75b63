"""Whole scans of the simulated sample as documents and files, to be fed to stages and pipelines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from raw_runs import PTYCHO, RawRun, image_key, number_key

from nsbluesky.settings import PipelineSettings, SolverSettings
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import Sample, gold_balls
from nsbluesky.trajectories import make_trajectory

METRES_PER_UM = 1e-6


@dataclass
class SimulatedScan:
    """Frames, darks and positions of a scan, and the simulator that made them."""

    simulator: FrameSimulator
    frames: np.ndarray
    darks: np.ndarray
    points_um: np.ndarray

    def settings(self, **solver: Any) -> PipelineSettings:
        return PipelineSettings(
            cleaning=self.simulator.cleaning_settings,
            solver=SolverSettings(**solver),
            backend="numpy",
            block_frames=4,
        )

    def documents(
        self,
        folder: Path,
        *,
        darks: bool = True,
        order: Callable[[list[Any]], list[Any]] = lambda documents: documents,
        **metadata: Any,
    ) -> list[Any]:
        """A step scan: frames by stream datum, positions in events; `order` may shuffle what tells of the points."""
        folder.mkdir(exist_ok=True)
        geometry = self.simulator.geometry.to_dict()
        scan = {"pattern": "jittered_raster", "num_points": len(self.frames)}
        run = RawRun(folder, ptycho={**PTYCHO, **geometry, "scan": scan, **metadata})
        documents = [run.start]
        shape = self.frames.shape[1:]
        if darks:
            documents += run.declare("dark", fccd_image=image_key(shape))
            bundle, resource = run.file("fccd_image", self.darks)
            documents += [*resource, run.datum("dark", bundle, 0, len(self.darks))]
        documents += run.declare("primary", fccd_image=image_key(shape), stage_x=number_key(), stage_y=number_key())
        bundle, resource = run.file("fccd_image", self.frames)
        points = []
        for k, (x, y) in enumerate(self.points_um):
            points.append(run.datum("primary", bundle, k, k + 1))
            points.append(run.event("primary", k + 1, stage_x=float(x), stage_y=float(y)))
        return [*documents, *resource, *order(points), run.stop()]


def simulate(
    layout: str,
    shape: tuple[int, int],
    num_darks: int = 10,
    seed: int = 0,
    points_across: int | None = None,
    sample: Sample | None = None,
) -> SimulatedScan:
    """Scan the sample; the step is such that `points_across` would cover its width (`shape` covers it by default)."""
    simulator = FrameSimulator(sample or gold_balls(), layout=layout, seed=seed)
    width_m, _ = simulator.sample.scan_range_m
    points = make_trajectory("jittered_raster", shape, width_m / (points_across or shape[1]) / METRES_PER_UM, seed)
    darks = [simulator.raw_frame(0, 0, shutter_open=False, index=k) for k in range(num_darks)]
    frames = [
        simulator.raw_frame(x * METRES_PER_UM, y * METRES_PER_UM, shutter_open=True, index=num_darks + k)
        for k, (x, y) in enumerate(points)
    ]
    return SimulatedScan(simulator, np.stack(frames), np.stack(darks), points)


class Streams:
    """Keeps the data of all derived events by stream, and in which order the streams had them."""

    def __init__(self) -> None:
        self.start: dict[str, Any] = {}
        self.stop: dict[str, Any] = {}
        self.documents: list[tuple[str, dict[str, Any]]] = []
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.order: list[str] = []
        self.clean: dict[int, np.ndarray] = {}
        self._names: dict[str, str] = {}

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        self.documents.append((name, document))
        if name == "start":
            self.start = document
        elif name == "stop":
            self.stop = document
        elif name == "descriptor":
            self._names[document["uid"]] = document["name"]
        elif name == "event":
            self.order.append(self._names[document["descriptor"]])
            self.events.setdefault(self.order[-1], []).append(document["data"])
        elif name == "event_page" and self._names[document["descriptor"]] == "clean":
            self.clean.update(zip(document["seq_num"], document["data"]["frame"], strict=True))

    def last(self, stream: str) -> dict[str, Any]:
        return self.events[stream][-1]


def process(processor: Any, documents: list[Any], timeout: float = 120) -> Streams:
    streams = Streams()
    processor.subscribe(streams)
    for name, document in documents:
        processor(name, document)
    assert processor.close(timeout)
    return streams
