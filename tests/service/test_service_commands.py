"""The commands of the service, each as a shell runs it, on a service that ``nsbluesky serve`` started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recorded_scan import TIMEOUT_S, RecordedScan, Session, halves, wait_for
from served import Served, options_for

from nsbluesky.cli import main
from nsbluesky.document_log import DocumentLog
from nsbluesky.service.access import local_credentials
from nsbluesky.service.control import ServiceAway, ask
from nsbluesky.service.keys import KeyFolder


@pytest.fixture(scope="module")
def served(scan: RecordedScan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    served = Served(folder, scan.folder, *options_for(scan, sweep_frames=0))
    yield served
    if served.process.poll() is None:
        assert served.end(signal.SIGTERM) == 0


@pytest.fixture
def run(served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what runs a command that must work, and returns its summary."""
    monkeypatch.setenv("NSBLUESKY_STATE", str(served.folder / "state"))

    def run(command: str, *arguments: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert main([command, *arguments, "--address", served.address, "--json"]) == code
        out, err = capsys.readouterr()
        return json.loads(out) if code == 0 else err

    return run


def test_a_day_by_commands(served: Served, scan: RecordedScan, run: Any, tmp_path: Path) -> None:
    first, second = halves(scan.documents)
    status = run("status")
    assert status["state"] == "idle" and status["restarts"] == [] and status["open_runs"] == []
    assert "pause has no field 'settings'" in run("control", "pause", "--set", "solver.modes=1", code=1)
    assert run("control", "pause") == {"done": "pause"}
    assert run("status")["state"] == "paused"
    assert run("control", "configure", "--set", "solver.modes=1")["settings"]["solver"]["modes"] == 1
    assert "1 to 64" in run("control", "configure", "--set", "solver.modes=0", code=1)
    assert "KEY=VALUE" in run("control", "configure", "--set", "solver.modes", code=1)
    assert run("control", "resume") == {"done": "resume"}
    assert run("control", "record", "--stages", "clean,raw")["recording"] == ["raw", "clean"]
    assert run("status")["recording"] == ["raw", "clean"]
    assert "cannot be recorded" in run("control", "record", "--stages", "health", code=1)
    assert run("control", "record")["recording"] == []
    credentials = local_credentials(served.address, served.folder / "state")
    with Session(served.address, tmp_path, credentials) as session:
        session.send(first)
        wait_for(lambda: any(r["num_frames"] for r in run("status")["runs"]))
        assert run("control", "reset") == {"done": "reset", "runs": [scan.uid]}
        wait_for(lambda: any(r["num_frames"] for r in run("status")["runs"]))
        assert "is not open" in run("abort", "--run", "another", code=1)
        assert run("abort", "--run", scan.uid) == {"aborted": scan.uid}
        session.send(second)
        assert session.connection.wait(TIMEOUT_S)
        assert len(session.connection.results[scan.uid]["probe"]) == 1, "as it was configured"
    assert run("abort") == {"aborted": "what has ended"}
    assert run("control", "clear") == {"done": "clear"}
    assert run("status")["state"] == "idle"


def test_status_for_people(served: Served, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--address", served.address]) == 0
    assert "idle" in capsys.readouterr().out


def test_logs(served: Served, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The list of modules, one of them, and one that is followed while something happens."""
    run("control", "clear")
    assert main(["logs"]) == 0
    assert "server" in capsys.readouterr().out
    assert main(["logs", "server"]) == 0
    assert "control: clear" in capsys.readouterr().out
    assert main(["logs", "no_such"]) == 1
    assert "expected one of" in capsys.readouterr().err
    follower = subprocess.Popen(
        [sys.executable, "-m", "nsbluesky.cli", "logs", "-f", "server"],
        env={**os.environ, "NSBLUESKY_STATE": str(served.folder / "state")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    lines = iter(follower.stdout.readline, "")
    assert next(lines)
    run("control", "configure", "--set", "solver.modes=3")
    assert any("control: configure {'settings': {'solver.modes': 3}}" in line for line in lines)
    follower.kill()
    follower.communicate(timeout=TIMEOUT_S)


@pytest.mark.parametrize("command", ["serve", "replay"])
def test_another_command_in_the_folder_of_the_service_is_refused_at_once(
    served: Served, scan: RecordedScan, run: Any, tmp_path: Path, command: str
) -> None:
    log = DocumentLog(tmp_path)
    for name, document in scan.documents:
        log(name, document)
    log.close()
    out = served.folder / "results"
    what = {"serve": ["--address", "tcp://127.0.0.1:0"], "replay": [scan.uid, "--log", str(tmp_path), "--defaults"]}
    before = sorted(path.name for path in out.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "nsbluesky.cli", command, "--out", str(out), *what[command]],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1
    holder = f"process {served.process.pid} (nsbluesky serve)"
    told = f"{out} is in use by {holder}: wait for its end, or give another --out"
    assert done.stderr == f"nsbluesky {command}: {told}\n"
    assert sorted(path.name for path in out.iterdir()) == before
    assert run("status")["state"] == "idle"


def test_a_killed_process_is_told_of(served: Served, run: Any) -> None:
    os.kill(run("status")["pid"], signal.SIGKILL)
    wait_for(lambda: run_or_none(served) is not None)
    assert run("status")["restarts"] == ["killed by signal 9"]


def test_shutdown(served: Served, run: Any) -> None:
    assert run("control", "shutdown") == {"done": "shutdown"}
    out, _ = served.process.communicate(timeout=TIMEOUT_S)
    assert served.process.returncode == 0
    assert json.loads(out) == {"restarts": 1}
    assert not list((served.folder / "state" / "services").iterdir()), "its token is gone with it"


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.nightly), signal.SIGKILL])
def test_the_process_ends_with_whoever_started_it(scan: RecordedScan, tmp_path: Path, number: signal.Signals) -> None:
    served = Served(tmp_path, scan.folder)
    pid = ask(served.address, "status")["pid"]
    assert served.end(number) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pid}").exists())


def test_one_that_is_killed_leaves_its_folder_and_its_address_to_the_next(scan: RecordedScan, tmp_path: Path) -> None:
    served = Served(tmp_path, scan.folder)
    served.end(signal.SIGKILL)
    again = Served(tmp_path, scan.folder, address=served.address)
    assert again.address == served.address
    assert ask(again.address, "status")["state"] == "idle"
    assert again.end(signal.SIGTERM) == 0


def test_keys_by_commands(
    scan: RecordedScan, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made by one command, used by another: as an option, or once for all in the environment."""
    keys = tmp_path / "keys"
    made = {}
    for name, role in (("session", "operator"), ("window", "viewer")):
        assert main(["keys", str(keys), "--add", name, "--role", role, "--json"]) == 0
        made[name] = json.loads(capsys.readouterr().out)["carry_to_the_client"]
    assert main(["keys", str(keys), "--add", "window"]) == 1
    assert "has a key already" in capsys.readouterr().err
    assert len(KeyFolder(keys).roles()) == 2
    served = Served(tmp_path, scan.folder, "--keys", str(keys))
    try:
        at = ["--address", served.address]
        assert main(["status", *at, "--key", made["window"]]) == 0
        assert main(["control", "pause", *at, "--key", made["window"]]) == 1
        assert "pause is not allowed" in capsys.readouterr().err
        monkeypatch.setenv("NSBLUESKY_KEY", made["session"])
        assert main(["control", "pause", *at]) == 0
        with pytest.raises(ServiceAway):
            monkeypatch.delenv("NSBLUESKY_KEY")
            ask(served.address, "status", timeout_s=0.5)
        monkeypatch.setenv("NSBLUESKY_KEY", str(tmp_path / "none.json"))
        assert main(["status", *at]) == 1
        assert "is no key file" in capsys.readouterr().err
    finally:
        assert served.end(signal.SIGTERM) == 0


def run_or_none(served: Served) -> dict[str, Any] | None:
    try:
        return ask(served.address, "status", timeout_s=0.2)
    except ServiceAway:
        return None


def test_what_else_listens_at_the_address_is_told_from_nothing() -> None:
    """As a web server does, which never answers what is no request of its own."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ServiceAway, match=r"no answer from .*Something listens there: .* or another program"):
            ask(address, "status", timeout_s=0.2)
    with pytest.raises(ServiceAway) as told:
        ask(address, "status", timeout_s=0.2)
    assert "Something listens" not in str(told.value)
