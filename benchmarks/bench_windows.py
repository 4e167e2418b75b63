"""Whether the live window answers while much is new: how long Qt's event loop is held up at most.

Raw frames of 1040 × 1152 and clean frames of 128 × 128 come at 200 Hz, pictures of an object of 2048 × 2048 and
low-resolution images twice a second.  A timer of 5 ms notes how late it is: that is what a mouse click would wait.
The window is drawn offscreen, by the processor.
"""

from __future__ import annotations

import os
import threading
import time
from functools import partial

import numpy as np

from benchmarks.figures import Figure, seconds
from nsbluesky.callbacks.derived_run import DerivedRun
from nsbluesky.callbacks.live_plots import LivePlots
from nsbluesky.settings import PipelineSettings

FRAME_HZ, PICTURE_HZ = 200.0, 2.0
RAW_SHAPE, CLEAN_PX, OBJECT_PX = (1040, 1152), 128, 2048
SECONDS = 15.0
TICK_MS = 5


def measure() -> list[Figure]:
    """Feed a window and watch the event loop."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    from nsbluesky.viewer.live import LiveWindow
    from nsbluesky.viewer.qt import QtCore, application

    app = application()
    live = LivePlots()
    feeder = _Feeder(live)
    window = LiveWindow(live)
    window.show()
    feeder.all_at_once()
    window.refresh()
    app.processEvents()  # painted for the first time
    state = live.snapshot()
    draws = {p.title: partial(p.draw, state) for p in window.panels.values() if p.parts(state)[0] is not None}
    slowest = max((1e3 * seconds(draw), title) for title, draw in draws.items())
    late_ms: list[float] = []
    last = time.perf_counter()

    def tick() -> None:
        nonlocal last
        now = time.perf_counter()
        late_ms.append(1e3 * (now - last) - TICK_MS)
        last = now

    timer = QtCore.QTimer()
    timer.setTimerType(QtCore.Qt.TimerType.PreciseTimer)
    timer.timeout.connect(tick)
    timer.start(TICK_MS)
    thread = threading.Thread(target=feeder.run)
    thread.start()
    end = time.monotonic() + SECONDS
    last = time.perf_counter()
    while time.monotonic() < end:
        app.processEvents(QtCore.QEventLoop.ProcessEventsFlag.WaitForMoreEvents, 50)
    timer.stop()
    feeder.over.set()
    thread.join()
    window.close()
    late = np.array(late_ms)
    return [
        Figure("frames fed", f"{feeder.frames / SECONDS:.0f} /s", f"{feeder.pictures} pictures of 4 Mpx"),
        Figure("event loop held up, at most", f"{late.max():.0f} ms", f"> 50 ms: {np.sum(late > 50)} of {len(late)}"),
        Figure("99 of 100 times", f"{np.percentile(late, 99):.1f} ms", f"median {np.median(late):.1f} ms"),
        Figure("slowest panel to draw", f"{slowest[0]:.0f} ms", slowest[1]),
    ]


class _Feeder:
    """Gives documents at the pace of a fast scan."""

    def __init__(self, live: LivePlots) -> None:
        self.over = threading.Event()
        self.frames = self.pictures = 0
        self._live = live
        rng = np.random.default_rng(0)
        self._raw = rng.integers(4000, 20000, (1, *RAW_SHAPE), dtype=np.uint16)
        self._clean = rng.poisson(5, (1, CLEAN_PX, CLEAN_PX)).astype(np.float32)
        phase = rng.normal(0, 0.2, (OBJECT_PX, OBJECT_PX)).astype(np.float32)
        self._object = np.exp(1j * phase).astype(np.complex64)
        self._probe = np.ones((2, CLEAN_PX, CLEAN_PX), np.complex64)
        self._low = rng.random((60, 60)).astype(np.float32)
        self._run = DerivedRun({"uid": "benchmark", "ptycho": {}}, PipelineSettings())
        live("start", self._run.start_document)

    def all_at_once(self) -> None:
        """One of each."""
        self._frame()
        self._picture()

    def run(self) -> None:
        """Feed until it is over."""
        next_picture = time.monotonic()
        next_frame = time.monotonic()
        while not self.over.is_set():
            self._frame()
            if time.monotonic() >= next_picture:
                next_picture += 1 / PICTURE_HZ
                self._picture()
            next_frame += 1 / FRAME_HZ
            self.over.wait(max(0.0, next_frame - time.monotonic()))

    def _frame(self) -> None:
        self.frames += 1
        k = self.frames
        at = {"x_m": np.array([1e-8 * (k % 60)]), "y_m": np.array([1e-8 * (k // 60)])}
        times = [time.time()]
        self._feed(self._run.page("primary", [k], times, frame=self._raw, **at))
        photons = self._clean.sum(axis=(1, 2))
        self._feed(self._run.page("clean", [k], times, frame=self._clean, photons=photons, **at))

    def _picture(self) -> None:
        self.pictures += 1
        extent = np.array([0.0, 2e-5, 0.0, 2e-5])
        images = dict.fromkeys(("transmission", "dpc_x", "dpc_y", "dark_field"), self._low)
        self._feed(
            self._run.event(
                "low_resolution", **images, extent_m=extent, illumination=self._clean[0], num_frames=self.frames
            )
        )
        self._feed(
            self._run.event(
                "reconstruction",
                object=self._object,
                probe=self._probe,
                pixel_size_m=1e-8,
                extent_m=extent,
                r_factor=0.1,
                num_frames=self.frames,
                num_passes=1.0,
                coverage=1.0,
                newest_age_s=0.1,
                final=False,
            )
        )

    def _feed(self, documents: object) -> None:
        for name, document in documents:  # type: ignore[attr-defined]
            self._live(name, document)
