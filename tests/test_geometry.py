"""Wavelength, pixel sizes and every sign of the geometry against figures known beforehand."""

from __future__ import annotations

import numpy as np
import pytest

from nsbluesky.geometry import Geometry, Optic, length_in_m, wavelength_m
from nsbluesky.settings import SettingsError

ENTRY = {"energy_eV": 1000.0, "detector_distance_m": 0.121, "pixel_size_m": 30e-6}
GEOMETRY = Geometry(energy_eV=1000.0, detector_distance_m=0.121, pixel_size_m=30e-6)


def test_wavelength_of_copper_k_alpha() -> None:
    """Cu Kα1: 8047.78 eV and 1.540593 Å (Hölzer et al., Phys. Rev. A 56, 4554 (1997))."""
    assert wavelength_m(8047.78) == pytest.approx(1.540593e-10, rel=2e-6)


def test_object_pixel_of_a_binned_frame() -> None:
    """λ·z/(N·p) by hand: 1.2398420 nm · 0.121 m / (104 · 8 · 30 µm)."""
    expected = 1.2398420e-9 * 0.121 / (104 * 8 * 30e-6)
    assert GEOMETRY.object_pixel_m(832) == pytest.approx(expected, rel=1e-7)


def test_positive_y_is_a_later_row_and_positive_x_a_later_column() -> None:
    dx = GEOMETRY.object_pixel_m(128)
    positions = GEOMETRY.positions_px([[3 * dx, 5 * dx], [-1 * dx, 0.5 * dx]], 128)
    np.testing.assert_allclose(positions, [[5, 3], [0.5, -1]])


def test_a_third_coordinate_of_the_translation_is_left_out() -> None:
    dx = GEOMETRY.object_pixel_m(64)
    np.testing.assert_allclose(GEOMETRY.positions_px([2 * dx, 4 * dx, 9.0], 64), [[4, 2]])


@pytest.mark.parametrize(
    ("unit", "metres"), [("m", 2.0), ("mm", 2e-3), ("um", 2e-6), ("µm", 2e-6), ("μm", 2e-6), (" nm ", 2e-9)]
)
def test_lengths_are_converted_by_their_unit(unit: str, metres: float) -> None:
    np.testing.assert_allclose(length_in_m([2.0, -2.0], unit), [metres, -metres])


@pytest.mark.parametrize("unit", ["", "deg", "V", "MM"])
def test_a_unit_that_is_no_length_is_refused(unit: str) -> None:
    with pytest.raises(ValueError, match=r"expected one of m, mm, um.*motor record's EGU"):
        length_in_m(1.0, unit)


def _oriented(orientation: int, frames: np.ndarray) -> np.ndarray:
    return np.asarray(Geometry(1000.0, 0.1, orientation=orientation).orient(frames))


def test_the_eight_orientations_differ_and_keep_every_pixel() -> None:
    frame = np.arange(25).reshape(5, 5)
    results = [_oriented(k, frame) for k in range(8)]
    assert len({result.tobytes() for result in results}) == 8
    for result in results:
        np.testing.assert_array_equal(np.sort(result, axis=None), frame.ravel())


def test_bits_of_the_orientation_swap_then_flip_rows_and_columns() -> None:
    frame = np.arange(9).reshape(3, 3)
    np.testing.assert_array_equal(_oriented(0, frame), frame)
    np.testing.assert_array_equal(_oriented(1, frame), frame[::-1])
    np.testing.assert_array_equal(_oriented(2, frame), frame[:, ::-1])
    np.testing.assert_array_equal(_oriented(4, frame), frame.T)
    np.testing.assert_array_equal(_oriented(5, frame), frame.T[::-1])


@pytest.mark.parametrize("orientation", range(8))
def test_every_orientation_is_undone_by_one_of_the_eight(orientation: int) -> None:
    frames = np.random.default_rng(1).random((2, 5, 5))
    undone = [k for k in range(8) if np.array_equal(_oriented(k, _oriented(orientation, frames)), frames)]
    assert len(undone) == 1


@pytest.mark.parametrize("orientation", range(8))
@pytest.mark.parametrize("side", [7, 8])
def test_the_zero_order_stays_in_its_pixel(orientation: int, side: int) -> None:
    frame = np.zeros((3, side, side))
    frame[:, side // 2, side // 2] = 1
    np.testing.assert_array_equal(_oriented(orientation, frame), frame)


def test_from_start_reads_the_ptycho_entry_and_leaves_the_rest() -> None:
    optic = {"kind": "zone_plate", "diameter_m": 240e-6, "outer_zone_m": 60e-9}
    start = {"uid": "x", "ptycho": {**ENTRY, "optic": optic, "orientation": 3, "scan": {"step_um": 0.1}}}
    assert Geometry.from_start(start) == Geometry(
        1000.0, 0.121, 30e-6, Optic(diameter_m=240e-6, outer_zone_m=60e-9), orientation=3
    )


def test_from_start_reads_the_near_field() -> None:
    near = {"propagation": "near", "source_distance_m": 0.01}
    geometry = Geometry.from_start({"ptycho": {**ENTRY, **near}})
    assert geometry.is_near and geometry.magnification == pytest.approx(13.1)
    assert Geometry.from_dict(geometry.to_dict()) == geometry
    dx = geometry.object_pixel_m(64, 32)
    assert dx == pytest.approx(2 * 30e-6 / 13.1)
    np.testing.assert_allclose(geometry.positions_px([2 * dx, 4 * dx], 64, 32), [[4, 2]])


def test_from_start_takes_none_for_unknown() -> None:
    assert Geometry.from_start({"ptycho": {**ENTRY, "optic": None}}) == GEOMETRY


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({}, "no 'ptycho' entry: run ptycho_scan, or add md="),
        ({"ptycho": 3}, "ptycho = 3 in the start document: expected its values"),
        *[
            ({"ptycho": {k: v for k, v in ENTRY.items() if k != name}}, rf"ptycho\.{name} is missing from the start")
            for name in ENTRY
        ],
        ({"ptycho": {**ENTRY, "energy_eV": 0}}, r"energy_eV = 0\.0: expected a positive number"),
        (
            {"ptycho": {**ENTRY, "detector_distance_m": float("nan")}},
            "detector_distance_m = nan: expected a finite number",
        ),
        ({"ptycho": {**ENTRY, "pixel_size_m": "30 um"}}, "pixel_size_m = '30 um': expected a number"),
        ({"ptycho": {**ENTRY, "orientation": 8}}, "orientation = 8: expected 0 to 7"),
        ({"ptycho": {**ENTRY, "propagation": "fresnel"}}, "propagation = 'fresnel': expected one of far, near"),
        ({"ptycho": {**ENTRY, "optic": {"focal_length": 1}}}, "unknown setting 'focal_length': expected one of kind"),
    ],
)
def test_from_start_says_what_is_wrong(start: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Geometry.from_start(start)
