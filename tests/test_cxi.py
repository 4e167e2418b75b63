"""CXI files: the layout, the sign rule, reading what others wrote, and being valid at any moment."""

from __future__ import annotations

import bz2
import io
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsbluesky import disk_space
from nsbluesky.cxi import CxiError, CxiFile, read_cxi, recover, siemens_star_to_cxi, validate, write_raw_cxi
from nsbluesky.cxi.export import export_cxi
from nsbluesky.cxi.layout import (
    DATA,
    DETECTOR,
    DETECTOR_PROCESS,
    FRAME_FLAGS,
    FRAME_WEIGHTS,
    IMAGE,
    SEQ_NUM,
    SOURCE,
    TRANSLATION,
    orientation_of,
)
from nsbluesky.cxi.light_in_corners import light_in_corners
from nsbluesky.geometry import ELECTRON_VOLT_J, Geometry, orientation_after, oriented

EXPERIMENT = {"energy_eV": 930.0, "detector_distance_m": 0.1, "pixel_size_m": 240e-6}
SHAPE = (12, 10)

WRITER = """
import sys
import numpy as np
from nsbluesky.cxi import CxiFile

cxi = CxiFile.create(sys.argv[1], energy_eV=930.0, detector_distance_m=0.1, pixel_size_m=240e-6, frame_shape=(12, 10))

def frame(value):
    return np.full((12, 10), value, np.float32)

for k in range(int(sys.argv[2])):
    cxi.append(frame(k + 1)[None], [[k + 1, 0.0]])
    if k % 5 == 4:
        cxi.replace(k - 2, frame(1000 + k), [1000 + k, 0.0])
    if k % 3 == 2:
        cxi.write_image(np.full((20 + k, 300 + k), k, complex), np.ones((2, 12, 10)), 1e-8, {"k": k}, np.arange(k))
    print(k + 1, flush=True)
print("closing", flush=True)
cxi.close()
print("closed", flush=True)
"""


@pytest.fixture
def create(tmp_path: Path) -> Iterator[Callable[..., CxiFile]]:
    """Make a CXI file of SHAPE frames; it is closed at the end."""
    files = []

    def make(name: str = "a.cxi", **changes: object) -> CxiFile:
        files.append(CxiFile.create(tmp_path / name, **{**EXPERIMENT, "frame_shape": SHAPE, **changes}))
        return files[-1]

    yield make
    for file in files:
        file.close()


@pytest.fixture
def written(create: Callable[..., CxiFile]) -> Path:
    """Return a finished file with everything in it."""
    rng = np.random.default_rng(1)
    cxi = create(start_time=0.0, parameters={"source": "raw.cxi"})
    marks = {"flags": [0, 1, 0, 18, 0], "weights": [1, 1, 1, 0, 0.5]}
    cxi.append(rng.random((5, *SHAPE)), rng.random((5, 2)), [1, 2, 4, 5, 7], **marks)
    cxi.set_illumination(np.ones(SHAPE), intensities=np.ones(SHAPE), probe_mask=np.ones(SHAPE))
    cxi.write_image(np.ones((20, 30)), np.ones((2, *SHAPE)), 1e-8, {"passes": 3}, [0.3, 0.2])
    cxi.close(end_time=60.0)
    return cxi.path


def assert_geometry(geometry: Geometry) -> None:
    assert geometry.energy_eV == pytest.approx(930.0)
    assert geometry == Geometry(geometry.energy_eV, 0.1, 240e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("energy_eV", np.nan),
        ("detector_distance_m", 0.0),
        ("pixel_size_m", (1e-5, -1e-5)),
        ("pixel_size_m", (0.0, 1e-5)),
    ],
)
def test_no_file_is_begun_without_a_geometry(
    create: Callable[..., CxiFile], tmp_path: Path, name: str, value: object
) -> None:
    with pytest.raises(CxiError, match=f"{name} = .*: expected a positive number"):
        create(**{name: value})
    assert not list(tmp_path.iterdir())


def test_the_other_states_of_an_object(written: Path, create: Callable[..., CxiFile], tmp_path: Path) -> None:
    with read_cxi(written) as data:
        assert data.images[-1].further is None
    cxi = create("states.cxi")
    cxi.append(np.ones((1, *SHAPE)), np.zeros((1, 2)))
    states = np.full((3, 9, 8), 2 + 1j)
    states[:, 0, 0] = np.nan
    cxi.write_image(states[0], np.ones(SHAPE), 1e-8, further=states[1:] / 2)
    cxi.close()
    with read_cxi(cxi.path) as data:
        export_cxi(tmp_path / "again.cxi", data)
    for path in (cxi.path, tmp_path / "again.cxi"):
        with read_cxi(path) as data:
            further = data.images[-1].further
        assert further is not None and further.shape == (2, 9, 8) and further.dtype == np.complex64
        assert (further[:, 0, 0] == 0).all() and (further[:, 1:] == 1 + 0.5j).all()


def writer(path: Path, frames: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, path, str(frames)], stdout=subprocess.PIPE, text=True)


def check_frames(path: Path) -> int:
    """Check that every frame fits its translation or is a newer one, and return how many there are."""
    with read_cxi(path) as data:
        frames = data.frames[:]
        fits = frames == data.translation_m[:, 0, None, None]
        replaced = np.isin(frames, 1000 + np.arange(4, 10_000, 5)) & (data.translation_m[:, 0, None, None] < 1000)
        assert (fits | replaced).all()
        return len(frames)


def test_what_is_written_is_read_and_keeps_the_rules(written: Path) -> None:
    rng = np.random.default_rng(1)
    assert validate(written) == []
    with read_cxi(written) as data:
        np.testing.assert_array_equal(data.frames[:], rng.random((5, *SHAPE)).astype(np.float32))
        np.testing.assert_array_equal(data.translation_m[:, :2], rng.random((5, 2)))
        assert data.translation_m.shape == (5, 3)
        assert data.seq_nums.tolist() == [1, 2, 4, 5, 7]
        assert data.frame_flags.tolist() == [0, 1, 0, 18, 0] and data.frame_flags.dtype == np.uint16
        assert data.frame_weights.tolist() == [1, 1, 1, 0, 0.5] and data.parameters == {"source": "raw.cxi"}
        assert data.energy_eV == pytest.approx(930.0)
        assert_geometry(data.geometry())
        assert data.illumination.dtype == np.complex64 and data.illumination_intensities.shape == SHAPE
        (image,) = data.images
    assert image.complete and image.parameters == {"passes": 3} and image.errors.tolist() == [0.3, 0.2]
    assert image.probe.shape == (2, *SHAPE) and image.pixel_m == pytest.approx(1e-8)
    with h5py.File(written) as file:
        assert file[f"{SOURCE}/energy"][()] == pytest.approx(930.0 * ELECTRON_VOLT_J)
        assert file["entry_1/start_time"].asstr()[()].startswith("1970-01-01T00:00:00")
        assert file["entry_1/end_time"].asstr()[()].startswith("1970-01-01T00:01:00")
        assert file["entry_1/data_1/data"] == file[DATA] and file["entry_1/image_latest"] == file[IMAGE]
        assert file[DATA].attrs["axes"] == "translation:y:x" and file[DATA].chunks == (1, *SHAPE)


def test_a_file_that_says_nothing_of_its_frames_has_frames_without_fault(written: Path) -> None:
    with h5py.File(written, "r+") as file:
        del file[FRAME_FLAGS], file[f"{DETECTOR}/process_1"]
        weights = file[FRAME_WEIGHTS][:4]  # one is missing
        del file[FRAME_WEIGHTS]
        file[FRAME_WEIGHTS] = weights
    with read_cxi(written) as data:
        assert data.frame_flags.tolist() == [0] * 5 and data.parameters == {}
        assert data.frame_weights.tolist() == [1, 1, 1, 0, 1]
    assert [problem for problem in validate(written) if "frame_weights" in problem]
    with h5py.File(written, "r+") as file:
        del file[FRAME_WEIGHTS]
        file[FRAME_WEIGHTS] = np.ones((5, 2))
    with pytest.raises(CxiError, match="a number for each of 5"):
        read_cxi(written)


@pytest.mark.parametrize("name", ["seq_nums", "flags", "weights"])
def test_marks_of_another_number_of_frames_are_refused(create: Callable[..., CxiFile], name: str) -> None:
    cxi = create()
    with pytest.raises(CxiError, match=f"{name} of shape"):
        cxi.append(np.ones((2, *SHAPE)), np.ones((2, 2)), **{name: [1, 1, 1]})
    assert cxi.num_frames == 0


def test_frames_can_be_asked_for_in_every_way(written: Path) -> None:
    with read_cxi(written) as data:
        frames = data.frames
        everything = frames[:]
        assert frames.shape == (5, *SHAPE) and len(frames) == 5
        np.testing.assert_array_equal(frames[3], everything[3])
        np.testing.assert_array_equal(frames[-1], everything[-1])
        np.testing.assert_array_equal(frames[1:4], everything[1:4])
        np.testing.assert_array_equal(frames[::2], everything[::2])
        np.testing.assert_array_equal(frames[np.array([4, 0])], everything[[4, 0]])
        assert frames[5:].shape == (0, *SHAPE)
        with pytest.raises(CxiError, match="frame 5 of 5: expected 0 to 4"):
            _ = frames[5]
        with pytest.raises(CxiError, match="frame 5 of 5"):
            frames[5]


def test_unmeasured_object_is_zero_and_masked(create: Callable[..., CxiFile]) -> None:
    cxi = create()
    cxi.append(np.ones((1, *SHAPE)), [[0.0, 0.0]])
    picture = np.ones((4, 6), dtype=complex)
    picture[0, 1] = np.nan
    cxi.write_image(picture, np.ones(SHAPE), 1e-8, center_m=(3e-8, 2e-8))
    cxi.close()
    with read_cxi(cxi.path) as data:
        image = data.images[0]
    assert image.object[0, 1] == 0 and image.mask[0, 1] != 0
    assert np.count_nonzero(image.mask) == 1 and np.count_nonzero(image.object) == 23


def test_a_smaller_picture_keeps_its_place_and_pixel(create: Callable[..., CxiFile]) -> None:
    cxi = create()
    cxi.write_image(np.ones((8, 8)), np.ones((3, *SHAPE)), 1e-8, errors=[3, 2, 1], center_m=(4e-8, 4e-8))
    cxi.write_image(2 * np.ones((4, 6)), np.ones((2, *SHAPE)), 1e-8, errors=[5], center_m=(3e-8, 2e-8))
    with read_cxi(cxi.path) as data:
        image = data.images[0]
    assert image.pixel_m == pytest.approx(1e-8) and image.errors.tolist() == [5]
    assert image.center_m == pytest.approx((4e-8, 4e-8))  # of the 8 by 8 pixels, whose first corner is the same
    assert (image.object[:4, :6] == 2).all() and (image.mask[:4, :6] == 0).all()
    assert np.count_nonzero(image.mask) == 64 - 24 and np.count_nonzero(image.object) == 24


def test_a_file_without_frames_or_picture_is_valid_and_says_so(create: Callable[..., CxiFile]) -> None:
    cxi = create()
    assert validate(cxi.path) == []
    cxi.close()
    cxi.close()
    assert cxi.closed and validate(cxi.path) == []
    with read_cxi(cxi.path) as data:
        assert len(data.frames) == 0 and data.images == [] and data.illumination is None
    with h5py.File(cxi.path) as file:
        assert IMAGE not in file and f"{SOURCE}/illumination" not in file


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.append(np.ones((2, 3, 3)), np.ones((2, 2))), r"expected \(n, 12, 10\)"),
        (lambda c: c.append(np.ones((2, *SHAPE)), np.ones((3, 2))), "translations"),
        (lambda c: c.append(np.ones((1, *SHAPE)), [[np.nan, 0]]), "not finite"),
        (lambda c: c.replace(0, np.ones(SHAPE), [0, 0]), "frame 0 cannot be replaced"),
        (lambda c: c.set_mask(np.ones((2, 2))), "mask"),
        (lambda c: c.write_image(np.ones((4, 4)), np.ones((1, 3, 3)), 1e-8), "probe"),
        (lambda c: c.write_image(np.ones((4, 4)), np.ones(SHAPE), 1e-8, {"a": "x" * 70000}), "leave arrays out"),
    ],
)
def test_what_does_not_fit_is_refused(
    create: Callable[..., CxiFile], call: Callable[[CxiFile], None], message: str
) -> None:
    cxi = create()
    with pytest.raises(CxiError, match=message):
        call(cxi)
    assert cxi.num_frames == 0


def test_impossible_geometry_leaves_no_file(create: Callable[..., CxiFile], tmp_path: Path) -> None:
    with pytest.raises(CxiError, match="energy_eV = 0"):
        create(energy_eV=0)
    assert list(tmp_path.iterdir()) == []


# ---- valid at any moment


@pytest.mark.parametrize("seed", range(4))
def test_killed_writer_leaves_every_frame_it_told_of(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "a.cxi"
    after = random.Random(seed).randrange(1, 60)
    with writer(path, 10_000) as process:
        told = 0
        while told < after:
            told = int(process.stdout.readline())
        process.kill()
    count = check_frames(path)
    # A frame that was being replaced at that moment is the only one that may be missing.
    assert count >= told - 1
    assert recover(path, tmp_path / "b.cxi") in ([], [f"{IMAGE}: the writer ended while it wrote this picture"])
    assert validate(tmp_path / "b.cxi") == []
    assert check_frames(tmp_path / "b.cxi") == count


@pytest.mark.parametrize("seed", range(2))
def test_killed_while_closing(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "a.cxi"
    with writer(path, 40) as process:
        while process.stdout.readline() != "closing\n":
            pass
        for _ in range(seed * 1000):  # some microseconds, to meet different moments
            pass
        process.kill()
    assert check_frames(path) == 40
    assert validate(path) == []


@pytest.mark.parametrize("trouble", ["full disk", "error of HDF5", "lost frame"])
def test_a_file_that_cannot_be_rewritten_stays_as_it_is(
    create: Callable[..., CxiFile], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    """On a full disk it is not even tried: HDF5 crashes at a write that fails, or raises a RuntimeError."""

    def rewrite(path: Path, part: Path) -> list[str]:
        assert trouble != "full disk"
        part.write_bytes(b"half a file")
        if trouble == "error of HDF5":
            raise RuntimeError("Can't decrement id ref count")
        return ["frame 2: it cannot be written"]

    cxi = create()
    cxi.append(np.ones((3, *SHAPE)), np.ones((3, 2)))
    monkeypatch.setattr("nsbluesky.cxi.write.rewrite", rewrite)
    if trouble == "full disk":
        monkeypatch.setattr(disk_space, "free_bytes", lambda folder: 0)
    cxi.close()
    assert "stays in its larger form" in caplog.text
    assert list(cxi.path.parent.iterdir()) == [cxi.path]
    with read_cxi(cxi.path) as data:
        assert len(data.frames) == 3


def test_another_process_reads_while_one_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.cxi"
    counts = set()
    with writer(path, 120) as process:
        process.stdout.readline()
        while process.poll() is None:
            counts.add(check_frames(path))
            with read_cxi(path) as data:
                assert all(image.object.ndim == 2 for image in data.images)
            assert process.stdout.readline()  # the writer goes on: the pipe is drained line by line
            if "closed" in (line := process.stdout.readline()) or not line:
                break
    assert check_frames(path) == 120
    assert len(counts) > 3


def test_a_frame_counts_when_its_translation_is_there(create: Callable[..., CxiFile]) -> None:
    cxi = create()
    cxi.append(np.ones((3, *SHAPE)), np.ones((3, 2)))
    cxi._file[TRANSLATION][1] = np.nan  # what `replace` does first
    cxi._file[DATA].resize(4, axis=0)  # what `append` does first
    cxi._file.flush()
    with read_cxi(cxi.path) as data:
        assert data.seq_nums.tolist() == [1, 3] and data.frames.shape[0] == 2


def test_a_frame_without_translation_yet_does_not_turn_those_of_the_others(create: Callable[..., CxiFile]) -> None:
    """Two translations (2, 3) beside three frames look like x, y of three frames."""
    cxi = create()
    cxi.append(np.ones((2, *SHAPE)), [[1.0, 5.0], [2.0, 6.0]])
    cxi._file[DATA].resize(3, axis=0)  # what `append` does first
    cxi._file.flush()
    with read_cxi(cxi.path) as data:
        assert data.translation_m.tolist() == [[1.0, 5.0, 0.0], [2.0, 6.0, 0.0]] and len(data.frames) == 2


def test_recover_does_not_begin_on_a_full_disk(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 would crash the process at a write that fails, and leave a part."""
    out = tmp_path / "out"
    out.mkdir()
    with monkeypatch.context() as full:
        full.setattr(disk_space, "free_bytes", lambda folder: disk_space.MARGIN_BYTES + written.stat().st_size - 1)
        with pytest.raises(disk_space.NoSpace, match="make space"):
            recover(written, out / "b.cxi")
        assert not list(out.iterdir())
    assert recover(written, out / "b.cxi") == []


def test_recover_never_overwrites(written: Path, tmp_path: Path) -> None:
    (tmp_path / "b.cxi").write_text("precious")
    with pytest.raises(CxiError, match="exists"):
        recover(written, tmp_path / "b.cxi")
    assert (tmp_path / "b.cxi").read_text() == "precious"


def test_a_copy_that_fails_leaves_what_was_there(written: Path, tmp_path: Path) -> None:
    with h5py.File(written, "a") as file:
        del file[f"{IMAGE}/process_1/final_illumination"]
        file[f"{IMAGE}/process_1/final_illumination"] = np.ones((1, 5, 5), np.complex64)
    (tmp_path / "b.cxi").write_text("precious")
    before = sorted(tmp_path.iterdir())
    with read_cxi(written) as data, pytest.raises(CxiError, match="with probe"):
        export_cxi(tmp_path / "b.cxi", data)
    assert (tmp_path / "b.cxi").read_text() == "precious"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["image_size", "image_center"])
def test_a_picture_of_no_known_size_is_told(written: Path, name: str) -> None:
    change(written, f"{IMAGE}/{name}", 1e-6)
    with read_cxi(written) as data, pytest.raises(CxiError, match="damaged"):
        _ = data.images


# ---- the sign rule


@pytest.mark.parametrize("orientation", range(8))
def test_basis_vectors_tell_the_orientation(orientation: int, rng: np.random.Generator) -> None:
    """A frame sampled along any basis is, once oriented, the frame sampled along the default one."""

    def sample(vectors: np.ndarray) -> np.ndarray:
        steps = np.arange(-2, 3)
        x, y, _ = steps[:, None] * vectors[0][:, None, None] + steps[None, :] * vectors[1][:, None, None]
        return 10 * x + y

    default = np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
    vectors = default[::-1].copy() if orientation & 4 else default.copy()
    vectors *= np.array([-1 if orientation & 1 else 1, -1 if orientation & 2 else 1])[
        :: -1 if orientation & 4 else 1, None
    ]
    assert orientation_of(vectors) == orientation
    geometry = Geometry(930.0, 0.1, 240e-6, orientation=orientation)
    np.testing.assert_array_equal(geometry.orient(sample(vectors)), sample(default))


@pytest.mark.parametrize("orientation", range(8))
def test_clean_frames_are_brought_to_the_default_basis(written: Path, tmp_path: Path, orientation: int) -> None:
    """What a detector that lies another way gave, with basis vectors that say so, is read as if it lay as usual."""
    vectors = np.array([[-240e-6, 0, 0], [0, -240e-6, 0]] if orientation & 4 else [[0, -240e-6, 0], [-240e-6, 0, 0]])
    for axis in np.flatnonzero([orientation & 1, orientation & 2]):
        vectors[:, 1 - axis] *= -1
    assert orientation_of(vectors) == orientation
    back = next(k for k in range(8) if orientation_after(k, orientation) == 0)
    of_frames = (DATA, f"{DETECTOR}/mask", f"{SOURCE}/illumination", f"{SOURCE}/illumination_intensities")
    with h5py.File(written, "a") as file:
        values = {
            name: np.random.default_rng(2).integers(0, 9, file[name].shape).astype(file[name].dtype)
            for name in of_frames
        }
        for name, value in values.items():
            del file[name]
            file[name] = oriented(value, back)
        file[f"{DETECTOR}/basis_vectors"][...] = vectors
    with read_cxi(written) as data:
        export_cxi(tmp_path / "again.cxi", data)
    for path in (written, tmp_path / "again.cxi"):
        with read_cxi(path) as data:
            assert data.frames is not None and data.frames.shape == (5, *SHAPE)
            for index in (slice(None), np.array([3, 1])):
                np.testing.assert_array_equal(data.frames[index], values[DATA][index])
            np.testing.assert_array_equal(data.frames[2], values[DATA][2])
            np.testing.assert_array_equal(data.mask, values[f"{DETECTOR}/mask"])
            np.testing.assert_array_equal(data.illumination, values[f"{SOURCE}/illumination"])
            np.testing.assert_array_equal(data.illumination_intensities, values[f"{SOURCE}/illumination_intensities"])


def test_rotated_basis_is_refused() -> None:
    with pytest.raises(CxiError, match="along x and y"):
        orientation_of(np.array([[0.5, -0.5, 0], [-0.5, -0.5, 0]]))


def test_object_seen_at_a_translation_lies_where_the_sign_rule_says(create: Callable[..., CxiFile]) -> None:
    """An object that is a prism at high columns only deflects the light, towards −y, at high x only."""
    n = 16
    geometry = Geometry(**EXPERIMENT)
    pixel_m = geometry.object_pixel_m(n)
    rows = np.arange(64)[:, None]
    sample = np.exp(2j * np.pi * 3 * rows / n) * np.ones(64)
    sample[:, :32] = 1
    windows = np.array([[10, 4], [20, 44]])
    probe = np.hanning(n)[:, None] * np.hanning(n)
    waves = [probe * sample[r : r + n, c : c + n] for r, c in windows]
    frames = np.abs(np.fft.fftshift(np.fft.fft2(waves), axes=(1, 2))) ** 2
    cxi = create(frame_shape=(n, n))
    cxi.append(frames, windows[:, ::-1] * pixel_m)
    cxi.close()
    with read_cxi(cxi.path) as data:
        np.testing.assert_allclose(data.geometry().positions_px(data.translation_m, n), windows, rtol=1e-6)
        assert data.translation_m[0, 0] < data.translation_m[1, 0]
        vectors = data._file[f"{DETECTOR}/basis_vectors"][()]
        deflections = []
        for frame in data.frames[:]:
            row, column = (np.average(axis, weights=frame) - n // 2 for axis in np.indices(frame.shape))
            deflections.append(row * vectors[0] + column * vectors[1])
    np.testing.assert_allclose(deflections[0], 0, atol=1e-9)
    assert deflections[1][1] == pytest.approx(-3 * 240e-6, rel=1e-3) and abs(deflections[1][0]) < 1e-9


# ---- files of others


def change(path: Path, name: str, value: object) -> None:
    """Replace a dataset; None removes it."""
    with h5py.File(path, "a") as file:
        if name in file or file.get(name, getlink=True) is not None:
            del file[name]
        if value is not None:
            file[name] = value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (f"{DETECTOR}/basis_vectors", np.array([[0, -1.0], [-1.0, 0], [0, 0]])),
        (f"{DETECTOR}/basis_vectors", "None"),
        (f"{DETECTOR}/basis_vectors", None),
        (f"{DETECTOR}/mask", None),
        (f"{DETECTOR}/mask", b"None"),
        (f"{SOURCE}/illumination", np.bytes_(b"None")),
        (f"{SOURCE}/energy", np.array([930.0 * ELECTRON_VOLT_J])),
        (f"{SOURCE}/energy", np.full(5, 930.0 * ELECTRON_VOLT_J)),
        (f"{SOURCE}/energy", None),
        (f"{DETECTOR}/distance", np.array([[0.1]])),
        ("entry_1/data_1/data", h5py.SoftLink("/nowhere")),
        ("entry_1/image_latest", h5py.SoftLink("/nowhere")),
        (f"{DETECTOR}/seq_num", None),
    ],
)
def test_habits_of_other_writers_are_read(written: Path, name: str, value: object) -> None:
    change(written, name, value)
    with read_cxi(written) as data:
        assert data.frames[:].shape == (5, *SHAPE)
        assert_geometry(data.geometry())
        assert data.mask.shape == SHAPE and data.good.all()
        assert data.illumination is None or data.illumination.shape == SHAPE


@pytest.mark.parametrize("kind", ["bool", "u1", "i4", "f4", "u8"])
@pytest.mark.parametrize("frames", [(), (1,), (5,)])
def test_masks_of_any_kind(written: Path, kind: str, frames: tuple[int, ...]) -> None:
    bad = np.zeros(SHAPE, bool)
    bad[2, 3] = True
    code = 1 << 40 if kind == "u8" else 1
    change(written, f"{DETECTOR}/mask", np.broadcast_to(bad, (*frames, *SHAPE)).astype(kind) * np.array(code, kind))
    with read_cxi(written) as data:
        np.testing.assert_array_equal(data.good, ~bad)


def test_frames_and_translations_that_lie_in_data_1_are_read_there(written: Path) -> None:
    with read_cxi(written) as data:
        frames, translation_m = data.frames[:], data.translation_m
    for name, values in (("data", frames), ("translation", translation_m)):
        change(written, f"entry_1/data_1/{name}", values)
        change(written, f"{DETECTOR}/{name}", None)
    change(written, TRANSLATION, None)
    with read_cxi(written) as data:
        np.testing.assert_array_equal(data.frames[:], frames)
        np.testing.assert_array_equal(data.translation_m, translation_m)
    assert any("data_1 only links" in problem for problem in validate(written))


def test_numbers_that_are_too_few_count_for_nothing(written: Path) -> None:
    """Frames are counted then; one without a translation takes number, flags and weight away with it."""
    change(written, SEQ_NUM, np.arange(4) + 7)
    with h5py.File(written, "a") as file:
        file[TRANSLATION][1] = np.nan
    with read_cxi(written) as data:
        assert data.seq_nums.tolist() == [1, 3, 4, 5] and data.frame_flags.tolist() == [0, 0, 18, 0]
        assert data.frame_weights.tolist() == [1, 1, 0, 0.5]


@pytest.mark.parametrize(
    ("text", "parameters"), [("by hand", {"text": "by hand"}), ("[1, 2]", {"value": [1, 2]}), ("", {})]
)
def test_parameters_that_others_wrote_are_kept(written: Path, text: str, parameters: dict[str, object]) -> None:
    change(written, f"{DETECTOR_PROCESS}/parameters", text)
    with read_cxi(written) as data:
        assert data.parameters == parameters


def test_a_picture_of_which_nothing_more_is_said(written: Path) -> None:
    for name in ("image_size", "image_center", "process_1", "mask"):
        change(written, f"{IMAGE}/{name}", None)
    change(written, f"{IMAGE}/process_1/final_illumination", np.ones(SHAPE))
    change(written, f"{IMAGE}/process_1/errors", [0.5, np.nan])
    with read_cxi(written) as data:
        (image,) = data.images
        geometry = data.geometry()
    assert image.complete and image.parameters == {} and image.errors.tolist() == [0.5]
    assert image.pixel_m == geometry.object_pixel_m(SHAPE[1]), "as the frames give it"
    assert image.center_m == (0, 0) and image.probe.shape == (1, *SHAPE)
    assert image.mask.shape == image.object.shape and not image.mask.any()


def test_pixels_that_are_not_square(written: Path) -> None:
    change(written, f"{DETECTOR}/x_pixel_size", 120e-6)
    with read_cxi(written) as data, pytest.raises(CxiError, match="expected square ones"):
        assert data.pixel_size_m == (240e-6, 120e-6)
        data.geometry()
    change(written, f"{DETECTOR}/basis_vectors", np.array([[-1.0, 0, 0], [0, -1.0, 0]]))
    with read_cxi(written) as data:
        assert data.pixel_size_m == (120e-6, 240e-6), "of the frames as they are read: swapped"


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("axes", [2, 3])
def test_translations_of_either_order(create: Callable[..., CxiFile], count: int, axes: int) -> None:
    cxi = create()
    translation = np.arange(count * 3.0).reshape(count, 3)
    cxi.append(np.ones((count, *SHAPE)), translation)
    cxi.close()
    if (count, axes) != (3, 3):  # three by three can only be read as the format says
        change(cxi.path, TRANSLATION, translation[:, :axes].T)
    with read_cxi(cxi.path) as data:
        np.testing.assert_array_equal(data.translation_m[:, :axes], translation[:, :axes])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (DATA, None, "data is missing"),
        (DATA, np.ones((5, 12)), r"expected numbers \(N, rows, columns\)"),
        (TRANSLATION, None, "translation is missing"),
        (TRANSLATION, "None", "translation is missing"),
        (TRANSLATION, np.ones((5, 7)), r"expected \(N, 3\)"),
        (f"{SOURCE}/energy", 930.0, "expected joules"),
        (f"{SOURCE}/energy", b"930", "expected numbers"),
        (DATA, h5py.SoftLink("/entry_9/data"), "data is a link to /entry_9/data, which is not there"),
        (DATA, h5py.ExternalLink("no.h5", "/data"), "data is a link to /data of no.h5, which is not there"),
        (DETECTOR, h5py.ExternalLink("no.h5", "/d"), "detector_1 is a link to /d of no.h5, which is not there"),
        (TRANSLATION, h5py.SoftLink("/nowhere"), "translation is a link to /nowhere, which is not there"),
        (f"{SOURCE}/energy", 930.0 + 1j, "expected one number"),
        (f"{DETECTOR}/distance", None, "distance is missing"),
        (f"{DETECTOR}/distance", -1.0, "positive number|one number"),
        (f"{DETECTOR}/x_pixel_size", np.arange(1.0, 5.0), "positive number|one number"),
        (f"{DETECTOR}/basis_vectors", np.ones(5), r"expected \(2, 3\)"),
        (f"{DETECTOR}/mask", np.ones((3, 3), int), "expected integers"),
        (f"{DETECTOR}/mask", np.full(SHAPE, 0.5), "expected integers"),
        (f"{DETECTOR}/mask", np.full(SHAPE, np.nan), "expected integers"),
        (f"{DETECTOR}/mask", np.arange(5)[:, None, None] * np.ones(SHAPE, int), "not the same for all frames"),
    ],
)
def test_what_cannot_be_read_has_one_clear_error(written: Path, name: str, value: object, message: str) -> None:
    change(written, name, value)
    with pytest.raises(CxiError, match=message):
        read_cxi(written)
    assert any(problem for problem in validate(written))


def test_an_hdf5_file_of_another_layout_is_told_by_what_is_in_it(written: Path) -> None:
    with h5py.File(written, "a") as file:
        file.move("entry_1", "entry")
    with pytest.raises(
        CxiError, match="entry_1 is missing, in the file is cxi_version, entry, number_of_entries: exp"
    ):
        read_cxi(written)


def test_a_wavelength_in_another_unit_is_told_by_its_name(written: Path) -> None:
    change(written, f"{SOURCE}/energy", None)
    change(written, f"{SOURCE}/wavelength", 1.55)
    with pytest.raises(CxiError, match=r"wavelength = 1.55: expected metres; if that is in ångström, write 1.55e-10"):
        read_cxi(written)


def test_basis_vectors_tell_the_pixel_where_nothing_else_does(written: Path) -> None:
    change(written, f"{DETECTOR}/x_pixel_size", None)
    with pytest.raises(CxiError, match="x_pixel_size is missing"):
        read_cxi(written)
    change(written, f"{DETECTOR}/y_pixel_size", None)
    change(written, f"{DETECTOR}/basis_vectors", np.array([[0, -2e-4, 0], [-1e-4, 0, 0]]))
    with read_cxi(written) as data:
        assert data.pixel_size_m == pytest.approx((2e-4, 1e-4))


def test_a_file_that_another_program_writes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "others.cxi"
    command = [sys.executable, "-c", f"import h5py; f = h5py.File({str(path)!r}, 'w'); print(1, flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(
            CxiError, match="is open for writing in another program: expected a file that is finished"
        ):
            read_cxi(path)
        other.communicate(b"\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_a_file_of_somebody_else_is_told(written: Path) -> None:
    written.chmod(0o600)
    written.parent.chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(CxiError, match="may not be read: expected a file that this user may read"):
            read_cxi(written)
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("skipped", [0, 1])
def test_frames_of_a_virtual_dataset_are_there_or_told_missing(written: Path, tmp_path: Path, skipped: int) -> None:
    """HDF5 gives zeros for those of a file that is missing, or shorter than was thought."""
    source = tmp_path / "frames.h5"
    with h5py.File(written, "r+") as file, h5py.File(source, "w") as frames:
        clean = file[DATA][:]
        frames["data"] = np.concatenate([clean[:skipped], clean])
        layout = h5py.VirtualLayout(clean.shape, clean.dtype)
        layout[:] = h5py.VirtualSource(frames["data"])[skipped:]
        del file[DATA]
        file.create_virtual_dataset(DATA, layout)
    with read_cxi(written) as data:
        assert data.frames is not None
        np.testing.assert_array_equal(data.frames[:], clean)
    with h5py.File(source, "w") as frames:
        frames["data"] = clean[: len(clean) - 1 + skipped]
    with pytest.raises(CxiError, match=r"frames.h5 holds no '/data', or less than is taken of it"):
        read_cxi(written)
    with h5py.File(source, "w") as frames:
        frames["data/data"] = clean
    with pytest.raises(CxiError, match=r"frames.h5 holds no '/data'"):
        read_cxi(written)
    source.unlink()
    with pytest.raises(CxiError, match=r"frames.h5: no such file"):
        read_cxi(written)


def write_blocks(written: Path, name: str, place: str, whole: bool) -> np.ndarray:
    """Move the frames into sources of two each, that a virtual dataset counts."""
    with h5py.File(written, "r+") as file:
        clean = file[DATA][:][[0, 1, 2, 3, 4, 4]]
        sides = clean.shape[1:]
        block = (2, *sides)
        for number in range(len(clean) // 2):
            of_block, inside = (text.replace("%b", str(number)).replace("%%", "%") for text in (name, place))
            with h5py.File(written.parent / of_block, "a") as frames:
                frames[inside] = clean[2 * number : 2 * number + 2]
        places = h5py.h5s.create_simple(block, (h5py.h5s.UNLIMITED, *sides))
        places.select_hyperslab((0, 0, 0), (h5py.h5s.UNLIMITED, 1, 1), block, block)
        taken = h5py.h5s.create_simple(block)
        if not whole:
            taken.select_hyperslab((0, 0, 0), (1, 1, 1), block, block)
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_virtual(places, name.encode(), place.encode(), taken)
        del file[DATA]
        h5py.h5d.create(file.id, DATA.encode(), h5py.h5t.py_create(clean.dtype), places, dcpl=how)
    return clean


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("name", "place"), [("f_%b.h5", "data"), ("of 100%%/%b-%b.h5", "x/%b"), ("all.h5", "part %b of %%")]
)
def test_each_source_that_a_virtual_dataset_counts_is_there_or_told_missing(
    written: Path, name: str, place: str, whole: bool
) -> None:
    """HDF5 takes the first that is missing for the end, and gives zeros where another part has more of them."""
    (written.parent / "of 100%").mkdir()
    clean = write_blocks(written, name, place, whole)
    with read_cxi(written) as data:
        assert data.frames is not None
        np.testing.assert_array_equal(data.frames[:], clean[:5])
    of_block, inside = (text.replace("%b", "1").replace("%%", "%") for text in (name, place))
    source = written.parent / of_block
    with h5py.File(source, "r+") as frames:
        del frames[inside]
        frames[inside] = clean[:1]
    with pytest.raises(CxiError, match=re.escape(f"{source} holds no '{inside}', or less than is taken of it")):
        read_cxi(written)
    with h5py.File(source, "r+") as frames:
        del frames[inside]
    with pytest.raises(CxiError, match=re.escape(f"{source} holds no '{inside}'")):
        read_cxi(written)
    source.unlink()
    with pytest.raises(CxiError, match=re.escape(f"{written.parent / name.replace('%b', '1')}".replace("%%", "%"))):
        read_cxi(written)


def test_no_source_that_a_virtual_dataset_counts_is_there(written: Path) -> None:
    for number in range(len(write_blocks(written, "f_%b.h5", "data", True)) // 2):
        (written.parent / f"f_{number}.h5").unlink()
    with pytest.raises(CxiError, match=r"f_0.h5: no such file"):
        read_cxi(written)


def test_a_detector_of_two_modules_lacks_the_last_frames_of_one(written: Path) -> None:
    """HDF5 takes the longer one for the end, and fills the other one up with zeros."""
    with h5py.File(written, "r+") as file:
        clean = file[DATA][:]
        num, rows, columns = clean.shape
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        space = h5py.h5s.create_simple((1, rows, columns), (h5py.h5s.UNLIMITED, rows, columns))
        half = (1, rows // 2, columns)
        for side, first in enumerate((0, rows // 2)):
            for number in range(num - side):
                with h5py.File(written.parent / f"{side}_{number}.h5", "w") as frames:
                    frames["data"] = clean[number : number + 1, first : first + rows // 2]
            places = space.copy()
            places.select_hyperslab((0, first, 0), (h5py.h5s.UNLIMITED, 1, 1), half, half)
            how.set_virtual(places, f"{side}_%b.h5".encode(), b"data", h5py.h5s.create_simple(half))
        del file[DATA]
        h5py.h5d.create(file.id, DATA.encode(), h5py.h5t.py_create(clean.dtype), space, dcpl=how)
        assert file[DATA].shape == clean.shape and not file[DATA][-1, rows // 2 :].any()
    with pytest.raises(CxiError, match=f"1_{num - 1}.h5: no such file"):
        read_cxi(written)
    with h5py.File(written.parent / f"1_{num - 1}.h5", "w") as frames:
        frames["data"] = clean[-1:, rows // 2 :]
    with read_cxi(written) as data:
        assert data.frames is not None
        np.testing.assert_array_equal(data.frames[:], clean)


@pytest.mark.parametrize("kind", ["all of it", "without end", "its own file"])
def test_sources_of_a_virtual_dataset_are_whole_datasets_of_any_shape_or_without_end(
    written: Path, tmp_path: Path, kind: str
) -> None:
    source = tmp_path / "frames.h5"
    with h5py.File(written, "r+") as file:
        clean = file[DATA][:]
        del file[DATA]
        with h5py.File(source, "w") as frames:
            frames.create_dataset("data", data=clean[:, None], maxshape=(None, 1, *clean.shape[1:]))
        if kind == "its own file":
            file["own"] = clean[:, None]
        name, place = (".", "own") if kind == "its own file" else (str(source), "data")
        endless = kind == "without end"
        layout = h5py.VirtualLayout(clean.shape, clean.dtype, maxshape=(None, *clean.shape[1:]) if endless else None)
        there = h5py.VirtualSource(
            name, place, (len(clean), 1, *clean.shape[1:]), maxshape=(None, 1, *clean.shape[1:])
        )
        layout[: h5py.h5s.UNLIMITED if endless else None] = there[: h5py.h5s.UNLIMITED] if endless else there
        file.create_virtual_dataset(DATA, layout)
    with read_cxi(written) as data:
        assert data.frames is not None
        np.testing.assert_array_equal(data.frames[:], clean)
    with h5py.File(written if name == "." else source, "r+") as frames:
        del frames[place]
        frames[place] = clean[:-1, None]
    if kind == "without end":
        read_cxi(written).close()
    else:
        with pytest.raises(CxiError, match=f"holds no '{place}', or less than is taken of it"):
            read_cxi(written)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("cxi_version", 100, "cxi_version"),
        ("number_of_entries", 2, "number_of_entries"),
        ("entry_1/start_time", "yesterday", "ISO-8601"),
        ("entry_1/instrument_1/name", None, "name is missing"),
        (f"{SOURCE}/wavelength", 1.0, "wavelength does not fit"),
        (f"{DETECTOR}/corner_position", np.zeros(3), "corner_position"),
        (f"{DETECTOR}/basis_vectors", np.array([[0, -1.0], [-1.0, 0], [0, 0]]), "basis_vectors"),
        (DATA, np.ones((5, *SHAPE)), "expected float32"),
        (DATA, np.ones((5, *SHAPE), np.float32), "axes"),
        (TRANSLATION, np.ones((3, 5)), r"expected (5, 3)"),
        (TRANSLATION, np.full((5, 3), np.nan), "have no translation"),
        ("entry_1/data_1/translation", None, "expected a link"),
        (f"{DETECTOR}/translation", None, "expected a link"),
        (f"{DETECTOR}/mask", np.zeros(SHAPE, int), "expected uint32"),
        ("entry_1/image_3/data", np.ones((2, 2)), "without gaps"),
        (f"{IMAGE}/data_space", None, "data_space is missing"),
        ("entry_1/image_latest", None, "image_latest"),
        (f"{IMAGE}/data", np.ones((2, 2)), "expected complex64"),
        (f"{IMAGE}/data", None, "data is missing"),
        ("entry_1/start_time", "", "ISO-8601"),
        ("entry_1/end_time", "later", "ISO-8601"),
        (FRAME_FLAGS, np.zeros(4, np.uint16), "frame_flags has shape"),
        (TRANSLATION, np.zeros((5, 3), np.float32), "expected float64"),
        (f"{DETECTOR}/corner_position", np.zeros(2), "corner_position"),
        (f"{DETECTOR}/mask", None, "expected uint32"),
    ],
)
def test_validate_tells_each_broken_rule(written: Path, name: str, value: object, problem: str) -> None:
    change(written, name, value)
    assert any(problem in found for found in validate(written)), validate(written)


def test_what_is_no_cxi_file(tmp_path: Path) -> None:
    with pytest.raises(CxiError, match="no such file"):
        read_cxi(tmp_path / "missing.cxi")
    (tmp_path / "text.cxi").write_text("hello")
    with pytest.raises(CxiError, match="is no HDF5 file: expected a CXI file"):
        read_cxi(tmp_path / "text.cxi")
    assert len(validate(tmp_path / "text.cxi")) == 1


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "a.cxi"
    with CxiFile.create(path, **EXPERIMENT, frame_shape=(4, 4)) as cxi:
        cxi.append(np.ones((3, 4, 4)), np.ones((3, 2)))
        cxi.write_image(np.ones((5, 5)), np.ones((1, 4, 4)), 1e-8, {"a": 1}, [1.0])
    return path.read_bytes()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_files_raise_nothing_but_cxi_error(
    sound: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.cxi"
    damaged = bytearray(sound)
    for _ in range(data.draw(st.integers(0, 12))):
        damaged[data.draw(st.integers(12, len(sound) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.one_of(st.just(len(sound)), st.integers(0, len(sound))))])
    try:
        with read_cxi(path) as cxi:
            assert cxi.frames is None or cxi.frames[:].ndim == 3
            assert isinstance(cxi.images, list)
            assert cxi.illumination is None or cxi.illumination.ndim == 2
    except CxiError as error:
        assert str(error)
    assert isinstance(validate(path), list)


# ---- raw files and the measured example


def test_raw_frames_come_back_with_their_darks(tmp_path: Path, rng: np.random.Generator) -> None:
    frames = rng.integers(0, 65536, (5, 8, 9), dtype=np.uint16)
    path = tmp_path / "raw.cxi"
    written = write_raw_cxi(
        path,
        (block for block in (frames[:2], frames[2], frames[3:])),
        frames[:2],
        np.ones((5, 2)),
        **EXPERIMENT,
        number_exposures=2,
        exposure_order="short, long",
    )
    assert written == 5 and validate(path) == []
    with read_cxi(path) as data:
        assert data.frames is None and data.number_exposures == 2 and data.exposure_order == "short, long"
        np.testing.assert_array_equal(data.raw_data[:], frames)
        np.testing.assert_array_equal(data.dark_data[:], frames[:2])
        assert data.translation_m.shape == (5, 3)
        with pytest.raises(CxiError, match="raw frames only"):
            _ = data.clean_frames
    with h5py.File(path, "a") as file:
        file[TRANSLATION][1] = np.nan
    with read_cxi(path) as data:
        np.testing.assert_array_equal(data.raw_data[:], frames[[0, 2, 3, 4]])
        np.testing.assert_array_equal(data.dark_data[:], frames[:2])


@pytest.mark.parametrize(
    ("frames", "positions", "message"),
    [
        ([], 0, "at least one frame"),
        ([np.ones((4, 4))], 1, "uint16"),
        ([np.ones((4, 4), "u2"), np.ones((4, 5), "u2")], 2, r"expected uint16 \(4, 4\)"),
        ([np.ones((4, 4), "u2")], 2, "translations"),
    ],
)
def test_raw_frames_that_do_not_fit_leave_no_file(
    tmp_path: Path, frames: list[np.ndarray], positions: int, message: str
) -> None:
    with pytest.raises(CxiError, match=message):
        write_raw_cxi(tmp_path / "raw.cxi", frames, [], np.ones((positions, 2)), **EXPERIMENT)
    assert list(tmp_path.glob("*raw*")) == []


def test_siemens_star_is_centred_and_in_metres(tmp_path: Path) -> None:
    frames = np.zeros((1, 3, 8, 8), dtype=np.float32)
    frames[:, :, 0, 0] = 7
    scan = np.array([[[1, 2], [3, 4], [5, 7]]], dtype=np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, data=frames, scan=scan, probe=np.ones(1))
    (tmp_path / "star.npz.bz2").write_bytes(bz2.compress(buffer.getvalue()))
    assert siemens_star_to_cxi(tmp_path / "star.npz.bz2", tmp_path / "star.cxi") == 3
    assert validate(tmp_path / "star.cxi") == []
    with read_cxi(tmp_path / "star.cxi") as data:
        assert data.frames[:][:, 4, 4].tolist() == [7, 7, 7]
        np.testing.assert_allclose(data.geometry().positions_px(data.translation_m, 8), scan[0], rtol=1e-5)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(CxiError, match="siemens-star-small"):
        siemens_star_to_cxi(tmp_path / "text", tmp_path / "b.cxi")


def test_corrected_translations_are_beside_the_told_ones(tmp_path):
    """They are those of the image, so they lie with it; a file without refinement has none."""
    path = tmp_path / "refined.cxi"
    corrected = np.array([[1e-6, 2e-6], [np.nan, np.nan]])
    with CxiFile.create(
        path, energy_eV=1000.0, detector_distance_m=0.1, pixel_size_m=1e-4, frame_shape=(8, 8)
    ) as cxi:
        cxi.append(np.ones((2, 8, 8)), [[1e-6, 1.9e-6], [3e-6, 4e-6]])
        cxi.write_image(np.ones((9, 9)), np.ones((8, 8)), 1e-8)
        with read_cxi(path) as data:
            assert data.images[-1].translation_m is None
        cxi.write_image(np.ones((9, 9)), np.ones((8, 8)), 1e-8, translation_m=corrected)
    with read_cxi(path) as data:
        assert np.array_equal(data.images[-1].translation_m, corrected, equal_nan=True)
        assert data.translation_m[0, 1] == 1.9e-6
    assert validate(path) == []


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (("chunks/0/data", "meta/energy"), r"PtyPy's frames \(.ptyd\)"),
        (("content/obj/S00/data", "content/probe/S00/data"), r"an image of PtyPy \(.ptyr\)"),
        (("object", "probe", "probe_position_x_m", "probe_position_y_m"), "an image of ptychodus"),
        (("dp",), "frames of PtychoShelves"),
    ],
)
def test_a_file_of_another_program_is_told_by_its_name(tmp_path: Path, names: tuple[str, ...], what: str) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        for name in names:
            file[name] = 1.0
    with pytest.raises(
        CxiError, match=rf"\({what}\): expected a CXI file; .* write them into one with nsbluesky.cxi"
    ):
        read_cxi(path)


def test_a_nexus_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "scan.nxs"
    with h5py.File(path, "w") as file:
        file.create_group("entry").attrs["NX_class"] = "NXentry"
    with pytest.raises(CxiError, match=r"in the file is entry \(a NeXus file\): expected a CXI file"):
        read_cxi(path)


def test_frames_of_a_grid_are_told_what_to_become(written: Path) -> None:
    change(written, f"{DETECTOR}/data", np.ones((2, 3, *SHAPE), np.float32))
    with pytest.raises(CxiError, match=r"\(N, rows, columns\), one frame for each translation; reshape them"):
        read_cxi(written)


@pytest.mark.parametrize("size", [31, 32])
def test_light_in_the_corners_tells_frames_that_were_never_shifted(size: int) -> None:
    y, x = np.indices((size, size)) - size // 2
    for light, least, most in [
        (np.exp(-(x**2 + y**2) / 20), 0.0, 0.01),
        (np.ones((size, size)), 0.2, 0.3),
        ((np.abs(np.hypot(y, x) - 0.46 * size) < 1.5).astype(float), 0.0, 0.4),
        (np.fft.ifftshift(np.exp(-(x**2 + y**2) / 20)), 0.95, 1.0),
    ]:
        frames = np.broadcast_to(light, (3, size, size))
        assert least <= light_in_corners(frames, np.ones((size, size), bool)) <= most


def test_pixels_that_are_bad_are_no_light_in_the_corners() -> None:
    frames = np.ones((2, 8, 8))
    frames[:, 0, 0] = 1e9
    frames[:, 7, 7] = np.nan
    good = np.ones((8, 8), bool)
    good[0, 0] = False
    assert light_in_corners(frames, good) < 0.3
