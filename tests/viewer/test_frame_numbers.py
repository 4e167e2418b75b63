"""Numbers of frames come back from text as they went."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbluesky.viewer.frame_numbers import numbers_text, parse_numbers


@given(st.lists(st.integers(1, 200)))
def test_numbers_come_back(numbers: list[int]) -> None:
    assert parse_numbers(numbers_text(numbers)) == sorted(set(numbers))


def test_ranges() -> None:
    assert numbers_text([9, 3, 7, 8, 8]) == "3, 7-9"
    assert parse_numbers(" 3,7 - 9, 12–13,,") == [3, 7, 8, 9, 12, 13]


@pytest.mark.parametrize("text", ["x", "3-", "9-7", "0", "-3", "1.5", "1-99999999999"])
def test_what_is_no_number_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="expected numbers of frames"):
        parse_numbers(text)


@given(st.text(max_size=12))
def test_any_text_is_numbers_or_refused(text: str) -> None:
    try:
        assert all(number >= 1 for number in parse_numbers(text))
    except ValueError as error:
        assert "expected numbers of frames" in str(error)
