"""What viewers get: small copies, and the whole state for those that come late."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from derived_scan import DerivedScan

from nsbluesky.callbacks.live_plots import LivePlots
from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.service import wire
from nsbluesky.service.access import Credentials
from nsbluesky.service.control import ask_snapshot
from nsbluesky.service.server import Server
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.service.snapshot import MAX_HISTORY, Previews, Snapshot
from nsbluesky.service.wire import pack, unpack


class Viewers:
    """One viewer from the beginning, and the snapshot for one that comes late."""

    def __init__(self, interval_s: float = 0.0) -> None:
        self.early = LivePlots()
        self.previews = Previews(interval_s)
        self.snapshot = Snapshot()
        self.sizes: list[int] = []

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        message = pack((name, self.previews(name, document)))
        self.sizes.append(len(message))
        name, document = unpack(message)
        self.snapshot(name, document)
        self.early(name, document)

    def late(self) -> LiveState:
        live = LivePlots()
        for name, document in self.snapshot.documents():
            live(name, document)
        return live.snapshot()


def run_a_scan(viewers: Viewers, blocks: int = 12) -> DerivedScan:
    scan = DerivedScan(viewers)
    scan.start()
    scan.dark_statistics()
    scan.detector()
    for block in range(blocks):
        numbers = range(3 * block + 1, 3 * block + 4)
        scan.raw(*numbers)
        scan.clean(*numbers)
        scan.reconstruction(3 * block + 3, 0.5 / (block + 1))
    scan.low_resolution(36)
    scan.sweep()
    scan.health(num_frames=36, lost=(4,))
    return scan


def assert_same(early: LiveState, late: LiveState) -> None:
    assert early.run is not None and late.run is not None and early.run.uid == late.run.uid
    for part in ("raw", "clean"):
        a, b = getattr(early, part), getattr(late, part)
        assert a.seq_num == b.seq_num
        np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(early.positions_m, late.positions_m)
    assert early.reconstruction is not None and late.reconstruction is not None
    np.testing.assert_array_equal(early.reconstruction.object, late.reconstruction.object)
    for curve in ("r_factor", "num_frames", "time_s"):
        np.testing.assert_array_equal(getattr(early.history, curve), getattr(late.history, curve))
    assert late.dark is not None and late.detector is not None and late.sweep is not None
    assert late.low_resolution is not None and late.lost == early.lost == (4,)


def test_a_late_viewer_sees_what_the_others_see() -> None:
    viewers = Viewers()
    scan = run_a_scan(viewers)
    assert viewers.early.snapshot().errors == [] == viewers.late().errors
    assert_same(viewers.early.snapshot(), viewers.late())
    assert not viewers.late().finished
    scan.stop()
    assert viewers.late().finished


def test_many_blocks_are_kept_as_few() -> None:
    viewers = Viewers()
    scan = DerivedScan(viewers)
    scan.start()
    for number in range(1, 301):
        scan.raw(number)
    pages = [document for name, document in viewers.snapshot.documents() if name == "event_page"]
    assert len(pages) == 2, "all points as one page, and the newest frame"
    assert len(viewers.late().positions_m) == 300


def test_the_history_of_a_long_run_is_thinned_and_keeps_both_ends() -> None:
    viewers = Viewers()
    scan = DerivedScan(viewers)
    scan.start()
    for number in range(MAX_HISTORY + 500):
        scan.reconstruction(1 + number, 1 / (1 + number))
    history, early = viewers.late().history, viewers.early.snapshot().history
    assert MAX_HISTORY // 2 < len(history.r_factor) <= MAX_HISTORY + 1
    assert (np.diff(history.num_frames) > 0).all()
    assert (history.r_factor[0], history.r_factor[-1]) == (early.r_factor[0], early.r_factor[-1])
    sizes = [len(pack(document)) for document in viewers.snapshot.documents()]
    assert sorted(sizes)[-2] < 2000, "one image, and numbers"


def test_of_many_frames_few_are_sent() -> None:
    """Positions of all, a frame now and then: what a viewer gets does not grow with the frames."""
    viewers = Viewers(interval_s=3600.0)
    scan = DerivedScan(viewers)
    scan.start()
    frames = scan.raw(1, 2, 3)
    first = viewers.sizes[-1]
    scan.raw(4, 5, 6)
    assert first > frames[0].nbytes and first < 2 * frames[0].nbytes
    assert viewers.sizes[-1] < 2000
    state = viewers.early.snapshot()
    assert state.raw is not None and state.raw.seq_num == 3
    np.testing.assert_array_equal(state.raw.image, frames[-1])
    assert len(state.positions_m) == 6


def test_old_runs_are_forgotten() -> None:
    viewers = Viewers()
    scans = [run_a_scan(viewers, blocks=1) for _ in range(4)]
    starts = [document["uid"] for name, document in viewers.snapshot.documents() if name == "start"]
    assert starts == [scan.run.uid for scan in scans[-2:]]
    scans[-1].stop()
    viewers.snapshot.clear()
    starts = [document["uid"] for name, document in viewers.snapshot.documents() if name == "start"]
    assert starts == [scans[-2].run.uid]


def test_a_late_viewer_gets_more_than_one_message_may_hold_and_not_what_was_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ServiceSettings(str(tmp_path), ("/",), "tcp://127.0.0.1:0", warm_up=False)
    server = Server(settings, Credentials.make(""))
    running = threading.Thread(target=server.run)
    running.start()
    try:
        for _ in range(2):
            run_a_scan(server._publisher)
        number, documents = server._publisher.snapshot()
        sizes = [len(pack(document)) for document in documents]
        monkeypatch.setattr(wire, "MAX_BYTES", max(sizes) + 100)
        assert sum(sizes) > wire.MAX_BYTES
        server._publisher("event", {**documents[-1][1], "data": {"too_large": np.zeros(wire.MAX_BYTES, np.uint8)}})
        assert "cannot be published" in caplog.text
        told, got = ask_snapshot(server.address)
    finally:
        server.stop()
        running.join()
        server.close()
    assert told == number
    assert [name for name, _ in got] == [name for name, _ in documents]
