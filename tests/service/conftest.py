"""One recorded scan for all tests of the service."""

from __future__ import annotations

import asyncio

import pytest
from bluesky import RunEngine
from recorded_scan import RecordedScan
from twin_beamline import make_twin_beamline

from nsbluesky.plans import ptycho_scan


@pytest.fixture(scope="session")
def scan(tmp_path_factory: pytest.TempPathFactory) -> RecordedScan:
    """A step scan of 12 × 12 points."""
    folder = tmp_path_factory.mktemp("scan")
    beamline = make_twin_beamline(folder)
    documents: list[tuple[str, dict]] = []
    loop = asyncio.new_event_loop()
    RE = RunEngine({}, loop=loop, context_managers=[])
    RE.subscribe(lambda name, document: documents.append((name, document)))
    RE(ptycho_scan(*beamline.devices, **beamline.arguments((12, 12))))
    loop.call_soon_threadsafe(loop.stop)
    return RecordedScan(beamline, documents, folder)
