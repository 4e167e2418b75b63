"""Tasks of Dask's workers when their scheduler is lost, and when they fail."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from nsbluesky.service.dask_workers import DaskExecutor

TIMEOUT_S = 10.0


class Client:
    """A client of Dask whose one worker is busy."""

    def __init__(self) -> None:
        self.status = "running"
        self.pool = ThreadPoolExecutor(1)

    def get_executor(self, **_: Any) -> ThreadPoolExecutor:
        return self.pool


def test_what_waits_is_given_back_when_the_scheduler_is_lost() -> None:
    """A task that is pending when the connection breaks is told nothing by Dask."""
    client, over = Client(), threading.Event()
    executor = DaskExecutor(client)
    busy = executor.submit(over.wait, TIMEOUT_S)
    waiting = executor.submit(int, "7")
    executor.look()
    assert not waiting.cancelled()
    client.status = "connecting"
    executor.look()
    assert waiting.cancelled()
    with pytest.raises(BrokenExecutor, match="Dask's client is connecting"):
        executor.submit(int, "7")
    client.status = "running"
    over.set()
    assert busy.result(TIMEOUT_S)
    assert executor.submit(int, "7").result(TIMEOUT_S) == 7
    client.pool.shutdown()


def recurse(depth: int) -> int:
    return recurse(depth + 1)


def test_an_error_comes_back_whose_traceback_cannot_be_pickled() -> None:
    """Dask's client stumbles over it, and never tells whoever waits: a run hung for ever."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        cluster.get_client() as client,
    ):
        error = DaskExecutor(client).submit(recurse, 0).exception(TIMEOUT_S)
    assert "maximum recursion depth exceeded" in str(error)
