"""Numbers of scans: none comes twice, whichever session takes it, and a damaged file fails no scan."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bluesky import plans as bp
from own_run_engine import run_engine

from nsbluesky import session
from nsbluesky.scan_ids import ScanIds


def test_they_go_on_from_session_to_session(tmp_path: Path) -> None:
    numbers: list[int] = []
    for _ in range(2):
        with run_engine(scan_id_source=ScanIds(tmp_path / "data" / "scan_id")) as RE:
            RE.subscribe(lambda _, start: numbers.append(start["scan_id"]), "start")
            RE(bp.count([], 1))
            RE(bp.count([], 1))
    assert numbers == [1, 2, 3, 4]


def test_two_sessions_at_once_share_them(tmp_path: Path) -> None:
    first, second = ScanIds(tmp_path / "scan_id"), ScanIds(tmp_path / "scan_id")
    assert [first({}), second({}), second({"scan_id": 2}), first({"scan_id": 1})] == [1, 2, 3, 4]


def test_a_higher_number_is_gone_on_from(tmp_path: Path) -> None:
    scan_ids = ScanIds(tmp_path / "scan_id")
    assert [scan_ids({"scan_id": 1000}), scan_ids({})] == [1001, 1002]


def test_the_number_of_a_scan_that_was_refused_is_the_next_one(tmp_path: Path) -> None:
    scan_ids = ScanIds(tmp_path / "scan_id")
    for before in ({}, {"scan_id": 4}, {"scan_id": 4, "sample": "gold"}):
        md: dict[str, Any] = dict(before)
        for _ in range(2):
            md["scan_id"] = scan_ids(md)
            scan_ids.give_back(md)
            scan_ids.give_back(md)
            assert md == before
    assert scan_ids({"scan_id": 4}) == 5


def test_a_number_after_which_another_session_went_on_stays_a_gap(tmp_path: Path) -> None:
    first, second = ScanIds(tmp_path / "scan_id"), ScanIds(tmp_path / "scan_id")
    md = {"scan_id": first({})}
    assert second({}) == 2
    first.give_back(md)
    assert md == {"scan_id": 1} and first(md) == 3


def test_without_its_file_the_number_is_given_back_to_the_session(tmp_path: Path) -> None:
    (tmp_path / "scan_id").write_text("three")
    scan_ids, md = ScanIds(tmp_path / "scan_id"), {"scan_id": 7}
    md["scan_id"] = scan_ids(md)
    scan_ids.give_back(md)
    assert md == {"scan_id": 7}


def test_a_file_that_cannot_be_used_fails_no_scan(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "scan_id").write_text("three")
    assert ScanIds(tmp_path / "scan_id")({"scan_id": 7}) == 8
    assert ScanIds(tmp_path / "scan_id" / "no_folder")({}) == 1
    assert len(caplog.messages) == 2


def test_the_session_uses_them(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("bluesky.RunEngine", lambda md, **options: SimpleNamespace(md_validator=print, **options))
    RE: Any = session.run_engine()
    assert RE.scan_id_source.path == data_folder / "scan_id"
