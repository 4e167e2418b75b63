"""Small simulated scans, and a store of frames with everything that is difficult."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from host_kernels import host_launch
from small_scan import Scan, simulate

from nsbluesky.backend import Backend, get_backend
from nsbluesky.solver.device_kernels import SOURCE
from nsbluesky.solver.device_loops import DeviceLoops
from nsbluesky.solver.frames import FrameStore
from nsbluesky.solver.state import SolverState


@pytest.fixture(scope="session")
def scan() -> Scan:
    return simulate()


@pytest.fixture(scope="session")
def two_mode_scan() -> Scan:
    return simulate(modes=2)


@pytest.fixture(scope="session")
def backend() -> Backend:
    return get_backend("numpy", threads=2)


@pytest.fixture(scope="session")
def loops(tmp_path_factory: pytest.TempPathFactory) -> DeviceLoops:
    """The kernels for a GPU, compiled for the host."""
    return DeviceLoops(np, host_launch(SOURCE, tmp_path_factory.mktemp("loops")))


def _complex_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def _difficult_scan(backend: Backend, modes: int) -> tuple[FrameStore, SolverState]:
    """Frames with gaps, a mask, weights, a background and positions between pixels, in windows that overlap."""
    side = 24
    rng = np.random.default_rng(3)
    store = FrameStore(side, backend)
    for number in range(14):
        frame = rng.poisson(40.0, (side, side)).astype(np.float32)
        frame[rng.random(frame.shape) < 0.02] = np.nan
        corner, shift = rng.integers(0, 20, 2), rng.uniform(-0.5, 0.5, 2)
        store.put([number], frame[None], corner, 0.3 if number == 4 else 1.0, shift)
    good = np.ones((side, side), bool)
    good[5] = False
    store.set_good(good)
    probe = 3 * _complex_noise(rng, (modes, side, side))
    probe[:, :, :3] = 0  # dark rim
    return store, SolverState(1 + 0.1 * _complex_noise(rng, (50, 47)), probe, background=0.7)


@pytest.fixture
def difficult_scan() -> Any:
    """A function of backend and modes that makes a store of 14 frames and a state."""
    return _difficult_scan
