"""A session and `nsbluesky serve` on two hosts with keys, and the cable between them is pulled out for a while.

``python -m benchmarks.two_hosts FOLDER`` does it in a network namespace of its own and prints what came of it.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from nsbluesky.document_log import DocumentLog
from nsbluesky.service.access import Credentials
from nsbluesky.service.connection import Connection
from nsbluesky.service.keys import KeyFolder
from nsbluesky.simulation.network import OtherHost

NAMESPACE = ("unshare", "--user", "--map-root-user", "--net")
SCAN = "scan.pickle"
CUT_S = 4.0
"""Longer than sessions and viewers wait for an answer."""
TIMEOUT_S = 120.0


def run(folder: Path, documents: list[Any], frames: Path, options: list[str]) -> dict[str, Any] | None:
    """Do it in a process of its own; None where there are no network namespaces for this user."""
    if subprocess.run([*NAMESPACE, "true"], check=False, stderr=subprocess.DEVNULL).returncode:
        return None
    folder.mkdir()
    (folder / SCAN).write_bytes(pickle.dumps((documents, str(frames), options)))
    command = [*NAMESPACE, sys.executable, "-m", "benchmarks.two_hosts", str(folder)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(told)
    return result


def scene(folder: Path) -> dict[str, Any]:
    """Send half of the scan, pull the cable, send the rest, put it in again."""
    documents, frames, options = pickle.loads((folder / SCAN).read_bytes())
    keys = KeyFolder(folder / "keys")
    keys.make_server()
    credentials = Credentials.read(keys.add("session", "operator"))
    log = DocumentLog(folder / "documents")
    heard, uid = threading.Event(), documents[0][1]["uid"]
    with OtherHost() as host:
        address = f"tcp://{host.ADDRESS}:60610"
        serve = [sys.executable, "-m", "nsbluesky.cli", "serve", "--address", address, "--keys", str(keys.directory)]
        serve += ["--out", str(folder / "results"), "--root", frames, *options]
        environment = {**os.environ, "NSBLUESKY_STATE": str(folder / "state")}
        service = subprocess.Popen(host.command(*serve), env=environment, stdout=subprocess.DEVNULL)
        try:
            with Connection(address, log, credentials) as connection:
                connection.subscribe(lambda name, document: heard.set() if name == "event_page" else None)

                def send(part: list[Any]) -> None:
                    for name, document in part:
                        log(name, document)
                        connection(name, document)

                middle = len(documents) // 2
                send(documents[:middle])
                assert heard.wait(TIMEOUT_S)
                host.cut()
                send(documents[middle:])
                time.sleep(CUT_S)
                heard.clear()
                waiting = connection.queued
                began = time.monotonic()
                host.heal()
                assert heard.wait(TIMEOUT_S)
                recovered = time.monotonic() - began
                assert connection.wait(TIMEOUT_S)
                return {
                    "waited": waiting,
                    "recovered_s": recovered,
                    "cxi": str(connection.cxi_path(uid)),
                    "num_frames": connection.results[uid]["num_frames"],
                }
        finally:
            service.terminate()
            service.wait(TIMEOUT_S)


if __name__ == "__main__":
    print(json.dumps(scene(Path(sys.argv[1]))))
