"""What a window shows of a CXI file, without the window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nsbluesky.conversion.frames import ConversionError
from nsbluesky.cxi import CxiError, CxiFile, read_cxi
from nsbluesky.cxi.read import CxiData
from nsbluesky.viewer.file_state import fit_of_frame
from nsbluesky.viewer.shown_file import ShownFile

FRAME_PX, COUNT, PIXEL_M = 12, 5, 25e-9
EXPERIMENT = {"energy_eV": 930.0, "detector_distance_m": 0.1, "pixel_size_m": 240e-6}


class Recorded:
    """Raw frames: the second was not recorded, the third cannot be read."""

    def frame(self, seq_num: int) -> np.ndarray | None:
        if seq_num == 3:
            raise ConversionError("raw.h5 is not there")
        return None if seq_num == 2 else np.full((8, 8), seq_num, np.uint16)

    def darks(self, count: int) -> np.ndarray:
        return np.zeros((3, 8, 8), np.uint16)


@pytest.fixture
def path(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A clean file with a picture that has the frames elsewhere than they were told to be."""
    path, probe = tmp_path / "clean.cxi", np.ones((1, FRAME_PX, FRAME_PX), np.complex64)
    object = (rng.random((30, 30)) + 0.5).astype(np.complex64)
    places_m = rng.uniform(-2e-7, 2e-7, (COUNT, 2))
    with CxiFile.create(path, **EXPERIMENT, frame_shape=(FRAME_PX, FRAME_PX)) as cxi:
        cxi.append(rng.poisson(9, (COUNT, FRAME_PX, FRAME_PX)).astype(np.float32), places_m)
        cxi.write_image(object, probe, PIXEL_M, errors=[0.3], translation_m=places_m + 50e-9)
    return path


def test_a_frame_in_its_stages(path: Path) -> None:
    file = ShownFile(path, Recorded())
    first, second, third = (file.frame(index, with_fit=False) for index in range(3))
    assert first.state.clean is not None and first.state.raw is not None
    np.testing.assert_array_equal(first.state.clean.image, file.frames[0])
    assert (first.state.raw.image == 1).all() and first.state.raw.seq_num == 1
    assert first.why_no_raw == first.why_no_fit == ""
    assert (second.state.raw, second.why_no_raw) == (None, "frame 2 was not recorded")
    assert (third.state.raw, third.why_no_raw) == (None, "raw.h5 is not there")
    assert file.state.dark is not None and file.state.dark.num_frames == 3
    assert file.where(1).startswith("frame 2 of 5 at x ")
    assert "930 eV" in file.about() and file.about().endswith("clean file")
    file.close()
    with pytest.raises(CxiError):
        file.frame(0, with_fit=False)


def test_the_fit_is_that_of_the_picture_that_is_shown_and_reads_no_picture_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading all of them for each frame is slow, and a file that grows has newer ones meanwhile."""
    file = ShownFile(path)
    assert file.state.reconstruction is not None
    monkeypatch.setattr(CxiData, "images", property(lambda _: pytest.fail("the pictures are read again")))
    fit = file.frame(2, with_fit=True).state.fit
    expected = fit_of_frame(file.data, file.state.reconstruction, 2, file.frames[2], file.images[-1].translation_m)
    elsewhere = fit_of_frame(file.data, file.state.reconstruction, 2, file.frames[2])
    assert fit is not None and expected is not None and elsewhere is not None
    assert fit.r_factor == expected.r_factor != elsewhere.r_factor
    file.close()


def test_a_file_without_a_picture_tells_so(tmp_path: Path) -> None:
    path = tmp_path / "no-picture.cxi"
    with CxiFile.create(path, **EXPERIMENT, frame_shape=(FRAME_PX, FRAME_PX)) as cxi:
        cxi.append(np.ones((1, FRAME_PX, FRAME_PX), np.float32), np.zeros((1, 2)))
    file = ShownFile(path)
    shown = file.frame(0, with_fit=True)
    assert (shown.state.fit, shown.why_no_fit) == (None, "no reconstruction in this file")
    assert shown.state.raw is shown.state.clean, "without raw frames beside it, its frames are all there is"
    file.close()


def test_a_file_that_cannot_be_shown_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def read_and_keep(path: Path) -> CxiData:
        opened.append(read_cxi(path))
        return opened[-1]

    monkeypatch.setattr("nsbluesky.viewer.shown_file.read_cxi", read_and_keep)
    monkeypatch.setattr(CxiData, "second_image", property(lambda _: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        ShownFile(path)
    with pytest.raises(CxiError):
        _ = opened[0].images
