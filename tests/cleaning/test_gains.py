"""Gain bits of a simulated detector: photons come out right at every gain, where there are darks of each."""

import dataclasses

import numpy as np
import pytest

from nsbluesky.cleaning.clean import clean
from nsbluesky.cleaning.darks import DarkAccumulator
from nsbluesky.cleaning.plan import make_plan
from nsbluesky.settings import CleaningSettings
from nsbluesky.simulation.fccd_detector import SimulatedDetector
from nsbluesky.simulation.fccd_electronics import Gain
from nsbluesky.simulation.presets import get_preset

ENERGY_EV = 930.0
NUM_DARKS = 8
CODES = {"csxtools": [0, 4, 6], "middle_0x4000": [0, 2, 6], "13_bits": [6]}  # bits 15 to 13


def detector(words, setting="auto"):
    model = get_preset("none")
    electronics = dataclasses.replace(model.electronics, gain=Gain(words=words, setting=setting))
    return SimulatedDetector(dataclasses.replace(model, electronics=electronics), energy_eV=ENERGY_EV)


def ramp():
    """Photons from few to more than the highest gain can read, in bands as long as the readout."""
    image = np.full((960, 960), 2.0, np.float32)
    image[:, 240:480] = 60
    image[:, 480:720] = 300
    image[:, 720:] = 900
    return image


@pytest.mark.parametrize("words", ["csxtools", "middle_0x4000", "13_bits"])
def test_photons_of_every_gain(words):
    camera = detector(words)
    darks = DarkAccumulator(camera.layout, words)
    for setting in ("x8", "x2", "x1") if words != "13_bits" else ("auto",):
        source = detector(words, setting)  # the same seed: the same sensor
        for k in range(NUM_DARKS):
            darks.add(source.expose(None, index=k).words[None])
    photons = ramp() if words != "13_bits" else np.minimum(ramp(), 60)
    settings = CleaningSettings(
        gain_words=words, crop_px=480, frame_px=120, photons="none", overscan_decay=True, center_px=(479.5, 479.5)
    )
    plan = make_plan(settings, camera.layout, darks.result(settings), (479.5, 479.5), energy_eV=ENERGY_EV)
    exposures = [camera.expose(photons, index=100 + k) for k in range(2)]
    frames, flags = clean(np.stack([e.words for e in exposures]), plan)
    assert not flags.any()
    row, column = plan.start
    window = slice(row, row + 480), slice(column, column + 480)
    fell = np.stack([e.photons[window].reshape(120, 4, 120, 4).sum(axis=(1, 3)) for e in exposures])
    np.testing.assert_array_equal(np.unique(exposures[0].words >> 13), CODES[words])
    for band in (slice(0, 58), slice(62, 118)):
        assert (frames - fell)[:, :, band].mean() == pytest.approx(0, abs=0.2)  # of 16 pixels, 960 and more photons
        assert frames[:, :, band].mean() == pytest.approx(fell[:, :, band].mean(), rel=1e-4)


def test_without_darks_of_the_lower_gains_their_pedestals_stay():
    camera = detector("csxtools")
    darks = DarkAccumulator(camera.layout, "csxtools")
    for k in range(NUM_DARKS):
        darks.add(camera.expose(None, index=k).words[None])
    assert darks.result(CleaningSettings(gain_words="csxtools")).gain_steps is None
