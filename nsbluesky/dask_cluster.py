"""A cluster of Dask's workers, and an executor on it whose tasks end, whatever becomes of them.

Dask runs what its peers send it, so its scheduler belongs into a network that is trusted, or behind TLS.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, InvalidStateError
from concurrent.futures import wait as wait_for
from typing import Any

from nsbluesky.ended_by_signal import deaf_to_terminals
from nsbluesky.settings import SettingsError

__all__ = ["RETRIES", "DaskExecutor", "called", "is_connected", "open_cluster", "workers_of"]

log = logging.getLogger(__name__)

RETRIES = 3
"""How often a task is tried again that failed on a worker; a worker that is lost does not count."""
OF_OWN_WORKERS = {
    "distributed.scheduler.allowed-failures": 1,
    "distributed.scheduler.worker-ttl": "30s",
    "distributed.nanny.pre-spawn-environ.DASK_DISTRIBUTED__LOGGING": "{'distributed.worker.state_machine': 'error'}",
}
"""Of this machine's own workers a task may take two with it; then it is given up.  One that is silent for that long
hangs: it is replaced when the scheduler looks next, which it does as often.  One that is ended while it has a task,
as after Ctrl-C, does not warn of that."""
CONNECT_S = 10.0
OWN: dict[str, Any] = {"set_as_default": False}
"""A client is for what asks for it: as the default one it would take over all else that this process computes with
Dask, as what the catalog reads, and that would fail once it is gone."""
LOOK_S = 1.0
IDLE_LOOKS = 10
"""Seconds that a process has nothing to do before it goes."""


class DaskExecutor(Executor):
    """Dask's own executor, but its tasks fail where Dask leaves some of them waiting for ever.

    So it does when the scheduler is lost: then they fail with `BrokenExecutor`.  So it does, too, when a task fails
    whose traceback cannot be pickled, as a deep one: the error comes back without.

    Parameters
    ----------
    client : distributed.Client
        Looked at each second, on a thread, until `shutdown`, which leaves it open.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._executor = client.get_executor(retries=RETRIES, pure=False)
        self._lock = threading.Lock()
        self._waiting: set[Future[Any]] = set()
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="nsbluesky-dask-watch", daemon=True).start()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """Give a task to the workers.

        Raises
        ------
        BrokenExecutor
            Where the scheduler is lost.
        RuntimeError
            After `shutdown`.
        """
        if self._over.is_set():
            raise RuntimeError("this executor was shut down: expected a new one for new tasks")
        if not is_connected(self._client):
            raise self._lost()
        task: Future[Any] = self._executor.submit(called, function, *arguments, **options)
        future: Future[Any] = Future()
        with self._lock:
            self._waiting.add(future)
        future.add_done_callback(lambda _: self._end(future, task))
        task.add_done_callback(lambda _: _pass_on(task, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; wait for those there are, or cancel them."""
        waiting = self._all_waiting()
        if cancel_futures:
            for future in waiting:
                if future.cancel():
                    future.set_running_or_notify_cancel()
        elif wait:
            wait_for(waiting)
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            if not is_connected(self._client):
                for future in self._all_waiting():
                    with contextlib.suppress(InvalidStateError):  # it has just ended by itself
                        future.set_exception(self._lost())

    def _lost(self) -> BrokenExecutor:
        return BrokenExecutor(f"the scheduler is lost: Dask's client is {self._client.status}")

    def _all_waiting(self) -> list[Future[Any]]:
        with self._lock:
            return list(self._waiting)

    def _end(self, future: Future[Any], task: Future[Any]) -> None:
        with self._lock:
            self._waiting.discard(future)
        task.cancel()  # does nothing where the task itself has ended


def _pass_on(task: Future[Any], future: Future[Any]) -> None:
    """Tell how a task of Dask ended to whoever waits for it."""
    with contextlib.suppress(InvalidStateError):  # nobody waits any more
        if task.cancelled():
            future.set_exception(BrokenExecutor("Dask cancelled the task: the scheduler or its memory was lost"))
        elif (error := task.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(task.result())


def is_connected(client: Any) -> bool:
    """Return whether a client of Dask has its scheduler."""
    return bool(client.status == "running")


def called(function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
    """Return what a function returns, on a worker; the traceback of an error stays there, in the log.

    Dask's client stumbles over one that cannot be pickled, and who waits for the task is never told.
    """
    try:
        return function(*arguments, **options)
    except Exception as error:
        log.exception("a task failed")
        raise error.with_traceback(None) from None


def open_cluster(workers: int, scheduler: str, *, adaptive: bool = False) -> tuple[Any, Any]:
    """Return a client of Dask, and the cluster of `workers` processes that was started for it; else None.

    Where it is `adaptive`, processes come as tasks wait, at most `workers`, and go when none do.

    Raises
    ------
    SettingsError
        If Dask is not installed, or the scheduler's address cannot be, or it does not answer.
    """
    try:
        import dask
        import distributed
        from distributed.comm.addressing import get_address_host_port
    except ImportError:
        raise SettingsError("workers need Dask distributed: pip install 'nsbluesky[dask]'") from None
    if workers:
        with dask.config.set(OF_OWN_WORKERS), deaf_to_terminals():
            cluster = distributed.LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=0 if adaptive else workers, threads_per_worker=1, dashboard_address=":0"
            )
        if adaptive:
            cluster.adapt(minimum=0, maximum=workers, wait_count=IDLE_LOOKS)
        return distributed.Client(cluster, **OWN), cluster  # type: ignore[no-untyped-call]
    try:
        if not scheduler.startswith("inproc://"):  # which has neither
            get_address_host_port(scheduler)  # a client that cannot even try complains when it goes
    except ValueError as error:
        raise SettingsError(f"scheduler {scheduler!r} ({error}): expected tcp://HOST:PORT") from error
    try:
        return distributed.Client(scheduler, timeout=CONNECT_S, **OWN), None  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError) as error:
        raise SettingsError(f"no Dask scheduler answers at {scheduler}: {error}") from error


def workers_of(client: Any) -> dict[str, dict[str, Any]]:
    """Return what the scheduler tells of each worker, by its address.

    Raises
    ------
    SettingsError
        Where there is none.
    """
    workers: dict[str, dict[str, Any]] = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        address = client.scheduler.address
        raise SettingsError(f"the scheduler at {address} has no workers: start some with dask worker")
    return workers
