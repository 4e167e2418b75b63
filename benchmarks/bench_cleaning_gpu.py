"""Cleaning of raw FCCD frames on a GPU, from host memory to host memory: frames a second with the transfers.

Needs CuPy and a CUDA device; without them the page says that nothing was measured.
"""

from __future__ import annotations

import numpy as np

from benchmarks.figures import Figure, seconds
from nsbluesky.backend import BackendError, get_backend
from nsbluesky.cleaning.clean import clean
from nsbluesky.cleaning.darks import DarkAccumulator
from nsbluesky.cleaning.device import BLOCK_FRAMES
from nsbluesky.cleaning.layout import get_layout
from nsbluesky.cleaning.plan import make_plan
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import gold_balls

NUM_FRAMES = 8 * BLOCK_FRAMES
DISTINCT = 8
NUM_DARKS = 25
WHAT = {
    "all nine steps": {"spikes": "lines"},
    "all nine steps, the publication's Fourier filter": {"spikes": "fourier"},
    "without spike removal": {"spikes": "none"},
}
TARGETS = {"all nine steps": "target ≥ 2000"}


def measure() -> list[Figure]:
    """Clean frames that lie in host memory, to 256 × 256."""
    try:
        backend = get_backend("cupy")
    except BackendError as error:
        return [Figure(what, "not measured", f"{TARGETS.get(what, 'no target')}; {error}") for what in WHAT]
    xp = backend.xp
    device = xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id)["name"].decode()
    simulator = FrameSimulator(gold_balls(), detector="light")
    few = np.stack([simulator.raw_frame(0, 0, shutter_open=True, index=100 + k) for k in range(DISTINCT)])
    frames = few[np.arange(NUM_FRAMES) % DISTINCT]
    figures = []
    for what, changes in WHAT.items():
        settings = simulator.cleaning_settings.replace(crop_px=768, frame_px=256, downsample="fourier", **changes)
        layout = get_layout(settings, simulator.shape)
        darks = DarkAccumulator(layout)
        for k in range(NUM_DARKS):
            darks.add(simulator.raw_frame(0, 0, shutter_open=False, index=k)[None])
        energy_eV = simulator.geometry.energy_eV
        plan = make_plan(settings, layout, darks.result(settings), simulator.center_px, energy_eV=energy_eV, xp=xp)
        out = np.empty((NUM_FRAMES, plan.frame_px, plan.frame_px), np.float32)
        rate = NUM_FRAMES / seconds(lambda plan=plan, out=out: clean(frames, plan, out))
        figures.append(Figure(what, f"{rate:.0f} frames/s", f"{device}, with the transfers; {TARGETS.get(what, '')}"))
    return figures
