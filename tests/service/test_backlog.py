"""The backlog: documents in memory while there is room, from the log otherwise, and never wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nsbluesky.document_log import DocumentLog
from nsbluesky.service.backlog import DOCUMENT_BYTES, Backlog, DocumentLost


def documents(uid: str, count: int, **data: Any) -> list[tuple[str, dict[str, Any]]]:
    start = ("start", {"uid": uid, "time": 0.0})
    descriptor = ("descriptor", {"uid": f"{uid}-d", "run_start": uid})
    events = [("event", {"descriptor": f"{uid}-d", "seq_num": k, "data": data}) for k in range(1, count - 1)]
    return [start, descriptor, *events]


def feed(backlog: Backlog, log: DocumentLog, uid: str, documents: list[tuple[str, dict[str, Any]]]) -> None:
    for name, document in documents:
        log(name, document)
        if name == "start":
            backlog.begin(uid)
        backlog.add(uid, name, document)


@pytest.mark.parametrize("in_memory", [0, 3, 100])
def test_the_same_documents_from_memory_and_from_the_log(tmp_path: Path, in_memory: int) -> None:
    log = DocumentLog(tmp_path)
    backlog = Backlog(tmp_path, in_memory * DOCUMENT_BYTES)
    expected = documents("a", 10, x=1.5)
    feed(backlog, log, "a", expected)
    (run,) = backlog.runs()
    assert run.in_memory == min(in_memory, 10) and backlog.bytes_in_memory == run.in_memory * DOCUMENT_BYTES
    for order in (range(10), range(9, -1, -1), [4, 4, 0, 9]):
        for index in order:
            assert backlog.document(run, index) == expected[index]
    log.close()


def test_what_the_service_has_need_not_stay(tmp_path: Path) -> None:
    log = DocumentLog(tmp_path)
    backlog = Backlog(tmp_path, 2**20)
    expected = documents("a", 10)
    feed(backlog, log, "a", expected)
    (run,) = backlog.runs()
    backlog.taken(run, 7)
    assert run.in_memory == 3 and backlog.bytes_in_memory == 3 * DOCUMENT_BYTES
    backlog.taken(run, 0)  # the service has begun anew
    assert [backlog.document(run, index) for index in range(10)] == expected
    backlog.finish("a")
    assert backlog.runs() == [] and backlog.bytes_in_memory == 0
    backlog.add("a", *expected[0])
    assert backlog.bytes_in_memory == 0
    log.close()


def test_frames_in_events_count(tmp_path: Path) -> None:
    log = DocumentLog(tmp_path)
    frame = np.ones((64, 64), np.uint16)
    backlog = Backlog(tmp_path, 4 * frame.nbytes)
    feed(backlog, log, "a", documents("a", 10, image=frame))
    (run,) = backlog.runs()
    assert run.in_memory < 4 and backlog.bytes_in_memory <= 4 * frame.nbytes
    for index in range(2, 10):
        np.testing.assert_array_equal(backlog.document(run, index)[1]["data"]["image"], frame)
    log.close()


def test_frames_in_pages_count(tmp_path: Path) -> None:
    log = DocumentLog(tmp_path)
    frame = np.ones((64, 64), np.uint16)
    backlog = Backlog(tmp_path, 4 * frame.nbytes)
    page = {"descriptor": "a-d", "seq_num": [1, 2, 3], "data": {"image": [frame] * 3, "x": [1.0, 2.0, 3.0]}}
    feed(backlog, log, "a", [*documents("a", 2), *[("event_page", page)] * 3])
    (run,) = backlog.runs()
    assert run.in_memory == 1 and 3 * frame.nbytes < backlog.bytes_in_memory <= 4 * frame.nbytes
    np.testing.assert_array_equal(backlog.document(run, 2)[1]["data"]["image"], page["data"]["image"])
    log.close()


def test_a_document_that_is_in_neither(tmp_path: Path) -> None:
    """As when the disk was full: the log ends early."""
    log = DocumentLog(tmp_path)
    backlog = Backlog(tmp_path, 0)
    feed(backlog, log, "a", documents("a", 4))
    for name, document in documents("a", 6)[4:]:
        backlog.add("a", name, document)
    log.close()
    (run,) = backlog.runs()
    assert backlog.document(run, 3)[0] == "event"
    with pytest.raises(DocumentLost, match="document 5 of run a is not in the document log"):
        backlog.document(run, 5)
    backlog.begin("b")
    backlog.add("b", "start", {"uid": "b"})
    with pytest.raises(DocumentLost, match="no such document log"):
        backlog.document(backlog.runs()[1], 0)
