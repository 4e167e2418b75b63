"""Shards of a reconstruction on Dask's workers: each stays on its worker, and moves when the worker is lost."""

from __future__ import annotations

import itertools
import warnings
from concurrent.futures import Future
from typing import Any, cast

from nsbluesky.dask_cluster import RETRIES, called
from nsbluesky.solver.shards import ShardOrder, ShardSums, ShardTask, work_on_shard

__all__ = ["DaskShards"]


class DaskShards:
    """Hands the tasks of shards to Dask.

    Parameters
    ----------
    client : distributed.Client

    Attributes
    ----------
    homes : dict
        Address of the worker that holds a shard, by the shard's number.
    """

    def __init__(self, client: Any) -> None:
        self.homes: dict[int, str] = {}
        self._client = client
        self._addresses = itertools.cycle(sorted(client.scheduler_info(n_workers=-1)["workers"]))

    def submit(self, order: ShardOrder, task: ShardTask) -> Future[ShardSums]:
        """Do a task where the shard is, if that worker is still there, else on any other."""
        home = self.homes.setdefault(order.number, next(self._addresses))
        with warnings.catch_warnings():
            # the object goes with the task on purpose: scattered, it would be lost with the worker
            warnings.filterwarnings("ignore", message="Sending large graph")
            future = self._client.submit(
                *(called, _work, order, task),
                workers=[home],
                allow_other_workers=True,
                pure=False,
                retries=RETRIES,
            )
        return cast("Future[ShardSums]", _Awaited(self, order.number, future))


class _Awaited:
    """The sums that a task will bring; notes where it was done."""

    def __init__(self, shards: DaskShards, number: int, future: Any) -> None:
        self._shards, self._number, self._future = shards, number, future

    def result(self) -> ShardSums:
        """Wait for them."""
        sums, self._shards.homes[self._number] = self._future.result()
        return cast(ShardSums, sums)


def _work(order: ShardOrder, task: ShardTask) -> tuple[ShardSums, str]:
    """Work on a shard, and say on which worker."""
    from distributed import get_worker

    return work_on_shard(order, task), str(get_worker().address)
