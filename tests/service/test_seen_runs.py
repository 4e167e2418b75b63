"""What a viewer remembers of the documents that it was given."""

from __future__ import annotations

from typing import Any

from nsbluesky.latest import MAX_KNOWN_RUNS
from nsbluesky.service.subscriber import _SeenRuns

Document = tuple[str, dict[str, Any]]


def documents_of(uid: str) -> list[Document]:
    streams = {f"{uid}-{name}": name for name in ("health", "reconstruction")}
    return [
        ("start", {"uid": uid}),
        *(("descriptor", {"uid": key, "run_start": uid, "name": name}) for key, name in streams.items()),
        *(("event", {"descriptor": key, "seq_num": number, "data": {}}) for key in streams for number in (1, 2)),
        ("stop", {"run_start": uid}),
    ]


def size(seen: _SeenRuns) -> int:
    return sum(len(part) for part in vars(seen).values() if hasattr(part, "__len__"))


def test_a_snapshot_adds_only_what_is_new() -> None:
    seen = _SeenRuns()
    over, going_on = documents_of("over"), documents_of("going-on")
    assert seen.new(over) == over
    assert seen.new(over) == []
    assert seen.new(going_on[:4]) == going_on[:4]
    told_again = [document for document in going_on[1:] if document[1].get("descriptor") == "going-on-health"]
    assert seen.new(over + going_on[:4]) == told_again[:1]  # a health that came before may have changed
    assert seen.new(going_on[4:]) == going_on[4:]


def test_a_viewer_that_is_open_for_months_needs_no_more_memory() -> None:
    seen = _SeenRuns()
    for number in range(MAX_KNOWN_RUNS):
        seen.new(documents_of(f"run-{number}"))
    before = size(seen)
    for number in range(100):
        seen.new(documents_of(f"later-{number}"))
    assert size(seen) == before <= MAX_KNOWN_RUNS
    assert seen.new(documents_of("later-0")) == []
