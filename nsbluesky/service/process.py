"""The process of the service: its priority, its logs, and a lifeline to whoever started it.

It reads its order as one line of JSON from standard input, and answers with one line when clients may connect.  It
ends when standard input closes.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from nsbluesky.child_process import take_output
from nsbluesky.folders import state_directory
from nsbluesky.service.access import Credentials
from nsbluesky.service.dask_workers import DaskWorkers
from nsbluesky.service.logs import ModuleLogs
from nsbluesky.service.server import Server
from nsbluesky.service.settings import ServiceSettings

__all__ = ["Order", "Ready", "log_directory", "main", "serve"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What the process is to do.

    Attributes
    ----------
    settings : ServiceSettings
    owner : Credentials
        Of whoever starts the service.
    restarts : tuple of str
        Why processes before it had to be replaced, oldest first.
    """

    settings: ServiceSettings
    owner: Credentials
    restarts: tuple[str, ...] = ()

    def to_line(self) -> bytes:
        """Return the order as a line of JSON."""
        return json.dumps({**asdict(self), "settings": self.settings.to_dict()}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Order:
        """Return the order that a line holds."""
        told = json.loads(line)
        return cls(ServiceSettings.from_dict(told["settings"]), Credentials(**told["owner"]), tuple(told["restarts"]))


@dataclass(frozen=True)
class Ready:
    """What the process says when clients may connect.

    Attributes
    ----------
    address : str
        Of the control socket.
    ports : (int, int)
        Of documents and of publications.
    pid : int
        Process id.
    instance : str
        Which life of the service this is.
    """

    address: str
    ports: tuple[int, int]
    pid: int
    instance: str

    @classmethod
    def from_line(cls, line: bytes) -> Ready:
        """Return what a line says."""
        told: dict[str, Any] = json.loads(line)
        return cls(told["address"], (told["ports"][0], told["ports"][1]), told["pid"], told["instance"])


def log_directory(settings: ServiceSettings) -> Path:
    """Return where the logs of a service are."""
    return (Path(settings.state) if settings.state else state_directory()) / "logs"


def serve(order: Order, lifeline: IO[bytes], out: IO[str]) -> None:
    """Serve until SIGTERM, ``shutdown``, or the end of the lifeline; `out` is for the answer alone."""
    answers = take_output(out)
    faulthandler.enable(all_threads=False)  # a crash below Python tells its place in the supervisor's log
    settings = order.settings
    os.nice(settings.nice)
    _start_logs(log_directory(settings))
    Path(settings.directory).mkdir(parents=True, exist_ok=True)
    workers = DaskWorkers.of(settings)
    server = Server(settings, order.owner, order.restarts, workers)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stop())
    threading.Thread(target=_hang_on, args=(lifeline, server), name="lifeline", daemon=True).start()
    ready = Ready(server.address, server.ports, os.getpid(), server.instance)
    os.write(answers, json.dumps(asdict(ready)).encode() + b"\n")
    log.info("the service listens at %s, documents and publications at ports %s", ready.address, ready.ports)
    server.run()
    server.close()
    if workers is not None:
        workers.close()
    log.info("the service ends")


def _hang_on(lifeline: IO[bytes], server: Server) -> None:
    os.read(lifeline.fileno(), 1)  # nothing is ever sent: it returns when whoever started this process is gone
    server.stop()


def main() -> None:
    """Run as a child."""
    serve(Order.from_line(sys.stdin.buffer.readline()), sys.stdin.buffer, sys.stdout)


def _start_logs(directory: Path) -> None:
    root = logging.getLogger()
    root.addHandler(ModuleLogs(directory))
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
