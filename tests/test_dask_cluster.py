"""Tasks of Dask's workers when their scheduler is lost, and when they fail."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, ThreadPoolExecutor
from typing import Any

import pytest
from local_dask import dask_client

from nsbluesky import dask_cluster
from nsbluesky.dask_cluster import DaskExecutor, open_cluster
from nsbluesky.settings import SettingsError

TIMEOUT_S = 10.0


class Client:
    """A client of Dask whose one worker is busy."""

    def __init__(self) -> None:
        self.status = "running"
        self.pool = ThreadPoolExecutor(1)

    def get_executor(self, **_: Any) -> ThreadPoolExecutor:
        return self.pool


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.pool.shutdown()


def test_what_waits_is_given_back_when_the_scheduler_is_lost(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is pending when the connection breaks is told nothing by Dask."""
    monkeypatch.setattr(dask_cluster, "LOOK_S", 0.01)
    over = threading.Event()
    executor = DaskExecutor(client)
    busy = executor.submit(over.wait, TIMEOUT_S)
    waiting = executor.submit(int, "7")
    client.status = "connecting"
    for task in (busy, waiting):
        with pytest.raises(BrokenExecutor, match="the scheduler is lost: Dask's client is connecting"):
            task.result(TIMEOUT_S)
    with pytest.raises(BrokenExecutor, match="Dask's client is connecting"):
        executor.submit(int, "7")
    client.status = "running"
    over.set()
    assert executor.submit(int, "7").result(TIMEOUT_S) == 7
    executor.shutdown()


def test_a_shutdown_waits_or_cancels(client: Client) -> None:
    executor = DaskExecutor(client)
    last = executor.submit(int, "7")
    executor.shutdown()
    assert last.done() and last.result() == 7
    with pytest.raises(RuntimeError, match="was shut down"):
        executor.submit(int, "7")
    executor, over = DaskExecutor(client), threading.Event()
    busy, waiting = executor.submit(over.wait, TIMEOUT_S), executor.submit(int, "7")
    executor.shutdown(cancel_futures=True)
    over.set()
    for task in (busy, waiting):
        with pytest.raises(CancelledError):
            task.result(TIMEOUT_S)


def test_who_waits_can_cancel(client: Client) -> None:
    executor, over, done = DaskExecutor(client), threading.Event(), threading.Event()
    executor.submit(over.wait, TIMEOUT_S)
    waiting = executor.submit(done.set)
    assert waiting.cancel()
    over.set()
    executor.shutdown()
    client.pool.shutdown()
    assert not done.is_set()


def test_a_task_that_dask_takes_back_is_told(client: Client) -> None:
    executor, over = DaskExecutor(client), threading.Event()
    executor.submit(over.wait, TIMEOUT_S)
    waiting = executor.submit(int, "7")
    client.pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(BrokenExecutor, match="Dask cancelled the task"):
        waiting.result(TIMEOUT_S)
    over.set()
    executor.shutdown()


@pytest.mark.nightly
def test_a_worker_of_ones_own_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    ttl = "distributed.scheduler.worker-ttl"
    assert dask_cluster.OF_OWN_WORKERS[ttl] == "30s"
    monkeypatch.setitem(dask_cluster.OF_OWN_WORKERS, ttl, "1s")
    pytest.importorskip("distributed")
    client, cluster = open_cluster(2, "")
    executor = DaskExecutor(client)
    try:
        hanging, *_ = client.run(os.getpid).values()
        os.kill(hanging, signal.SIGSTOP)
        tasks = [executor.submit(time.sleep, 0.1) for _ in range(20)]
        for task in tasks:
            assert task.result(TIMEOUT_S * 6) is None
        with pytest.raises(ProcessLookupError):
            os.kill(hanging, 0)
    finally:
        executor.shutdown(cancel_futures=True)
        client.close()
        cluster.close()


def test_two_test_processes_may_have_a_cluster_at_once() -> None:
    """Dask's usual port is taken, as by another cluster; a warning of that is an error here."""
    with socket.socket() as other:
        with contextlib.suppress(OSError):  # taken already
            other.bind(("", 8787))
            other.listen()
        with dask_client(1) as client:
            assert client.submit(int, "7").result(TIMEOUT_S) == 7


def recurse(depth: int) -> int:
    return recurse(depth + 1)


def test_an_error_comes_back_whose_traceback_cannot_be_pickled() -> None:
    """Dask's client stumbles over it, and never tells whoever waits: a run hung for ever."""
    with dask_client(1) as client:
        executor = DaskExecutor(client)
        error = executor.submit(recurse, 0).exception(TIMEOUT_S)
        executor.shutdown()
    assert "maximum recursion depth exceeded" in str(error)


def test_other_work_of_this_process_stays_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the default client, one that found no scheduler left a setting behind with which no array could be read."""
    dask = pytest.importorskip("dask")
    monkeypatch.setattr(dask_cluster, "CONNECT_S", 0.2)
    with dask_client(1) as theirs:
        client, _ = open_cluster(0, theirs.scheduler.address)
        assert dask.config.get("scheduler", None) is None
        client.close()
    with pytest.raises(SettingsError, match="no Dask scheduler answers"):
        open_cluster(0, "tcp://127.0.0.1:1")
    for address in ("localhost", "http://localhost:1", "tcp://localhost:x"):
        with pytest.raises(SettingsError, match="expected tcp://HOST:PORT"):
            open_cluster(0, address)
    assert dask.config.get("scheduler", None) is None


def heard() -> bool:
    return signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_workers_of_this_machine_hear_no_ctrl_c() -> None:
    """In a terminal it goes to them as well, and each would die with a traceback before it is ended."""
    client, cluster = open_cluster(1, "")
    with cluster, client:
        assert not client.submit(heard).result(TIMEOUT_S)
    assert heard()
