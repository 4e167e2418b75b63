"""Cleaning of raw FCCD frames on two cores: frames a second, against what memory and Fourier transforms allow."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import scipy.fft

from benchmarks.figures import Figure, seconds
from nsbluesky.cleaning.clean import clean
from nsbluesky.cleaning.darks import DarkAccumulator
from nsbluesky.cleaning.plan import CleaningPlan, make_plan
from nsbluesky.simulation.fccd_electronics import Gain
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.presets import get_preset
from nsbluesky.simulation.samples import gold_balls

NUM_FRAMES = 16  # 38 MB of words: more than caches hold
NUM_DARKS = 25
THREADS = 2
RUNS = 25
PAPER_HZ = 2.0
CAMERA_HZ = 146.0

NINE_STEPS: dict[str, object] = {
    "crop_px": 960,
    "frame_px": 256,
    "downsample": "fourier",
    "overscan": "quadratic",
    "overscan_decay": True,
    "spikes": "lines",
    "photons": "threshold",
    "beamstop_radius_m": 1.83e-3,
    "beamstop_transmission": 0.015,
}
NO_SPIKES = NINE_STEPS | {"spikes": "none"}
THREE_STEPS = NO_SPIKES | {"overscan": "none", "downsample": "rebin", "frame_px": 240, "beamstop_radius_m": 0.0}

# What a plan without the step has; the difference in time is the step's cost.
STEPS: dict[str, dict[str, object]] = {
    "overscan offset": {"overscan": "none"},
    "spike removal": {"spikes": "none"},
    "photon threshold": {"photons": "none"},
    "beamstop": {"beamstop_radius_m": 0.0},
    "Fourier downsampling, against rebinning 4 × 4": {"downsample": "rebin", "frame_px": 240},
}


class Scene(NamedTuple):
    """Frames of one simulated detector and its darks."""

    simulator: FrameSimulator
    darks: DarkAccumulator
    frames: npt.NDArray[np.uint16]

    def plan(self, changes: dict[str, object]) -> CleaningPlan:
        """Return the plan of the simulator's own settings with some changes."""
        settings = self.simulator.cleaning_settings.replace(**changes)
        layout, energy_eV = self.simulator.layout, self.simulator.geometry.energy_eV
        assert layout is not None
        dark = self.darks.result(settings)
        return make_plan(settings, layout, dark, self.simulator.center_px, energy_eV=energy_eV)

    def rate(self, changes: dict[str, object]) -> float:
        """Return how many frames a second are cleaned."""
        prepared = self.plan(changes)
        out = np.empty((NUM_FRAMES, prepared.frame_px, prepared.frame_px), np.float32)
        return NUM_FRAMES / seconds(lambda: clean(self.frames, prepared, out, threads=THREADS), RUNS)


def _scene(gains: tuple[Gain, ...]) -> Scene:
    """Return frames at the first of some gains, and darks of them all."""
    model = get_preset("light")
    simulators = [
        FrameSimulator(gold_balls(), detector=replace(model, electronics=replace(model.electronics, gain=gain)))
        for gain in gains
    ]
    layout = simulators[0].layout
    assert layout is not None
    darks = DarkAccumulator(layout, gains[0].words)
    for simulator in simulators:
        for k in range(NUM_DARKS):
            darks.add(simulator.raw_frame(0, 0, shutter_open=False, index=k)[None])
    frames = [simulators[0].raw_frame(0, 0, shutter_open=True, index=100 + k) for k in range(NUM_FRAMES)]
    return Scene(simulators[0], darks, np.stack(frames))


def measure() -> list[Figure]:
    """Clean the same block of frames again and again, and do nothing but read it, or transform."""
    scene = _scene((Gain(),))
    frames, rate = scene.frames, scene.rate
    pool = ThreadPoolExecutor(THREADS)

    def together(one: Callable[[int], object]) -> float:
        return NUM_FRAMES / seconds(lambda: list(pool.map(one, range(NUM_FRAMES))), RUNS)

    reading = together(lambda k: _sum_of_words(frames[k].reshape(-1).view(np.uint64)))
    transforms = _transforms(scene.plan(NINE_STEPS))
    transforming = together(lambda _: transforms())
    both = 1 / (1 / reading + 1 / transforming)
    nine, without_spikes, three = rate(NINE_STEPS), rate(NO_SPIKES), rate(THREE_STEPS)
    switching = _scene((Gain("csxtools"), Gain("csxtools", "x2"), Gain("csxtools", "x1"))).rate(THREE_STEPS)
    figures = [
        Figure(
            "floor: read the raw words once",
            f"{reading:.0f} frames/s",
            f"{reading * frames[0].nbytes / 1e9:.1f} GB/s",
        ),
        Figure("floor: the bare Fourier transforms of downsampling", f"{transforming:.0f} frames/s", "SciPy"),
        Figure("all nine steps, 1040 × 1152 to 256 × 256", f"{nine:.0f} frames/s", _share(nine, both, "≥ 150")),
        Figure("without spike removal", f"{without_spikes:.0f} frames/s", _share(without_spikes, both, "≥ 600")),
        Figure(
            "960 × 960 to 240 × 240: dark, gain, threshold, rebinning",
            f"{three:.0f} frames/s",
            f"{100 * three / reading:.0f} % of reading; wanted ≥ 3000; words of 16 bits, a fixed gain",
        ),
        Figure(
            "the same, pixels that switch their gain",
            f"{switching:.0f} frames/s",
            f"{100 * switching / reading:.0f} % of reading; wanted ≥ 3000; a dark of each gain",
        ),
        Figure("for comparison", f"{CAMERA_HZ:g} frames/s", f"the camera at 350 MB/s; the publication {PAPER_HZ:g}"),
    ]
    for name, off in STEPS.items():
        cost_ms = 1e3 * (1 / nine - 1 / rate(NINE_STEPS | off))
        figures.append(Figure(f"cost of a step: {name}", f"{cost_ms:.2f} ms a frame", "both cores together"))
    rest_ms = 1e3 / rate(THREE_STEPS | {"photons": "none"})
    figures.append(Figure("cost of dark, gain, bad pixels, crop, 4 × 4", f"{rest_ms:.2f} ms a frame", "the same"))
    return figures


def _share(rate: float, both: float, wanted: str) -> str:
    return f"{100 * rate / both:.0f} % of reading and transforms; wanted {wanted}"


@numba.njit(nogil=True)
def _sum_of_words(words: npt.NDArray[np.uint64]) -> np.uint64:
    """Add words four at a time: as fast as memory gives them, which words one by one are not."""
    total = np.uint64(0)
    for word in words:
        total += word
    return total


def _transforms(plan: CleaningPlan) -> Callable[[], object]:
    """Return the transforms alone that bring bins to the frame's side."""
    side, kept = plan.frame_px, plan.frame_px // 2 + 1
    bins = np.random.default_rng(0).random((plan.num_bins, plan.num_bins), np.float32)

    def transform() -> object:
        columns = scipy.fft.fft(scipy.fft.rfft(bins)[:, :kept], axis=0)
        return scipy.fft.irfft(scipy.fft.ifft(columns[:side], axis=0), n=side)

    return transform
