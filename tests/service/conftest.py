"""One recorded scan for all tests of the service."""

from __future__ import annotations

import os

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import pytest
from own_run_engine import run_engine
from recorded_scan import RecordedScan
from twin_beamline import make_twin_beamline

from nsbluesky.plans import ptycho_scan


@pytest.fixture(scope="session")
def scan(tmp_path_factory: pytest.TempPathFactory) -> RecordedScan:
    """A step scan of 6 × 6 points."""
    folder = tmp_path_factory.mktemp("scan")
    beamline = make_twin_beamline(folder)
    documents: list[tuple[str, dict]] = []
    with run_engine() as RE:
        RE.subscribe(lambda name, document: documents.append((name, document)))
        RE(ptycho_scan(*beamline.devices, **beamline.arguments((6, 6))))
    return RecordedScan(beamline, documents, folder)
