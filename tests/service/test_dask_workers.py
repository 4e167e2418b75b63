"""Tasks of Dask's workers when their scheduler is lost."""

from __future__ import annotations

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
