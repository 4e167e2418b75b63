"""A star measured in the near field, by the ordinary command, against what a star is, not against former results."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from benchmarks.spokes import Spokes, find_centre, spokes_of
from nsbluesky.cli import main
from nsbluesky.cxi import CxiImage, read_cxi, validate

FOLDER = Path(__file__).parents[1] / "data" / "petra_p25_near_field"
MEASURED = FOLDER / "PETRAIII_P25_Near_Field_Ptycho.cxi"
SOURCE_DISTANCE_M = 3.65e-3
SPOKES = 28
INSIDE_M = np.arange(2.7e-6, 4.7e-6, 0.3e-6)
"""Circles between the two rings that interrupt the spokes."""
OUTSIDE_M = np.arange(6.2e-6, 11.3e-6, 0.3e-6)


@dataclass(frozen=True)
class Star:
    """The spokes in three pictures."""

    inside: Spokes
    outside: Spokes
    absorption: Spokes


def star_in(image: CxiImage) -> Star:
    object = image.object * np.exp(-1j * np.angle(image.object.sum()))
    phase, amplitude = np.angle(object), np.log(np.maximum(np.abs(object), 1e-3))
    outside, inside = OUTSIDE_M / image.pixel_m, INSIDE_M / image.pixel_m
    centre = find_centre(phase, SPOKES, outside)
    rings = (phase, inside), (phase, outside), (amplitude, outside)
    return Star(*(spokes_of(picture, centre, SPOKES, radii) for picture, radii in rings))


def reconstructed(source: Path, out: Path, distance_m: float, *more: str) -> Star:
    options = ["--source-distance-m", str(distance_m), "--modes", "1", "--passes", "8", "--backend", "numpy"]
    assert main(["reconstruct", str(source), str(out), *options, *more]) == 0
    with read_cxi(out) as data:
        assert data.propagation == "near" and data.source_distance_m == distance_m
        (image,) = data.images
    return star_in(image)


def test_the_file_is_the_one_that_was_published() -> None:
    assert hashlib.sha256(MEASURED.read_bytes()).hexdigest() in (FOLDER / "README.md").read_text()


def test_a_file_of_another_program_is_read_as_it_declares() -> None:
    """Soft links, a basis whose vectors are columns, frames of integers; it does not follow our layout."""
    assert any("basis_vectors has shape (3, 2)" in deviation for deviation in validate(MEASURED))
    with h5py.File(MEASURED) as file:
        assert isinstance(file.get("entry_1/data_1/data", getlink=True), h5py.SoftLink)
        places_m = file["entry_1/data_1/translation"][:]
        first = file["entry_1/data_1/data"][0]
    with read_cxi(MEASURED) as data:
        geometry = data.geometry()
        assert geometry.propagation == "far"  # which the file does not say
        assert geometry.energy_eV == pytest.approx(12658, abs=1)
        assert (geometry.detector_distance_m, geometry.pixel_size_m) == pytest.approx((1.12, 55e-6))
        assert data.clean_frames.shape == (200, 100, 100)
        np.testing.assert_array_equal(data.clean_frames[0], first)  # rows to −y, columns to −x are the default
        np.testing.assert_allclose(data.translation_m, places_m, rtol=1e-6)
        bad = np.argwhere(data.mask)
        assert bad.tolist() == [[17, 39], [21, 76], [62, 9], [76, 23], [85, 81]]


def test_the_star_has_its_spokes(tmp_path: Path) -> None:
    star = reconstructed(MEASURED, tmp_path / "star.cxi", SOURCE_DISTANCE_M)
    for ring in (star.inside, star.outside, star.absorption):
        assert ring.number == SPOKES
        assert ring.straightness > 0.995
    assert star.inside.share > 0.7 and star.outside.share > 0.8 and star.absorption.share > 0.65
    assert star.outside.scatter < 0.08 and star.inside.scatter < 0.3
    assert 0.6 * star.outside.step < star.inside.step < star.outside.step  # narrower than the light resolves well
    assert 0.25 < star.outside.step < 0.6  # radians, of metal of some tenths of a micrometre
    assert 0.04 < star.absorption.step < 0.12  # of the amplitude's logarithm
    assert np.cos(star.absorption.angle - star.outside.angle) > 0.95  # matter absorbs, and advances X-rays


def mirrored(folder: Path) -> Path:
    """Return a copy that declares columns to run the other way."""
    path = folder / "mirrored.cxi"
    shutil.copyfile(MEASURED, path)
    with h5py.File(path, "r+") as file:
        file["entry_1/instrument_1/detector_1/basis_vectors"][0, 1] *= -1
    return path


def test_frames_that_are_declared_the_other_way_round_are_turned(tmp_path: Path) -> None:
    star = reconstructed(mirrored(tmp_path), tmp_path / "image.cxi", SOURCE_DISTANCE_M)
    for ring in (star.inside, star.outside, star.absorption):
        assert ring.number == SPOKES
    assert star.outside.share > 0.8 and star.outside.scatter < 0.08


@pytest.mark.nightly
def test_without_a_look_at_their_orientation_such_frames_leave_no_star(tmp_path: Path) -> None:
    unasked = "--set", "find_orientation=false"
    assert_no_star(reconstructed(mirrored(tmp_path), tmp_path / "image.cxi", SOURCE_DISTANCE_M, *unasked))


def assert_no_star(star: Star) -> None:
    for ring in (star.inside, star.outside, star.absorption):
        assert ring.share < 0.2 and ring.scatter > 0.5
    assert star.outside.step < 0.1


def test_a_wrong_distance_leaves_no_star_and_the_right_one_is_told(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"shadows move 1.99 times as far .* a source distance of about 0.003[67] m would fit"
    ):
        star = reconstructed(MEASURED, tmp_path / "image.cxi", 2 * SOURCE_DISTANCE_M)
    assert_no_star(star)


def test_the_near_field_taken_for_the_far_one_is_told(tmp_path: Path) -> None:
    """R would end at 0.027, lower than that of the star, and the other tests are quiet: a warning would fail them."""
    quick = ["--modes", "1", "--passes", "1", "--backend", "numpy", "--set", "sweep_frames=0"]
    told = r"not determined by its data: 200 frames measure 1.1 numbers for .*declare it: --source-distance-m"
    with pytest.warns(UserWarning, match=told):
        assert main(["reconstruct", str(MEASURED), str(tmp_path / "far.cxi"), *quick]) == 0
