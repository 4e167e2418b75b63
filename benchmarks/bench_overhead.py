"""What the processing costs a scan: a step scan's rate with and without the pipeline subscribed.

The scans go over Channel Access to the simulated beamline with small frames, so that the devices are as fast as they
get; pairs of scans alternate, so that a machine whose speed drifts does not decide.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from bluesky import RunEngine

from benchmarks.figures import Figure
from nsbluesky import session
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.plans import ptycho_scan
from nsbluesky.simulation.beamline import SimulatedBeamline

PAIRS = 5
SHAPE = (10, 10)


def measure() -> list[Figure]:
    """Alternate scans with and without the pipeline."""
    with tempfile.TemporaryDirectory() as folder, SimulatedBeamline(folder, layout="none") as beamline:
        site = session.simulated_site(beamline)
        devices = session.fccd(site), session.scan_stage(site), session.shutter(site)
        RE = RunEngine({}, context_managers=[])
        pipeline = PtychoPipeline(site.pipeline, directory=Path(folder) / "results")

        def scan(subscribed: bool) -> float:
            token = RE.subscribe(pipeline) if subscribed else None
            started = time.perf_counter()
            RE(ptycho_scan(*devices, geometry=site.geometry, shape=SHAPE, step_um=site.step_um))
            elapsed = time.perf_counter() - started
            if token is not None:
                RE.unsubscribe(token)
                pipeline.wait()
            return elapsed

        scan(True)
        pairs = [(scan(False), scan(True)) for _ in range(PAIRS)]
        pipeline.close()
        for device in devices:
            device.destroy()
    without = statistics.median(a for a, _ in pairs)
    ratio = statistics.median(b / a for a, b in pairs)
    points = SHAPE[0] * SHAPE[1]
    return [
        Figure("step scan, nothing subscribed", f"{points / without:.1f} points/s", f"{points} points, 25 darks"),
        Figure("time with the pipeline / without", f"{ratio:.3f}", f"median of {PAIRS} pairs, target < 1.05"),
    ]
