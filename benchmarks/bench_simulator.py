"""The simulated detector: raw frames a second on one core."""

from __future__ import annotations

import statistics
import time

from benchmarks.figures import Figure
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.presets import PRESETS
from nsbluesky.simulation.samples import gold_balls

NUM_FRAMES = 40


def measure() -> list[Figure]:
    """Make frames of every preset; CPU time, as other programs may load the machine."""
    figures = []
    for name in PRESETS:
        simulator = FrameSimulator(gold_balls(), detector=name)
        simulator.raw_frame(0, 0, shutter_open=True, index=0)
        times = []
        for index in range(1, NUM_FRAMES + 1):
            started = time.thread_time()
            simulator.raw_frame(1e-8 * index, 0, shutter_open=True, index=index)
            times.append(time.thread_time() - started)
        middle = statistics.median(times)
        figures.append(Figure(f"raw frames, faults {name!r}", f"{1 / middle:.0f}/s", f"{1e3 * middle:.1f} ms of CPU"))
    return figures
