"""The window stays as large as it is and answers, however long a stream lasts."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from derived_scan import DerivedScan
from pytestqt.qtbot import QtBot

from nsbluesky.callbacks.live_plots import LivePlots
from nsbluesky.viewer.live import LiveWindow
from nsbluesky.viewer.log_tail import LogLines
from nsbluesky.viewer.modules import Module, Modules

RATE_HZ = 50.0
MINUTES = 10.0
POINTS = 36


def some_modules() -> Modules:
    age = time.monotonic() % 1
    stages = tuple(Module(name, "green", age_s=age, rate_hz=50.0) for name in ("documents", "frames", "clean"))
    return Modules("processing", "green", stages, f"frames read {age:.1f} MB/s")


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_ten_minutes_at_50_hz(live: LivePlots, qtbot: QtBot) -> None:
    """Runs follow one another at 50 frames a second; memory after the first minute and at the end is within 5 %.

    Every stream is fed, and every panel has its time in front.
    """
    lines = LogLines()
    window = LiveWindow(live, modules=some_modules, log_lines=lines)
    qtbot.addWidget(window)
    window.show()
    over = threading.Event()

    def feed() -> None:
        while not over.is_set():
            scan = DerivedScan(live)
            scan.start()
            scan.dark_statistics()
            scan.detector()
            lines.handle(logging.makeLogRecord({"msg": "a run begins", "name": "nsbluesky.run_chain"}))
            for k in range(1, POINTS + 1):
                scan.raw(k)
                scan.clean(k)
                if k % 6 == 0:
                    scan.low_resolution(k)
                    scan.sweep()
                    scan.positions(*range(1, k + 1))
                    scan.reconstruction(k, 1 / k, r_held_out=1 / k, half_bit_m=1e-8)
                    scan.fit(k)
                    scan.frc()
                    scan.health(num_frames=k, flagged=(k,))
                if over.wait(1 / RATE_HZ):
                    return
            scan.stop()

    feeder = threading.Thread(target=feed)
    feeder.start()
    sizes: list[float] = []
    docks = itertools.cycle(window.docks.docks)
    end = time.monotonic() + 60 * MINUTES
    try:
        while time.monotonic() < end:
            for _ in range(8):  # two rounds through all docks in a minute
                window.docks.show_dock(next(docks))
                qtbot.wait(1250)
            gc.collect()
            sizes.append(resident_mb())
    finally:
        over.set()
        feeder.join()
    print("MB each ten seconds:", *(f"{size:.1f}" for size in sizes))
    assert np.median(sizes[-6:]) == pytest.approx(np.median(sizes[6:12]), rel=0.05)
