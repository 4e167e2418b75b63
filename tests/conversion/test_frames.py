"""Frames by reference: the same frames wherever they lie, and one clear error where they cannot be read."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsbluesky.conversion.frames import MISSING, ConversionError, StoredFrames
from nsbluesky.cxi import CxiError

FRAMES = np.arange(2 * 6 * 4 * 5, dtype=np.uint16).reshape(2, 6, 4, 5)


@pytest.fixture
def stored(tmp_path: Path) -> StoredFrames:
    """Twelve frames in two files; the second is as areaDetector writes it."""
    for k, shape in enumerate([(6, 4, 5), (6, 1, 4, 5)]):
        with h5py.File(tmp_path / f"{k}.h5", "w") as file:
            file.create_dataset("entry/data", data=FRAMES[k].reshape(shape), chunks=(1, *shape[1:]))
    datasets = tuple((tmp_path / f"{k}.h5", "entry/data") for k in range(2))
    return StoredFrames(datasets, np.repeat([0, 1], 6), np.tile(np.arange(6), 2))


@given(index=st.lists(st.integers(0, 11), min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_frames_in_any_order(stored: StoredFrames, index: list[int]) -> None:
    some = stored[np.array(index)]
    np.testing.assert_array_equal(some.read(), FRAMES.reshape(12, 4, 5)[index])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(some)).read(), some.read())


def test_missing_frames_are_known(stored: StoredFrames) -> None:
    some = StoredFrames(stored.datasets, stored.of[:3], np.array([2, MISSING, 0]))
    assert some.recorded.tolist() == [True, False, True]
    np.testing.assert_array_equal(some[some.recorded].read(), FRAMES[0][[2, 0]])
    with pytest.raises(ConversionError, match="at least one"):
        some[:0].read()


def test_big_endian_words_are_words(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = FRAMES[0].astype(">u2")
    frames = StoredFrames.in_one(tmp_path / "a.h5", "data", [1]).read()
    assert frames.dtype == np.uint16
    np.testing.assert_array_equal(frames[0], FRAMES[0, 1])


def test_frames_of_a_virtual_dataset_come_from_its_sources(stored: StoredFrames, tmp_path: Path) -> None:
    """HDF5 gives zeros where one is missing."""
    layout = h5py.VirtualLayout((12, 4, 5), np.uint16)
    layout[:6] = h5py.VirtualSource("0.h5", "entry/data", shape=(6, 4, 5))
    layout[6:] = h5py.VirtualSource("1.h5", "entry/data", shape=(6, 1, 4, 5))
    with h5py.File(tmp_path / "master.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    frames = StoredFrames.in_one(tmp_path / "master.h5", "data", [7, 2])
    np.testing.assert_array_equal(frames.read(), [FRAMES[1, 1], FRAMES[0, 2]])
    (tmp_path / "1.h5").unlink()
    with pytest.raises(ConversionError, match=r"1.h5 is not there \(yet\)"):
        frames.read()
    np.testing.assert_array_equal(frames[1:].read(), [FRAMES[0, 2]])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((3, 4, 5), np.float32), r"data is float32: expected raw words, uint16"),
        (np.ones((3, 4, 5), np.int16), r"data is int16: expected raw words"),
        (np.ones((3, 4), np.uint16), r"shape \(3, 4\): expected raw frames \(n, rows, columns\)"),
        (np.ones((3, 2, 4, 5), np.uint16), r"shape \(3, 2, 4, 5\)"),
        (np.ones((2, 4, 5), np.uint16), r"frame 2: cannot be read \(there are 2\)"),
    ],
)
def test_what_is_no_raw_frame_is_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = values
    with pytest.raises(ConversionError, match=message):
        StoredFrames.in_one(tmp_path / "a.h5", "data", [2]).read()


def test_frames_of_two_shapes_are_refused(stored: StoredFrames, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "1.h5", "w") as file:
        file["entry/data"] = np.ones((6, 4, 6), np.uint16)
    with pytest.raises(ConversionError, match=r"frames of \(4, 6\) beside frames of \(4, 5\)"):
        stored.read()


def test_files_that_are_not_there_or_not_whole(stored: StoredFrames, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="nothing cannot be read"):
        StoredFrames.in_one(tmp_path / "0.h5", "nothing", [0]).read()
    path = tmp_path / "1.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[:-150])
    with pytest.raises((ConversionError, CxiError), match=r"1\.h5.*copy"):
        stored.read()
    path.unlink()
    with pytest.raises(CxiError, match="no such file"):
        stored.read()
