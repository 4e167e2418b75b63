"""Kill -9 at random moments, by seeds: whoever it is, no recorded frame is lost and the run is finished."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from recorded_scan import TIMEOUT_S, RecordedScan, Session, assert_all_frames_are_there

from nsbluesky.service.supervisor import ProcessingService

SEEDS = 50
LATEST_S = 3.0
"""After the last document was sent; by then most runs are finished."""


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(SEEDS))
def test_killed_at_a_random_moment(scan: RecordedScan, tmp_path: Path, seed: int) -> None:
    """Even seeds kill the service's process, odd ones lose the session as well, whose log the next one sends."""
    moment = random.Random(seed)
    documents = scan.documents
    at = moment.randrange(2, len(documents))
    later_s = moment.choice((0.0, moment.uniform(0.0, LATEST_S)))
    with ProcessingService(scan.settings(tmp_path)) as service:
        with Session(service.address, tmp_path, service.credentials) as session:
            session.send(documents[:at])
            threading.Event().wait(later_s)
            os.kill(service.pid, signal.SIGKILL)
            if seed % 2 == 0:
                finish(session, documents[at:], scan)
                return
        with Session(service.address, tmp_path / "next", service.credentials) as session:
            finish(session, documents, scan)


def finish(session: Session, documents: Any, scan: RecordedScan) -> None:
    """Send the rest, and see that everything is there."""
    session.send(documents)
    assert session.connection.wait(TIMEOUT_S)
    assert_all_frames_are_there(session.connection, scan)
