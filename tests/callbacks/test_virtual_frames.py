"""Frames in other files than the one that documents name, as those of an Eiger: by links and in virtual datasets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from raw_runs import FRAMES, X_UM, Y_UM, Collector, RawRun, image_key, number_key, write_frames

from nsbluesky.callbacks import frame_source
from nsbluesky.callbacks.frame_readers import HDF5Frames
from nsbluesky.callbacks.frame_source import FrameSource
from nsbluesky.callbacks.hdf5_files import NotYetWritten
from nsbluesky.callbacks.stage import DocumentError
from nsbluesky.callbacks.virtual_frames import SeriesFrames
from nsbluesky.camera.frame_file import ATTRIBUTES, TIMESTAMP

DATA = "/entry/data/data"
SHAPE = FRAMES.shape[1:]
Sources = list[tuple[object, str, np.ndarray]]
"""Where in the virtual dataset, in which file, what."""

PLACES: dict[str, Sources] = {
    "one after the other": [
        (np.s_[:4], "a.h5", FRAMES[:4]),
        (np.s_[4:8], "b.h5", FRAMES[4:8]),
        (np.s_[8:], "c.h5", FRAMES[8:]),
    ],
    "in turn": [(np.s_[0::2], "a.h5", FRAMES[0::2]), (np.s_[1::2], "b.h5", FRAMES[1::2])],
    "in turn, two at a time": [
        (h5py.MultiBlockSlice(0, count=2, stride=4, block=2), "a.h5", FRAMES[[0, 1, 4, 5]]),
        (h5py.MultiBlockSlice(2, count=2, stride=4, block=2), "b.h5", FRAMES[[2, 3, 6, 7]]),
        (np.s_[8:], "c.h5", FRAMES[8:]),
    ],
    "modules": [(np.s_[:, :2], "top.h5", FRAMES[:, :2]), (np.s_[:, 3:, :5], "bottom.h5", FRAMES[:, 3:])],
    "a file a frame": [(np.s_[k], f"{k}.h5", FRAMES[k]) for k in range(10)],
    "a file a frame, with an axis of frames": [(np.s_[k], f"{k}.h5", FRAMES[k : k + 1]) for k in range(10)],
    "below": [(np.s_[:], "sub/a.h5", FRAMES)],
}


def write_master(path: Path, sources: Sources, fill: int = 0, files: bool = True) -> Path:
    """Write a virtual dataset, and its sources unless told otherwise."""
    layout = h5py.VirtualLayout(FRAMES.shape, "<u2")
    for place, name, values in sources:
        if files:
            write_source(path.parent / name, values)
        layout[place] = h5py.VirtualSource(name, DATA, shape=values.shape)
    with h5py.File(path, "w", libver="latest") as file:
        file.create_virtual_dataset(DATA, layout, fillvalue=fill)
    return path


def write_source(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    if values.ndim == 3:
        write_frames(path, values)
    else:
        with h5py.File(path, "w", libver="latest") as file:
            file[DATA] = values


def write_unlimited_master(path: Path, names: list[str]) -> Path:
    """Write a virtual dataset without end, whose frames come from these files in turn, as Odin's."""
    unlimited, options = h5py.h5s.UNLIMITED, h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    space = h5py.h5s.create_simple((0, *SHAPE), (unlimited, *SHAPE))
    for k, name in enumerate(names):
        there, here = space.copy(), space.copy()
        here.select_hyperslab((k, 0, 0), (unlimited, 1, 1), (len(names), 1, 1), (1, *SHAPE))
        there.select_hyperslab((0, 0, 0), (1 if "%b" in name else unlimited, 1, 1), (1, 1, 1), (1, *SHAPE))
        options.set_virtual(here, name.encode(), DATA.encode(), there)
    with h5py.File(path, "w", libver="latest") as file:
        group = file.require_group("/entry/data")
        h5py.h5d.create(group.id, b"data", h5py.h5t.STD_U16LE, space, options)
    return path


WRITER = """
import json, sys
import h5py, numpy as np
from raw_runs import FRAMES
files = {}
for line in sys.stdin:
    path, rows = json.loads(line)
    if path not in files:
        file = h5py.File(path, "w", libver="latest")
        sizes = {"shape": (0, 6, 5), "maxshape": (None, 6, 5), "chunks": (1, 6, 5)}
        files[path] = file.create_dataset("/entry/data/data", dtype="<u2", **sizes)
        file.swmr_mode = True
    files[path].resize(len(rows), axis=0)
    files[path][:] = FRAMES[rows]
    files[path].flush()
    print("written", flush=True)
"""
"""In a process of its own: one that reads what it writes itself sees all at once."""

Grow = Callable[[Path, list[int]], None]


@pytest.fixture
def grow() -> Iterator[Grow]:
    """Let a file hold these of the frames; a detector's writer has it open until the end of the test."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as writer:
        assert writer.stdin is not None and writer.stdout is not None

        def write(path: Path, rows: list[int]) -> None:
            print(json.dumps([str(path), rows]), file=writer.stdin, flush=True)
            assert writer.stdout.readline() == "written\n"

        yield write
        writer.stdin.close()


def assert_reads(
    path: Path, dataset: str = DATA, expected: np.ndarray = FRAMES, roots: tuple[Path, ...] = ()
) -> None:
    reader = HDF5Frames.at(path, dataset, roots or (path.parent,))
    for start, stop in ((0, 10), (0, 1), (3, 4), (3, 9), (9, 10)):
        np.testing.assert_array_equal(reader.read(start, stop), expected[start:stop])
        np.testing.assert_array_equal(reader.refer(start, stop), expected[start:stop])
    reader.close()


@pytest.mark.parametrize("places", PLACES)
def test_a_virtual_dataset_is_read_from_its_sources(tmp_path: Path, places: str) -> None:
    path = write_master(tmp_path / "master.h5", PLACES[places], fill=9)
    with h5py.File(path) as file:
        expected = file[DATA][:]
    assert (expected == FRAMES).all() or places == "modules"
    assert_reads(path, expected=expected)


def test_a_virtual_dataset_without_end_is_read(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.h5", FRAMES[0::2])
    write_frames(tmp_path / "b.h5", FRAMES[1::2])
    assert_reads(write_unlimited_master(tmp_path / "master.h5", ["a.h5", "b.h5"]))


def test_a_virtual_dataset_of_virtual_datasets_and_of_its_own_file(tmp_path: Path) -> None:
    write_master(tmp_path / "inner.h5", PLACES["in turn"])
    path = write_master(tmp_path / "outer.h5", [(np.s_[:], "inner.h5", FRAMES)], files=False)
    assert_reads(path)
    with h5py.File(path, "a", libver="latest") as file:
        layout = h5py.VirtualLayout(FRAMES.shape, "<u2")
        layout[:] = h5py.VirtualSource(".", "own", shape=FRAMES.shape)
        file.create_virtual_dataset("same", layout)
        file["own"] = FRAMES
    assert_reads(path, "same")


@pytest.mark.parametrize("dataset", ["frames", "/entry/data/data_000001", "/soft/data_000001", "/whole/data/data"])
def test_links_are_followed(tmp_path: Path, dataset: str) -> None:
    """The one of an Eiger's master file, and others on the way."""
    write_frames(tmp_path / "series_data_000001.h5", FRAMES)
    with h5py.File(tmp_path / "series_master.h5", "w", libver="latest") as file:
        file["/entry/data/data_000001"] = h5py.ExternalLink("series_data_000001.h5", DATA)
        file["soft"] = h5py.SoftLink("entry/./data")
        file["frames"] = h5py.SoftLink("/soft/data_000001")
        file["whole"] = h5py.ExternalLink("series_data_000001.h5", "/entry")
    assert_reads(tmp_path / "series_master.h5", dataset)


def test_files_that_were_moved_together_are_found(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    sources: Sources = [(place, str(elsewhere / name), values) for place, name, values in PLACES["in turn"]]
    path = write_master(tmp_path / "master.h5", sources)
    with h5py.File(path, "a") as file:
        file["linked"] = h5py.ExternalLink(str(elsewhere / "a.h5"), DATA)
    assert_reads(path)
    here = tmp_path / "here"
    elsewhere.rename(here)
    path = path.rename(here / "master.h5")
    assert_reads(path, roots=(here,))
    np.testing.assert_array_equal(HDF5Frames(path, "linked", (here,)).read(0, 5), FRAMES[::2])


def test_a_source_may_lie_below_another_root(tmp_path: Path) -> None:
    for folder in ("masters", "frames"):
        (tmp_path / folder).mkdir()
    sources: Sources = [(place, f"../frames/{name}", values) for place, name, values in PLACES["in turn"]]
    path = write_master(tmp_path / "masters" / "master.h5", sources)
    assert_reads(path, roots=(tmp_path / "masters", tmp_path / "frames"))


@pytest.mark.parametrize("way", ["above", "absolute", "symbolic link"])
@pytest.mark.parametrize("kind", ["virtual", "without end", "external link", "time stamps"])
def test_sources_outside_the_roots_are_refused(tmp_path: Path, way: str, kind: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with h5py.File(tmp_path / "secret.h5", "w", libver="latest") as file:
        file[DATA], file["times"] = FRAMES, np.arange(10.0)
    name = {"above": "../secret.h5", "absolute": str(tmp_path / "secret.h5"), "symbolic link": "link.h5"}[way]
    (root / "link.h5").symlink_to(tmp_path / "secret.h5")
    path = root / "master.h5"
    if kind == "virtual":
        write_master(path, [(np.s_[:], name, FRAMES)], files=False)
    elif kind == "without end":
        write_unlimited_master(path, [name])
    else:
        with h5py.File(path, "w", libver="latest") as file:
            if kind == "external link":
                file[DATA] = h5py.ExternalLink(name, DATA)
            else:
                file[DATA] = FRAMES
                file[f"{ATTRIBUTES}/{TIMESTAMP}"] = h5py.ExternalLink(name, "times")
    reader = HDF5Frames(path, DATA, (root,))
    if kind == "time stamps":
        assert reader.times_s(0, 2) is None
        assert HDF5Frames(path, DATA).times_s(0, 2) is not None, "where any folder may be read it works"
        return
    with pytest.raises(
        DocumentError, match=r"secret.h5, which lies outside .*root: expected a file beside it"
    ) as told:
        reader.read(0, 1)
    assert not isinstance(told.value, NotYetWritten)
    np.testing.assert_array_equal(HDF5Frames(path, DATA).read(0, 10), FRAMES)


@pytest.mark.parametrize("roots", [True, False])
@pytest.mark.parametrize("kind", ["virtual", "without end", "external link"])
def test_a_source_that_is_missing_gives_no_frames(tmp_path: Path, kind: str, roots: bool) -> None:
    path = tmp_path / "master.h5"
    if kind == "external link":
        write_frames(tmp_path / "b.h5", FRAMES[::2])
        with h5py.File(path, "w", libver="latest") as file:
            file[DATA] = h5py.ExternalLink("b.h5", DATA)
    else:
        write_master(path, PLACES["in turn"])
        if kind == "without end":
            write_unlimited_master(path, ["a.h5", "b.h5"])
    (tmp_path / "b.h5").rename(tmp_path / "away.h5")
    reader = HDF5Frames(path, DATA, (tmp_path,) if roots else ())
    for look in (reader.read, reader.refer):
        with pytest.raises(NotYetWritten, match=r"b.h5.* is not there \(yet\)") as told:
            look(0, 2)
        assert "master.h5" in str(told.value), "whoever reads it knows that name"
    (tmp_path / "away.h5").rename(tmp_path / "b.h5")
    np.testing.assert_array_equal(reader.read(0, 1), FRAMES[:1])
    reader.close()


def test_a_source_that_is_no_hdf5_file_or_cut_off_gives_no_frames(tmp_path: Path) -> None:
    path = write_master(tmp_path / "master.h5", PLACES["in turn"])
    os.truncate(tmp_path / "b.h5", 1000)
    with pytest.raises(NotYetWritten, match=r"b.h5 is cut off"):
        HDF5Frames(path, DATA).read(0, 2)
    (tmp_path / "b.h5").write_text("no frames here")
    with pytest.raises(NotYetWritten, match=r"b.h5: nothing can be read"):
        HDF5Frames(path, DATA).read(0, 2)
    np.testing.assert_array_equal(HDF5Frames(path, DATA).read(0, 1), FRAMES[:1])


def test_frames_that_no_source_holds_are_not_there(tmp_path: Path) -> None:
    """A module that lacks a frame, and a frame that nothing was said of."""
    path = write_master(
        tmp_path / "a.h5", [(np.s_[:, :2], "b.h5", FRAMES[:, :2]), (np.s_[:4, 2:], "c.h5", FRAMES[:4, 2:])]
    )
    reader = HDF5Frames(path, DATA)
    np.testing.assert_array_equal(reader.read(0, 4), FRAMES[:4])
    with pytest.raises(NotYetWritten, match="names no file that holds frame 4"):
        reader.read(0, 5)
    with pytest.raises(NotYetWritten, match="names no file that holds frame 10"):
        reader.read(0, 11)
    reader.close()


@pytest.mark.parametrize("unlimited", [True, False])
def test_sources_that_still_grow(tmp_path: Path, grow: Grow, unlimited: bool) -> None:
    """Each frame is there once its source holds it; HDF5 says 0 before."""
    path = tmp_path / "master.h5"
    if unlimited:
        write_unlimited_master(path, ["a.h5", "b.h5"])
    else:
        write_master(path, PLACES["in turn"], files=False)
    reader = HDF5Frames.at(path, DATA, (tmp_path,))
    for k, name in enumerate(("a.h5", "b.h5")):
        with pytest.raises(NotYetWritten, match=f"{name} is not there"):
            reader.read(k, k + 1)
        grow(tmp_path / name, [])
    for k in range(10):
        with pytest.raises(NotYetWritten, match=f"{'ab'[k % 2]}.h5 holds {k // 2} frames"):
            reader.read(max(0, k - 1), k + 1)
        grow(tmp_path / f"{'ab'[k % 2]}.h5", list(range(k % 2, k + 1, 2)))
        np.testing.assert_array_equal(reader.read(0, k + 1), FRAMES[: k + 1])
        np.testing.assert_array_equal(reader.refer(0, k + 1), FRAMES[: k + 1])
    reader.close()


def write_series_master(path: Path, count: int) -> Path:
    """Write the links of an Eiger's master file: all at once, before the files are there."""
    with h5py.File(path, "w", libver="latest") as file:
        for k in range(1, count + 1):
            file[f"entry/data/data_{k:06d}"] = h5py.ExternalLink(f"series_data_{k:06d}.h5", DATA)
    return path


def test_a_group_of_links_stands_for_all_their_frames(tmp_path: Path) -> None:
    path = write_series_master(tmp_path / "series_master.h5", 3)
    for k in range(3):
        write_frames(tmp_path / f"series_data_{k + 1:06d}.h5", FRAMES[4 * k : 4 * k + 4])
    assert_reads(path, "/entry/data")
    with pytest.raises(NotYetWritten, match="no dataset '/entry/data/data_000004'"):
        HDF5Frames(path, "/entry/data").read(0, 11)
    (tmp_path / "series_data_000002.h5").unlink()
    reader = HDF5Frames(path, "/entry/data", (tmp_path,))
    np.testing.assert_array_equal(reader.read(0, 4), FRAMES[:4])
    for start in (3, 5, 9):  # where the last file's frames begin is not known then
        with pytest.raises(NotYetWritten, match=r"series_data_000002.h5, which is not there \(yet\)"):
            reader.read(start, start + 1 if start > 3 else 5)
    reader.close()


def test_a_group_of_links_whose_files_come_one_by_one(tmp_path: Path, grow: Grow) -> None:
    reader = HDF5Frames.at(write_series_master(tmp_path / "series_master.h5", 3), "/entry/data", (tmp_path,))
    for row in range(10):
        k, first = row // 4, max(0, row - 5)
        with pytest.raises(NotYetWritten, match=f"data_{k + 1:06d}.* is not there|data_{k + 2:06d}"):
            reader.read(first, row + 1)
        grow(tmp_path / f"series_data_{k + 1:06d}.h5", list(range(4 * k, row + 1)))
        np.testing.assert_array_equal(reader.read(first, row + 1), FRAMES[first : row + 1])
        np.testing.assert_array_equal(reader.refer(first, row + 1), FRAMES[first : row + 1])
    reader.close()


class GrownSource:
    """Has two frames at the first look and six at the next ones; what is known suffices where it can."""

    def __init__(self) -> None:
        self._looks, self._known = iter([2, 6, 6]), 0

    def require(self, start: int, stop: int) -> tuple[int, ...]:
        if stop > self._known:
            self._known = next(self._looks)
        if stop > self._known:
            raise NotYetWritten("later")
        return self._known, *SHAPE

    def read(self, start: int, stop: int) -> np.ndarray:
        return FRAMES[start:stop]

    def close(self) -> None:
        pass


def test_a_file_of_a_series_that_grew_just_before_the_next_one_came() -> None:
    """Its length is not taken for final before the next one is there."""
    sources = [GrownSource(), GrownSource()]
    series = SeriesFrames(lambda number: sources[number])
    np.testing.assert_array_equal(series.read(0, 8), FRAMES[[0, 1, 2, 3, 4, 5, 0, 1]])


def test_links_and_sources_in_a_circle_end(tmp_path: Path) -> None:
    path = write_master(tmp_path / "a.h5", [(np.s_[:], "b.h5", FRAMES)], files=False)
    write_master(tmp_path / "b.h5", [(np.s_[:], "a.h5", FRAMES)], files=False)
    with pytest.raises(DocumentError, match="virtual datasets of virtual datasets"):
        HDF5Frames(path, DATA).read(0, 1)
    with h5py.File(path, "a") as file:
        file["link"], file["back"] = h5py.SoftLink("back"), h5py.ExternalLink("a.h5", "link")
    with pytest.raises(DocumentError, match="links without end"):
        HDF5Frames(path, "link").read(0, 1)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = write_master(tmp_path / "master.h5", [(np.s_[:, :, ::2], "a.h5", FRAMES[:, :, ::2])])
    with pytest.raises(DocumentError, match="is put together in a way that is not known here: expected sources"):
        HDF5Frames(path, DATA).read(0, 1)
    for values in (FRAMES.astype("<u4"), FRAMES[:, :, :3]):
        path = write_master(tmp_path / "master.h5", PLACES["below"])
        write_source(tmp_path / "sub" / "a.h5", values)
        with pytest.raises(DocumentError, match=rf"takes {values.dtype} .* for uint16 .*: expected the same"):
            HDF5Frames(path, DATA).read(0, 1)
    path = write_unlimited_master(tmp_path / "master.h5", ["a_%b.h5"])
    with pytest.raises(DocumentError, match="without %b"):
        HDF5Frames(path, DATA).read(0, 1)
    with pytest.raises(DocumentError, match="'/entry/data' is a group: expected a dataset"):
        HDF5Frames(path, "/entry/data").read(0, 1)
    with pytest.raises(DocumentError, match="is a group"):
        HDF5Frames(path, "/").refer(0, 1)


def test_few_of_many_sources_are_open_at_once(tmp_path: Path) -> None:
    reader = HDF5Frames(write_master(tmp_path / "master.h5", PLACES["a file a frame"]), DATA)
    for k in range(10):
        reader.read(k, k + 1)
        files = {descriptor.resolve() for descriptor in Path("/proc/self/fd").iterdir()}
        assert {file.name for file in files if file.parent == tmp_path} == {"master.h5", f"{k}.h5"}
    reader.close()


def test_a_run_whose_frames_lie_in_a_virtual_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of a file that is missing are lost, with the reason; the others are read."""
    monkeypatch.setattr(frame_source, "WAIT_FOR_FILE_S", 0.2)
    path = write_master(tmp_path / "master.h5", PLACES["one after the other"])
    (tmp_path / "b.h5").unlink()
    run = RawRun(tmp_path)
    keys = {"fccd_image": image_key(SHAPE), "stage_x": number_key(), "stage_y": number_key()}
    resource, documents = run.resource("fccd_image", path)
    documents = [run.start, *run.declare("primary", **keys), *documents, run.datum("primary", resource, 0, 10)]
    documents += [run.event("primary", k + 1, stage_x=X_UM[k], stage_y=Y_UM[k]) for k in range(10)]
    source, collector = FrameSource(roots=(tmp_path,)), Collector()
    source.subscribe(collector)
    for name, document in [*documents, run.stop()]:
        source(name, document)
    assert source.close(timeout=30)
    assert collector.health()["lost"] == [5, 6, 7, 8]
    assert "b.h5 is not there (yet)" in collector.stop()["reason"]
    for seq_num, frame in collector.frames["primary"].items():
        np.testing.assert_array_equal(frame, FRAMES[seq_num - 1])
    assert len(collector.frames["primary"]) == 6
