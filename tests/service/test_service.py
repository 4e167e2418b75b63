"""The service on real processes: a scan in one, its processing in another, and the result comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine
from twin_beamline import QUICK_SOLVER, RIM_PX, TwinBeamline, make_twin_beamline

from nsbluesky.cxi import read_cxi
from nsbluesky.document_log import DocumentLog
from nsbluesky.plans import ptycho_scan
from nsbluesky.service.connection import Connection, connect
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.service.supervisor import ProcessingService
from nsbluesky.solver.quality import contrast_correlation

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


class Killer(Derived):
    """A viewer that kills the service, once, as soon as it has seen some frames."""

    def __init__(self, pid: int, after_pages: int = 8) -> None:
        super().__init__()
        self._pid = pid
        self._after_pages = after_pages

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        super().__call__(name, document)
        if name == "event_page" and self.pages == self._after_pages:
            os.kill(self._pid, signal.SIGKILL)


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


def correlation(image: np.ndarray, beamline: TwinBeamline) -> float:
    return contrast_correlation(image, beamline.simulator.sample.object, RIM_PX)


GOOD_SOLVER = {"sweep_candidates": 7, "sweep_frames": 40, "sweep_passes": 4, "passes_final": 10}


def test_killed_in_the_middle_of_a_scan(RE: RunEngine, tmp_path: Path, beamline: TwinBeamline) -> None:
    """The same run is finished by the next process, with every frame, and its image is as good as undisturbed."""
    images = []
    for kill in (False, True):
        folder = tmp_path / f"kill-{kill}"
        folder.mkdir()
        log = DocumentLog(folder / "documents")
        here = replace(settings(folder, beamline, **GOOD_SOLVER), roots=(str(tmp_path),))
        with ProcessingService(here) as service, connect(service.address, log, service.credentials) as connection:
            derived = Killer(service.pid) if kill else Derived()
            first_pid = service.pid
            connection.subscribe(derived)
            tokens = [RE.subscribe(callback) for callback in (log, connection)]
            (uid,) = RE(ptycho_scan(*beamline.devices, **beamline.arguments((12, 12)))).run_start_uids
            for token in tokens:
                RE.unsubscribe(token)
            assert connection.wait(TIMEOUT_S)
            result = connection.results[uid]
            assert result["final"] and result["num_frames"] == 144
            with read_cxi(connection.cxi_path(uid)) as cxi:
                assert sorted(cxi.seq_nums.tolist()) == list(range(1, 145))
            images.append(result["object"])
            if kill:
                assert service.restarts == ["killed by signal 9"] and service.pid != first_pid
                assert [stop["exit_status"] for stop in derived.stops] == ["abort", "success"]
        log.close()
    undisturbed, disturbed = (correlation(image, beamline) for image in images)
    assert undisturbed > 0.8 and disturbed > 0.98 * undisturbed
