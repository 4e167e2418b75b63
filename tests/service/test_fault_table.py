"""Every row of the table of faults (benchmarks/RESULTS.md), on real processes: no recorded frame is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bench_faults import FAULTS, Scan, record

pytestmark = pytest.mark.nightly

LEFT_OUT = {"poison": 1}
"""Frames that may be missing: one that kills whoever reads it."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    return record(tmp_path_factory.mktemp("recorded") / "scan")


@pytest.mark.parametrize("fault", FAULTS)
def test_no_recorded_frame_is_lost(recorded: Scan, tmp_path: Path, fault: str) -> None:
    told = FAULTS[fault](recorded, tmp_path / fault)
    if told.value == "not measured":
        pytest.skip(told.note)
    for run in told.value.split("; "):
        sent, written, cleaned, reconstructed, lost = map(int, run.split(", "))
        assert sent == written
        assert (lost, reconstructed) == (LEFT_OUT.get(fault, 0), cleaned)
