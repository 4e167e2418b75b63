"""Dask's workers for the service: processes on this machine, or those of a cluster.

Dask runs what its peers send it, so its scheduler belongs into a network that is trusted, or behind TLS.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path
from typing import Any, Self

from nsbluesky.callbacks.stage import Workers
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.settings import SettingsError

__all__ = ["RETRIES", "DaskExecutor", "DaskWorkers", "called", "open_cluster"]

log = logging.getLogger(__name__)

RECIPES = "recipes"
RETRIES = 3
"""How often a block is tried again that failed on a worker; a worker that is lost does not count."""
MAX_LOST = {"distributed.scheduler.allowed-failures": 1}
"""Of this machine's own workers a block, and then a frame of it, may take two with it."""
RUNNING = "running"
CONNECT_S = 10.0
COUNT_S = 1.0
IDLE_LOOKS = 10
"""Seconds that a process has nothing to do before it goes."""


class DaskWorkers:
    """A client of a Dask cluster, and the cluster where it is this process's own.

    Parameters
    ----------
    client : distributed.Client
    directory : Path
        Of the results; the workers must see it.
    cluster : distributed.LocalCluster, optional
        To be closed with this.

    Attributes
    ----------
    count : int
        How many there are: asked each second on a thread, as a scheduler that is lost may keep one waiting.
    """

    def __init__(self, client: Any, directory: Path, cluster: Any = None) -> None:
        self._client = client
        self._cluster = cluster
        for left in (directory / RECIPES).glob("*.npz"):  # by a process that was killed
            left.unlink()
        self._executor = DaskExecutor(client)
        self.workers = Workers(self._executor, directory / RECIPES)
        self.count = self._ask()
        self._closing = threading.Event()
        self._counter = threading.Thread(target=self._count, name="nsbluesky-dask", daemon=True)
        self._counter.start()

    @classmethod
    def of(cls, settings: ServiceSettings) -> Self | None:
        """Return the workers that a service is to have; None where it cleans frames itself.

        Raises
        ------
        SettingsError
            If Dask is not installed, or the scheduler does not answer.
        """
        if not (settings.scheduler or settings.workers):
            return None
        client, cluster = open_cluster(settings.workers, settings.scheduler, adaptive=settings.adaptive)
        return cls(client, Path(settings.directory), cluster)

    def close(self) -> None:
        """Let go of the workers, and end those that are this process's own."""
        self._closing.set()
        self._counter.join(COUNT_S)
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def _count(self) -> None:
        while not self._closing.wait(COUNT_S):
            self._executor.look()
            try:
                self.count = self._ask()
            except Exception as error:
                log.warning("the scheduler does not answer: %s", error)
                self.count = 0

    def _ask(self) -> int:
        if self._client.status != RUNNING:
            return 0
        return len(self._client.scheduler_info(n_workers=-1)["workers"])


class DaskExecutor(Executor):
    """Dask's own executor, but its tasks fail where Dask leaves some of them waiting for ever.

    So it does when the scheduler is lost, and when a task fails whose traceback cannot be pickled, as a deep one.

    Parameters
    ----------
    client : distributed.Client
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._executor = client.get_executor(retries=RETRIES, pure=False)
        self._lock = threading.Lock()
        self._waiting: set[Future[Any]] = set()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """Give a task to the workers.

        Raises
        ------
        BrokenExecutor
            Where the scheduler is lost.
        """
        if self._client.status != RUNNING:
            raise BrokenExecutor(f"the scheduler is lost: Dask's client is {self._client.status}")
        future: Future[Any] = self._executor.submit(called, function, *arguments, **options)
        with self._lock:
            self._waiting.add(future)
        future.add_done_callback(self._forget)
        return future

    def look(self) -> None:
        """Cancel what waits, where the scheduler is lost."""
        if self._client.status != RUNNING:
            with self._lock:
                waiting = list(self._waiting)
            for future in waiting:
                future.cancel()

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._waiting.discard(future)


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
        If Dask is not installed, or the scheduler does not answer.
    """
    try:
        import dask
        import distributed
    except ImportError:
        raise SettingsError("workers need Dask distributed: pip install 'nsbluesky[dask]'") from None
    if workers:
        with dask.config.set(MAX_LOST):
            cluster = distributed.LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=0 if adaptive else workers, threads_per_worker=1, dashboard_address=":0"
            )
        if adaptive:
            cluster.adapt(minimum=0, maximum=workers, wait_count=IDLE_LOOKS)
        return distributed.Client(cluster), cluster  # type: ignore[no-untyped-call]
    try:
        return distributed.Client(scheduler, timeout=CONNECT_S), None  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError) as error:
        raise SettingsError(f"no Dask scheduler answers at {scheduler}: {error}") from error
