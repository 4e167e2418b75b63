"""A day's queue: scans one after the other through bluesky-queueserver in one session, and the memory they leave.

The RE manager, its session with the project's profile, the simulated beamline over Channel Access and the processing
service are processes of their own.  The scans are small (4 × 4 points at 50 Hz, each fifth one 3 × 3 step by step),
so that what a scan leaves behind is seen, and not what it needs; 150 are ten hours of scans of four minutes.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure
from benchmarks.queue_manager import CATALOG, PROCESSING, SESSION, Manager

NUM_SCANS = int(os.environ.get("NSBLUESKY_QUEUE_SCANS", "150"))
BLOCK = 10
SCAN_S = 20.0
"""Patience for a scan."""


def measure() -> list[Figure]:
    """Run the queue in blocks, and look at the memory after each."""
    with tempfile.TemporaryDirectory() as folder:
        manager = Manager(Path(folder))
        with manager.running():
            began, memory = time.monotonic(), [manager.memory_mb()]
            for first in range(0, NUM_SCANS, BLOCK):
                for k in range(first, first + BLOCK):
                    add(manager, k)
                manager.run_queue(60.0 + BLOCK * SCAN_S)
                memory.append(manager.memory_mb())
                print(f"{first + BLOCK} scans: {memory[-1]}", file=sys.stderr)
            lasted = time.monotonic() - began
            exits = [item["result"]["exit_status"] for item in manager.history()]
            completed = exits.count("completed")

            def images() -> int:
                return len(list((manager.data / "results").glob("*_clean.cxi")))

            last_scan = time.monotonic()
            behind = completed - images()
            manager.until(lambda _: images() == completed)
            caught_up_s = time.monotonic() - last_scan
    figures = [
        Figure(
            "scans completed",
            f"{completed} of {NUM_SCANS}",
            f"{lasted / NUM_SCANS:.1f} s a scan; all images there {caught_up_s:.1f} s after the last one, "
            f"{behind} scans behind then",
        )
    ]
    for who in (SESSION, PROCESSING, CATALOG):
        curve = [told[who] for told in memory]
        second_half = curve[len(curve) // 2 :]
        slope = float(np.polyfit(BLOCK * np.arange(len(second_half)), second_half, 1)[0])
        told = ", ".join(f"{curve[k]:.0f}" for k in range(0, len(curve), 3))
        note = f"after each {3 * BLOCK} scans, from none; {slope:+.2f} MB a scan over the second half"
        figures.append(Figure(f"memory of the {who}, MB", told, note))
    return figures


def add(manager: Manager, k: int) -> None:
    """Put a scan at the end of the queue."""
    if k % 5 == 4:
        manager.add("ptycho_scan", shape=[3, 3], num_dark=2, md={"day": k})
    else:
        options = {"shape": [4, 4], "rate_hz": 50.0, "num_dark": 2, "geometry": {"orientation": k % 2}}
        manager.add("ptycho_fly_scan", **options, md={"day": k})
