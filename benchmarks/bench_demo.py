"""The whole job as users run it: ``nsbluesky demo`` at 20 × 20 and at the paper's 40 × 40 points, 10 Hz."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

from benchmarks.figures import Figure

SHAPES = ("20x20", "40x40")
PAPER = "paper: 1600 frames at 10 Hz, image after 300 s"


def measure() -> list[Figure]:
    """Run the demo for each shape and collect its summary."""
    figures = []
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "nsbluesky.cli", "demo", "--shape", shape, "--offscreen", "--json"]
            run = subprocess.run([*command, "--out", folder], stdout=subprocess.PIPE, text=True)
        summary = json.loads(run.stdout.strip().splitlines()[-1])
        used = f"{summary['frames_used']} of {summary['frames_planned']} frames used"
        memory = f"one copy of the cropped frames: {summary['cropped_frames_MB']:.0f} MB"
        figures += [
            Figure(f"{shape}: exit code", str(run.returncode), used),
            Figure(
                f"{shape}: recorded rate",
                f"{summary['recorded_rate_hz']:.2f} Hz",
                "asked for: 10 Hz; darks, opening and closing included",
            ),
            Figure(
                f"{shape}: final image after the last frame",
                f"{summary['final_image_after_last_frame_s']:.1f} s",
                PAPER if shape == "40x40" else "target < 10 s",
            ),
            Figure(
                f"{shape}: contrast correlation with the truth",
                f"{summary['contrast_correlation_with_truth']:.3f}",
                "target ≥ 0.95",
            ),
            Figure(f"{shape}: R factor", f"{summary['r_factor']:.4f}"),
            Figure(f"{shape}: peak memory of the session", f"{summary['peak_memory_MB']:.0f} MB", memory),
        ]
    return figures
