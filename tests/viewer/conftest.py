"""Windows without a screen, and a scan to show in them."""

from __future__ import annotations

import os

os.environ.setdefault("QT_API", "pyside6")
os.environ.setdefault("PYTEST_QT_API", os.environ["QT_API"])
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import pytest
from derived_scan import DerivedScan

from nsbluesky.callbacks.live_plots import LivePlots


@pytest.fixture
def live() -> LivePlots:
    """What windows look at."""
    return LivePlots()


@pytest.fixture
def scan(live: LivePlots) -> DerivedScan:
    """A simulated run that feeds `live`."""
    return DerivedScan(live)
