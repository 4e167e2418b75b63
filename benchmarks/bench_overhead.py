"""What the processing costs a scan: a step scan's rate with and without the pipeline subscribed.

The scans go over Channel Access to the simulated beamline with small frames, so that the devices are as fast as they
get; the kinds of scan alternate, so that a machine whose speed drifts does not decide.  A control shows what the
machine itself costs: the same scan beside a stranger's process that keeps one core busy.

The same for the pipeline in the service's process.  What the session itself spends on it is told as the processor
time of the connection's threads, which is what remains where the machine has a core to spare.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from bluesky import RunEngine

from benchmarks.figures import Figure
from nsbluesky import session
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.document_log import DocumentLog
from nsbluesky.plans import ptycho_scan
from nsbluesky.service.connection import connect
from nsbluesky.simulation.beamline import SimulatedBeamline

ROUNDS = 5
SHAPE = (10, 10)


def measure() -> list[Figure]:
    """Alternate scans with and without the pipeline."""
    with tempfile.TemporaryDirectory() as folder, SimulatedBeamline(folder, layout="none") as beamline:
        site = session.simulated_site(beamline)
        devices = session.fccd(site), session.scan_stage(site), session.shutter(site)
        RE = RunEngine({}, context_managers=[])
        pipeline = PtychoPipeline(site.pipeline, directory=Path(folder) / "results")

        def scan() -> float:
            started = time.perf_counter()
            RE(ptycho_scan(*devices, geometry=site.geometry, shape=SHAPE, step_um=site.step_um))
            return time.perf_counter() - started

        def scan_with_pipeline() -> float:
            token = RE.subscribe(pipeline)
            elapsed = scan()
            RE.unsubscribe(token)
            pipeline.wait()
            return elapsed

        service = session.processing_service(site, Path(folder))
        service.start()
        log = DocumentLog(Path(folder) / "documents")
        connection = connect(service.address, log, service.credentials)
        spent_s: list[float] = []

        def scan_with_service() -> float:
            tokens = [RE.subscribe(callback) for callback in (log, connection)]
            before = _processor_time_s("nsbluesky-")
            elapsed = scan()
            spent_s.append((_processor_time_s("nsbluesky-") - before) / elapsed)
            for token in tokens:
                RE.unsubscribe(token)
            connection.wait()
            return elapsed

        def scan_beside_a_busy_process() -> float:
            with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as stranger:
                elapsed = scan()
                stranger.kill()
            return elapsed

        scan_with_pipeline()
        scan_with_service()
        spent_s.clear()
        kinds = scan, scan_with_pipeline, scan_with_service, scan_beside_a_busy_process
        rounds = [tuple(kind() for kind in kinds) for _ in range(ROUNDS)]
        pipeline.close()
        connection.close()
        service.stop()
        for device in devices:
            device.destroy()
    alone = statistics.median(times[0] for times in rounds)
    points = SHAPE[0] * SHAPE[1]
    target = f"median of {ROUNDS} rounds, target < 1.05"
    return [
        Figure("step scan, nothing subscribed", f"{points / alone:.1f} points/s", f"{points} points, 25 darks"),
        Figure("time with the pipeline / without", _ratio(rounds, 1), target),
        Figure("time with the pipeline in the service process / without", _ratio(rounds, 2), target),
        Figure(
            "control: time beside a stranger's busy process / without",
            _ratio(rounds, 3),
            "what the machine itself costs",
        ),
        Figure(
            "processor time of the connection to the service",
            f"{100 * statistics.median(spent_s):.2f} %",
            "of one core, in the session, while the scan runs",
        ),
    ]


def _ratio(rounds: list[tuple[float, ...]], kind: int) -> str:
    return f"{statistics.median(times[kind] / times[0] for times in rounds):.3f}"


def _processor_time_s(prefix: str) -> float:
    """Return what the threads of this process with such a name have spent so far."""
    ticks = 0
    for thread in threading.enumerate():
        if thread.name.startswith(prefix) and thread.native_id is not None:
            fields = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
