"""Replay: the same documents to the same callbacks, from the log or from the catalog, at any pace."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from nsbluesky import replay as module
from nsbluesky.document_log import DocumentLog, DocumentLogError
from nsbluesky.replay import documents_of, how_it_ended, replay

DOCUMENTS: list[tuple[str, dict[str, Any]]] = [
    ("start", {"uid": "abc", "time": 100.0}),
    ("descriptor", {"uid": "d", "run_start": "abc", "time": 100.5}),
    ("stream_resource", {"uid": "r", "run_start": "abc"}),
    ("event", {"uid": "e", "descriptor": "d", "time": 102.0}),
    ("event_page", {"uid": ["f"], "descriptor": "d", "time": [103.0, 104.0]}),
    ("stop", {"uid": "s", "run_start": "abc", "time": 104.0}),
]


class FakeRun:
    metadata: dict[str, Any] = {"stop": None}  # noqa: RUF012

    def documents(self) -> list[tuple[str, dict[str, Any]]]:
        return [("start", {"uid": "xyz", "from": "catalog"}), ("stop", {})]  # as tiled, of a run that goes on


class FakeCatalog:
    client = {"xyz": FakeRun(), "abc": FakeRun()}  # noqa: RUF012


def test_every_callback_gets_every_document_in_order() -> None:
    first: list[Any] = []
    second: list[Any] = []
    assert replay(DOCUMENTS, lambda *d: first.append(d), lambda *d: second.append(d)) == len(DOCUMENTS)
    assert first == second == DOCUMENTS


class Clock(threading.Event):
    """An event whose waiting moves a clock instead of taking time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None and timeout >= 0
        self.now += timeout
        return self.is_set()


@pytest.mark.parametrize("speed", [1.0, 2.0])
def test_pace_is_that_of_the_recording(monkeypatch: pytest.MonkeyPatch, speed: float) -> None:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    moments: list[float] = []
    replay(DOCUMENTS, lambda *d: moments.append(clock.now * speed), speed=speed, stop=clock)
    assert moments == pytest.approx([0.0, 0.5, 0.5, 2.0, 4.0, 4.0])


def test_replay_can_be_stopped_from_another_thread() -> None:
    stop = threading.Event()
    seen: list[str] = []

    def callback(name: str, document: dict[str, Any]) -> None:
        seen.append(name)
        if name == "descriptor":
            threading.Thread(target=stop.set).start()
            assert stop.wait(10)

    assert replay(DOCUMENTS, callback, stop=stop) == 2
    assert seen == ["start", "descriptor"]


def test_a_run_without_an_end_is_ended() -> None:
    """Whose session died, or which goes on; nothing would work on the frames that wait for more."""
    seen: list[Any] = []
    assert replay(DOCUMENTS[:-1], lambda *d: seen.append(d)) == len(DOCUMENTS)
    assert seen[:-1] == DOCUMENTS[:-1]
    name, stop = seen[-1]
    assert (name, stop["run_start"]) == ("stop", "abc")
    assert how_it_ended(stop) == "abort: its record has no end: its session died, or the run goes on"


def test_how_a_run_ended() -> None:
    assert how_it_ended({"exit_status": "success", "reason": ""}) == "success"
    assert how_it_ended({"exit_status": "fail", "reason": "beam lost"}) == "fail: beam lost"


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan")])
def test_impossible_speed_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match="positive factor"):
        replay(DOCUMENTS, speed=speed)


def test_log_is_preferred_to_the_catalog(tmp_path: Path) -> None:
    log = DocumentLog(tmp_path)
    replay(DOCUMENTS, log)
    assert list(documents_of("abc", tmp_path, FakeCatalog())) == DOCUMENTS
    assert list(documents_of("xyz", tmp_path, FakeCatalog())) == [("start", {"uid": "xyz", "from": "catalog"})]
    assert [name for name, _ in documents_of("xyz", catalog=FakeCatalog())] == ["start"]


def test_unknown_run_is_told(tmp_path: Path) -> None:
    for arguments in ((None, None), (tmp_path, None), (tmp_path, FakeCatalog())):
        with pytest.raises(DocumentLogError, match="nowhere"):
            documents_of("nowhere", *arguments)
