"""Blocks over executors: the same result from all, one failure costs one point, one death costs one block."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from deadly import (
    DEADLY_ROW,
    die_of_a_frame,
    processes_that_die_at_once,
    processes_that_die_of_a_frame,
)
from local_dask import dask_client
from small_scans import NUM_POINTS, SETTINGS, content, convert_file, write_scan

from nsbluesky.backend import Backend
from nsbluesky.conversion import ConversionError, Workers
from nsbluesky.conversion import blocks as blocks_module
from nsbluesky.conversion import conversion as conversion_module
from nsbluesky.conversion import workers as workers_module
from nsbluesky.conversion.block_file import CleanBlock, block_path, read_block, write_block
from nsbluesky.conversion.blocks import Block, clean_block
from nsbluesky.conversion.recipe import ScanRecipe
from nsbluesky.cxi import read_cxi
from nsbluesky.cxi.layout import DETECTOR


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_scan(tmp_path / "raw.cxi")


@pytest.mark.parametrize("workers", [Workers.threads(3), Workers.processes(2)], ids=["threads", "processes"])
def test_all_executors_give_the_same_bit_by_bit(raw: Path, tmp_path: Path, workers: Workers) -> None:
    convert_file(raw, tmp_path / "one.cxi")
    convert_file(raw, tmp_path / "many.cxi", workers=workers)
    assert content(tmp_path / "many.cxi") == content(tmp_path / "one.cxi")


def test_no_more_blocks_are_handed_out_than_workers_need(raw: Path, tmp_path: Path) -> None:
    handed_out: list[int] = []

    class Counting(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **more: Any) -> Any:
            handed_out.append(handed_out[-1] + 1 if handed_out else 1)
            future = super().submit(*arguments, **more)
            future.add_done_callback(lambda _: handed_out.append(handed_out[-1] - 1))
            return future

    settings = SETTINGS.replace(block_frames=1)
    convert_file(raw, tmp_path / "clean.cxi", settings=settings, workers=Workers(2, lambda: Counting(2)))
    assert len(handed_out) == 2 * NUM_POINTS and max(handed_out) <= 4


def damage_frame(path: Path, row: int) -> None:
    """Let nothing read one frame: its chunk says that it is compressed, and is not."""
    with h5py.File(path, "r+") as file:
        old = file[f"{DETECTOR}/raw_data"]
        frames, attributes = old[()], dict(old.attrs)
        del file[f"{DETECTOR}/raw_data"]
        new = file.create_dataset(
            f"{DETECTOR}/raw_data", data=frames, chunks=(1, *frames.shape[1:]), compression="gzip"
        )
        new.attrs.update(attributes)
        new.id.write_direct_chunk((row, 0, 0), b"no gzip")


def test_a_frame_that_cannot_be_read_costs_its_point_alone(raw: Path, tmp_path: Path) -> None:
    convert_file(raw, tmp_path / "whole.cxi")
    damage_frame(raw, 7)
    result = convert_file(raw, tmp_path / "clean.cxi", workers=Workers.threads(2))
    assert list(result.left_out) == ["8"] and "frame 7: cannot be read" in result.left_out["8"]
    with read_cxi(tmp_path / "whole.cxi") as whole, read_cxi(tmp_path / "clean.cxi") as clean:
        assert whole.frames is not None and clean.frames is not None
        kept = np.delete(np.arange(NUM_POINTS), 7)
        np.testing.assert_array_equal(clean.frames[:], whole.frames[kept])
        np.testing.assert_array_equal(clean.translation_m, whole.translation_m[kept])
        assert clean.seq_nums.tolist() == (kept + 1).tolist()


def test_a_failure_that_does_not_come_again_costs_nothing(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[tuple[int, bool]] = []

    def fails_at_first(block: Block) -> None:
        tries.append((block.number, block.one_by_one))
        if block.number == 1 and not block.one_by_one:
            raise OSError("the disk was away for a moment")
        clean_block(block)

    monkeypatch.setattr(workers_module, "clean_block", fails_at_first)
    result = convert_file(raw, tmp_path / "clean.cxi")
    assert result.left_out == {} and result.num_frames == NUM_POINTS
    assert sorted(tries) == [(0, False), (1, False), (1, True), (2, False), (3, False)]


def test_a_full_disk_stops_the_conversion_and_space_lets_it_go_on(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert_file(raw, tmp_path / "whole.cxi")

    def full(block: Block) -> None:
        if block.number == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        clean_block(block)

    with monkeypatch.context() as patch:
        patch.setattr(workers_module, "clean_block", full)
        with pytest.raises(ConversionError, match=r"no space left for the blocks .*make space, then --resume"):
            convert_file(raw, tmp_path / "clean.cxi")
    with monkeypatch.context() as patch:
        patch.setattr(conversion_module, "free_bytes", lambda folder: 60 * 2**20)
        with pytest.raises(ConversionError, match=r"60 MB are free in .*: expected 64 MB .* then --resume"):
            convert_file(raw, tmp_path / "clean.cxi", resume=True)
    assert not (tmp_path / "clean.cxi").exists()
    convert_file(raw, tmp_path / "clean.cxi", resume=True)
    assert content(tmp_path / "clean.cxi") == content(tmp_path / "whole.cxi")


def test_a_scan_of_which_nothing_can_be_cleaned_fails(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(block: Block) -> None:
        raise OSError("no disk")

    monkeypatch.setattr(workers_module, "clean_block", fails)
    with pytest.raises(ConversionError, match=f"none of the {NUM_POINTS} points can be cleaned: no disk"):
        convert_file(raw, tmp_path / "clean.cxi")
    assert [path.name for path in tmp_path.iterdir() if "clean" in path.name] == []


def test_killed_workers_cost_nothing(raw: Path, tmp_path: Path) -> None:
    """The first finished block is the sign to kill every worker process there is."""
    convert_file(raw, tmp_path / "one.cxi")
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done and not killed:
            for process in multiprocessing.active_children():
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                killed.append(process.pid)

    settings = SETTINGS.replace(block_frames=1)
    convert_file(raw, tmp_path / "one.cxi", settings=settings)
    convert_file(raw, tmp_path / "many.cxi", settings=settings, workers=Workers.processes(2), progress=kill)
    assert killed
    assert content(tmp_path / "many.cxi") == content(tmp_path / "one.cxi")


def test_a_block_that_kills_its_worker_costs_itself_alone(raw: Path, tmp_path: Path) -> None:
    settings = SETTINGS.replace(block_frames=2, cleaning__center_frames=2)
    workers = Workers(2, processes_that_die_of_a_frame)
    result = convert_file(raw, tmp_path / "clean.cxi", settings=settings, workers=workers)
    assert result.left_out == dict.fromkeys(
        (str(DEADLY_ROW + 1), str(DEADLY_ROW + 2)), "the worker process died with it twice"
    )
    assert result.num_frames == NUM_POINTS - 2


def test_workers_that_always_die_end_the_conversion(raw: Path, tmp_path: Path) -> None:
    def start() -> Executor:
        return processes_that_die_at_once()

    with pytest.raises(ConversionError, match="worker processes died 3 times one after the other"):
        convert_file(raw, tmp_path / "clean.cxi", workers=Workers(2, start))


def test_a_frame_that_fails_deep_in_a_worker_of_dask_costs_its_point_alone(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask's own executor never tells of an error whose traceback cannot be pickled: the conversion hung."""
    cleaned = blocks_module._cleaned

    def deep(block: Block, recipe: ScanRecipe, backend: Backend) -> CleanBlock:
        return (deep if 4 in block.points else cleaned)(block, recipe, backend)

    convert_file(raw, tmp_path / "one.cxi")
    with dask_client(processes=False) as client:
        convert_file(raw, tmp_path / "many.cxi", workers=Workers.dask(2, client))
        assert content(tmp_path / "many.cxi") == content(tmp_path / "one.cxi")
        monkeypatch.setattr(blocks_module, "_cleaned", deep)
        result = convert_file(raw, tmp_path / "clean.cxi", workers=Workers.dask(2, client))
    assert list(result.left_out) == ["5"] and "maximum recursion depth exceeded" in result.left_out["5"]
    assert result.num_frames == NUM_POINTS - 1


@pytest.mark.nightly
def test_workers_of_dask_that_die_cost_nothing(raw: Path, tmp_path: Path) -> None:
    """Dask starts others in their place, which read the frame."""
    convert_file(raw, tmp_path / "one.cxi")
    with dask_client(processes=True) as client:
        client.run(die_of_a_frame)
        result = convert_file(raw, tmp_path / "many.cxi", workers=Workers.dask(2, client))
    assert result.left_out == {}
    assert content(tmp_path / "many.cxi") == content(tmp_path / "one.cxi")


def test_a_scheduler_that_is_lost_ends_the_conversion(raw: Path, tmp_path: Path) -> None:
    with (
        dask_client(processes=False) as client,
        pytest.raises(ConversionError, match=r"the scheduler is lost: Dask's client is closed.*--resume goes on"),
    ):
        convert_file(
            raw,
            tmp_path / "clean.cxi",
            settings=SETTINGS.replace(block_frames=1),
            workers=Workers.dask(2, client),
            progress=lambda done, total: client.close() if done else None,
        )


def test_two_workers_that_write_one_block_at_the_same_time_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that were forked alike have the block at the same place in memory."""
    empty = np.empty((0, 2, 2), np.float32)
    numbers = np.arange(0)
    block = CleanBlock(numbers, empty, numbers.astype(np.uint16), 0.0, {7: "damaged"}, numbers, {})
    path, savez = block_path(tmp_path, 1), np.savez

    def save_twice(file: Any, **arrays: Any) -> None:
        monkeypatch.setattr(np, "savez", savez)
        write_block(path, block)
        savez(file, **arrays)

    monkeypatch.setattr(np, "savez", save_twice)
    write_block(path, block)
    found = read_block(path)
    assert found is not None and found.failed == {7: "damaged"}
    assert list(tmp_path.iterdir()) == [path]
