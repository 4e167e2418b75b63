import numpy as np
import pytest

from nsbluesky.cleaning.layout import LAYOUTS
from nsbluesky.cleaning.pixel_files import beamstop_transmission, flat_field
from nsbluesky.settings import CleaningSettings, SettingsError

COSMIC = LAYOUTS["cosmic"]
SHAPE = COSMIC.image_shape


def test_nothing_is_read_where_nothing_is_set():
    assert flat_field(CleaningSettings(), COSMIC) is None
    assert beamstop_transmission(CleaningSettings(), COSMIC, (480, 480), 30e-6) is None


def test_a_beamstop_is_a_disk_about_the_zero_order():
    settings = CleaningSettings(beamstop_radius_m=1.83e-3, beamstop_transmission=0.015)
    transmission = beamstop_transmission(settings, COSMIC, (470.0, 490.0), 30e-6)
    assert set(np.unique(transmission)) == {np.float32(0.015), np.float32(1)}
    assert (transmission < 1).sum() == pytest.approx(np.pi * 61**2, rel=0.01)
    rows, columns = np.nonzero(transmission < 1)
    assert (rows.mean(), columns.mean()) == (470, 490)


def test_files_are_taken_as_they_are(tmp_path):
    values = np.random.default_rng(0).uniform(0.5, 1.5, SHAPE)
    np.save(tmp_path / "map.npy", values)
    path = str(tmp_path / "map.npy")
    np.testing.assert_allclose(flat_field(CleaningSettings(flat_field=path), COSMIC), values, rtol=1e-6)
    shape = beamstop_transmission(CleaningSettings(beamstop_shape=path), COSMIC, (0, 0), 30e-6)
    np.testing.assert_allclose(shape, values, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full(SHAPE, np.nan), "921600 values are zero, negative or no number"),
        (np.zeros(SHAPE), "zero, negative"),
        (np.ones((10, 10)), r"holds float64 \(10, 10\): expected \(960, 960\)"),
        (np.full(SHAPE, "a"), "holds <U1"),
        (None, "expected an .npy file"),
        (b"not an array", "expected an .npy file"),
    ],
)
def test_bad_files_are_refused(tmp_path, values, message):
    path = tmp_path / "map.npy"
    if isinstance(values, bytes):
        path.write_bytes(values)
    elif values is not None:
        np.save(path, values)
    with pytest.raises(SettingsError, match=message):
        flat_field(CleaningSettings(flat_field=str(path)), COSMIC)


def test_pickles_are_not_opened(tmp_path):
    np.save(tmp_path / "map.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(SettingsError, match=r"expected an \.npy file"):
        flat_field(CleaningSettings(flat_field=str(tmp_path / "map.npy")), COSMIC)
