"""Kill -9 of each process in turn at random moments, by seeds: no recorded frame is lost and the run is finished.

All processes are real ones: ``nsbluesky serve``, its service, a Dask worker, a session that measures, and a window.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from recorded_scan import TIMEOUT_S, RecordedScan, wait_for
from served import Served, options_for

from nsbluesky.cli import main
from nsbluesky.cxi import read_cxi
from nsbluesky.document_log import DocumentLog, read_documents
from nsbluesky.service.control import ServiceAway, ask
from nsbluesky.simulation.loopback import free_port

SEEDS = 50
VICTIMS = ("service", "supervisor", "session", "worker", "window")
EARLIEST_S, LATEST_S = 0.3, 4.0
"""After the session has begun to measure: there are some frames, or most runs are finished."""

SESSION = Path(__file__).with_name("session_process.py")


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(SEEDS))
def test_killed_at_a_random_moment(
    scan: RecordedScan, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    victim, moment_s = VICTIMS[seed % len(VICTIMS)], random.Random(seed).uniform(EARLIEST_S, LATEST_S)
    monkeypatch.setenv("NSBLUESKY_STATE", str(tmp_path / "state"))
    recorded = tmp_path / "recorded" / f"{scan.uid}.jsonl"
    log = DocumentLog(recorded.parent)
    for name, document in scan.documents:
        log(name, document)
    options = [*options_for(scan, sweep_frames=0, passes_final=2), "--ports", f"{free_port()},{free_port()}"]
    options += ["--workers", "1"] if victim == "worker" else []
    address = f"tcp://127.0.0.1:{free_port()}"
    services = [Served(tmp_path, scan.folder, *options, address=address)]
    command = [sys.executable, str(SESSION), address, str(tmp_path), str(recorded)]
    try:
        with (
            window(address, victim) as looking,
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as session,
        ):
            assert session.stdout is not None
            assert session.stdout.readline() == "measures\n"
            threading.Event().wait(moment_s)
            if victim in ("service", "worker"):
                wait_for(lambda: is_there(address))
                process = psutil.Process(ask(address, "status")["pid"])
                kill(process if victim == "service" else worker_of(process))
            elif victim == "supervisor":
                kill(psutil.Process(services[0].process.pid))
                services[0].process.communicate(timeout=TIMEOUT_S)
                services.append(Served(tmp_path, scan.folder, *options, address=address))
            elif victim == "session":
                session.kill()
            else:
                assert looking is not None
                looking.kill()
            told = session.stdout.read()
        if not told:
            capsys.readouterr()
            log_options = ["--log", str(tmp_path / "documents"), "--address", address, "--json"]
            assert main(["resume", scan.uid, *log_options]) == 0
            summary = json.loads(capsys.readouterr().out)
            told = json.dumps({"frames": summary["frames_used"], "cxi": summary["cxi"]})
        result = json.loads(told)
        expected = list(range(1, num_events(tmp_path / "documents" / recorded.name) + 1))
        assert victim == "session" or len(expected) == scan.num_points
        assert result["frames"] == len(expected)
        with read_cxi(result["cxi"]) as cxi:
            assert sorted(cxi.seq_nums.tolist()) == expected
    finally:
        services[-1].end(signal.SIGTERM)


@contextmanager
def window(address: str, victim: str) -> Iterator[subprocess.Popen[bytes] | None]:
    """Let a window look on, where one is to be killed."""
    if victim != "window":
        yield None
        return
    command = [sys.executable, "-m", "nsbluesky.cli", "view", "--live", address]
    looking = subprocess.Popen(command, env={**os.environ, "QT_QPA_PLATFORM": "offscreen"})
    try:
        yield looking
    finally:
        looking.kill()
        looking.wait()


def is_there(address: str) -> bool:
    try:
        return bool(ask(address, "status", timeout_s=0.2))
    except ServiceAway:
        return False


def kill(process: psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)


def worker_of(service: psutil.Process) -> psutil.Process:
    """The process that cleans frames: below its nanny, which is in the service's process."""
    return max(service.children(recursive=True), key=lambda process: int(process.memory_info().rss))


def num_events(log: Path) -> int:
    """Points of the scan that the session's log tells of."""
    documents = list(read_documents(log))
    primary = {d["uid"] for name, d in documents if name == "descriptor" and d["name"] == "primary"}
    return sum(name == "event" and document["descriptor"] in primary for name, document in documents)
