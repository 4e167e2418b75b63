"""The frame grabber: packets of a virtual Fast CCD over loopback to a file, at the camera's rate and at most.

Camera and grabber are two processes on the same cores, and the kernel between them works in the camera's time.  The
most that comes without loss is found by steps; below it no packet may be lost.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure
from nsbluesky.camera.descramble import scramble
from nsbluesky.camera.grabber import Grabber, GrabberSettings
from nsbluesky.camera.virtual_fccd import VirtualFCCD
from nsbluesky.cleaning.layout import LAYOUTS

LAYOUT = LAYOUTS["cosmic"]
CAMERA_HZ = 146.0
NUM_FRAMES = 1600
STEPS_HZ = (146, 160, 180, 200, 220, 240, 260, 280, 300)
STEP_FRAMES = 400
DISTINCT = 8


def measure() -> list[Figure]:
    """Grab a scan's frames at the camera's rate with both sizes of packets, then fewer at rising rates."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        path = Path(folder) / "frames.h5"
        figures = [figure for payload in (4096, 8184) for figure in _at_the_cameras_rate(path, payload)]
        most = _most_without_loss(path)
    tried = f"{STEP_FRAMES} frames at each of {_listed(STEPS_HZ)}/s, twice where once fails"
    return [*figures, Figure("most without loss", f"{most} frames/s", tried)]


def _most_without_loss(path: Path) -> int:
    """Return the last of the rising rates at which every frame came, and the camera was not late."""
    most = 0
    for rate_hz in STEPS_HZ:
        for _ in range(2):
            summary, sent = _grab(path, STEP_FRAMES, rate_hz, 4096)
            held = summary["exact_frames"] == STEP_FRAMES and sent["frames_per_s"] > 0.99 * rate_hz
            if held:
                break
        if not held:
            return most
        most = rate_hz
    return most


def _listed(rates_hz: tuple[int, ...]) -> str:
    steps = sorted({high - low for low, high in pairwise(rates_hz)})
    return f"{rates_hz[0]} to {rates_hz[-1]} in steps of {steps[0]} to {steps[-1]}"


def _at_the_cameras_rate(path: Path, payload_bytes: int) -> list[Figure]:
    summary, sent = _grab(path, NUM_FRAMES, CAMERA_HZ, payload_bytes)
    name = f"packets of {payload_bytes} bytes"
    share = {
        end: f"{100 * ms * 1e-3 * CAMERA_HZ:.0f} % of a core"
        for end, ms in (
            ("packets to frames", summary["receive_cpu_ms_per_frame"]),
            ("frames to file", summary["write_cpu_ms_per_frame"]),
            ("camera", sent["cpu_ms_per_frame"]),
        )
    }
    return [
        Figure(
            f"{name}: frames grabbed exactly",
            f"{summary['exact_frames']} of {NUM_FRAMES}",
            f"{summary['frames_per_s']:.1f} frames/s, {summary['lost_packets']} packets lost; target: all at 146/s; "
            f"{summary['buffer_bytes'] / 1e6:.0f} MB of kernel buffer",
        ),
        Figure(
            f"{name}: processor of the grabber",
            f"{share['packets to frames']} + {share['frames to file']}",
            f"packets to frames + frames to file; the camera itself: {share['camera']}",
        ),
        Figure(
            f"{name}: other programs meanwhile",
            f"{100 * summary['others']:.0f} % of a core",
            "on the same two cores, the machine's host included",
        ),
        Figure(f"{name}: file on the disk itself", f"{summary['sync_s']:.1f} s later", "fsync after the last frame"),
    ]


def _grab(path: Path, num_frames: int, rate_hz: float, payload_bytes: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the grabber's summary, and what the camera says."""
    path.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with Grabber(LAYOUT, GrabberSettings(port=0, payload_bytes=payload_bytes, timeout_s=5.0)) as grabber:
        camera = context.Process(target=_send, args=(theirs, grabber.address, num_frames, rate_hz, payload_bytes))
        camera.start()
        ours.recv()  # its frames are ready
        busy_s, own_s, started = _busy_s(), time.process_time(), time.perf_counter()
        ours.send("go")
        summary = grabber.record(path, num_frames)
        sent = ours.recv()
        others_s = _busy_s() - busy_s - (time.process_time() - own_s) - sent["cpu_ms_per_frame"] * num_frames / 1e3
        summary["others"] = max(others_s, 0.0) / (time.perf_counter() - started)
    camera.join()
    started = time.perf_counter()
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return summary | {"sync_s": time.perf_counter() - started}, sent


def _busy_s() -> float:
    """Return what all programs have taken of all cores, and what the machine's host has taken from them."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _send(pipe: Any, address: tuple[str, int], num_frames: int, rate_hz: float, payload_bytes: int) -> None:
    """Send prepared frames: what it costs to make them is not the camera's."""
    rng = np.random.default_rng(0)
    streams = [scramble(rng.integers(0, 2**16, LAYOUT.shape, dtype=np.uint16), LAYOUT) for _ in range(DISTINCT)]

    def again() -> Iterator[np.ndarray]:
        for k in range(num_frames):
            yield streams[k % DISTINCT]

    with VirtualFCCD(address, LAYOUT, payload_bytes=payload_bytes, rate_hz=rate_hz) as camera:
        pipe.send("ready")
        pipe.recv()
        started = time.perf_counter()
        counts = camera.send_streams(again())
        elapsed = time.perf_counter() - started
    pipe.send({"frames_per_s": num_frames / elapsed, "cpu_ms_per_frame": 1e3 * counts.cpu_s / num_frames})
