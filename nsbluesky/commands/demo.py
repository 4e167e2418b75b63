"""``nsbluesky demo``: the whole job on a simulated beamline, judged against the truth."""

from __future__ import annotations

import argparse
import functools
import math
import os
import resource
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import h5py
import numpy as np
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted

from nsbluesky import session
from nsbluesky.callbacks.frame_readers import frames_of_stream_resource
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.commands import CommandFailed, output_folder, parse_count, parse_shape, telling_what_is_left
from nsbluesky.document_log import read_documents
from nsbluesky.service.connection import Connection
from nsbluesky.settings import PipelineSettings
from nsbluesky.solver.quality import contrast_correlation
from nsbluesky.solver.registration import align
from nsbluesky.viewer.pictures import save_object_png

if TYPE_CHECKING:
    from nsbluesky.catalog import Catalog

__all__ = ["add_arguments", "run"]

Pipeline = PtychoPipeline | Connection
"""Where the processing happens: in this process, or in the service's."""

MIN_CORRELATION = 0.95
MAX_LATENCY_S = 10.0
LIVE_RATE_HZ = 20.0
"""Up to here frames are made during the scan: one takes 16 ms of a core that processing and windows want as well."""

EXPOSURE_S = 0.01
LEAST_RATE_HZ = 0.01
WARM_UP_S = 120.0
RAW_FRAME_BYTES = 2 * 1040 * 1152
RIM_PX = 10
"""Pixels at the rim of the picture that are not judged: few frames saw them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--shape", type=parse_shape, default="20x20", help="rows and columns of the scan (%(default)s)"
    )
    parser.add_argument("--rate", type=float, default=10.0, help="frames a second of a fly scan (%(default)s)")
    parser.add_argument("--plan", choices=("fly", "step"), default="fly", help="kind of scan (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder of the results (%(default)s)")
    parser.add_argument("--offscreen", action="store_true", help="no window on the screen, only its picture")
    parser.add_argument(
        "--seed", type=parse_count, default=0, help="seed of noise and of the scan's jitter (%(default)s)"
    )
    parser.add_argument(
        "--service", action="store_true", help="process in a process of its own (nsbluesky serve), not in the session"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in solver.modes=3")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run a scan on the simulated beamline from the first dark frame to the final image."""
    if options.offscreen:
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
    # of extras, which may be missing
    from nsbluesky.simulation.beamline import SimulatedBeamline
    from nsbluesky.viewer.live import LiveWindow
    from nsbluesky.viewer.qt import QtDuringTask, application

    settings = PipelineSettings().set_from_text(options.set)
    if not (math.isfinite(options.rate) and options.rate > 0):
        raise ValueError(f"--rate {options.rate:g}: expected a positive number of frames a second")
    if options.rate < LEAST_RATE_HZ:
        raise ValueError(f"--rate {options.rate:g}: expected at least {LEAST_RATE_HZ:g} frames a second")
    if options.plan == "fly" and options.rate * EXPOSURE_S > 1:
        raise ValueError(f"--rate {options.rate:g}: expected at most {1 / EXPOSURE_S:g} frames of {EXPOSURE_S:g} s")
    out = output_folder(options.out)
    from nsbluesky.catalog import open_catalog

    started = time.monotonic()
    known = _runs_in(out)
    with ExitStack() as stack:
        stack.enter_context(telling_what_is_left(functools.partial(_left, out, known)))
        warm = _warm_up(settings)  # beside the start of the beamline
        catalog = stack.enter_context(open_catalog(out / "catalog", readable=[out]))
        catalog.start_writing()  # beside it as well: else the summary, or Ctrl-C, waits for what that process imports
        ahead = _frames_ahead(options)
        beamline = stack.enter_context(SimulatedBeamline(out / "beamline", seed=options.seed, **ahead))
        site = replace(session.simulated_site(beamline), pipeline=settings)
        devices = session.fccd(site), session.scan_stage(site), session.shutter(site)
        for device in devices:
            stack.callback(device.destroy)  # before the beamline ends: Channel Access complains of lost servers
        warm.join()
        RE = RunEngine({}, during_task=QtDuringTask())
        service = stack.enter_context(session.processing_service(site, out)) if options.service else None
        pipeline = session.subscribe(RE, catalog, site, out, service)
        stack.callback(pipeline.close, timeout=0)
        worst = WorstHealth()
        pipeline.subscribe(worst)
        application()
        window = LiveWindow(pipeline.live, modules=functools.partial(session.modules_of, pipeline))
        window.show()
        plan = _plan(options, site, devices, min(beamline.ready.scan_range_um))
        rows, columns = options.shape
        scan = _scan(RE, plan, rows * columns, pipeline, catalog)
        window.save_screenshot(out / "window.png")
        window.close()
        summary = _summary(scan, pipeline, catalog, beamline.truth_path, out) | asdict(worst)
    summary["seconds_in_all"] = time.monotonic() - started
    _judge(summary)
    return summary


def _runs_in(out: Path) -> set[str]:
    """Return the uids of the runs in the document log."""
    return {path.stem for path in (out / "documents").glob("*.jsonl")}


def _left(out: Path, known: set[str]) -> str:
    """Tell of the run that is not among those that were known."""
    for uid in _runs_in(out) - known:
        return f"nsbluesky replay {uid[:8]} --log {out / 'documents'} makes an image of the frames that were taken"
    return "no run had begun"


def _warm_up(settings: PipelineSettings) -> threading.Thread:
    """Compile, in a fresh installation, what the processing needs; other processes find it on disk."""

    def warm() -> None:
        pipeline = PtychoPipeline(settings)
        pipeline.warm_up().wait(WARM_UP_S)
        pipeline.close(timeout=0)

    thread = threading.Thread(target=warm, name="nsbluesky-warm-up", daemon=True)
    thread.start()
    return thread


@dataclass(frozen=True)
class Scan:
    """What a scan and its processing took."""

    uid: str
    num_points: int
    seconds: float
    finished: bool


@dataclass
class WorstHealth:
    """Callback of derived runs: how far the processing fell behind the scan at most, documents and seconds."""

    longest_queue: int = 0
    longest_latency_s: float = 0.0

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Take a document."""
        if name == "event" and "latency_s" in document["data"]:
            self.longest_queue = max(self.longest_queue, int(document["data"]["queue"]))
            self.longest_latency_s = max(self.longest_latency_s, float(document["data"]["latency_s"]))


def _frames_ahead(options: argparse.Namespace) -> dict[str, Any]:
    """Return the beamline's settings for a rate at which it cannot make frames: they are made before the scan."""
    if options.plan == "step" or options.rate <= LIVE_RATE_HZ:
        return {}
    rows, columns = options.shape
    room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4 // RAW_FRAME_BYTES
    cores = len(os.sched_getaffinity(0))
    return {"pool": max(1, min(rows * columns, room)), "fill_pool": True, "workers": cores}


def _plan(options: argparse.Namespace, site: session.Site, devices: Sequence[Any], scan_range_um: float) -> Any:
    """Return the plan that covers the sample, or of few points its middle, with frames that overlap."""
    from nsbluesky.plans import ptycho_fly_scan, ptycho_scan

    arguments: dict[str, Any] = {
        "geometry": site.geometry,
        "shape": options.shape,
        "step_um": min(site.step_um, scan_range_um / max(options.shape)),
        "exposure_s": EXPOSURE_S,
        "seed": options.seed,
        "md": {"sample": "gold balls, simulated"},
    }
    if options.plan == "fly":
        return ptycho_fly_scan(*devices, rate_hz=options.rate, **arguments)
    return ptycho_scan(*devices, **arguments)


def _scan(RE: RunEngine, plan: Any, num_points: int, pipeline: Pipeline, catalog: Catalog) -> Scan:
    """Scan, and wait for the final image and for the catalog; Ctrl-C aborts the scan in order."""
    started = time.monotonic()
    try:
        (uid,) = cast(tuple[str, ...], RE(plan))
    except RunEngineInterrupted:
        RE.abort()
        raise KeyboardInterrupt from None
    seconds = time.monotonic() - started
    finished = _wait_with_windows(pipeline, timeout_s=600) and catalog.flush(60)
    return Scan(uid, num_points, seconds, finished)


def _wait_with_windows(pipeline: Pipeline, timeout_s: float) -> bool:
    """Wait for the final image while the window stays alive."""
    from nsbluesky.viewer.qt import application

    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if pipeline.wait(timeout=0.05):
            return True
        application().processEvents()
    return False


def _summary(scan: Scan, pipeline: Pipeline, catalog: Catalog, truth_path: Path, out: Path) -> dict[str, Any]:
    """Collect what came out, from the files that users will open."""
    result = pipeline.results.get(scan.uid)
    cxi = _cxi_path(scan, pipeline)
    if result is None or cxi is None:
        raise CommandFailed("no image came out of the processing", {"run_uid": scan.uid})
    run = catalog.client[scan.uid]
    recorded, darks = (int(run[stream]["fccd_image"].shape[0]) for stream in ("primary", "dark"))
    image, pixel_m = result["object"], result["pixel_size_m"]
    with h5py.File(truth_path) as file:
        truth = file["object"][()]
    picture, truth_picture = out / "object.png", out / "truth.png"
    save_object_png(picture, image, pixel_m, title="gold balls, reconstructed")
    aligned = align(image, truth)
    there = np.where(np.isfinite(aligned.image), aligned.truth, np.nan)
    save_object_png(truth_picture, there, pixel_m, title="gold balls, as simulated")
    cropped = result["num_frames"] * result["probe"][0].size * 4
    return {
        "run_uid": scan.uid,
        "frames_planned": scan.num_points,
        "frames_recorded": recorded,
        "darks_recorded": darks,
        "frames_used": result["num_frames"],
        "scan_seconds": scan.seconds,
        "recorded_rate_hz": _recorded_rate_hz(scan, out, recorded),
        "final_image_after_last_frame_s": result["newest_age_s"],
        "contrast_correlation_with_truth": contrast_correlation(image, truth, RIM_PX),
        "r_factor": result["r_factor"],
        "object_pixel_nm": pixel_m * 1e9,
        "peak_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "cropped_frames_MB": cropped / 2**20,
        **_service_memory(pipeline),
        "finished": scan.finished and bool(result["final"]),
        "cxi": str(cxi),
        "object_picture": str(picture),
        "truth_picture": str(truth_picture),
        "window_picture": str(out / "window.png"),
        "catalog": str(catalog.directory),
    }


def _cxi_path(scan: Scan, pipeline: Pipeline) -> Path | None:
    if isinstance(pipeline, Connection):
        return pipeline.cxi_path(scan.uid)
    return pipeline.cxi.path if pipeline.cxi is not None else None


def _recorded_rate_hz(scan: Scan, out: Path, num_frames: int) -> float:
    """Return the frames a second of the scan, darks aside, by the camera's clock."""
    documents = read_documents(scan.uid, out / "documents")
    resources = [d for name, d in documents if name == "stream_resource" and d["data_key"] == "fccd_image"]
    frames = frames_of_stream_resource(resources[-1], [out])
    times_s = frames.times_s(0, num_frames)
    frames.close()
    return float("nan") if times_s is None or num_frames < 2 else (num_frames - 1) / float(np.ptp(times_s))


def _service_memory(pipeline: Pipeline) -> dict[str, float]:
    if not isinstance(pipeline, Connection):
        return {}
    return {"processing_peak_memory_MB": float(pipeline.heartbeat["peak_memory_MB"])}


def _judge(summary: dict[str, Any]) -> None:
    """Raise where the demo is not what it must be."""
    failures = []
    if summary["frames_recorded"] != summary["frames_planned"]:
        failures.append(f"{summary['frames_recorded']} of {summary['frames_planned']} frames recorded")
    if summary["frames_used"] != summary["frames_planned"]:
        failures.append(f"{summary['frames_used']} of {summary['frames_planned']} frames in the image")
    if not summary["finished"]:
        failures.append("the final image did not come")
    if not summary["contrast_correlation_with_truth"] >= MIN_CORRELATION:
        failures.append(
            f"correlation with the truth {summary['contrast_correlation_with_truth']:.3f} < {MIN_CORRELATION}"
        )
    if not summary["final_image_after_last_frame_s"] < MAX_LATENCY_S:
        failures.append(
            f"final image {summary['final_image_after_last_frame_s']:.1f} s after the last frame > {MAX_LATENCY_S} s"
        )
    if failures:
        raise CommandFailed("; ".join(failures), summary)
