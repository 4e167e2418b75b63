"""Runs are found by what a scientist remembers of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nsbluesky.run_table import RunEntry, find_runs, image_file, run_entry, runs_of_catalog


def start(**more: Any) -> dict[str, Any]:
    scan = {"num_points": 400}
    return {
        "uid": "0a1b2c3d-1111",
        "time": 1.7e9,
        "plan_name": "ptycho_fly_scan",
        "sample": {"name": "Siemens star"},
        "ptycho": {"energy_eV": 930.0, "scan": scan},
    } | more


def test_what_an_entry_tells() -> None:
    entry = run_entry(start(), {"exit_status": "abort"})
    assert (entry.plan, entry.sample, entry.energy, entry.points) == (
        "ptycho_fly_scan",
        "Siemens star",
        "930.0 eV",
        400,
    )
    assert entry.exit_status == "abort"
    assert entry.date.startswith("2023-11-1")
    other = run_entry({"uid": "x", "num_points": 3, "sample": "gold"}, None)
    assert (other.plan, other.sample, other.energy_eV, other.points, other.exit_status) == ("", "gold", None, 3, "")


@pytest.mark.parametrize(
    ("words", "energy_eV", "found"),
    [
        ("", None, "abc"),
        ("star", None, "a"),
        ("FLY gold", None, "b"),
        ("2023-11", None, "ab"),
        ("none of these", None, ""),
        ("", (900, 950), "a"),
        ("", (0, 1e4), "ab"),
        ("gold", (0, 900), ""),
    ],
)
def test_search(words: str, energy_eV: tuple[float, float] | None, found: str) -> None:
    entries = [
        run_entry(start(uid="a"), None),
        run_entry(start(uid="b", sample="gold", ptycho={"energy_eV": 1000.0}), None),
        run_entry({"uid": "c", "time": 0.0, "plan_name": "count"}, None),
    ]
    assert "".join(entry.uid for entry in find_runs(entries, words, energy_eV)) == found


ODD = st.integers() | st.floats() | st.text() | st.none() | st.lists(st.integers())
ENTRIES = st.dictionaries(st.sampled_from(["energy_eV", "scan"]), ODD | st.dictionaries(st.just("num_points"), ODD))


@example({"ptycho": {"scan": {"num_points": float("nan")}}})
@example({"num_points": 10**400})
@given(st.dictionaries(st.sampled_from(["sample", "plan_name", "num_points", "ptycho", "other"]), ODD | ENTRIES))
def test_any_start_document_has_an_entry(document: dict[str, Any]) -> None:
    """One run of odd metadata would keep the table of all runs away."""
    entry = run_entry({"uid": "u", **document}, None)
    assert isinstance(entry, RunEntry) and "u" in entry.text


def test_the_runs_of_a_catalog_come_newest_first() -> None:
    class Run:
        def __init__(self, **metadata: Any) -> None:
            self.metadata = metadata

    client = {
        "a": Run(start=start(uid="a", time=1.0), stop=None),
        "b": Run(start=start(uid="b", time=2.0), stop={"exit_status": "success"}),
    }
    assert [entry.uid for entry in runs_of_catalog(client)] == ["b", "a"]


def test_the_newest_file_of_a_run(tmp_path: Path) -> None:
    assert image_file("0a1b2c3d-1111", tmp_path / "missing") is None
    names = "0a1b2c3d_clean.cxi", "0a1b2c3d_clean_2.cxi", "0a1b2c3d_clean_3.incomplete.cxi", "ffffffff_clean.cxi"
    for age, name in enumerate(names):
        path = tmp_path / "results" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (age, age))
    assert image_file("0a1b2c3d-1111", tmp_path) == tmp_path / "results" / "0a1b2c3d_clean_2.cxi"
    assert image_file("12345678", tmp_path) is None
    assert image_file("0a1", tmp_path) == tmp_path / "results" / "0a1b2c3d_clean_2.cxi", "the beginning will do"
    (tmp_path / "results" / "0a1fffff_clean.cxi").touch()
    with pytest.raises(ValueError, match="2 runs with CXI files begin with '0a1': give more of the uid"):
        image_file("0a1", tmp_path)
