"""Cleaning of raw FCCD frames: frames a second on one core, and what is left of bias."""

from __future__ import annotations

import numpy as np

from benchmarks.figures import Figure, seconds
from nsbluesky.cleaning.clean import clean, make_plan
from nsbluesky.cleaning.darks import DarkAccumulator
from nsbluesky.cleaning.layout import get_layout
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import gold_balls

NUM_FRAMES = 8
NUM_DARKS = 25
PAPER_HZ = 2.0
CAMERA_HZ = 146.0


def measure() -> list[Figure]:
    """Clean blocks of eight full frames again and again."""
    simulator = FrameSimulator(gold_balls())
    settings = simulator.cleaning_settings
    layout = get_layout(settings, simulator.shape)
    darks = DarkAccumulator(layout)
    for k in range(NUM_DARKS):
        darks.add(simulator.raw_frame(0, 0, shutter_open=False, index=k)[None])
    dark = darks.result(settings)
    energy_eV = simulator.geometry.energy_eV
    plan = make_plan(settings, layout, dark, simulator.center_px, energy_eV=energy_eV)
    frames = np.stack([simulator.raw_frame(0, 0, shutter_open=True, index=100 + k) for k in range(NUM_FRAMES)])
    expected = simulator.expected_clean(0, 0)
    good = plan.mask == 0
    error = clean(frames, plan).mean(axis=0)[good].sum() / expected[good].sum() - 1
    rate = NUM_FRAMES / seconds(lambda: clean(frames, plan))
    unlit = np.stack([simulator.raw_frame(0, 0, shutter_open=False, index=200 + k) for k in range(NUM_FRAMES)])
    plain = make_plan(settings.replace(photon_threshold=0.0), layout, dark, simulator.center_px, energy_eV=energy_eV)
    bias = clean(unlit, plain)[:, good].mean() / plan.bin_px**2
    make_rate = 1 / seconds(lambda: simulator.raw_frame(0, 0, shutter_open=True, index=7))
    return [
        Figure(
            "cleaning, 1040 × 1152 to 104 × 104", f"{rate:.0f} frames/s", f"paper {PAPER_HZ:g}, camera {CAMERA_HZ:g}"
        ),
        Figure("total counts against truth", f"{100 * error:+.2f} %", f"{NUM_FRAMES} frames, {NUM_DARKS} darks"),
        Figure("bias without photons, no threshold", f"{bias:+.1e} photons/pixel", ""),
        Figure("simulated raw frames", f"{make_rate:.0f} frames/s", "one thread"),
    ]
