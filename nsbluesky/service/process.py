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
from dataclasses import asdict
from pathlib import Path
from typing import IO

from nsbluesky.child_process import take_output
from nsbluesky.service.dask_workers import DaskWorkers
from nsbluesky.service.logs import ModuleLogs
from nsbluesky.service.order import Order, Ready, log_directory
from nsbluesky.service.server import Server

__all__ = ["main", "serve"]

log = logging.getLogger(__name__)


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
