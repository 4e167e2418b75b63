"""What faults cost: frames sent, recorded, cleaned, reconstructed and lost, and the time to recover.

A scan of 12 × 12 points is recorded once, with its frames on disk.  For each row its documents go to a service of its
own: the first half, then the damage as soon as clean frames come, then the second half.  What is *cleaned* is counted
in the CXI file, what is *reconstructed* in the last image.  The time to recover is from the damage to the first clean
frame that came after it.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import psutil
from bluesky import RunEngine

from benchmarks.figures import Figure
from nsbluesky.callbacks.frame_readers import local_path
from nsbluesky.cxi import read_cxi
from nsbluesky.devices.twins import SimFCCD, SimShutter, SimStage
from nsbluesky.document_log import DocumentLog, end_log, read_documents
from nsbluesky.plans import ptycho_scan
from nsbluesky.service.connection import Connection
from nsbluesky.service.control import ask
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.service.supervisor import ProcessingService
from nsbluesky.settings import PipelineSettings, SolverSettings
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.network import CuttableNetwork
from nsbluesky.simulation.samples import gold_balls
from nsbluesky.streams import PRIMARY

SHAPE = (12, 12)
POISONED = 100
TIMEOUT_S = 120.0

POISON = f"""
import os, signal, sys
from nsbluesky.callbacks.frame_source import ReadFrames
from nsbluesky.service.process import Order, serve
read = ReadFrames._read
def poisoned(self, stream, block):
    if stream == "primary" and {POISONED} in block:
        os.kill(os.getpid(), signal.SIGSEGV)
    return read(self, stream, block)
ReadFrames._read = poisoned
serve(Order.from_line(sys.stdin.buffer.readline()), sys.stdin.buffer, sys.stdout)
"""

FULL_DISK = """
import sys
from nsbluesky import disk_space
from nsbluesky.service.process import Order, serve
disk_space.free_bytes = lambda folder: 0
serve(Order.from_line(sys.stdin.buffer.readline()), sys.stdin.buffer, sys.stdout)
"""


@dataclass(frozen=True)
class Scan:
    """A recorded scan: its documents, where its frames are, and how it is processed."""

    documents: list[tuple[str, dict[str, Any]]]
    frames: Path
    pipeline: PipelineSettings

    @property
    def uid(self) -> str:
        return str(self.documents[0][1]["uid"])

    @property
    def num_frames(self) -> int:
        return SHAPE[0] * SHAPE[1]


class Damage:
    """A service with a session, half of the scan sent, and what happens then."""

    def __init__(self, scan: Scan, folder: Path, **service: Any) -> None:
        self.scan, self.num_sent = scan, 0
        self.settings = ServiceSettings(
            directory=str(folder / "results"),
            roots=(str(scan.frames),),
            address="tcp://127.0.0.1:0",
            state=str(folder / "state"),
            pipeline=scan.pipeline,
            **service,
        )
        self.service = ProcessingService(self.settings, heartbeat_timeout_s=3.0)
        self.log = DocumentLog(folder / "documents")
        self.began = self.recovered = 0.0
        self._frames = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as stack:
            self.service.start()
            stack.callback(self.service.stop)
            ports = ask(self.service.address, "status")["ports"]
            self.network = stack.enter_context(CuttableNetwork(self.service.address, *ports))
            self.connect()
            stack.callback(lambda: self.connection.close(0))
            yield

    def connect(self) -> None:
        """Begin a session; what an earlier one has in the log, it sends first."""
        self.connection = Connection(self.network.address, self.log, self.service.credentials)
        self.connection.subscribe(self._note)
        path = self.log.directory / f"{self.scan.uid}.jsonl"
        if path.exists():
            for name, document in read_documents(path):
                self.connection(name, document)

    def send(self, end: int) -> None:
        """Send the documents up to `end`."""
        for name, document in self.scan.documents[self.num_sent : end]:
            self.log(name, document)
            self.connection(name, document)
        self.num_sent = max(self.num_sent, end)

    def wait_for_frames(self) -> None:
        assert self._frames.wait(TIMEOUT_S)

    def begin(self) -> None:
        """Note when the damage is done; the next clean frame ends it."""
        self.began, self.recovered = time.monotonic(), 0.0

    def _note(self, name: str, document: dict[str, Any]) -> None:
        if name == "event_page" and "photons" in document["data"]:
            self._frames.set()
            if self.began and not self.recovered:
                self.recovered = time.monotonic()


def nothing(damage: Damage) -> None:
    pass


def kill_process(damage: Damage) -> None:
    os.kill(damage.service.pid, signal.SIGKILL)


def hang_process(damage: Damage) -> None:
    os.kill(damage.service.pid, signal.SIGSTOP)


def restart_service(damage: Damage) -> None:
    damage.service.stop()
    damage.begin()  # what was on its way does not count
    damage.service.start()


def cut_network(damage: Damage) -> None:
    damage.network.cut()
    damage.send(len(damage.scan.documents))
    time.sleep(1.0)
    damage.network.heal()


def kill_session(damage: Damage) -> None:
    """All documents are in the log but the stop; nobody sends them."""
    damage.connection.close(0)
    for name, document in damage.scan.documents[damage.num_sent : -1]:
        damage.log(name, document)
    damage.log.close()
    damage.num_sent = len(damage.scan.documents)
    end_log(damage.log.directory / f"{damage.scan.uid}.jsonl")
    damage.connect()


def kill_worker(damage: Damage) -> None:
    *_, worker = psutil.Process(damage.service.pid).children()
    worker.kill()


def measure() -> list[Figure]:
    """Do the damage, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        scan = record(Path(folder) / "scan")
        head = Figure("fault", "frames sent, recorded, cleaned, reconstructed, lost", "time to recover")
        return [
            head,
            row(scan, Path(folder) / "1", "none", nothing),
            row(scan, Path(folder) / "2", "kill -9 of the service's process", kill_process),
            row(scan, Path(folder) / "3", "its process hangs (heartbeat limit 3 s)", hang_process),
            row(scan, Path(folder) / "4", "the service is stopped and started again", restart_service),
            row(scan, Path(folder) / "5", "the network is cut for 1 s", cut_network),
            row(scan, Path(folder) / "6", "the session dies: nsbluesky resume", kill_session),
            row(scan, Path(folder) / "7", "kill -9 of one of two Dask workers", kill_worker, workers=2),
            row(scan, Path(folder) / "8", "a frame that crashes the process", nothing, command=POISON),
            row(scan, Path(folder) / "9", "no space for results, then a restart", nothing, command=FULL_DISK),
        ]


def row(
    scan: Scan, folder: Path, what: str, do: Callable[[Damage], None], command: str = "", **service: Any
) -> Figure:
    """Send a scan, do the damage in the middle, and count."""
    folder.mkdir()
    damage = Damage(scan, folder, **service)
    if command:
        damage.service.command = (sys.executable, "-c", command)  # type: ignore[misc]
    with damage.running():
        damage.send(len(scan.documents) // 2)
        if not command:
            damage.wait_for_frames()
        damage.begin()
        do(damage)
        damage.send(len(scan.documents))
        assert damage.connection.wait(TIMEOUT_S)
        if command == FULL_DISK:
            assert not damage.connection.finished[scan.uid].cxi
            damage.service.command = ProcessingService.command  # type: ignore[misc]
            damage.connection.close(0)
            damage.begin()
            restart_service(damage)
            damage.connect()
            assert damage.connection.wait(TIMEOUT_S)
        path = damage.connection.cxi_path(scan.uid)
        assert path is not None
        with read_cxi(path) as cxi:
            cleaned = len(cxi.seq_nums)
        reconstructed = damage.connection.results[scan.uid]["num_frames"]
    sent, recorded = counted(scan)
    counts = f"{sent}, {recorded}, {cleaned}, {reconstructed}, {recorded - cleaned}"
    note = "" if do is nothing and not command else f"{damage.recovered - damage.began:.1f} s"
    if command == POISON:
        note += ", that frame is left out and listed"
    return Figure(what, counts, note)


def counted(scan: Scan) -> tuple[int, int]:
    """Return how many frames of the scan the documents tell of, and how many of these are in their files."""
    names = {d["uid"]: d["name"] for name, d in scan.documents if name == "descriptor"}
    files = {d["uid"]: d for name, d in scan.documents if name == "stream_resource"}
    sent = recorded = 0
    for name, document in scan.documents:
        if name == "stream_datum" and names[document["descriptor"]] == PRIMARY:
            resource, rows = files[document["stream_resource"]], document["indices"]
            sent += rows["stop"] - rows["start"]
            with h5py.File(local_path(resource["uri"]), "r", libver="latest", swmr=True) as file:
                recorded += len(file[resource["parameters"]["dataset"]][rows["start"] : rows["stop"]])
    return sent, recorded


def record(folder: Path) -> Scan:
    """Record a scan."""
    folder.mkdir()
    simulator = FrameSimulator(gold_balls(), layout="none", seed=0)
    stage, shutter = SimStage(name="stage", directory=folder), SimShutter(name="shutter")
    fccd = SimFCCD(
        name="fccd",
        directory=folder,
        stage=stage,
        shutter=shutter,
        make_frame=simulator.raw_frame,
        frame_shape=simulator.shape,
    )
    documents: list[tuple[str, dict[str, Any]]] = []
    RE = RunEngine({}, context_managers=[])
    RE.subscribe(lambda name, document: documents.append((name, document)))
    step_um = min(simulator.sample.scan_range_m) * 1e6 / 20
    RE(ptycho_scan(fccd, stage, shutter, geometry=simulator.geometry, shape=SHAPE, step_um=step_um, num_dark=4))
    solver = SolverSettings(sweep_frames=0, passes_final=2)
    return Scan(documents, folder, PipelineSettings(cleaning=simulator.cleaning_settings, solver=solver))
