"""Rehearse a scan: any picture under a simulated beam, through the plan and the processing of a real one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from bluesky import RunEngine
from bluesky.run_engine import TransitionError  # type: ignore[attr-defined]  # not exported by name
from bluesky.utils import DuringTask

from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.devices.twins import SimFCCD, SimShutter, SimStage
from nsbluesky.document_log import DocumentLog
from nsbluesky.geometry import Optic
from nsbluesky.plans import ptycho_fly_scan
from nsbluesky.settings import PipelineSettings, Settings, SettingsError, SolverSettings
from nsbluesky.simulation.fccd_frames import NOMINAL_EXPOSURE_S, FrameSimulator
from nsbluesky.simulation.samples import PICTURE_PIXEL_M, Sample, from_picture
from nsbluesky.trajectories import Pattern, make_trajectory

__all__ = ["Rehearsal", "RehearsalPlan", "RehearsalSettings"]

log = logging.getLogger(__name__)

THREAD_END_S = 10.0
MAX_PHOTONS = 1e12
"""In one frame; no random numbers are drawn for many more."""


@dataclass(frozen=True)
class RehearsalSettings(Settings):
    """Beam, optic, scan and detector of a rehearsal.

    Attributes
    ----------
    energy_eV : float
        Photon energy (eV).
    photons : float
        Photons of one frame without a sample: the dose.
    picture_um : float
        Longer side of the picture on the stage (µm).
    absorption : float
        −log of the amplitude where the picture is black.
    phase_rad : float
        Phase lag where the picture is black (rad).
    diameter_um, outer_zone_nm, central_stop_um : float
        Zone plate: diameter (µm), outermost zone (nm), central stop (µm).
    defocus_um : float
        From the focus to the sample (µm), positive downstream.
    pattern : {"raster", "jittered_raster", "spiral", "fermat"}
        How the points lie.
    rows, columns : int
        Points of the scan along y and x.
    step_um : float
        From point to point (µm).
    rate_hz : float
        Points a second (Hz).
    detector : {"photons", "none", "sensor", "light", "heavy"}
        What comes from the camera: photons as they fell, or raw FCCD frames, with the faults of that preset.
    num_dark : int
        Dark frames before the scan.
    seed : int
        Of noise and jitter.
    """

    energy_eV: float = 1000.0
    photons: float = 1e7
    picture_um: float = 2.2
    absorption: float = 0.3
    phase_rad: float = 1.0
    diameter_um: float = 240.0
    outer_zone_nm: float = 60.0
    central_stop_um: float = 110.0
    defocus_um: float = 12.0
    pattern: Pattern = "jittered_raster"
    rows: int = 20
    columns: int = 20
    step_um: float = 0.1
    rate_hz: float = 20.0
    detector: Literal["photons", "none", "sensor", "light", "heavy"] = "photons"
    num_dark: int = 10
    seed: int = 0

    LIMITS: ClassVar[Mapping[str, tuple[int, int]]] = {
        "rows": (1, 200),
        "columns": (1, 200),
        "num_dark": (0, 1000),
        "seed": (0, 2**32 - 1),
    }

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        for name in ("energy_eV", "photons", "picture_um", "diameter_um", "outer_zone_nm", "step_um", "rate_hz"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} = {getattr(self, name)!r}: expected > 0")
        for name in ("absorption", "central_stop_um"):
            if not getattr(self, name) >= 0:
                raise SettingsError(f"{name} = {getattr(self, name)!r}: expected ≥ 0")
        if self.photons > MAX_PHOTONS:
            raise SettingsError(f"photons = {self.photons!r}: expected at most {MAX_PHOTONS:g}")
        if not 0.1 <= self.picture_um <= 40:
            raise SettingsError(f"picture_um = {self.picture_um!r}: expected 0.1 to 40 µm")
        if self.rate_hz * NOMINAL_EXPOSURE_S > 1:
            raise SettingsError(f"rate_hz = {self.rate_hz!r}: expected at most {1 / NOMINAL_EXPOSURE_S:g} Hz")
        if not self.central_stop_um < self.diameter_um:
            raise SettingsError(f"central_stop_um = {self.central_stop_um!r}: expected less than diameter_um")

    @property
    def optic(self) -> Optic:
        """The zone plate."""
        return Optic(
            diameter_m=self.diameter_um * 1e-6,
            outer_zone_m=self.outer_zone_nm * 1e-9,
            central_stop_m=self.central_stop_um * 1e-6,
            defocus_m=self.defocus_um * 1e-6,
        )


@dataclass(frozen=True, eq=False)
class RehearsalPlan:
    """What will be measured, before anything is.

    Attributes
    ----------
    settings : RehearsalSettings
    sample : Sample
    points_um : (n, 2) float64
        x and y of the scan.
    """

    settings: RehearsalSettings
    sample: Sample
    points_um: npt.NDArray[np.float64]

    @classmethod
    def make(cls, picture: str | Path | npt.NDArray[Any], settings: RehearsalSettings) -> RehearsalPlan:
        """Put a picture under the beam.

        Raises
        ------
        ValueError, OSError
            For something that is no picture, an optic that does not fit, or a scan without points.
        """
        sample = from_picture(
            picture,
            field_px=round(settings.picture_um * 1e-6 / PICTURE_PIXEL_M),
            energy_eV=settings.energy_eV,
            photons=settings.photons,
            absorption=settings.absorption,
            phase_rad=settings.phase_rad,
            optic=settings.optic,
        )
        shape = (settings.rows, settings.columns)
        return cls(settings, sample, make_trajectory(settings.pattern, shape, settings.step_um, settings.seed))

    @cached_property
    def simulator(self) -> FrameSimulator:
        """What makes the frames."""
        detector = self.settings.detector
        if detector == "photons":
            return FrameSimulator(self.sample, layout="none", seed=self.settings.seed)
        return FrameSimulator(self.sample, seed=self.settings.seed, detector=detector)

    @property
    def probe_diameter_um(self) -> float:
        """Diameter of the disk that the probe's intensity fills: of the area (ΣI)²/ΣI²."""
        intensity = np.sum(np.abs(self.sample.probe) ** 2, axis=0, dtype=np.float64)
        area_px = float(intensity.sum() ** 2 / np.sum(intensity**2))
        return 2e6 * self.sample.pixel_m * float(np.sqrt(area_px / np.pi))

    @property
    def overlap(self) -> float:
        """1 − step / diameter of the probe: how much of the light neighbours share along a line; below 0: none."""
        return 1 - self.settings.step_um / self.probe_diameter_um

    @property
    def extent_um(self) -> tuple[float, float, float, float]:
        """Outer edges x0, x1, y0, y1 of the sample's object on the stage."""
        rows, columns = self.sample.object.shape
        pixel_um = self.sample.pixel_m * 1e6
        row, column = self.sample.origin_px
        return -column * pixel_um, (columns - column) * pixel_um, -row * pixel_um, (rows - row) * pixel_um

    def frame(self, point: int) -> npt.NDArray[np.uint16]:
        """Return the frame at a point of the scan, counted from 0, as the camera would give it."""
        x, y = self.points_um[point] * 1e-6
        return self.simulator.raw_frame(x, y, shutter_open=True, index=point)


class Rehearsal:
    """A simulated scan that runs on a thread of its own, through a pipeline of its own.

    Parameters
    ----------
    plan : RehearsalPlan
    directory : path, optional
        Where frames and the CXI file go; a folder that is removed by `close` by default.
    solver : mapping, optional
        Fields of `SolverSettings` that are not to be the default.

    Attributes
    ----------
    pipeline : PtychoPipeline
    log : DocumentLog
        Of the scan, from where it can be processed again, until `close`.
    error : str
        Why it failed; "" where it did not.
    """

    def __init__(
        self, plan: RehearsalPlan, directory: str | Path | None = None, solver: Mapping[str, Any] | None = None
    ) -> None:
        self._temporary = TemporaryDirectory(prefix="nsbluesky-") if directory is None else None
        self.directory = Path(directory if directory is not None else self._temporary.name)  # type: ignore[union-attr]
        self.plan = plan
        self.error = ""
        cleaning = plan.simulator.cleaning_settings
        settings = PipelineSettings(cleaning=cleaning, solver=SolverSettings(**solver or {}), warm_start=False)
        self.pipeline = PtychoPipeline(settings, directory=self.directory)
        self._cancelled = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._engine = RunEngine({}, loop=self._loop, context_managers=[], during_task=DuringTask())
        self.log = DocumentLog(self.directory / "documents")
        self._engine.subscribe(self.log)
        self._engine.subscribe(self.pipeline)
        self._thread = threading.Thread(target=self._run, name="nsbluesky-rehearsal", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the scan goes on, or its processing."""
        return self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until scan and processing are over; False when time ran out."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """End the scan and its processing with what there is."""
        self._cancelled.set()
        with contextlib.suppress(TransitionError):  # it has just ended, or ends already
            if not self._engine.state.is_idle:
                self._engine.abort("the rehearsal was cancelled")
        self.pipeline.abort()

    def close(self) -> None:
        """End, and remove the folder that was made for it."""
        self.cancel()
        if self._thread.ident is not None:
            self._thread.join(THREAD_END_S)
        self.pipeline.close(timeout=0)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._engine._th.join(THREAD_END_S)
            self._loop.close()
        self.log.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _run(self) -> None:
        try:
            self._engine(self._unless_cancelled(self._scan()))
        except Exception as error:
            if not self._cancelled.is_set():
                log.exception("the rehearsal")
                self.error = f"{type(error).__name__}: {error}"
        if self._cancelled.is_set():  # `cancel` found a run that had not ended yet
            self.pipeline.abort()
        self.pipeline.wait()

    def _unless_cancelled(self, plan: Any) -> Iterator[Any]:
        """Yield from a plan; `cancel` aborts the RunEngine once it runs, and before that it finds nothing to do."""
        if not self._cancelled.is_set():
            yield from plan

    def _scan(self) -> Any:
        simulator, settings = self.plan.simulator, self.plan.settings
        stage = SimStage(name="stage", directory=self.directory)
        shutter = SimShutter(name="shutter")
        camera = SimFCCD(
            name="fccd",
            directory=self.directory,
            stage=stage,
            shutter=shutter,
            make_frame=simulator.raw_frame,
            frame_shape=simulator.shape,
        )
        return ptycho_fly_scan(
            camera,
            stage,
            shutter,
            geometry=simulator.geometry,
            shape=(settings.rows, settings.columns),
            step_um=settings.step_um,
            pattern=settings.pattern,
            rate_hz=settings.rate_hz,
            num_dark=settings.num_dark,
            seed=settings.seed,
            md={"sample": "rehearsal"},
        )
