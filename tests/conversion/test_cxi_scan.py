"""Raw scans in CXI files: which frame is which exposure of which point."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_scans import EXPERIMENT, NUM_POINTS, places, raw_frames, write_scan

from nsbluesky.conversion import ConversionError, scan_of_cxi
from nsbluesky.cxi import CxiFile, write_raw_cxi
from nsbluesky.cxi.layout import DETECTOR


def test_one_exposure(tmp_path: Path) -> None:
    scan = scan_of_cxi(write_scan(tmp_path / "raw.cxi"))
    assert (len(scan), scan.exposures_s, scan.left_out, scan.warnings) == (NUM_POINTS, (1.0,), {}, ())
    assert scan.seq_nums.tolist() == list(range(1, NUM_POINTS + 1))
    np.testing.assert_array_equal(scan.translation_m[:, :2], places(NUM_POINTS))
    np.testing.assert_array_equal(scan.frames[0].read(), raw_frames(NUM_POINTS))
    assert len(scan.darks[0]) == 6 and scan.start_time is not None


def test_exposures_are_told_apart_in_frames_and_darks(tmp_path: Path) -> None:
    scan = scan_of_cxi(write_scan(tmp_path / "raw.cxi", (0.1, 1.0)))
    assert len(scan) == NUM_POINTS and scan.exposures_s == (0.1, 1.0)
    for k, one in enumerate(scan.exposures_s):
        np.testing.assert_array_equal(scan.frames[k].read(), raw_frames(NUM_POINTS, one, k))
        assert scan.darks[k].rows.tolist() == list(range(k, 12, 2))


@given(st.lists(st.sampled_from(["whole", "lost", "doubled", "both lost"]), min_size=1, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_no_loss_mixes_the_exposures_of_other_points(tmp_path: Path, fates: list[str]) -> None:
    """Each frame says its point and its exposure: what is left pairs only such as belong together."""
    taken = []
    for point, fate in enumerate(fates):
        exposures = {"whole": [0, 1], "lost": [1], "doubled": [0, 0, 1], "both lost": []}[fate]
        taken += [(point, exposure) for exposure in exposures]
    if not taken:
        return
    frames = [np.full((4, 4), 2 * point + exposure, np.uint16) for point, exposure in taken]
    translation_m = places(len(fates))[[point for point, _ in taken]]
    path = tmp_path / "raw.cxi"
    write_raw_cxi(path, frames, [], translation_m, **EXPERIMENT, number_exposures=2, exposure_order="1,0.1")
    if "whole" not in fates:
        with pytest.raises(ConversionError, match="no point has 2 frames"):
            scan_of_cxi(path)
        return
    scan = scan_of_cxi(path)
    first, second = (stored.read()[:, 0, 0].tolist() for stored in scan.frames)
    whole = [point for point, fate in enumerate(fates) if fate == "whole"]
    assert first == [2 * point for point in whole] and second == [2 * point + 1 for point in whole]
    np.testing.assert_array_equal(scan.translation_m[:, :2], places(len(fates))[whole])
    assert len(scan.left_out) == sum(fate in ("lost", "doubled") for fate in fates)
    assert not set(scan.left_out) & set(scan.seq_nums.tolist())


def test_exposures_of_a_file_that_does_not_tell_them_are_given(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "raw.cxi", (0.1, 1.0))
    with h5py.File(path, "r+") as file:
        file[f"{DETECTOR}/exposure_order"][()] = "short, long"
    with pytest.raises(ConversionError, match=r"'short, long': expected the seconds of 2 .*--exposures-s"):
        scan_of_cxi(path)
    assert scan_of_cxi(path, [0.2, 2.0]).exposures_s == (0.2, 2.0)
    with pytest.raises(ConversionError, match="1 exposure times for 2 exposures"):
        scan_of_cxi(path, [0.2])


@pytest.mark.parametrize("order", ["-0.1,1.0", "0,1", "nan,1"])
def test_negative_exposures_are_refused(tmp_path: Path, order: str) -> None:
    path = write_scan(tmp_path / "raw.cxi", (0.1, 1.0))
    with h5py.File(path, "r+") as file:
        file[f"{DETECTOR}/exposure_order"][()] = order
    with pytest.raises(ConversionError, match="expected a positive number of seconds"):
        scan_of_cxi(path)


def test_darks_that_do_not_come_in_sets_are_told(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "raw.cxi", (0.1, 1.0))
    with h5py.File(path, "r+") as file:
        file[f"{DETECTOR}/dark_data"].resize(11, axis=0)
    scan = scan_of_cxi(path)
    assert [len(darks) for darks in scan.darks] == [5, 5]
    assert scan.warnings == ("11 dark frames for 2 exposures: the last 1 unused",)
    with h5py.File(path, "r+") as file:
        file[f"{DETECTOR}/dark_data"].resize(1, axis=0)
    assert scan_of_cxi(path).warnings == ("1 dark frame for 2 exposures: the last 1 unused",)


def test_a_clean_file_is_no_raw_scan(tmp_path: Path) -> None:
    with CxiFile.create(tmp_path / "clean.cxi", **EXPERIMENT, frame_shape=(4, 4)) as cxi:
        cxi.append(np.ones((2, 4, 4)), np.ones((2, 2)))
    with pytest.raises(ConversionError, match="no raw_data: expected a raw CXI file; is it clean already"):
        scan_of_cxi(tmp_path / "clean.cxi")
