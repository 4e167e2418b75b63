"""One simulated Fast CCD with its darks, shared by the tests of cleaning."""

import numpy as np
import pytest

from nsbluesky.cleaning.darks import DarkAccumulator
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.samples import gold_balls

NUM_DARKS = 25


@pytest.fixture(scope="session")
def simulator():
    return FrameSimulator(gold_balls(), seed=7)


@pytest.fixture(scope="session")
def dark(simulator):
    accumulator = DarkAccumulator(simulator.layout)
    for index in range(NUM_DARKS):
        accumulator.add(simulator.raw_frame(0, 0, shutter_open=False, index=10_000 + index)[np.newaxis])
    return accumulator.result(simulator.cleaning_settings)
