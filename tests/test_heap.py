"""What is freed goes back to the system, and nothing looks for garbage where there is none."""

from __future__ import annotations

import gc
import subprocess
import sys

import psutil
import pytest

from nsbluesky import heap

PIECES, PIECE_BYTES = 60_000, 1000


def test_freed_memory_goes_back() -> None:
    """Many pieces below one that stays, so that the C library keeps them by itself."""
    if heap._malloc_trim() is None:
        pytest.skip("the C library is not glibc")
    pieces = [bytes(PIECE_BYTES) for _ in range(PIECES)]
    stays = bytes(PIECE_BYTES)
    held = psutil.Process().memory_info().rss
    del pieces
    heap.trim()
    assert psutil.Process().memory_info().rss < held - 0.8 * PIECES * PIECE_BYTES
    assert len(stays) == PIECE_BYTES


def test_nothing_is_collected_in_a_block_and_all_is_as_before_after_it() -> None:
    before = gc.get_threshold()
    with pytest.raises(ZeroDivisionError), heap.no_collections():
        assert gc.get_threshold()[0] == 0 and gc.isenabled()
        raise ZeroDivisionError
    assert gc.get_threshold() == before and before[0] > 0


def test_what_a_block_made_counts_as_old_after_it() -> None:
    looks: list[str] = []

    def note(phase: str, info: dict[str, int]) -> None:
        looks.append(phase)

    with heap.no_collections():
        made = [[] for _ in range(30_000)]  # type: ignore[var-annotated]
        gc.callbacks.append(note)
    try:
        made += [[] for _ in range(100)]
    finally:
        gc.callbacks.remove(note)
    assert looks == [], "the first object after the block lets nobody look through all that are young"
    assert gc.get_freeze_count() == 0


def test_garbage_is_looked_for_after_a_slice_by_a_dask_that_was_imported_in_a_block() -> None:
    """As a catalog imports it, whose own session is in tests/test_profile.py: to import one takes six seconds."""
    code = "import gc\nfrom nsbluesky.heap import no_collections\nwith no_collections(): import dask.array\n"
    code += "dask.array.arange(20, chunks=5)[3:12]; print(gc.isenabled())"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "True\n"


def test_a_process_ends_without_a_look_at_all_that_it_imported() -> None:
    code = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count()))\n"
    code += "from nsbluesky.heap import end_without_collection; end_without_collection()"
    assert int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) > 1000
