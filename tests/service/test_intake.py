"""Documents in any state of disorder: each goes on once, in the order of its run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbluesky.latest import MAX_KNOWN_RUNS
from nsbluesky.service.finished import FinishedRun
from nsbluesky.service.intake import MAX_OPEN_RUNS, DocumentRefused, Intake


def document(run: str, index: int) -> tuple[str, dict[str, Any]]:
    return ("start", {"uid": run}) if index == 0 else ("event", {"run": run, "index": index})


class Delivered:
    def __init__(self) -> None:
        self.indices: dict[str, list[int]] = {}

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        self.indices.setdefault(doc.get("uid") or doc["run"], []).append(doc.get("index", 0))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 6)), max_size=60))
def test_any_order_with_losses_and_repeats(messages: list[tuple[str, int]]) -> None:
    delivered = Delivered()
    intake = Intake(delivered)
    for run, index in messages:
        before = intake.progress(run).next
        assert intake.take(run, index, *document(run, index)) == (index <= before)
    for run in "ab":  # whoever sends asks how far it is, and sends the rest
        for index in range(intake.progress(run).next, 7):
            assert intake.take(run, index, *document(run, index))
        assert delivered.indices[run] == list(range(7))


def test_runs_that_end_here() -> None:
    delivered = Delivered()
    intake = Intake(delivered)
    for index in range(3):
        intake.take("a", index, *document("a", index))
    intake.end("a")
    assert intake.take("a", 3, *document("a", 3)) and intake.progress("a").next == 4
    assert intake.open_runs == ["a"]
    intake.finish(FinishedRun("a"))
    assert intake.take("a", 4, *document("a", 4)) and intake.open_runs == []
    assert delivered.indices == {"a": [0, 1, 2]}
    intake.forget("a")
    assert not intake.take("a", 4, *document("a", 4)) and intake.num_gaps == 1


@pytest.mark.parametrize(
    ("run", "name", "doc", "reason"),
    [
        ("a", "event", {}, "expected its start document"),
        ("a", "start", {"uid": "b"}, "has the uid 'b'"),
        ("../a", "start", {"uid": "../a"}, "letters, digits and dashes"),
    ],
)
def test_what_is_refused(run: str, name: str, doc: dict[str, Any], reason: str) -> None:
    with pytest.raises(DocumentRefused, match=reason):
        Intake(Delivered()).take(run, 0, name, doc)


def begin_runs(intake: Intake, count: int, last: str) -> None:
    for number in range(count):
        for index, name in enumerate(("start", last)):
            intake.take(f"run-{number}", index, name, {"uid": f"run-{number}", "run": f"run-{number}"})


def test_runs_that_nobody_ends_are_bounded() -> None:
    intake = Intake(Delivered())
    begin_runs(intake, MAX_OPEN_RUNS, last="descriptor")
    with pytest.raises(DocumentRefused, match="runs are open"):
        intake.take("one-more", 0, "start", {"uid": "one-more"})
    intake.finish(FinishedRun("run-0"))
    assert intake.take("one-more", 0, "start", {"uid": "one-more"})


def test_further_runs_wait_until_some_are_processed() -> None:
    """As where the service comes after a night: none is refused, and none is taken before its turn."""
    intake = Intake(Delivered())
    begin_runs(intake, MAX_OPEN_RUNS, last="stop")
    assert not intake.take("one-more", 0, "start", {"uid": "one-more"})
    assert intake.progress("one-more").next == 0 and len(intake.open_runs) == MAX_OPEN_RUNS
    intake.finish(FinishedRun("run-0"))
    assert intake.take("one-more", 0, "start", {"uid": "one-more"})


def test_the_runs_that_were_finished_last_are_known() -> None:
    """In the order of their ends: a long scan that began before a thousand short ones is not forgotten at its end."""
    intake = Intake(Delivered())
    intake.take("long", 0, "start", {"uid": "long"})
    for number in range(MAX_KNOWN_RUNS):
        intake.finish(FinishedRun(f"run-{number}"))
    assert intake.is_open("long")
    intake.finish(FinishedRun("long", exit_status="success"))
    assert intake.progress("long").finished == FinishedRun("long", exit_status="success")
    assert not intake.is_open("long")
    assert intake.progress("run-0").finished is None
    assert intake.progress("run-1").finished is not None and not intake.is_open("never heard of")
