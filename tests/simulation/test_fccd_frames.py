import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

from nsbluesky.cleaning.layout import LAYOUTS, assemble, by_adc
from nsbluesky.settings import SettingsError
from nsbluesky.simulation.charge import Charge
from nsbluesky.simulation.faults import DetectorFaults
from nsbluesky.simulation.fccd_electronics import Electronics, Gain
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.light import Light
from nsbluesky.simulation.optics import far_field
from nsbluesky.simulation.presets import get_preset
from nsbluesky.simulation.samples import from_picture, gold_balls


@pytest.fixture(scope="module")
def simulator():
    return FrameSimulator(gold_balls(), seed=3)


@pytest.fixture(scope="module")
def darks(simulator):
    return np.stack([simulator.raw_frame(0, 0, shutter_open=False, index=i) for i in range(12)])


def test_intensity_is_the_fourier_transform_at_each_pixel(simulator):
    """Against the sum over the exit wave, written out, at pixels anywhere and a centre between pixels."""
    x, y = 1.23e-7, -2.05e-7
    image = simulator.expected_photons(x, y)
    waves = simulator.sample.exit_waves(x, y).astype(complex)
    r = np.arange(104) - 52
    rows, columns = [480, 476, 390, 555, 470, 300], [486, 560, 470, 520, 410, 700]
    for row, column in zip(rows, columns, strict=True):
        along_rows = np.exp(-2j * np.pi * r * (row - simulator.center_px[0]) / 832)
        along_columns = np.exp(-2j * np.pi * r * (column - simulator.center_px[1]) / 832)
        amplitude = np.einsum("kij,i,j->k", waves, along_rows, along_columns)
        expected = np.sum(np.abs(amplitude) ** 2) / 832**2
        assert image[row, column] == pytest.approx(expected, rel=1e-4, abs=1e-4 * float(image.max()))


def test_no_photon_is_lost(simulator):
    waves = simulator.sample.exit_waves(0, 1e-7)
    total = np.sum(np.abs(waves) ** 2, dtype=np.float64)
    assert simulator.expected_photons(0, 1e-7).sum(dtype=np.float64) == pytest.approx(total, rel=1e-4)
    assert simulator.expected_photons(0, 1e-7).min() >= 0


def test_an_asymmetric_pattern_lies_as_the_far_field_does():
    """A prism that sends light to larger rows and smaller columns."""
    sample = gold_balls()
    index = np.arange(104) - 52
    prism = np.exp(2j * np.pi * (9 * index[:, None] - 14 * index) / 104)
    tilted = FrameSimulator(type(sample)(**_fields(sample) | {"probe": (sample.probe * prism).astype(np.complex64)}))
    photons, (row, column) = tilted.expected_clean(1.0, 1.0), (52 + 9, 52 - 14)
    expected = np.sum(np.abs(far_field(tilted.sample.probe)) ** 2, axis=0)
    weights = photons / photons.sum()
    assert (weights.sum(axis=1) * np.arange(104)).sum() == pytest.approx(row, abs=0.2)
    assert (weights.sum(axis=0) * np.arange(104)).sum() == pytest.approx(column, abs=0.2)
    assert np.corrcoef(photons.ravel(), expected.ravel())[0, 1] > 0.98


def _fields(sample):
    return {name: getattr(sample, name) for name in type(sample).__dataclass_fields__ if not name.startswith("_")}


def test_a_frame_is_decided_by_seed_and_index(simulator):
    def frame(index, source=simulator, **kwargs):
        return source.raw_frame(1e-7, 0, shutter_open=True, index=index, **kwargs)

    first = frame(5)
    assert first.dtype == np.uint16 and first.shape == (1040, 1152)
    frame(6)
    np.testing.assert_array_equal(frame(5), first)
    assert (frame(6) != first).mean() > 0.5
    np.testing.assert_array_equal(frame(5, FrameSimulator(gold_balls(), seed=3)), first)
    assert (frame(5, FrameSimulator(gold_balls(), seed=4)) != first).mean() > 0.5


def test_threads_do_not_disturb_each_other(simulator):
    def frame(index):
        return simulator.raw_frame(1e-8 * index, 0, shutter_open=True, index=index)

    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(frame, range(8)))
    for index, made in enumerate(parallel):
        np.testing.assert_array_equal(made, frame(index))


def test_photons_follow_poisson_and_the_exposure(simulator, darks):
    dark = darks.mean(axis=0)
    expected = simulator.expected_photons(0, 0)
    good = ~simulator.truth()["bad_image"] & (expected > 100)
    for exposure_s in (0.01, 0.02):
        frames = np.stack(
            [simulator.raw_frame(0, 0, shutter_open=True, exposure_s=exposure_s, index=100 + i) for i in range(4)]
        )
        photons = assemble(frames - dark, simulator.layout)[:, good] / simulator.adu_per_photon
        mean = expected[good] * exposure_s / 0.01
        assert (photons.sum(axis=1) / mean.sum()).mean() == pytest.approx(1, abs=0.002)
        assert ((photons - mean) ** 2 / mean).mean() == pytest.approx(1, abs=0.05)


def test_a_closed_shutter_or_no_exposure_lets_no_light_in(simulator, darks):
    open_but_short = simulator.raw_frame(0, 0, shutter_open=True, exposure_s=0.0, index=0)
    np.testing.assert_array_equal(open_but_short, darks[0])


def test_levels_are_those_of_a_real_frame():
    faultless = FrameSimulator(gold_balls(), faults=DetectorFaults(bad_adcs=0, hot_pixels=0, stuck_pixels=0))
    darks = np.stack([faultless.raw_frame(0, 0, shutter_open=False, index=i) for i in range(12)])
    assert 3.5 < np.median(darks.std(axis=0, ddof=1)) < 5.5  # read noise and drift
    data = by_adc(darks.astype(np.float32), faultless.layout)[..., 1:11]
    neighbours = np.diff(data, axis=-1).std(axis=0, ddof=1) / np.sqrt(2)
    assert np.sqrt(np.mean(neighbours**2)) == pytest.approx(3, abs=0.1)  # drift is common to neighbours

    blocks = by_adc(darks.mean(axis=0), faultless.layout)
    plateau = blocks[400:480].mean(axis=(0, 2))
    assert plateau.mean() == pytest.approx(4096, abs=15)
    assert 15 < plateau.std() < 27  # 0.5 %
    step = blocks[..., 1:11].mean() - blocks[..., [0, 11]].mean()
    assert step == pytest.approx(6, abs=1.5)
    top, bottom = blocks[:520].mean(axis=(1, 2)), blocks[520:].mean(axis=(1, 2))[::-1]
    for rows in (top, bottom):  # both are read from the outer edge on
        baseline = rows - rows[500:].mean()
        np.testing.assert_allclose(baseline[:60], 530, atol=10)
        assert baseline[60 + 89] == pytest.approx(530 / np.e, abs=10)
        assert abs(baseline[450]) < 10


def test_light_falls_on_no_overscan_column(simulator):
    kwargs = {"index": 9, "x_m": 0, "y_m": 0}
    lit = simulator.raw_frame(shutter_open=True, **kwargs).astype(int)
    mean = simulator.raw_frame(shutter_open=False, **kwargs).astype(int)
    difference = by_adc(lit - mean, simulator.layout)
    overscan = difference[..., [0, 11]]
    assert np.abs(np.median(overscan, axis=0)).max() < 40  # drift, no photons
    assert np.abs(overscan.mean()) < 5
    assert difference[400:485, 48, 1:11].mean() > 1000


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("seed", range(3))
def test_bad_adcs_stand_side_by_side_and_clear_of_the_light(layout, seed):
    simulator = FrameSimulator(gold_balls(), layout=layout, seed=seed, faults=DetectorFaults(bad_adcs=6))
    truth = simulator.truth()
    adcs = truth["bad_adcs"]
    np.testing.assert_array_equal(np.diff(adcs), 1)
    assert len(set(adcs // 96)) == 1
    columns = np.flatnonzero(assemble(truth["bad"], simulator.layout).mean(axis=0) > 0.4)
    assert len(columns) == 60
    assert np.abs(columns - simulator.center_px[1]).min() >= 239
    assert simulator.raw_frame(0, 0, shutter_open=True, index=0).shape == LAYOUTS[layout].shape


def test_a_detector_without_faults_has_none():
    faults = DetectorFaults(bad_adcs=0, hot_pixels=0, stuck_pixels=0)
    simulator = FrameSimulator(gold_balls(), faults=faults)
    assert not simulator.truth()["bad"].any()
    simulator.raw_frame(0, 0, shutter_open=True, index=0)


def test_too_many_bad_adcs_are_refused():
    with pytest.raises(ValueError, match="bad_adcs = 60"):
        FrameSimulator(gold_balls(), faults=DetectorFaults(bad_adcs=60))


def test_unknown_layout_is_refused():
    with pytest.raises(SettingsError, match="layout = 'eiger'"):
        FrameSimulator(gold_balls(), layout="eiger")


def test_plain_images_count_photons_as_a_solver_models_them():
    sample = from_picture(np.random.default_rng(0).random((30, 40)), field_px=80, frame_px=64, photons=1e5)
    simulator = FrameSimulator(sample, layout="none")
    expected = np.sum(np.abs(far_field(sample.exit_waves(1e-7, 2e-7))) ** 2, axis=0)
    np.testing.assert_allclose(simulator.expected_photons(1e-7, 2e-7), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(simulator.expected_clean(1e-7, 2e-7), expected, rtol=1e-3, atol=1e-3)
    frame = simulator.raw_frame(1e-7, 2e-7, shutter_open=True, index=0)
    assert frame.shape == (64, 64) and frame.dtype == np.uint16
    assert frame.sum() == pytest.approx(expected.sum(), rel=0.02)
    assert not simulator.raw_frame(0, 0, shutter_open=False, index=0).any()
    assert simulator.geometry.object_pixel_m(64) == pytest.approx(sample.pixel_m)
    assert simulator.cleaning_settings.frame_px == 64


def test_truth_lies_beside_the_data(simulator, tmp_path):
    path = tmp_path / "truth.h5"
    simulator.save_truth(path)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["object"][()], simulator.sample.object)
        np.testing.assert_array_equal(file["probe"][()], simulator.sample.probe)
        np.testing.assert_array_equal(file["bad_image"][()], assemble(file["bad"][()], simulator.layout))
        np.testing.assert_array_equal(file["center_px"][()], simulator.center_px)
        assert file["pixel_m"][()] == simulator.sample.pixel_m
        assert json.loads(file["optic"].asstr()[()])["outer_zone_m"] == 60e-9


def test_an_exposure_tells_the_photons_that_fell(simulator, darks):
    exposure = simulator.exposure(1e-7, 0, shutter_open=True, index=50)
    np.testing.assert_array_equal(exposure.words, simulator.raw_frame(1e-7, 0, shutter_open=True, index=50))
    assert exposure.photons.dtype == np.uint32 and exposure.photons.shape == simulator.image_shape
    light = assemble(exposure.words - darks.mean(axis=0), simulator.layout) / simulator.adu_per_photon
    good = ~simulator.truth()["bad_image"] & (exposure.photons > 5)
    difference = (light - exposure.photons)[good]
    assert np.abs(np.median(difference)) < 0.1
    assert difference.std() < 0.4  # 3 ADU of noise, drift and darks at 34 ADU a photon
    assert exposure.flux == 1 and not exposure.corrupted and exposure.lost_packets.size == 0
    assert not simulator.exposure(0, 0, shutter_open=False, index=50).photons.any()


def test_the_frames_of_plain_images_have_a_truth_too():
    simulator = FrameSimulator(gold_balls(), layout="none")
    exposure = simulator.exposure(0, 0, shutter_open=True, index=3)
    np.testing.assert_array_equal(exposure.words, exposure.photons)
    assert exposure.photons.sum() > 1e6
    np.testing.assert_array_equal(simulator.delivery(4).order, np.arange(4))


def test_a_detector_is_a_preset_or_a_model():
    light = FrameSimulator(gold_balls(), detector="light")
    assert light.detector.model == get_preset("light")
    shared = dataclasses.replace(get_preset("light"), charge=Charge(cloud_px=0.3))
    assert FrameSimulator(gold_balls(), detector=shared).detector.model.charge.cloud_px == 0.3
    few = DetectorFaults(bad_adcs=1)
    assert FrameSimulator(gold_balls(), detector="light", faults=few).detector.model.detector_faults == few
    with pytest.raises(SettingsError, match="detector = 'foul'"):
        FrameSimulator(gold_balls(), detector="foul")


def test_charge_sharing_alone_changes_no_photon():
    shared = dataclasses.replace(get_preset("light"), charge=Charge(cloud_px=0.3))
    first, second = (
        FrameSimulator(gold_balls(), detector=model, seed=4).exposure(0, 0, shutter_open=True, index=2)
        for model in ("light", shared)
    )
    np.testing.assert_array_equal(first.photons, second.photons)
    assert (first.words != second.words).mean() > 0.1


def test_cleaning_settings_fit_the_detector():
    none = FrameSimulator(gold_balls(), detector="none").cleaning_settings
    assert (none.spikes, none.saturation_word, none.shadow_adcs, none.beamstop_radius_m) == ("none", 0, 0, 0)
    assert FrameSimulator(gold_balls(), detector="light").cleaning_settings.spikes == "lines"
    heavy = FrameSimulator(gold_balls(), detector="heavy").cleaning_settings
    assert (heavy.saturation_word, heavy.shadow_adcs) == (0x87FF, 2)
    model = dataclasses.replace(
        get_preset("none"),
        light=Light(beamstop_radius_m=1.83e-3, beamstop_transmission=0.015),
        electronics=Electronics(gain=Gain(words="csxtools")),
    )
    simulator = FrameSimulator(gold_balls(), detector=model)
    settings = simulator.cleaning_settings
    assert (settings.gain_words, settings.saturation_word) == ("csxtools", 0)
    assert (settings.beamstop_radius_m, settings.beamstop_transmission) == (1.83e-3, 0.015)
    np.testing.assert_array_equal(simulator.truth()["beamstop"], simulator.detector.beamstop)


def test_saturated_words_are_the_largest():
    simulator = FrameSimulator(gold_balls(), detector="heavy")
    exposure = simulator.exposure(1e-6, 0, shutter_open=True, exposure_s=0.02, index=1)
    assert exposure.words.max() == simulator.cleaning_settings.saturation_word
    full = (assemble(exposure.words, simulator.layout) == 0x87FF) & ~simulator.truth()["bad_image"]
    assert full.sum() > 100
    bright = exposure.photons.max(axis=0) > 850
    near = bright | np.roll(bright, 1) | np.roll(bright, -1)  # of shared charge
    assert near[full.any(axis=0)].all()  # what a full pixel cannot hold stays in its column
    assert not bright.all()


def test_the_heavy_faults_of_a_scan_are_seeded():
    deliveries = [FrameSimulator(gold_balls(), detector="heavy", seed=seed).delivery(1000) for seed in (1, 1, 2)]
    first, again, other = deliveries
    np.testing.assert_array_equal(first.order, again.order)
    assert first.lost.size and first.doubled.size and first.late.size and first.renumbered.size
    assert not np.array_equal(first.lost, other.lost)
