"""When work is recorded, and what happens where it cannot be, with a stand-in for CUDA.

The real thing is in `tests/solver/test_device_batches.py`.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np

from nsbluesky import device_graphs
from nsbluesky.device_graphs import DIRECT_RUNS, MOST_GRAPHS, Recorder


class Cuda:
    """Streams that record: what is done while one captures is not done, but by its graph."""

    def __init__(self, can_record=True):
        self.recording = None
        self.can_record = can_record
        self.launched = 0

    def work(self, done, name):
        """Return work that is done, or recorded, under a name."""

        def start():
            (done if self.recording is None else self.recording).append(name)

        return start

    def Stream(self, *, non_blocking):
        assert non_blocking

        def begin_capture():
            if not self.can_record:
                raise RuntimeError("no capture here")
            self.recording = []

        def end_capture():
            recorded, self.recording = self.recording, None
            return SimpleNamespace(launch=lambda: self._launch(recorded))

        stream = contextlib.nullcontext()
        stream.begin_capture, stream.end_capture = begin_capture, end_capture
        return stream

    def _launch(self, recorded):
        self.launched += 1
        self.done.extend(recorded)


def recorder_of(cuda):
    cuda.done = []
    return Recorder(SimpleNamespace(cuda=cuda)), cuda.done


def test_what_was_done_a_few_times_is_recorded_and_done_each_time():
    cuda = Cuda()
    recorder, done = recorder_of(cuda)
    for _ in range(DIRECT_RUNS + 4):
        recorder.run("a", cuda.work(done, "a"))
    recorder.run("b", cuda.work(done, "b"))
    assert done == ["a"] * (DIRECT_RUNS + 4) + ["b"]
    assert cuda.launched == 4


def test_few_graphs_are_kept(monkeypatch):
    cuda = Cuda()
    recorder, done = recorder_of(cuda)
    for _ in range(DIRECT_RUNS + 1):
        for key in range(MOST_GRAPHS + 1):
            recorder.run(key, cuda.work(done, key))
    done.clear()
    launched = cuda.launched
    recorder.run(MOST_GRAPHS, cuda.work(done, "latest"))  # what it recorded, not what is asked for now
    assert (done, cuda.launched) == ([MOST_GRAPHS], launched + 1)
    assert len(recorder._graphs) == MOST_GRAPHS
    assert 0 not in recorder._graphs


def test_where_nothing_can_be_recorded_all_is_done_directly(caplog):
    cuda = Cuda(can_record=False)
    recorder, done = recorder_of(cuda)
    for _ in range(DIRECT_RUNS + 3):
        recorder.run("a", cuda.work(done, "a"))
    assert done == ["a"] * (DIRECT_RUNS + 3)
    assert caplog.text.count("kernels cannot be recorded as a CUDA graph here") == 1


def test_a_host_does_everything_at_once():
    recorder = Recorder(np)
    host, device, back = np.arange(4), np.zeros(4, int), np.zeros(4, int)
    recorder.send(host, device)
    for _ in range(2 * DIRECT_RUNS):
        recorder.run("double", lambda: np.multiply(device, 2, out=device))
    recorder.fetch(device, back)()
    assert back.tolist() == [0, 64, 128, 192]
    assert device_graphs.DIRECT_RUNS == 3
