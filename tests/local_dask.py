"""A cluster of Dask on this machine, for tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

__all__ = ["dask_client"]


@contextmanager
def dask_client(workers: int = 2, *, processes: bool = False) -> Iterator[Any]:
    """Give a client of so many workers; it is not the default one, which would stay behind where it dies."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=processes,
            dashboard_address=":0",  # None is port 8787, which another process may have
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(workers, timeout=30)
        yield client
