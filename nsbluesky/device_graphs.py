"""The same kernels again and again: recorded as a CUDA graph, which starts them all for the price of one.

Starting a kernel takes Python 8 µs or more, a kernel of a batch of frames takes less; as a graph, 20 of them were
started in 3 µs.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from types import ModuleType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

__all__ = ["Recorder"]

log = logging.getLogger(__name__)

DIRECT_RUNS = 3
"""Times that work is done without a graph: what is loaded and planned at first cannot be recorded, and to record what
is done a few times only is not worth it."""

MOST_GRAPHS = 32


class Recorder:
    """Does work directly, or by a graph of it, on the current stream; on a host always directly.

    Parameters
    ----------
    xp : module
    """

    def __init__(self, xp: ModuleType) -> None:
        self._xp = xp
        self._records = xp is not np
        self._runs: OrderedDict[Hashable, int] = OrderedDict()
        self._graphs: OrderedDict[Hashable, tuple[Any, object]] = OrderedDict()

    def run(self, key: Hashable, work: Callable[[], object]) -> None:
        """Do `work`.

        Parameters
        ----------
        key
            All that `work` depends on but for the contents of arrays: where these lie, their shapes, numbers.
        work : callable
            Starts kernels and transforms, and neither allocates nor waits.  What it returns lives as long as its
            graph, which knows the memory of plans by address.
        """
        if key in self._graphs:
            self._graphs.move_to_end(key)
            self._graphs[key][0].launch()
            return
        runs = self._runs.get(key, 0)
        self._runs[key] = runs + 1
        self._runs.move_to_end(key)
        if len(self._runs) > 4 * MOST_GRAPHS:
            self._runs.popitem(last=False)
        recorded = self._recorded(work) if self._records and runs >= DIRECT_RUNS else None
        if recorded is None:
            work()
            return
        self._graphs[key] = recorded
        if len(self._graphs) > MOST_GRAPHS:
            self._graphs.popitem(last=False)
        recorded[0].launch()

    def _recorded(self, work: Callable[[], object]) -> tuple[Any, object] | None:
        """Return a graph of `work` and what that returned, or None, and record no more, where that cannot be."""
        stream = self._xp.cuda.Stream(non_blocking=True)
        try:
            with stream:
                stream.begin_capture()
                try:
                    kept = work()
                finally:
                    graph = stream.end_capture()
        except Exception:
            log.warning("kernels cannot be recorded as a CUDA graph here; they are started one by one", exc_info=True)
            self._records = False
            return None
        return graph, kept

    def send(self, host: npt.NDArray[Any], device: Any) -> None:
        """Begin to copy an array of pinned memory to the device; on a host, copy it."""
        if self._xp is np:
            device[...] = host
        else:
            device.data.copy_from_host_async(host.ctypes.data, host.nbytes)

    def fetch(self, device: Any, host: npt.NDArray[Any]) -> Callable[[], None]:
        """Begin to copy an array of the device to pinned memory, after all work that was begun; return what waits."""
        if self._xp is np:
            host[...] = device
            return lambda: None
        device.data.copy_to_host_async(host.ctypes.data, host.nbytes)
        arrived = self._xp.cuda.Event(disable_timing=True)
        arrived.record()
        return cast(Callable[[], None], arrived.synchronize)
