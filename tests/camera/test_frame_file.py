"""Files of frames: as areaDetector lays them out, whole at any moment."""

import errno
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from small_camera import full_disk

from nsbluesky.camera.frame_file import ATTRIBUTES, DATASET, FrameFile, room_for_frame

SHAPE = (60, 50)
WHOLE_PAGES = (128, 48)


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


@pytest.fixture
def direct_writes(monkeypatch, tmp_path):
    """Whether each write of a frame was one to the disk itself."""
    fcntl, write, seen = pytest.importorskip("fcntl"), os.pwrite, []
    try:
        os.close(os.open(tmp_path / "probe", os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
    except (AttributeError, OSError):
        pytest.skip("no file system for direct writes")

    def noted(descriptor, content, offset):
        seen.append(bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT))
        return write(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", noted)
    return seen


def test_frames_past_the_cache_and_through_it(tmp_path, direct_writes):
    path = tmp_path / "frames.h5"
    file = FrameFile(path, WHOLE_PAGES, {"Number": "<i4"})
    room, expected = room_for_frame(WHOLE_PAGES), []
    for number in range(40):
        expected.append(np.random.default_rng(number).integers(0, 2**16, WHOLE_PAGES, dtype=np.uint16))
        room[:] = expected[-1]
        file.append(expected[-1] if number % 5 == 4 else room, direct=number % 3 > 0, Number=number)
        with h5py.File(path, "r", libver="latest", swmr=True) as reader:
            np.testing.assert_array_equal(reader[DATASET][number], expected[-1])
    file.close()
    in_room = np.array([number % 5 != 4 for number in range(40)])
    wanted = np.array([number % 3 > 0 for number in range(40)])
    np.testing.assert_array_equal(np.array(direct_writes)[in_room], wanted[in_room])
    with h5py.File(path) as written:
        np.testing.assert_array_equal(written[DATASET], expected)


def test_a_file_system_that_wants_other_places(tmp_path, direct_writes, monkeypatch):
    """It has direct writes, but refuses these: each frame is written all the same."""
    noted = os.pwrite

    def refuse(descriptor, content, offset):
        written = noted(descriptor, content, offset)
        if direct_writes[-1]:
            raise OSError(errno.EINVAL, "Invalid argument")
        return written

    monkeypatch.setattr(os, "pwrite", refuse)
    file, room = FrameFile(tmp_path / "frames.h5", WHOLE_PAGES), room_for_frame(WHOLE_PAGES)
    for number in range(3):
        room[:] = number
        file.append(room, direct=True)
    file.close()
    assert direct_writes == [True, False, False, False]
    with h5py.File(tmp_path / "frames.h5") as written:
        assert written[DATASET][:, 0, 0].tolist() == [0, 1, 2]
