"""Files of frames: as areaDetector lays them out, whole at any moment."""

import subprocess
import sys

import h5py
import numpy as np
import pytest
from small_camera import full_disk

from nsbluesky.camera.frame_file import ATTRIBUTES, DATASET, FrameFile

SHAPE = (60, 50)


def frame_of(number):
    return np.random.default_rng(number).integers(0, 2**16, SHAPE, dtype=np.uint16)


def test_frames_and_what_stands_beside_them_come_back(tmp_path):
    file = FrameFile(tmp_path / "frames.h5", SHAPE, {"Number": "<i4", "Time": "<f8"})
    assert [file.append(frame_of(k), Number=10 + k, Time=k / 4) for k in range(3)] == [1, 2, 3]
    assert file.append(frame_of(3).astype(">u2")[:, ::1], Number=13, Time=0.75) == 4
    file.close()
    with h5py.File(tmp_path / "frames.h5") as written:
        np.testing.assert_array_equal(written[DATASET], [frame_of(k) for k in range(4)])
        assert written[DATASET].chunks == (1, *SHAPE)
        assert written[f"{ATTRIBUTES}/Number"][()].tolist() == [10, 11, 12, 13]
        assert written[f"{ATTRIBUTES}/Time"][()].tolist() == [0, 0.25, 0.5, 0.75]


def test_another_process_reads_while_it_grows(tmp_path):
    path = tmp_path / "frames.h5"
    file = FrameFile(path, SHAPE, {"Number": "<i4"})
    for k in range(2):
        file.append(frame_of(k), Number=k)
    code = f"""
import h5py
with h5py.File({str(path)!r}, "r", swmr=True) as file:
    print(file["{DATASET}"].shape[0], int(file["{DATASET}"][1].sum()), file["{ATTRIBUTES}/Number"][1])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    file.close()
    assert result.stdout.split() == ["2", str(frame_of(1).sum(dtype=int)), "1"]


def test_frames_of_another_shape_are_refused(tmp_path):
    file = FrameFile(tmp_path / "frames.h5", SHAPE)
    with pytest.raises(ValueError, match=r"frame of \(50, 60\) for a file of \(60, 50\)"):
        file.append(frame_of(0).T)
    assert file.append(frame_of(0)) == 1
    file.close()


def test_the_frames_before_a_full_disk_are_whole(tmp_path):
    path = tmp_path / "frames.h5"
    file = FrameFile(path, SHAPE, {"Number": "<i4"})
    with full_disk(50_000):
        with pytest.raises(OSError, match=r"File too large"):
            for k in range(20):
                file.append(frame_of(k), Number=k)
        with pytest.raises(RuntimeError):
            file.close()
    with h5py.File(path, "r", swmr=True) as written:
        assert 0 < file.count < 20
        np.testing.assert_array_equal(written[DATASET], [frame_of(k) for k in range(file.count)])
