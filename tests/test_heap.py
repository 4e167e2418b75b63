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


@pytest.mark.parametrize("is_enabled", [True, False])
def test_nothing_is_collected_in_a_block_and_all_is_as_before_after_it(is_enabled: bool) -> None:
    assert gc.isenabled()
    if not is_enabled:
        gc.disable()
    try:
        with pytest.raises(ZeroDivisionError), heap.no_collections():
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() == is_enabled
    finally:
        gc.enable()


def test_a_process_ends_without_a_look_at_all_that_it_imported() -> None:
    code = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count()))\n"
    code += "from nsbluesky.heap import end_without_collection; end_without_collection()"
    assert int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) > 1000
