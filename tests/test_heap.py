"""What is freed goes back to the system."""

from __future__ import annotations

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
