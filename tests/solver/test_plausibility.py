"""Does a scan determine its image?  Measured numbers against those that are looked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nsbluesky.cxi import read_cxi, siemens_star_to_cxi
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.canvas import window_corners_px
from nsbluesky.solver.intake import good_pixels
from nsbluesky.solver.plausibility import FEW_FRAMES, complaint_about_overlap, measured_per_unknown

MEASURED = Path(__file__).parents[1] / "data"
SIDE = 64
ALL_GOOD = np.ones((SIDE, SIDE), bool)
ONE_MODE = SolverSettings(modes=1)


def raster(lines: int, step_px: int) -> np.ndarray:
    line = step_px * np.arange(lines)
    return np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)


def told(
    corners: np.ndarray, good: np.ndarray = ALL_GOOD, settings: SolverSettings = ONE_MODE, is_near: bool = False
) -> str | None:
    return complaint_about_overlap(corners, good, settings, is_near=is_near)


def test_windows_beside_one_another() -> None:
    """100 frames know half as many numbers as the object has, and there is the probe."""
    factor = measured_per_unknown(raster(10, SIDE), ALL_GOOD, ONE_MODE)
    assert factor == pytest.approx(100 / (2 * 100 + 2))


def test_windows_in_several_places_count_once() -> None:
    """So does what lies between two scans: nothing."""
    once = raster(10, 16)
    far = np.concatenate([once, once + 4096])
    area = ((9 * 16 + SIDE) / SIDE) ** 2
    assert measured_per_unknown(once, ALL_GOOD, ONE_MODE) == pytest.approx(100 / (2 * area + 2))
    assert measured_per_unknown(far, ALL_GOOD, ONE_MODE) == pytest.approx(200 / (4 * area + 2))
    assert measured_per_unknown(np.repeat(once, 3, axis=0), ALL_GOOD, ONE_MODE) == pytest.approx(300 / (2 * area + 2))


def test_what_else_is_not_known_counts_and_bad_pixels_do_not() -> None:
    corners = raster(10, SIDE)
    good = ALL_GOOD.copy()
    good[:, ::2] = False
    assert measured_per_unknown(corners, good, ONE_MODE) == pytest.approx(50 / 202)
    states, fields = SolverSettings(modes=3, object_modes=2), SolverSettings(modes=3, probe_variation=2)
    assert measured_per_unknown(corners, ALL_GOOD, states) == pytest.approx(100 / (2 * 200 + 2 * 3))
    assert measured_per_unknown(corners, ALL_GOOD, fields) == pytest.approx(100 / (2 * 100 + 2 * 5))


def test_steps_that_are_too_wide() -> None:
    assert told(raster(20, SIDE // 4)) is None
    complaint = told(raster(20, SIDE // 2 + 16))
    assert complaint is not None
    assert (
        "400 frames measure" in complaint and "take smaller steps" in complaint and "--source-distance-m" in complaint
    )
    complaint = told(raster(20, SIDE // 2 + 16), is_near=True)
    assert complaint is not None and "--source-distance-m" not in complaint


def test_few_frames_say_nothing() -> None:
    many = raster(10, SIDE)[:FEW_FRAMES]
    assert told(many) is not None
    assert told(many[1:]) is None and told(many[:0]) is None


def test_a_measured_scan_that_gives_a_picture_has_many_times_as_many(tmp_path: Path) -> None:
    siemens_star_to_cxi(MEASURED / "siemens_star" / "siemens-star-small.npz.bz2", tmp_path / "star.cxi")
    with read_cxi(tmp_path / "star.cxi") as data:
        side, geometry = data.clean_frames.shape[-1], data.geometry()
        places_px = data.translation_m[:, 1::-1] / geometry.object_pixel_m(side)
        good = np.ones((side, side), bool) if data.mask is None else good_pixels(data.mask)
        corners = window_corners_px(places_px, side)
    settings = SolverSettings(modes=2)
    assert measured_per_unknown(corners, good, settings) > 16
    assert told(corners, good, settings) is None
