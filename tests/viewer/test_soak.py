"""The window stays as large as it is and answers, however long a stream lasts."""

from __future__ import annotations

import gc
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

RATE_HZ = 50.0
MINUTES = 10.0
POINTS = 36


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_ten_minutes_at_50_hz(live: LivePlots, qtbot: QtBot) -> None:
    """Runs follow one another at 50 frames a second; memory after the first minute and at the end is within 5 %."""
    window = LiveWindow(live)
    qtbot.addWidget(window)
    window.show()
    over = threading.Event()

    def feed() -> None:
        while not over.is_set():
            scan = DerivedScan(live)
            scan.start()
            for k in range(1, POINTS + 1):
                scan.raw(k)
                scan.clean(k)
                if k % 6 == 0:
                    scan.low_resolution(k)
                    scan.reconstruction(k, 1 / k)
                    scan.health(num_frames=k)
                if over.wait(1 / RATE_HZ):
                    return
            scan.stop()

    feeder = threading.Thread(target=feed)
    feeder.start()
    sizes: list[float] = []
    end = time.monotonic() + 60 * MINUTES
    try:
        while time.monotonic() < end:
            qtbot.wait(10_000)
            gc.collect()
            sizes.append(resident_mb())
    finally:
        over.set()
        feeder.join()
    assert np.median(sizes[-6:]) == pytest.approx(np.median(sizes[6:12]), rel=0.05)
