"""CXIWriter: a derived run in, a CXI file out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from nsbluesky.callbacks.cxi_writer import CXIWriter
from nsbluesky.callbacks.derived_run import DerivedRun, Document
from nsbluesky.cxi import CxiError, read_cxi, validate
from nsbluesky.geometry import Geometry
from nsbluesky.settings import PipelineSettings

SIDE = 8
PTYCHO = {"energy_eV": 930.0, "detector_distance_m": 0.1, "pixel_size_m": 30e-6}


class Source:
    """Composes a derived run and gives it to callbacks."""

    def __init__(self, *callbacks: Any, raw_uid: str = "0123456789", ptycho: Any = PTYCHO) -> None:
        start = {"uid": raw_uid, **({"ptycho": ptycho} if ptycho else {})}
        self.run = DerivedRun(start, PipelineSettings())
        self.callbacks = callbacks
        self.send([("start", self.run.start_document)])

    def send(self, documents: list[Document]) -> None:
        for name, document in documents:
            for callback in self.callbacks:
                callback(name, document)

    def detector(self, mask: Any = None) -> None:
        mask = np.zeros((SIDE, SIDE), np.uint32) if mask is None else mask
        self.send(self.run.event("detector", center_row_px=1.0, center_column_px=2.0, mask=mask, pixel_size_m=240e-6))

    def clean(self, seq_nums: list[int], values: list[float], flags: int = 0) -> None:
        """Send frames that are all of one value, at x = value, y = -value."""
        x_m = np.array(values, dtype=np.float64)
        frames = np.broadcast_to(x_m[:, None, None], (len(values), SIDE, SIDE)).astype(np.float32)
        page = self.run.page(
            "clean",
            seq_nums,
            [1.0] * len(values),
            frame=frames,
            x_m=x_m,
            y_m=-x_m,
            photons=frames.sum(axis=(1, 2)),
            weight=np.full(len(values), 0.0 if flags else 1.0, np.float32),
            flags=np.full(len(values), flags, np.uint16),
        )
        self.send(page)

    def picture(
        self, value: float, shape: tuple[int, int] = (4, 6), final: bool = False, coarse: bool = False
    ) -> None:
        told = self._told(value, shape, final=final, coarse=coarse)
        self.send(self.run.event("reconstruction", **told, newest_age_s=0.1))

    def second_engine(self, engine: str, value: float, **more: bool) -> None:
        self.send(self.run.event("second_engine", engine=engine, **self._told(value, (4, 6), **more)))

    @staticmethod
    def _told(value: float, shape: tuple[int, int], **more: bool) -> dict[str, Any]:
        height, width = shape
        return {
            "object": np.full(shape, value, np.complex64),
            "probe": np.full((2, SIDE, SIDE), value, np.complex64),
            "pixel_size_m": 1e-8,
            "extent_m": np.array([0, width * 1e-8, 0, height * 1e-8]),
            "r_factor": 1 / value,
            "num_frames": 3,
            "num_passes": 1.0,
            "coverage": 0.5,
            **more,
        }


def test_frames_and_pictures_of_a_run(tmp_path: Path) -> None:
    writer = CXIWriter(tmp_path / "new")
    source = Source(writer)
    mask = np.zeros((SIDE, SIDE), np.uint32)
    mask[1, 2] = 4
    source.detector(mask)
    assert writer.path is None and writer.closed
    source.clean([1, 2], [10, 20])
    assert not writer.closed
    with read_cxi(writer.path) as data:  # at any moment
        assert len(data.frames) == 2
    source.clean([4, 2, 5], [40, 21, 50], flags=4)
    picture = np.ones((SIDE, SIDE), np.float32)
    source.send(source.run.event("low_resolution", transmission=picture, illumination=7 * picture, num_frames=2))
    source.picture(20.0, coarse=True)  # whose R is that of the detector's centre
    source.picture(2.0)
    source.picture(4.0)
    source.send([source.run.stop()])
    assert writer.closed and writer.path.name == "01234567_clean.cxi"
    assert validate(writer.path) == []
    with read_cxi(writer.path) as data:
        assert data.seq_nums.tolist() == [1, 2, 4, 5]
        assert data.frames[:][:, 0, 0].tolist() == [10, 21, 40, 50]
        assert data.frame_flags.tolist() == [0, 4, 4, 4] and data.frame_weights.tolist() == [1, 0, 0, 0]
        np.testing.assert_array_equal(data.translation_m[:, 0], [10, 21, 40, 50])
        np.testing.assert_array_equal(data.translation_m[:, 1], [-10, -21, -40, -50])
        np.testing.assert_array_equal(data.mask, mask)
        assert data.geometry().energy_eV == pytest.approx(930.0) and data.pixel_size_m == (240e-6, 240e-6)
        assert (data.illumination_intensities == 7).all() and (data.illumination == 4).all()
        (image,) = data.images
    assert (image.object == 4).all() and image.object.shape == (4, 6)
    assert image.center_m == pytest.approx((3e-8, 2e-8)) and image.pixel_m == pytest.approx(1e-8)
    assert image.errors.tolist() == [0.5, 0.25]
    assert image.parameters["settings"] == PipelineSettings().to_dict() and image.parameters["coverage"] == 0.5


def test_pictures_are_written_at_most_every_interval_and_the_final_one_at_once(tmp_path: Path) -> None:
    writer = CXIWriter(tmp_path, interval_s=1e9)
    source = Source(writer)
    source.detector()
    source.clean([1], [10])

    def newest() -> float:
        with read_cxi(writer.path) as data:
            return float(data.images[0].object[0, 0].real)

    source.picture(1.0)
    source.picture(2.0)
    assert newest() == 1
    source.picture(3.0, final=True)
    assert newest() == 3
    source.picture(4.0)
    source.send([source.run.stop()])
    assert newest() == 4


def test_the_picture_of_a_second_engine_is_beside_the_image(tmp_path: Path) -> None:
    writer = CXIWriter(tmp_path, interval_s=1e6)
    source = Source(writer)
    source.detector()
    source.clean([1, 2], [1.0, 2.0])
    source.picture(2.0, final=True)
    for engine, value, coarse, final in (
        ("epie", 9.0, False, False),
        ("rpie", 8.0, True, False),
        ("rpie", 5.0, False, False),
        ("rpie", 4.0, False, True),
    ):
        source.second_engine(engine, value, coarse=coarse, final=final)
    with read_cxi(writer.path) as data:  # type: ignore[arg-type]
        assert data.second_image is not None, "also where nobody lives to close the file"
    source.send([source.run.stop()])
    assert validate(writer.path) == []  # type: ignore[arg-type]
    with read_cxi(writer.path) as data:  # type: ignore[arg-type]
        (image,), second = data.images, data.second_image
        assert second is not None and second.complete and second.second_engine == "rpie"
        assert image.second_engine == "" and (image.object == 2).all() and (second.object == 4).all()
        assert second.errors.tolist() == [1 / 5, 1 / 4], "of this engine, on whole frames"
        assert second.parameters["num_frames"] == 3 and second.pixel_m == pytest.approx(1e-8)
        assert second.probe is not None and (second.probe == 4).all()
        assert data.illumination is not None and (data.illumination == 2).all(), "the probe is that of the image"


def test_without_a_second_engine_there_is_no_picture_of_it(tmp_path: Path) -> None:
    writer = CXIWriter(tmp_path)
    source = Source(writer)
    source.detector()
    source.clean([1], [1.0])
    source.picture(2.0, final=True)
    source.send([source.run.stop()])
    with h5py.File(writer.path) as file:
        assert "image_1" in file["entry_1"] and "image_2" not in file["entry_1"]


def test_frames_without_a_position_are_left_out(tmp_path: Path) -> None:
    writer = CXIWriter(tmp_path)
    source = Source(writer)
    source.detector()
    source.clean([1, 2], [10, np.nan])
    source.send([source.run.stop()])
    with read_cxi(writer.path) as data:
        assert data.seq_nums.tolist() == [1]


def test_a_replayed_run_never_overwrites(tmp_path: Path) -> None:
    writer = CXIWriter(tmp_path, "{raw_uid}.cxi")
    for value in (10, 20, 30):
        source = Source(writer)
        source.detector()
        source.clean([1], [value])
        source.send([source.run.stop()])
    assert [path.name for path in writer.paths.values()] == ["0123456789.cxi", "0123456789_2.cxi", "0123456789_3.cxi"]
    with read_cxi(tmp_path / "0123456789.cxi") as data:
        assert data.frames[0][0, 0] == 10


def test_what_a_killed_process_left_as_it_closed_the_file_is_removed(tmp_path: Path) -> None:
    """The next process gives its file another name, and would never meet it again."""
    for name in ("0123456789.cxi", ".0123456789.cxi.part", ".0123456789_2.cxi.part", ".another.cxi.part"):
        (tmp_path / name).touch()
    writer = CXIWriter(tmp_path, "{raw_uid}.cxi")
    source = Source(writer)
    source.detector()
    source.clean([1], [1.0])
    source.send([source.run.stop()])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".another.cxi.part",
        "0123456789.cxi",
        "0123456789_2.cxi",
    ]


def test_overlapping_runs_do_not_mix_and_raw_runs_are_left_alone(tmp_path: Path) -> None:
    writer = CXIWriter(tmp_path)
    writer("start", {"uid": "raw", "time": 1.0})
    one, other = Source(writer, raw_uid="one"), Source(writer, raw_uid="other")
    for source in (one, other):
        source.detector()
    one.clean([1], [1])
    other.clean([1, 2], [2, 2])
    one.send([one.run.stop()])
    assert not writer.closed
    writer.close()
    assert writer.closed
    counts = {}
    for path in writer.paths.values():
        with read_cxi(path) as data:
            counts[path.name] = len(data.frames)
    assert counts == {"one_clean.cxi": 1, "other_clean.cxi": 2}


def test_geometry_from_the_start_document_or_given(tmp_path: Path) -> None:
    writer = CXIWriter(tmp_path, geometry=Geometry(500.0, 0.2))
    source = Source(writer, ptycho=None)
    source.detector()
    source.clean([1], [1])
    source.send([source.run.stop()])
    with read_cxi(writer.path) as data:
        assert data.energy_eV == pytest.approx(500.0)


def test_frames_before_the_detector_are_an_error(tmp_path: Path) -> None:
    source = Source(CXIWriter(tmp_path))
    with pytest.raises(CxiError, match="before the detector"):
        source.clean([1], [1])
