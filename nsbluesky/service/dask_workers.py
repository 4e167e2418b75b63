"""Dask's workers for the service: processes on this machine, or those of a cluster."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any, Self

from nsbluesky.callbacks.stage import Workers
from nsbluesky.dask_cluster import DaskExecutor, is_connected, open_cluster
from nsbluesky.service.settings import ServiceSettings

__all__ = ["DaskWorkers"]

log = logging.getLogger(__name__)

RECIPES = "recipes"
COUNT_S = 1.0


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
        self._executor.shutdown(cancel_futures=True)
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def _count(self) -> None:
        while not self._closing.wait(COUNT_S):
            try:
                self.count = self._ask()
            except Exception as error:
                log.warning("the scheduler does not answer: %s", error)
                self.count = 0

    def _ask(self) -> int:
        if not is_connected(self._client):
            return 0
        return len(self._client.scheduler_info(n_workers=-1)["workers"])
