"""A scan at the camera's full rate while the processing falls behind: 1600 raw frames at 146 Hz, 350 MB/s, over UDP.

The virtual camera sends the frames of 40 × 40 points, `nsbluesky grab` writes them, a RunEngine in this process runs
`ptycho_fly_scan` and tells of them, and the service cleans and reconstructs at its low priority: camera, grabber,
session and service are processes that share the cores of one machine.  What the processing cannot do while frames
come, it does afterwards, from the file.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from bluesky import RunEngine
from bluesky.utils import FailedStatus

from benchmarks.bench_overhead import processor_time_s
from benchmarks.figures import Figure
from benchmarks.full_rate import GrabbedFCCD, prepare_frames, simulator
from nsbluesky.cxi import read_cxi
from nsbluesky.devices.twins import SimShutter, SimStage
from nsbluesky.document_log import DocumentLog
from nsbluesky.plans import ptycho_fly_scan
from nsbluesky.service.connection import connect
from nsbluesky.service.control import ask
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.service.supervisor import ProcessingService
from nsbluesky.settings import PipelineSettings
from nsbluesky.solver.quality import contrast_correlation
from nsbluesky.trajectories import make_trajectory

RATE_HZ = 146.0
SHAPE = (40, 40)
NUM_DARK = 25
PATTERN = "jittered_raster"
EXPOSURE_S = 0.0065
LOOK_S = 0.25
RIM_PX = 40
FRAME_MB = 2e-6 * 1040 * 1152
RAW_FRAMES = "25 + 1600 raw frames are 3894 MB"
PATIENCE_S = 600.0
PLACES = "the camera on the first, before all else where this user may; the grabber on the last"


def measure() -> list[Figure]:
    """Make the frames, scan, and watch."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:  # on a disk: a folder in memory is no test of one
        folder = Path(name)
        made = simulator()
        step_um = min(made.sample.scan_range_m) * 1e6 / max(SHAPE)
        places_m = make_trajectory(PATTERN, SHAPE, step_um) * 1e-6
        frames = prepare_frames(folder / "streams", places_m, num_dark=NUM_DARK, exposure_s=EXPOSURE_S)
        stage, shutter = SimStage(name="stage", directory=folder), SimShutter(name="shutter")
        fccd = GrabbedFCCD(name="fccd", directory=folder, stage=stage, shutter=shutter, frames=frames)
        settings = ServiceSettings(
            directory=str(folder / "results"),
            roots=(str(folder),),
            address="tcp://127.0.0.1:0",
            state=str(folder / "state"),
            pipeline=PipelineSettings(cleaning=made.cleaning_settings),
        )
        RE = RunEngine({}, context_managers=[])
        log = DocumentLog(folder / "documents")
        RE.subscribe(log)
        with (
            ProcessingService(settings) as service,
            connect(service.address, log, service.credentials) as connection,
            Watch(service, fccd) as watch,
        ):
            RE.subscribe(connection)
            spent = processor_time_s("nsbluesky-")
            plan = ptycho_fly_scan(
                *(fccd, stage, shutter),
                geometry=made.geometry,
                shape=SHAPE,
                step_um=step_um,
                pattern=PATTERN,
                exposure_s=EXPOSURE_S,
                rate_hz=RATE_HZ,
                num_dark=NUM_DARK,
            )
            uids: list[str] = []
            RE.subscribe(lambda _, start: uids.append(start["uid"]), "start")
            began = time.monotonic()
            with contextlib.suppress(FailedStatus):  # of frames that never came: the table tells how many
                RE(plan)
            ended = time.monotonic()
            spent = (processor_time_s("nsbluesky-") - spent) / (ended - began)
            assert connection.wait(PATIENCE_S)
            finished = time.monotonic()
            path = connection.cxi_path(uids[0])
            assert path is not None
            with read_cxi(path) as cxi:
                cleaned = len(cxi.seq_nums)
            result = connection.results[uids[0]]
        likeness = contrast_correlation(result["object"], made.sample.object, RIM_PX)
        grabbed, sent, recorded_s = fccd.file.summaries[-1], fccd.camera.sent[-1], fccd.file.last_s
    recorded = grabbed["frames"] - grabbed["lost_frames"]
    cores = len(os.sched_getaffinity(0))
    return [
        Figure("frames sent", f"{sent['frames']:.0f}", f"{SHAPE[0]} × {SHAPE[1]} points, {NUM_DARK} darks before"),
        Figure(
            "frames recorded",
            f"{recorded}",
            f"{grabbed['exact_frames']} exactly, at {grabbed['frames_per_s']:.1f}/s; "
            f"{grabbed['lost_packets']} packets lost; the camera was late by {1e3 * sent['behind_s']:.0f} ms at most",
        ),
        Figure("frames cleaned", f"{cleaned}"),
        Figure("frames reconstructed", f"{result['num_frames']}", f"contrast correlation {likeness:.3f}"),
        Figure("frames lost", f"{sent['frames'] - cleaned:.0f}", "wanted 0"),
        Figure(
            "longest backlog", f"{watch.backlog} frames", f"{1e-6 * watch.backlog * 2 * 1040 * 1152:.0f} MB on disk"
        ),
        Figure(
            "caught up",
            f"{max(watch.cleaned_s - recorded_s, 0.0):.1f} s",
            "last frame cleaned after the last recorded",
        ),
        Figure("final image", f"{finished - recorded_s:.1f} s", "after the last recorded frame, files closed"),
        Figure(
            "the connection's part of the session", f"{100 * spent:.2f} %", "of one core while it scans; target < 2"
        ),
        *(
            Figure(
                f"peak memory: {who}", f"{MB:.0f} MB", "25 + 1600 raw frames are 3894 MB" if who == "service" else ""
            )
            for who, MB in watch.memory_MB.items()
        ),
        Figure("cores", f"{cores}", f"shared by all of them; {PLACES}"),
    ]


class Watch:
    """Looks four times a second how far everyone is, and how much memory they have had.

    Attributes
    ----------
    backlog : int
        Frames that were recorded and not cleaned, at most.
    cleaned_s : float
        When frames were seen to be cleaned last, as of `time.monotonic`.
    memory_MB : dict
        Peaks, by name of the process.
    """

    def __init__(self, service: ProcessingService, fccd: GrabbedFCCD) -> None:
        self.backlog = 0
        self.cleaned_s = 0.0
        self.memory_MB: dict[str, float] = {}
        self._service, self._fccd = service, fccd
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        cleaned = 0
        while not self._over.wait(LOOK_S):
            fccd = self._fccd
            runs: list[dict[str, Any]] = ask(self._service.address, "status")["runs"]
            if runs and runs[0]["num_frames"] > cleaned:
                cleaned, self.cleaned_s = runs[0]["num_frames"], time.monotonic()
            if fccd.shutter.is_open:
                self.backlog = max(self.backlog, fccd.file.count() - cleaned)
            for who, process in (("camera", fccd.camera.process), ("grabber", fccd.file.process)):
                if process is not None:
                    self._note_memory(who, process.pid)
            self._note_memory("service", self._service.pid)
            self._note_memory("session", os.getpid())

    def _note_memory(self, who: str, pid: int) -> None:
        try:
            MB = psutil.Process(pid).memory_info().rss / 1e6
        except psutil.NoSuchProcess:
            return
        self.memory_MB[who] = max(self.memory_MB.get(who, 0.0), MB)
