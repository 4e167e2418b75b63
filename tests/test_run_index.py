"""Which runs are open, and which of them a document belongs to."""

from __future__ import annotations

from nsbluesky.run_index import RunIndex


def test_a_run_that_stopped_is_not_open_and_may_begin_again() -> None:
    index = RunIndex()
    for uid in ("a", "b"):
        assert index.runs_of("start", {"uid": uid}) == [uid]
        assert index.runs_of("descriptor", {"uid": f"{uid}-d", "run_start": uid}) == [uid]
    assert index.open_runs == ["a", "b"]
    assert index.runs_of("stop", {"uid": "a-s", "run_start": "a"}) == ["a"]
    assert index.open_runs == index.runs_of("resource", {"uid": "r"}) == ["b"]
    assert index.runs_of("event", {"descriptor": "a-d"}) == []
    assert index.runs_of("start", {"uid": "a"}) == ["a"]
