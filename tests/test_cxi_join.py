"""Frames that were taken again come beside those of the scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from nsbluesky.cxi import CxiError, CxiFile, read_cxi, validate, write_raw_cxi
from nsbluesky.cxi.join import join_scans
from nsbluesky.cxi.layout import SOURCE

EXPERIMENT = {"energy_eV": 930.0, "detector_distance_m": 0.1, "pixel_size_m": 240e-6}
PX = 8


def write(path: Path, count: int, level: float, mask: Any = None, **other: float) -> Path:
    with CxiFile.create(path, **(EXPERIMENT | other), frame_shape=(PX, PX), mask=mask) as cxi:
        weights = np.ones(count, np.float32)
        weights[0] = 0
        frames = np.full((count, PX, PX), level, np.float32)
        cxi.append(frames, np.full((count, 2), level * 1e-6), np.arange(3, 3 + count), weights=weights)
    return path


def test_frames_of_all_files_are_there(tmp_path: Path) -> None:
    masks = np.zeros((2, PX, PX), np.uint32)
    masks[0, 1], masks[1, 2], masks[1, 3] = 0x80, 0x200, 0x1000  # the last code counts as good
    first, other = write(tmp_path / "a.cxi", 70, 1.0, masks[0]), write(tmp_path / "b.cxi", 3, 2.0, masks[1])
    assert join_scans(tmp_path / "all.cxi", first, [other, other]) == 76
    assert validate(tmp_path / "all.cxi") == []
    with read_cxi(tmp_path / "all.cxi") as data:
        assert data.frames is not None
        assert data.frames[:][:, 0, 0].tolist() == [1.0] * 70 + [2.0] * 6
        assert data.translation_m[:, 0] == pytest.approx([1e-6] * 70 + [2e-6] * 6)
        assert data.seq_nums.tolist() == list(range(3, 79))
        assert np.flatnonzero(data.frame_weights == 0).tolist() == [0, 70, 73]
        assert np.flatnonzero(~data.good.all(axis=1)).tolist() == [1, 2]


def test_what_is_known_of_the_light_and_the_beginning_comes_with_the_first_file(tmp_path: Path) -> None:
    began = "2026-11-25T14:03:00+01:00"
    first, other = tmp_path / "a.cxi", write(tmp_path / "b.cxi", 2, 2.0)
    probe, mean = np.full((PX, PX), 1 + 2j, np.complex64), np.full((PX, PX), 3.0, np.float32)
    with CxiFile.create(first, **EXPERIMENT, frame_shape=(PX, PX), start_time=began) as cxi:
        cxi.append(np.ones((2, PX, PX), np.float32), np.zeros((2, 2)))
        cxi.set_illumination(probe, intensities=mean)
    join_scans(tmp_path / "all.cxi", first, [other])
    with read_cxi(tmp_path / "all.cxi") as data:
        assert data.start_time == began
        np.testing.assert_array_equal(data.illumination, probe)
        np.testing.assert_array_equal(data.illumination_intensities, mean)


def test_light_of_another_shape_than_the_frames_is_left_out(tmp_path: Path) -> None:
    first, other = write(tmp_path / "a.cxi", 2, 1.0), write(tmp_path / "b.cxi", 2, 2.0)
    with h5py.File(first, "r+") as file:
        file[f"{SOURCE}/illumination"] = np.ones((2, PX, PX - 1), np.complex64)
        file[f"{SOURCE}/illumination_intensities"] = np.ones((PX, PX - 1), np.float32)
    join_scans(tmp_path / "all.cxi", first, [other])
    with read_cxi(tmp_path / "all.cxi") as data:
        assert data.illumination is None and data.illumination_intensities is None


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a.cxi", 2, 1.0)
    for name, value in (
        ("energy_eV", 931.5),
        ("detector_distance_m", 0.11),
        ("pixel_size_m", 120e-6),
        ("propagation", "near"),
    ):
        with pytest.raises(CxiError, match=r"b\.cxi: .* expected "):
            join_scans(tmp_path / "all.cxi", first, [write(tmp_path / "b.cxi", 2, 1.0, **{name: value})])
    raw = tmp_path / "raw.cxi"
    write_raw_cxi(
        raw, np.zeros((2, 20, 24), np.uint16), np.zeros((1, 20, 24), np.uint16), np.zeros((2, 2)), **EXPERIMENT
    )
    with pytest.raises(CxiError, match="raw frames only"):
        join_scans(tmp_path / "all.cxi", first, [raw])
    with pytest.raises(CxiError):
        join_scans(tmp_path / "all.cxi", first, [tmp_path / "missing.cxi"])
