"""What the processing costs a scan: a step scan's rate with and without the pipeline subscribed.

The scans go over Channel Access to the simulated beamline with small frames; the document log is always subscribed.
Once with exposures so short that the devices are as fast as they get, and once with those of a 10 Hz scan.  The kinds
of scan alternate, so that a machine whose speed drifts does not decide.  A control shows what the machine itself
costs: the same scan beside a stranger's process that keeps one core busy.

The same for the pipeline in the service's process, which is what an IPython session has.  What the session itself
spends on it is told as the processor time of the connection's threads, which is what remains where the machine has a
core to spare.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

from bluesky import RunEngine

from benchmarks.figures import Figure
from nsbluesky import session
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.document_log import DocumentLog
from nsbluesky.plans import ptycho_scan
from nsbluesky.service.connection import Connection, connect
from nsbluesky.simulation.beamline import SimulatedBeamline

ROUNDS = 5
SHAPE = (10, 10)
EXPOSURES_S = (0.01, 0.1)
ALONE = "nothing else subscribed"
KINDS = {
    "pipeline in the session": "target < 1.05",
    "pipeline in the service's process": "target < 1.05",
    "control: a stranger's busy process": "what the machine itself costs",
}


def measure() -> list[Figure]:
    """Alternate scans with and without the pipeline."""
    with tempfile.TemporaryDirectory() as folder, SimulatedBeamline(folder, layout="none") as beamline:
        site = session.simulated_site(beamline)
        devices = session.fccd(site), session.scan_stage(site), session.shutter(site)
        RE = RunEngine({}, context_managers=[])
        log = DocumentLog(Path(folder) / "documents")
        RE.subscribe(log)
        pipeline = PtychoPipeline(site.pipeline, directory=Path(folder) / "results")
        service = session.processing_service(site, Path(folder))
        service.start()
        connection = connect(service.address, log, service.credentials)
        spent: list[float] = []

        def scan(exposure_s: float) -> float:
            started = time.perf_counter()
            RE(
                ptycho_scan(
                    *devices, geometry=site.geometry, shape=SHAPE, step_um=site.step_um, exposure_s=exposure_s
                )
            )
            return time.perf_counter() - started

        def with_subscriber(subscriber: PtychoPipeline | Connection, exposure_s: float) -> float:
            token = RE.subscribe(subscriber)
            before = processor_time_s("nsbluesky-")
            elapsed = scan(exposure_s)
            if subscriber is connection:
                spent.append((processor_time_s("nsbluesky-") - before) / elapsed)
            RE.unsubscribe(token)
            subscriber.wait()
            return elapsed

        def beside_a_busy_process(exposure_s: float) -> float:
            with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as stranger:
                elapsed = scan(exposure_s)
                stranger.kill()
            return elapsed

        kinds = (
            scan,
            partial(with_subscriber, pipeline),
            partial(with_subscriber, connection),
            beside_a_busy_process,
        )
        for kind in kinds[1:3]:  # what starts up, starts up now
            kind(EXPOSURES_S[0])
        spent.clear()
        figures = []
        for exposure_s in EXPOSURES_S:
            rounds = [tuple(kind(exposure_s) for kind in kinds) for _ in range(ROUNDS)]
            figures += _figures(exposure_s, rounds)
        pipeline.close()
        connection.close()
        service.stop()
        for device in devices:
            device.destroy()
    cost = Figure(
        "processor time of the connection to the service",
        f"{100 * statistics.median(spent):.2f} %",
        "of one core, in the session, while the scan runs",
    )
    return [*figures, cost]


def _figures(exposure_s: float, rounds: list[tuple[float, ...]]) -> list[Figure]:
    alone = statistics.median(times[0] for times in rounds)
    points = SHAPE[0] * SHAPE[1]
    scan = f"step scan with {1000 * exposure_s:.0f} ms of exposure"
    figures = [Figure(f"{scan}, {ALONE}", f"{points / alone:.1f} points/s", f"{points} points, 25 darks")]
    for kind, (name, note) in enumerate(KINDS.items(), start=1):
        ratios = [times[kind] / times[0] for times in rounds]
        value = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        figures.append(Figure(f"{scan}: time with / without; {name}", value, f"median of {ROUNDS} rounds; {note}"))
    return figures


def processor_time_s(prefix: str) -> float:
    """Return what the threads of this process with such a name have spent so far."""
    ticks = 0
    for thread in threading.enumerate():
        if thread.name.startswith(prefix) and thread.native_id is not None:
            fields = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
