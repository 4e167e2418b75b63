"""The record of finished runs, also where a disk was full in the middle of it."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest

from nsbluesky.service.finished import NAME, FinishedRun, FinishedRuns

FIRST, SECOND, THIRD = (FinishedRun(name, f"derived-{name}", "success", cxi=f"/{name}.cxi") for name in "abc")


def test_runs_come_back_in_their_order(tmp_path: Path) -> None:
    record = FinishedRuns(tmp_path)
    assert record.read() == []
    record.add()
    record.add(FIRST, SECOND)
    record.add(THIRD)
    assert FinishedRuns(tmp_path).read() == [FIRST, SECOND, THIRD]


@pytest.mark.parametrize("left", [0, 1, 20])
def test_a_line_that_a_full_disk_cut_off_costs_itself_alone(tmp_path: Path, left: int) -> None:
    record = FinishedRuns(tmp_path)
    record.add(FIRST)
    begin = (tmp_path / NAME).stat().st_size
    record.add(SECOND)
    with (tmp_path / NAME).open("r+b") as file:
        file.truncate(begin + left)
    record.add(THIRD)
    assert record.read() == [FIRST, THIRD]


def test_a_line_of_other_bytes_costs_itself_alone(tmp_path: Path) -> None:
    """As a disk leaves them that has lost its power; a service must not fail on them when it starts."""
    record = FinishedRuns(tmp_path)
    record.add(FIRST)
    with (tmp_path / NAME).open("ab") as file:
        file.write(b"\xff\xfe\x80\n" + bytes(300) + b"\n")
    record.add(SECOND)
    assert record.read() == [FIRST, SECOND]


def test_a_line_without_its_end_still_counts(tmp_path: Path) -> None:
    record = FinishedRuns(tmp_path)
    record.add(FIRST)
    with (tmp_path / NAME).open("r+b") as file:
        file.truncate((tmp_path / NAME).stat().st_size - 1)
    record.add(SECOND)
    assert record.read() == [FIRST, SECOND]


def test_one_run_is_found_without_reading_those_of_years(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = FinishedRuns(tmp_path)
    assert record.find("a") is None
    again = FinishedRun("a", "derived-again", "success")
    record.add(FIRST, *(FinishedRun(f"other-{k}", reason="of 'a'") for k in range(100)), again)
    parsed = mock.Mock(side_effect=json.loads)
    monkeypatch.setattr("nsbluesky.service.finished.json.loads", parsed)
    assert record.find("a") == again
    assert parsed.call_count == 2
    record.withdraw("a")
    assert record.find("a") is None


def test_a_run_that_is_withdrawn_is_not_finished_until_it_is_told_again(tmp_path: Path) -> None:
    record = FinishedRuns(tmp_path)
    record.add(FIRST, SECOND)
    record.withdraw()
    record.withdraw(FIRST.raw_uid)
    assert record.read() == [SECOND]
    record.add(FIRST)
    assert record.read() == [SECOND, FIRST]
