"""Graphs of kernels, with a stand-in for a device's streams; `tests/solver/test_device_batches.py` has real work."""

from __future__ import annotations

import gc
import logging
import weakref
from types import SimpleNamespace

import pytest

from nsbluesky.device_graphs import DIRECT_RUNS, MOST_GRAPHS, Recorder


class Kernels:
    """What a device would do: starts calls, or records them."""

    def __init__(self):
        self.done = []
        self.recorded = None
        self.cuda = SimpleNamespace(Stream=lambda non_blocking: Stream(self))

    def start(self, name):
        (self.done if self.recorded is None else self.recorded).append(name)


class Stream:
    def __init__(self, kernels):
        self.kernels = kernels

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def begin_capture(self):
        self.kernels.recorded = []

    def end_capture(self):
        names, self.kernels.recorded = self.kernels.recorded, None
        return SimpleNamespace(launch=lambda: self.kernels.done.append(tuple(names)))


class Plan:
    pass


def test_work_is_done_directly_at_first_and_then_by_a_graph():
    kernels = Kernels()
    recorder = Recorder(kernels)

    def work():
        kernels.start("a")
        kernels.start("b")

    for _ in range(DIRECT_RUNS + 3):
        recorder.run("key", work)
    assert kernels.done == DIRECT_RUNS * ["a", "b"] + 3 * [("a", "b")]


def test_plans_live_as_long_as_the_graphs_that_know_them():
    kernels, plans = Kernels(), []
    recorder = Recorder(kernels)

    def work():
        plan = Plan()
        plans.append(weakref.ref(plan))
        return [plan]

    def alive():
        gc.collect()
        return [plan() is not None for plan in plans]

    for _ in range(DIRECT_RUNS + 1):
        recorder.run("key", work)
    assert alive() == DIRECT_RUNS * [False] + [True]
    for number in range(MOST_GRAPHS):
        for _ in range(DIRECT_RUNS + 1):
            recorder.run(number, lambda: None)
    assert not any(alive())


def test_what_cannot_be_recorded_is_done_directly(caplog):
    kernels = Kernels()
    recorder = Recorder(kernels)

    def work():
        if kernels.recorded is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        kernels.start("a")

    with caplog.at_level(logging.WARNING):
        for _ in range(DIRECT_RUNS + 2):
            recorder.run("key", work)
    assert kernels.done == (DIRECT_RUNS + 2) * ["a"]
    assert kernels.recorded is None
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "kernels cannot be recorded as a CUDA graph here"
    ]


@pytest.mark.parametrize("fails_at", [0, DIRECT_RUNS])
def test_an_error_of_the_work_itself_is_told(fails_at):
    recorder, runs = Recorder(Kernels()), []

    def work():
        runs.append(None)
        if len(runs) > fails_at:
            raise ValueError("an array is not contiguous")

    for _ in range(fails_at):
        recorder.run("key", work)
    with pytest.raises(ValueError, match="not contiguous"):
        recorder.run("key", work)
