"""What the processing costs a scan: a step scan's rate with and without the pipeline subscribed.

The scans go over Channel Access to the simulated beamline with small frames, so that the devices are as fast as they
get; the kinds of scan alternate, so that a machine whose speed drifts does not decide.  A control shows what the
machine itself costs: the same scan beside a stranger's process that keeps one core busy.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bluesky import RunEngine

from benchmarks.figures import Figure
from nsbluesky import session
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.plans import ptycho_scan
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

        def scan_beside_a_busy_process() -> float:
            with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as stranger:
                elapsed = scan()
                stranger.kill()
            return elapsed

        scan_with_pipeline()
        rounds = [(scan(), scan_with_pipeline(), scan_beside_a_busy_process()) for _ in range(ROUNDS)]
        pipeline.close()
        for device in devices:
            device.destroy()
    alone = statistics.median(plain for plain, _, _ in rounds)
    points = SHAPE[0] * SHAPE[1]
    return [
        Figure("step scan, nothing subscribed", f"{points / alone:.1f} points/s", f"{points} points, 25 darks"),
        Figure(
            "time with the pipeline / without",
            f"{statistics.median(b / a for a, b, _ in rounds):.3f}",
            f"median of {ROUNDS} rounds, target < 1.05",
        ),
        Figure(
            "control: time beside a stranger's busy process / without",
            f"{statistics.median(c / a for a, _, c in rounds):.3f}",
            "what the machine itself costs",
        ),
    ]
