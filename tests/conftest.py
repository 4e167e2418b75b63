"""What every test shares: an isolated data folder, a RunEngine that leaves nothing behind, and seeds."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import ophyd  # noqa: F401 - its dispatcher's threads start at the first import and are nobody's to end
import pytest
from bluesky import RunEngine

THREAD_JOIN_S = 5.0

# No deadline: how long an example takes is the machine's business.  The same examples in every CI run.
hypothesis.settings.register_profile("nsbluesky", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("nsbluesky")


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep catalogs, logs and frames of a test in its own folder, never in the user's."""
    folder = tmp_path / "nsbluesky-data"
    monkeypatch.setenv("NSBLUESKY_DATA", str(folder))
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(20170321)


@pytest.fixture
def RE() -> Iterator[RunEngine]:
    """A RunEngine on its own event loop; what a test leaves running is halted, and no thread of it stays."""
    before = set(threading.enumerate())
    loop = asyncio.new_event_loop()
    engine = RunEngine({}, loop=loop, call_returns_result=True)
    engine_threads = set(threading.enumerate()) - before
    yield engine
    if engine.state not in ("idle", "panicked"):
        engine.halt()
    loop.call_soon_threadsafe(loop.stop)
    for thread in engine_threads:
        thread.join(THREAD_JOIN_S)
        assert not thread.is_alive(), f"{thread.name} outlived its RunEngine"
    loop.close()
