"""Blocks over any executor: a few at a time, a failed one twice, and none lost to a worker that dies."""

from __future__ import annotations

import errno
import functools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from typing import Any

from nsbluesky.conversion.blocks import Block, clean_block
from nsbluesky.conversion.frames import ConversionError
from nsbluesky.dask_cluster import DaskExecutor
from nsbluesky.ended_by_signal import deaf_to_terminals

__all__ = ["Workers", "clean_blocks", "forking_server"]

MAX_DEATHS = 3
"""After so many workers that died one after the other, the fault is not with the blocks."""

BLOCKS_PER_WORKER = 2
"""One at work and one that waits, so that no worker waits for the next one."""


@dataclass(frozen=True)
class Workers:
    """How the blocks of a conversion are spread.

    Attributes
    ----------
    number : int
        How many blocks are at work at the same time.
    start : callable
        Returns a new executor; called again where one broke.  Its workers must see the raw files and the output
        folder under the same paths.
    """

    number: int
    start: Callable[[], Executor]

    @classmethod
    def threads(cls, number: int) -> Workers:
        """Return threads of this process: compiled code runs side by side, nothing has to be started."""
        return cls(number, lambda: ThreadPoolExecutor(number, "nsbluesky-raw2cxi"))

    @classmethod
    def processes(cls, number: int) -> Workers:
        """Return processes on this machine: one that dies takes no other with it."""
        return cls(number, functools.partial(_start_processes, number))

    @classmethod
    def dask(cls, number: int, client: Any) -> Workers:
        """Return those of a Dask cluster: `number` is that of their threads, `client` a `distributed.Client`."""
        return cls(number, lambda: DaskExecutor(client))


def forking_server() -> BaseContext:
    """Return how worker processes are made: forked by a process that has imported what they need, and has no threads.

    A fork of this process would copy locks that its threads hold; a process from scratch would import for a second.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nsbluesky.conversion.blocks"])
    return context


def _start_processes(number: int) -> Executor:
    """Return processes that hear nothing of a terminal: the one that started them ends them."""
    context = forking_server()
    with deaf_to_terminals():
        forkserver.ensure_running()  # which would die of it as well
        return ProcessPoolExecutor(number, context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """End this worker process when the one that started it is killed: nobody else would."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def clean_blocks(blocks: Iterable[Block], workers: Workers) -> Iterator[tuple[Block, str]]:
    """Clean blocks, and yield each with what is wrong with it: "" where its file is there.

    A block that fails is tried again, point by point.  Where a worker dies, the blocks that were at work are tried
    again one after the other, so that the one that killed it costs no other.

    Raises
    ------
    ConversionError
        Where workers die whatever they do, or the disk is full: every further block would fail as well.
    """
    waiting, again = iter(blocks), deque[Block]()
    at_work: dict[Future[None], Block] = {}
    deaths = 0
    pool = workers.start()
    try:
        while True:
            while len(at_work) < BLOCKS_PER_WORKER * workers.number:
                block = again.popleft() if again else next(waiting, None)
                if block is None:
                    break
                at_work[_submit(pool, block)] = block
            if not at_work:
                return
            suspects = []
            for future in wait_for(at_work, return_when=FIRST_COMPLETED).done:
                block, error = at_work.pop(future), future.exception()
                _stop_at_a_full_disk(error)
                if isinstance(error, BrokenExecutor):
                    suspects.append(block)
                elif error is None or block.one_by_one:
                    yield block, _reason(error)
                else:
                    again.append(replace(block, one_by_one=True))
            if not suspects:
                continue
            suspects += at_work.values()
            at_work.clear()
            pool = _anew(pool, workers)
            for block in sorted(suspects, key=lambda block: block.number):
                error = _submit(pool, block).exception()
                _stop_at_a_full_disk(error)
                died = isinstance(error, BrokenExecutor)
                deaths = deaths + 1 if died else 0
                if deaths == MAX_DEATHS:
                    raise ConversionError(
                        f"worker processes died {deaths} times one after the other ({error}): is there enough "
                        "memory? use fewer --workers; --resume goes on from here"
                    )
                if died:
                    pool = _anew(pool, workers)
                if error is None or died or block.one_by_one:
                    yield block, _reason(error)
                else:
                    again.append(replace(block, one_by_one=True))
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(pool: Executor, block: Block) -> Future[None]:
    try:
        return pool.submit(clean_block, block)
    except BrokenExecutor as error:  # it broke since the last block came back
        future: Future[None] = Future()
        future.set_exception(error)
        return future


def _stop_at_a_full_disk(error: BaseException | None) -> None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise ConversionError(f"no space left for the blocks ({error.strerror}): make space, then --resume goes on")


def _anew(pool: Executor, workers: Workers) -> Executor:
    """Return a new executor in the place of one that broke."""
    pool.shutdown(cancel_futures=True)
    return workers.start()


def _reason(error: BaseException | None) -> str:
    if isinstance(error, BrokenExecutor):
        return "the worker process died with it twice"
    return "" if error is None else f"{error}" or type(error).__name__
