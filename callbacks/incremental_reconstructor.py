"""IncrementalReconstructor: clean frames in, a growing image of the object out, while the scan runs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nsbluesky.callbacks.dark_averager import AverageDarks
from nsbluesky.callbacks.derived_run import Document
from nsbluesky.callbacks.frame_cleaner import CleanFrames
from nsbluesky.callbacks.frame_source import ReadFrames
from nsbluesky.callbacks.low_resolution_imager import ImageLowResolution
from nsbluesky.callbacks.picture_clock import PictureClock
from nsbluesky.callbacks.run_processor import RunProcessor
from nsbluesky.callbacks.second_engine import ReconstructWithSecondEngine
from nsbluesky.callbacks.solver_documents import add_clean_frames, is_last_picture_due, picture_data
from nsbluesky.callbacks.stage import RunContext, Stage
from nsbluesky.probe_library import KeptProbe, Setup
from nsbluesky.settings import PipelineSettings
from nsbluesky.solver.checkpoint import CheckpointError, remove_checkpoint
from nsbluesky.solver.good_probe import is_good
from nsbluesky.solver.incremental import IncrementalSolver
from nsbluesky.solver.picture import Picture
from nsbluesky.solver.quality import FRC
from nsbluesky.solver.schedule import check_engines
from nsbluesky.solver.shadow_motion import ShadowMotion, complaint_about_motion
from nsbluesky.solver.sweep import Sweep
from nsbluesky.streams import scan_of

__all__ = ["IncrementalReconstructor", "Reconstruct"]

MOST_PLACES = 5
"""Odd pixels that a warning names."""

LEAST_VARIATION = 1e-3
"""Part of the probe's light that changes over a scan, from which on that is told."""

LEAST_BACKGROUND = 0.1
"""Part of all light that is a background, from which on that is told."""


class Reconstruct(Stage):
    """The stage of one run: feeds the solver, lets it work while no document waits, and publishes its pictures."""

    name = "reconstruction"

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        self._solver: IncrementalSolver | None = None
        self._lent: KeptProbe | None = None
        self._succeeded = False
        self._arrived: dict[int, float] = {}
        self._sweep_told: Any = None
        self._clock = PictureClock()
        self._stopped = False
        self._deadline = math.inf
        self._rounds_told = self._odd_told = 0
        self._warned_of: set[str] = set()
        self._motion_told: ShadowMotion | None = None
        self._frc_told: FRC | None = None
        self._saved = time.monotonic()

    @classmethod
    def check(cls, settings: PipelineSettings) -> None:
        """Refuse an engine that there is not."""
        check_engines(settings)

    def configure(self) -> Iterator[Document]:
        """Let the solver go on with other settings; what is over gets a new last picture."""
        if self._solver is not None and self.run.settings.solver != self._solver.settings:
            self._solver.configure(self.run.settings.solver)
            self.run.image_is_final = False
            self._deadline = math.inf
        yield from ()

    def on_event(self, event: dict[str, Any]) -> Iterator[Document]:
        """Make the solver when the detector is known."""
        if self.stream_of(event) == "detector":
            self._solver = self._make_solver(event["data"]["mask"])
            if self._keeps_checkpoints and self._checkpoint.exists():
                self._take_up(event["data"]["mask"])
            if self._stopped:  # so few frames that the detector is known only now
                self._solver.finish()
            self.run.solver = self._solver
        yield from ()

    def _make_solver(self, mask: Any) -> IncrementalSolver:
        geometry = self.run.geometry
        solver = IncrementalSolver(
            self.run.settings.solver,
            frame_px=len(mask),
            pixel_m=geometry.object_pixel_m(self.run.settings.cleaning.crop_px, len(mask)),
            geometry=geometry,
            backend=self.run.backend,
            num_points=scan_of(self.run.start).get("num_points"),
        )
        solver.cleaning = self.run.settings.cleaning.to_dict()
        solver.set_mask(mask)
        if self._uses_library and self.run.probes is not None:
            setup = Setup.of(geometry, solver.frame_px, solver.pixel_m)
            self._lent = self.run.probes.lend(setup, before=self.run.start["time"])
            if self._lent is not None:
                solver.offer(self._lent.probe)
        return solver

    # ---- warm starts: the probe of an earlier run to begin with, and this run's for later ones

    @property
    def _uses_library(self) -> bool:
        return self.run.settings.warm_start and self.run.settings.solver.live

    def _keep_probe(self, solver: IncrementalSolver, picture: Picture) -> None:
        """Leave the probe of a good image for later runs."""
        library, start = self.run.probes, self.run.start
        if library is None or not self._uses_library or not self._succeeded or not is_good(solver):
            return
        kept = KeptProbe(picture.probe, start["uid"], start["time"], picture.r_factor)
        try:
            with self.run.gate:
                library.keep(Setup.of(self.run.geometry, solver.frame_px, solver.pixel_m), kept)
        except OSError as error:
            self.run.warnings.append(f"the probe cannot be kept for later runs: {error}")

    # ---- checkpoints: a process that takes over goes on from where the one before it was

    @property
    def _keeps_checkpoints(self) -> bool:
        return self.run.checkpoint is not None and self.run.settings.checkpoint_s > 0

    @property
    def _checkpoint(self) -> Path:
        assert self.run.checkpoint is not None
        return self.run.checkpoint

    def _take_up(self, mask: Any) -> None:
        """Go on from a checkpoint; frames that it knows come again, and need no passes."""
        assert self._solver is not None
        try:
            self._solver.load(self._checkpoint)
            self._clock.has_news = True
        except CheckpointError as error:
            self._solver = self._make_solver(mask)
            self.run.warnings.append(f"the image is begun anew: {error}")

    def save(self) -> Path | None:
        """Write a checkpoint; None while there is no image, or nowhere to write it."""
        if self.run.checkpoint is None or self._solver is None or self._solver.state is None:
            return None
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        self._solver.cleaning = self.run.settings.cleaning.to_dict()
        self._solver.save(self._checkpoint)
        self._saved = time.monotonic()
        return self._checkpoint

    def _save_now_and_then(self) -> None:
        if not self._keeps_checkpoints or time.monotonic() - self._saved < self.run.settings.checkpoint_s:
            return
        try:
            with self.run.gate:
                self.save()
        except OSError as error:
            self._saved = time.monotonic()
            message = f"no checkpoint could be written: {error}"
            if message not in self.run.warnings:
                self.run.warnings.append(message)

    def close(self) -> None:
        """Remove the checkpoint: the run is over."""
        if self.run.checkpoint is not None:
            remove_checkpoint(self.run.checkpoint)

    def on_event_page(self, page: dict[str, Any]) -> Iterator[Document]:
        """Give clean frames to the solver."""
        if self.stream_of(page) == "clean" and self._solver is not None:
            add_clean_frames(self._solver, page)
            self._arrived.update(zip(page["seq_num"], page["time"], strict=True))
            self.run.image_is_final = False  # a frame that comes late, after the last picture, makes one more
        yield from ()

    def on_stop(self, document: dict[str, Any]) -> Iterator[Document]:
        """Tell the solver that no more frames will come."""
        if self.is_raw(document):
            self._stopped, self._succeeded = True, document.get("exit_status") == "success"
            if self._solver is not None:
                self._solver.finish()
                self._begin_last_passes()
        yield from ()

    def _begin_last_passes(self) -> None:
        """Set the time that they may take: not before the search is over, for the image waits for it."""
        settings = self.run.settings.solver
        self._deadline = time.monotonic() + settings.final_s if settings.live else math.inf

    @property
    def queue(self) -> int:
        """How many frames are in no pass yet."""
        return 0 if self._solver is None else self._solver.num_unused

    @property
    def has_work(self) -> bool:
        """Whether the solver has frames to work on, or a last picture to show."""
        solver = self._solver
        if solver is None or not (self.run.settings.solver.live or self._stopped):
            return False
        if self.run.image_is_final:
            return False
        return solver.has_work or self._clock.is_due or is_last_picture_due(solver, self._deadline)

    def work(self, budget_s: float) -> Iterator[Document]:
        """Let the solver work, and publish."""
        solver = self._solver
        assert solver is not None
        if solver.is_searching and self._deadline < math.inf:
            self._begin_last_passes()
        solver.time_left = (self._deadline - time.monotonic()) / self.run.settings.solver.final_s
        if solver.has_work:
            solver.step(budget_s)
            self._clock.has_news = solver.state is not None
        self._save_now_and_then()
        sweep, found = solver.sweep, solver.orientation
        if sweep is not None and sweep is not self._sweep_told and not solver.is_searching:
            self._sweep_told = sweep
            self._warn_of_orientation(solver)
            yield from self.run.derived.event(
                "geometry",
                defocus_m=float(sweep.defocus_m),
                sweep_defocus_m=np.asarray(sweep.candidates_m, dtype=np.float64),
                sweep_residual=np.asarray(sweep.residual, dtype=np.float64),
                confidence=float(sweep.confidence),
                accepted=bool(sweep.accepted),
                orientation=solver.frame_orientation,
                orientation_confidence=math.nan if found is None else float(found.confidence),
                orientation_certain=found is not None and found.certain,
                **self._warm_start(sweep),
            )
        if solver.motion is not self._motion_told:
            self._motion_told = solver.motion
            self._warn_of_orientation(solver)
            if (complaint := complaint_about_motion(solver.motion, self.run.geometry)) is not None:
                self.run.warnings.append(complaint)
        if is_last_picture_due(solver, self._deadline):
            self.run.image_is_final = True
            yield from self._picture(solver, final=True)
        elif self.run.settings.solver.live and self._clock.is_due:
            yield from self._picture(solver, final=False)

    def _warm_start(self, sweep: Sweep) -> dict[str, Any]:
        """Return what the geometry stream tells of the probe that the image began with."""
        lent = self._lent
        return {
            "warm_run": "" if lent is None else lent.run,
            "warm_age_s": math.nan if lent is None else float(self.run.start["time"] - lent.time),
            "warm_residual": float(sweep.warm_residual),
            "warm_fits": bool(sweep.warm_fits),
        }

    def _warn_of_orientation(self, solver: IncrementalSolver) -> None:
        declared, found = self.run.geometry.orientation, solver.frame_orientation
        if found != declared:
            self.run.warnings.append(
                f"frames fit the stage in orientation {found}, not in {declared} as declared: the image is made of "
                f"frames turned so; put 'orientation': {found} into the scan's 'ptycho' metadata"
            )

    def _warn_of_pixels(self, solver: IncrementalSolver) -> None:
        odd = np.argwhere(solver.odd_pixels)
        if len(odd) > self._odd_told:
            self._odd_told = len(odd)
            places = ", ".join(f"({row}, {column})" for row, column in odd[:MOST_PLACES].tolist())
            more = ", …" if len(odd) > MOST_PLACES else ""
            self.run.warnings.append(
                f"pixels of the detector fit in no frame and are left out, {len(odd)} so far: in clean frames, "
                f"row and column {places}{more}; put them into the mask, or set solver.leave_out_pixels=false"
            )

    def _warn_of_overlap(self, solver: IncrementalSolver) -> None:
        """Tell, once the scan is over, that its frames do not determine an image."""
        if (complaint := solver.complaint()) is not None:
            self._warn_once("overlap", complaint)

    def _warn_of_variation(self, solver: IncrementalSolver) -> None:
        """Tell, once the scan is over, that the probe was not at rest: it is the beamline's to find out why."""
        if (part := solver.varied_part) >= LEAST_VARIATION:
            self._warn_once(
                "variation",
                f"the probe changed over the scan, {100 * part:.2g} % of its light is another than the mean probe's: "
                "each frame has its own now (one for all: solver.most_variation=0); is beam or optic not at rest?",
            )

    def _warn_of_background(self, solver: IncrementalSolver) -> None:
        """Tell, once the scan is over, that much of the light is none of the sample's; it may be mended."""
        if (part := solver.background_part) >= LEAST_BACKGROUND:
            self._warn_once(
                "background",
                f"{100 * part:.2g} % of the light is a background, the same on all pixels, and none of the image: "
                "is there stray light, or a pedestal that the darks do not take off?",
            )

    def _warn_once(self, of: str, message: str) -> None:
        if of not in self._warned_of:
            self._warned_of.add(of)
            self.run.warnings.append(message)

    def _positions(self, solver: IncrementalSolver) -> Iterator[Document]:
        """Tell the corrected positions, where a round of corrections was done since the last picture."""
        places = solver.refinement.places
        before, self._rounds_told = self._rounds_told, places.rounds
        if places.rounds in (0, before):  # 0 again where the image began anew
            return
        seq_nums, translations_m = solver.positions()
        scale_y, scale_x = places.distortion.scale
        yield from self.run.derived.event(
            "positions",
            raw_seq_num=seq_nums,
            x_m=translations_m[:, 0].copy(),
            y_m=translations_m[:, 1].copy(),
            scatter_m=float(places.scatter_px * solver.pixel_m),
            scale_x=float(scale_x),
            scale_y=float(scale_y),
            rotation_rad=float(places.distortion.rotation_rad),
            shear_rad=float(places.distortion.shear_rad),
        )

    def _picture(self, solver: IncrementalSolver, final: bool) -> Iterator[Document]:
        picture, quality = solver.picture(), solver.quality()
        self._clock.begin_picture()
        if picture.num_frames == 0:
            return
        self._warn_of_pixels(solver)
        if final:
            self._warn_of_overlap(solver)
            self._warn_of_variation(solver)
            self._warn_of_background(solver)
        yield from self._positions(solver)
        yield from self.run.derived.event(
            "reconstruction",
            **picture_data(picture),
            r_held_out=float(quality.r_held_out),
            resolution_half_bit_m=float(quality.half_bit_m),
            resolution_one_seventh_m=float(quality.one_seventh_m),
            newest_age_s=max(0.0, time.time() - self._arrived[picture.newest_seq_num]),  # a clock may be set back
            coarse=solver.r_is_coarse,
            final=final,
        )
        yield from self._correlation(quality.frc)
        yield from self._fit(solver)
        if final:
            self._keep_probe(solver, picture)
        self._clock.end_picture(self.run.settings.solver.publish_hz)

    def _correlation(self, frc: FRC | None) -> Iterator[Document]:
        """Tell the correlation of the two half-sets, where they were compared anew."""
        if frc is None or frc is self._frc_told:
            return
        self._frc_told = frc
        yield from self.run.derived.event(
            "frc", frequency_1_m=frc.frequency_1_m, correlation=frc.correlation, half_bit=frc.half_bit
        )

    def _fit(self, solver: IncrementalSolver) -> Iterator[Document]:
        """Tell how a frame is modelled: the one that somebody looks at, or the newest."""
        chosen = self.run.fit_frame
        fit = solver.fit(chosen) or solver.fit()
        if fit is not None:
            yield from self.run.derived.event(
                "diffraction_fit", raw_seq_num=fit.seq_num, data=fit.data, model=fit.model, r_frame=fit.r_factor
            )


class IncrementalReconstructor(RunProcessor):
    """Callback: raw runs in, pictures of object and probe out; all stages before it run as well."""

    stages = (ReadFrames, AverageDarks, CleanFrames, ImageLowResolution, Reconstruct, ReconstructWithSecondEngine)
