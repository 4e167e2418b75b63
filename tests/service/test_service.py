"""The service on real processes: a scan in one, its processing in another, and the result comes back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bluesky import RunEngine
from twin_beamline import QUICK_SOLVER, TwinBeamline, make_twin_beamline

from nsbluesky.cxi import read_cxi
from nsbluesky.document_log import DocumentLog
from nsbluesky.plans import ptycho_scan
from nsbluesky.service.connection import Connection, connect
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.service.supervisor import ProcessingService

TIMEOUT_S = 90.0


def settings(folder: Path, beamline: TwinBeamline, **solver: Any) -> ServiceSettings:
    return ServiceSettings(
        directory=str(folder / "results"),
        roots=(str(folder),),
        address="tcp://127.0.0.1:0",
        state=str(folder / "state"),
        pipeline=beamline.settings(**{**QUICK_SOLVER, **solver}),
    )


class Derived:
    """A viewer that counts blocks of frames and keeps the stop documents."""

    def __init__(self) -> None:
        self.pages = 0
        self.stops: list[dict[str, Any]] = []

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        self.pages += name == "event_page"
        if name == "stop":
            self.stops.append(document)


@pytest.fixture
def beamline(tmp_path: Path) -> TwinBeamline:
    (tmp_path / "frames").mkdir()
    return make_twin_beamline(tmp_path / "frames")


@pytest.fixture
def service(tmp_path: Path, beamline: TwinBeamline) -> Iterator[ProcessingService]:
    with ProcessingService(settings(tmp_path, beamline)) as service:
        yield service


@pytest.fixture
def connection(RE: RunEngine, tmp_path: Path, service: ProcessingService) -> Iterator[Connection]:
    log = DocumentLog(tmp_path / "documents")
    RE.subscribe(log)
    connection = connect(service.address, log, service.credentials)
    RE.subscribe(connection)
    yield connection
    connection.close(timeout=0)
    log.close()


def test_scan_here_processing_there(
    RE: RunEngine, beamline: TwinBeamline, service: ProcessingService, connection: Connection
) -> None:
    derived = Derived()
    connection.subscribe(derived)
    uid = RE(ptycho_scan(*beamline.devices, **beamline.arguments((5, 5)))).run_start_uids[0]
    assert connection.wait(TIMEOUT_S)
    result = connection.results[uid]
    assert result["final"] and result["num_frames"] == 25
    assert service.pid != os.getpid()
    assert [stop["exit_status"] for stop in derived.stops] == ["success"]
    path = connection.cxi_path(uid)
    assert path is not None
    with read_cxi(path) as cxi:
        assert sorted(cxi.seq_nums.tolist()) == list(range(1, 26))
        assert cxi.images[0].complete
    assert connection.live.snapshot().finished
    assert connection.queued == 0 and connection.errors == {}
