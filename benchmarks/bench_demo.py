"""The whole job as users run it: ``nsbluesky demo`` at 20 × 20 and at the paper's 40 × 40 points, 10 Hz and 50 Hz."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

from benchmarks.figures import Figure

SCANS = (("20x20", 10), ("40x40", 10), ("40x40", 50))
PAPER = "paper: 1600 frames at 10 Hz, image after 300 s"


def measure() -> list[Figure]:
    """Run the demo for each shape and collect its summary."""
    figures = []
    for shape, rate in SCANS:
        scan = f"{shape} at {rate} Hz"
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "nsbluesky.cli", "demo", "--shape", shape, "--rate", str(rate)]
            command += ["--offscreen", "--json", "--out", folder]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        summary = json.loads(run.stdout.strip().splitlines()[-1])
        used = f"{summary['frames_used']} of {summary['frames_planned']} frames used"
        memory = f"one copy of the cropped frames: {summary['cropped_frames_MB']:.0f} MB"
        figures += [
            Figure(f"{scan}: exit code", str(run.returncode), used),
            Figure(
                f"{scan}: recorded rate",
                f"{summary['recorded_rate_hz']:.2f} Hz",
                "by the camera's clock, darks aside",
            ),
            Figure(
                f"{scan}: final image after the last frame",
                f"{summary['final_image_after_last_frame_s']:.1f} s",
                PAPER if (shape, rate) == ("40x40", 10) else "target < 10 s",
            ),
            Figure(
                f"{scan}: contrast correlation with the truth",
                f"{summary['contrast_correlation_with_truth']:.3f}",
                "target ≥ 0.95",
            ),
            Figure(f"{scan}: R factor", f"{summary['r_factor']:.4f}"),
            Figure(
                f"{scan}: processing behind the scan at most",
                f"{summary['longest_latency_s']:.1f} s",
                f"{summary['longest_queue']} documents waited",
            ),
            Figure(f"{scan}: peak memory of the session", f"{summary['peak_memory_MB']:.0f} MB", memory),
        ]
    return figures
