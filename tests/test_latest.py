"""A dict of the latest entries."""

from __future__ import annotations

from nsbluesky.latest import Latest


def test_the_entries_that_were_set_last_are_kept() -> None:
    latest: Latest[str, int] = Latest(3)
    for number, key in enumerate("abcad"):
        latest[key] = number
    assert list(latest.items()) == [("c", 2), ("a", 3), ("d", 4)]
