"""What a stage is doing, as others see it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nsbluesky.callbacks import activity
from nsbluesky.callbacks.activity import StageClock


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time, which a test sets."""
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(activity, "time", clock)
    return clock


def test_a_stage_is_busy_while_it_works_and_that_time_is_counted(time: SimpleNamespace) -> None:
    clock = StageClock()
    time.now = 101.0
    with clock.running():
        time.now = 103.0
        seen = clock.activity("clean", None)
        assert (seen.state, seen.block_s, seen.busy_s) == ("busy", 2.0, 0.0)
        clock.count(10)
    time.now = 104.0
    seen = clock.activity("clean", None)
    assert (seen.state, seen.block_s, seen.busy_s, seen.age_s, seen.num_blocks) == ("idle", 0.0, 2.0, 1.0, 1)
    with pytest.raises(ValueError), clock.running():
        time.now = 110.0
        raise ValueError
    seen = clock.activity("clean", "")
    assert (seen.state, seen.block_s, seen.busy_s, seen.error) == ("error", 0.0, 8.0, "")


def test_rates_are_those_since_the_last_look(time: SimpleNamespace) -> None:
    clock = StageClock()
    for _ in range(4):
        clock.count(1_000_000)
    time.now = 102.0
    clock.look(3)
    seen = clock.activity("clean", None)
    assert (seen.rate_hz, seen.MB_s, seen.queue) == (2.0, 2.0, 3)
    clock.look(4)  # at once again: too soon to tell a rate
    seen = clock.activity("clean", None)
    assert (seen.rate_hz, seen.MB_s, seen.queue) == (2.0, 2.0, 4)
    time.now = 106.0
    clock.look(0)
    seen = clock.activity("clean", None)
    assert (seen.rate_hz, seen.MB_s, seen.queue) == (0.0, 0.0, 0)
