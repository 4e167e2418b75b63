import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nsbluesky.camera.descramble import scramble
from nsbluesky.cleaning.layout import LAYOUTS, assemble
from nsbluesky.settings import SettingsError
from nsbluesky.simulation.charge import Charge
from nsbluesky.simulation.fccd_detector import SimulatedDetector
from nsbluesky.simulation.fccd_electronics import Electronics
from nsbluesky.simulation.frame_faults import FrameFaults
from nsbluesky.simulation.light import Light
from nsbluesky.simulation.presets import PRESETS, get_preset

QUIET = Electronics(drift=0, read_noise=0, decay_jitter=0)
SHAPE = LAYOUTS["cosmic"].image_shape


def detector(name="none", seed=0, **changes):
    return SimulatedDetector(dataclasses.replace(get_preset(name), **changes), energy_eV=1000.0, seed=seed)


def flat(photons):
    return np.full(SHAPE, photons, np.float32)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_seed_and_index_decide_an_exposure(name):
    first, again, other = detector(name), detector(name), detector(name, seed=1)
    mean = flat(0.5)
    with ThreadPoolExecutor(3) as pool:
        parallel = list(pool.map(lambda k: first.expose(mean, index=k), range(4)))
    for k in (3, 1):
        exposure = again.expose(mean, index=k)
        np.testing.assert_array_equal(exposure.words, parallel[k].words)
        np.testing.assert_array_equal(exposure.photons, parallel[k].photons)
        np.testing.assert_array_equal(exposure.lost_packets, parallel[k].lost_packets)
        assert exposure.flux == parallel[k].flux
    assert (parallel[0].words != parallel[1].words).mean() > 0.5
    assert (other.expose(mean, index=0).words != parallel[0].words).mean() > 0.5


def test_the_photons_are_those_in_the_words():
    source = detector(electronics=QUIET)
    dark = source.expose(None, index=0)
    assert not dark.photons.any()
    exposure = source.expose(flat(2.5), index=1)
    light = assemble(exposure.words.astype(int) - dark.words, source.layout)
    np.testing.assert_allclose(light, exposure.photons * 34.0, atol=1)  # both words are rounded
    assert (light == exposure.photons * 34).mean() > 0.999
    assert exposure.photons.mean() == pytest.approx(2.5, rel=0.01)
    assert exposure.photons.dtype == np.uint32 and exposure.words.dtype == np.uint16


def test_with_charge_sharing_the_sum_is_that_of_the_photons():
    source = detector(electronics=QUIET, charge=Charge(cloud_px=0.3))
    dark = source.expose(None, index=0)
    mean = flat(0)
    mean[100:400, 300:600] = 0.2
    exposure = source.expose(mean, index=1)
    light = assemble(exposure.words.astype(int) - dark.words, source.layout)
    assert light.sum() == pytest.approx(exposure.photons.sum() * 34, rel=0.01)  # words are whole
    assert (light != exposure.photons * 34).mean() > 0.01


def test_the_beamstop_is_before_the_photons_of_the_truth():
    light = Light(beamstop_radius_m=1.5e-3, beamstop_transmission=0.1)
    source = detector(light=light)
    exposure = source.expose(flat(40), index=0)
    row, column = (round(c) for c in source.center_px)
    assert exposure.photons[row - 30 : row + 30, column - 30 : column + 30].mean() == pytest.approx(4, rel=0.03)
    assert exposure.photons[:200].mean() == pytest.approx(40, rel=0.01)


def test_flux_is_told():
    source = detector(light=Light(flux_sigma=0.2, jumps=0.3, jump_flux=(0.0, 0.1)))
    exposures = [source.expose(flat(5), index=k) for k in range(12)]
    flux = np.array([e.flux for e in exposures])
    assert 0 < (flux < 0.11).sum() < 12
    np.testing.assert_allclose([e.photons.mean() for e in exposures], 5 * flux, rtol=0.01, atol=1e-3)


def test_lost_packets_are_told():
    source = detector("heavy")
    exposures = [source.expose(None, index=k) for k in range(24)]
    hit = [e for e in exposures if e.lost_packets.size]
    assert hit
    for exposure in hit:
        packets = scramble(exposure.words, source.layout).reshape(-1, 4096)
        assert not packets[exposure.lost_packets].any()
    assert not any(e.corrupted for e in hit)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_every_layout_has_every_fault(layout):
    model = dataclasses.replace(get_preset("heavy"), frame_faults=FrameFaults(lost_packets=1.0, packet_run=3))
    source = SimulatedDetector(model, energy_eV=1000.0, layout=layout)
    shape = LAYOUTS[layout].image_shape
    exposure = source.expose(np.full(shape, 0.1, np.float32), index=0)
    assert exposure.words.shape == LAYOUTS[layout].shape and exposure.photons.shape == shape
    assert 1 <= exposure.lost_packets.size <= 3
    assert len(source.readout.fault_map.bad_adcs) == 7


def test_an_unknown_layout_is_refused():
    with pytest.raises(SettingsError, match="layout = 'eiger'"):
        SimulatedDetector(get_preset("none"), energy_eV=1000.0, layout="eiger")
