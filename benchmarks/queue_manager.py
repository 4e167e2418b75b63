"""bluesky-queueserver's RE manager on the profile of this project, with the simulated beamline behind it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import zmq

from nsbluesky.simulation.loopback import free_port

STARTUP = Path(__file__).parents[1] / "profile_collection" / "startup"
PATIENCE_S = 150.0

SESSION, PROCESSING, CATALOG = "session", "processing", "catalog's writing process"


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Redis server, real where one is installed, else fakeredis's; yields its address."""
    port = free_port()
    if shutil.which("redis-server"):
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield f"localhost:{port}"
        finally:
            server.terminate()
            server.wait()
        return
    import fakeredis

    fake = fakeredis.TcpFakeServer(("localhost", port))
    fake.daemon_threads = True
    thread = threading.Thread(target=fake.serve_forever, name="redis", daemon=True)
    thread.start()
    try:
        yield f"localhost:{port}"
    finally:
        fake.shutdown()
        fake.server_close()


class Manager:
    """A running RE manager.

    Parameters
    ----------
    folder : Path
        Data, logs and the list of plans go there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "manager.log"

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as stack:
            redis = stack.enter_context(redis_server(self.folder))
            port = free_port()
            log = stack.enter_context(self.log.open("wb"))
            kept = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")}
            process = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("start-re-manager")),
                    *("--startup-dir", str(STARTUP), "--redis-addr", redis),
                    *("--zmq-control-addr", f"tcp://127.0.0.1:{port}"),
                    *("--zmq-info-addr", f"tcp://127.0.0.1:{free_port()}"),
                    *("--existing-plans-devices", str(self.folder / "plans.yaml")),
                ],
                env={
                    **kept,
                    "NSBLUESKY_DATA": str(self.data),
                    "NSBLUESKY_STATE": str(self.folder / "state"),
                    "NSBLUESKY_SIM": "1",
                    "NSBLUESKY_SIM_LAYOUT": "none",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            stack.callback(_end, process)
            self.process = psutil.Process(process.pid)
            context = stack.enter_context(zmq.Context())
            self._socket = stack.enter_context(context.socket(zmq.REQ))
            self._socket.linger = 0
            self._socket.rcvtimeo = round(1e3 * PATIENCE_S)
            self._socket.connect(f"tcp://127.0.0.1:{port}")
            self.until(lambda status: status["manager_state"] == "idle")
            self.ask("environment_open")
            self.until(lambda status: status["worker_environment_exists"])
            yield
            self.ask("environment_close")
            self.until(lambda status: not status["worker_environment_exists"])

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a request, and return the answer; one that is refused is an error."""
        self._socket.send_json({"method": method, "params": parameters})
        answer: dict[str, Any] = self._socket.recv_json()
        assert answer.get("success", True), answer
        return answer

    def add(self, plan: str, **arguments: Any) -> None:
        """Put a plan at the end of the queue."""
        item = {"item_type": "plan", "name": plan, "kwargs": arguments}
        self.ask("queue_item_add", item=item, user="tests", user_group="primary")

    def run_queue(self, patience_s: float = PATIENCE_S) -> None:
        """Run what is in the queue, and wait until it is empty and the last plan is over."""
        self.ask("queue_start")
        self.until(lambda s: not s["items_in_queue"] and s["manager_state"] == "idle", patience_s)

    def until(self, condition: Any, patience_s: float = PATIENCE_S) -> None:
        """Wait for a state of the manager."""
        end = time.monotonic() + patience_s
        pause = threading.Event()
        while not condition(self.ask("status")):
            assert self.process.is_running(), self.tail()
            assert time.monotonic() < end, self.tail()
            pause.wait(0.2)

    def history(self) -> list[dict[str, Any]]:
        """The plans that ran, with their results."""
        items: list[dict[str, Any]] = self.ask("history_get")["items"]
        return items

    def memory_mb(self) -> dict[str, float]:
        """Memory of the session (and the manager's own processes) and of what works for it; the IOC is left out."""
        memory = {SESSION: 0.0, PROCESSING: 0.0, CATALOG: 0.0}
        for process in self.process.children(recursive=True):
            command = " ".join(process.cmdline())
            if "simulation.beamline" not in command:
                helpers = {"service.process": PROCESSING, "catalog.process": CATALOG}
                who = next((name for module, name in helpers.items() if module in command), SESSION)
                memory[who] += process.memory_info().rss / 1e6
        return memory

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-12000:]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the manager and what it has started."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in family:
        if child.is_running():
            child.kill()
