"""What faults cost: frames sent, recorded, cleaned, reconstructed and lost, and the time to recover.

A scan of 12 × 12 points is recorded once, with its frames on disk.  For each row its documents go to a service of its
own: the first half, then the damage as soon as clean frames come, then the second half.  What is *cleaned* is counted
in the CXI file, what is *reconstructed* in the last image.  The time to recover is from the damage to the first clean
frame that came after it; for viewers, to what they hear next.

The network between session and service is a proxy on loopback that drops what is on its way when it is cut.  Where
this user may make network namespaces, session and service are on two hosts as well, with keys, and their cable is
pulled out.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import psutil
from bluesky import RunEngine

from benchmarks import two_hosts
from benchmarks.figures import Figure
from nsbluesky import disk_space, session
from nsbluesky.callbacks.frame_readers import local_path
from nsbluesky.cxi import read_cxi
from nsbluesky.devices.twins import SimFCCD, SimShutter, SimStage
from nsbluesky.document_log import DocumentLog, end_log, read_documents
from nsbluesky.full_disk import LEAST_MB, SuspendWhileFull
from nsbluesky.lost_ioc import SuspendWhileAway
from nsbluesky.plans import ptycho_fly_scan, ptycho_scan
from nsbluesky.service.access import local_credentials
from nsbluesky.service.connection import Connection
from nsbluesky.service.control import ask
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.service.subscriber import DerivedRuns
from nsbluesky.service.supervisor import ProcessingService
from nsbluesky.settings import PipelineSettings, SolverSettings
from nsbluesky.simulation.beamline import SimulatedBeamline
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.loopback import free_port
from nsbluesky.simulation.network import CuttableNetwork
from nsbluesky.simulation.samples import gold_balls
from nsbluesky.streams import PRIMARY

SHAPE = (12, 12)
POISONED = 100
TIMEOUT_S = 120.0
LIMITS = {"heartbeat_timeout_s": 3.0, "block_timeout_s": 120.0}
LOOK_S = 0.05
CUT_S = 1.0
WINDOW_S = 5.0
"""For a window to open."""
IOC_FRAMES = FULL_FRAMES = 40
"""Frames that are there when the damage is done."""

SERVE_OPTIONS = [
    item
    for setting in (
        *("solver.sweep_frames=0", "solver.passes_final=2", "cleaning.layout=none", "cleaning.adu_per_photon=1.0"),
        *("cleaning.photon_threshold=0.0", "cleaning.crop_px=104", "cleaning.center_px=[52.0, 52.0]"),
    )
    for item in ("--set", setting)
]
"""`record` makes frames for these settings."""

POISON = f"""
import signal, sys, threading
from nsbluesky.callbacks.frame_source import ReadFrames
from nsbluesky.service.order import Order
from nsbluesky.service.process import serve
read = ReadFrames._read
def poisoned(self, stream, block):
    if stream == "primary" and {POISONED} in block:
        signal.pthread_kill(threading.get_ident(), signal.SIGSEGV)  # as a crash: this thread does not go on
    return read(self, stream, block)
ReadFrames._read = poisoned
serve(Order.from_line(sys.stdin.buffer.readline()), sys.stdin.buffer, sys.stdout)
"""

STUCK = """
import sys, time
from pathlib import Path
from nsbluesky.callbacks.frame_source import ReadFrames
from nsbluesky.service.order import Order
from nsbluesky.service.process import serve
read = ReadFrames._read
def stuck_once(self, stream, block):
    marker = Path({marker!r})
    if stream == "primary" and {frame} in block and not marker.exists():
        marker.touch()
        time.sleep(3600)
    return read(self, stream, block)
ReadFrames._read = stuck_once
serve(Order.from_line(sys.stdin.buffer.readline()), sys.stdin.buffer, sys.stdout)
"""

FULL_DISK = """
import sys
from nsbluesky import disk_space
from nsbluesky.service.order import Order
from nsbluesky.service.process import serve
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
        return str(self.documents[0][1]["uid"]) if self.documents else ""

    @property
    def num_frames(self) -> int:
        return SHAPE[0] * SHAPE[1]


class Damage:
    """A service with a session, half of the scan sent, and what happens then."""

    def __init__(self, scan: Scan, folder: Path, command: str = "", **service: Any) -> None:
        self.scan, self.folder, self.num_sent = scan, folder, 0
        limits = {name: service.pop(name, given) for name, given in LIMITS.items()}
        self.settings = ServiceSettings(
            directory=str(folder / "results"),
            roots=(str(scan.frames),),
            address="tcp://127.0.0.1:0",
            state=str(folder / "state"),
            pipeline=scan.pipeline,
            **service,
        )
        self.service: Any = ProcessingService(self.settings, **limits)
        if command:
            self.service.command = (sys.executable, "-c", command)
        self.log = DocumentLog(folder / "documents")
        self.began = self.recovered = 0.0
        self._frames = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as self.stack:
            self.service.start()
            self.stack.callback(lambda: self.service.stop())
            ports = ask(self.service.address, "status")["ports"]
            self.network = self.stack.enter_context(CuttableNetwork(self.service.address, *ports))
            self.connect()
            self.stack.callback(lambda: self.connection.close(0))
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


class ServeCommand:
    """`nsbluesky serve` as a process, in the place of a supervisor in this one."""

    def __init__(self, settings: ServiceSettings, address: str) -> None:
        self.address, self.settings = address, settings
        self.credentials: Any = None
        self._ports = f"{free_port()},{free_port()}"

    def start(self) -> None:
        settings = self.settings
        options = [
            "--address",
            self.address,
            "--ports",
            self._ports,
            "--out",
            settings.directory,
            "--root",
            *settings.roots,
        ]
        options += SERVE_OPTIONS
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nsbluesky.cli", "serve", *options],
            env={**os.environ, "NSBLUESKY_STATE": settings.state},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        told = self._process.stderr.readline()
        assert "listens at" in told, told
        self.credentials = local_credentials(self.address, Path(settings.state))

    def kill(self) -> None:
        """End the supervisor alone, as SIGKILL does."""
        self._process.kill()
        self._wait()

    def stop(self) -> None:
        self._process.terminate()
        self._wait()

    def _wait(self) -> None:
        """The end of what it says may be far: the service's process has the same pipe."""
        self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()


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


def kill_supervisor(damage: Damage) -> None:
    """Its process ends by itself; the next supervisor waits for the place."""
    damage.service.kill()
    damage.begin()  # what was on its way does not count
    damage.service.start()
    damage.connection.credentials = damage.service.credentials


def cut_network(damage: Damage) -> None:
    damage.network.cut()
    damage.send(len(damage.scan.documents))
    time.sleep(CUT_S)
    damage.network.heal()


class OtherNetwork(CuttableNetwork):
    """That of the viewers."""

    HOST = "127.0.0.3"


class Viewer:
    """Notes when it hears something of frames."""

    def __init__(self, damage: Damage, address: str) -> None:
        self.heard = threading.Event()
        self._runs = damage.stack.enter_context(closing(DerivedRuns(address)))
        self._runs.subscribe(lambda name, _: self.heard.set() if name == "event_page" else None)

    def wait(self) -> None:
        assert self.heard.wait(TIMEOUT_S)


def cut_viewers(damage: Damage) -> float:
    ports = ask(damage.service.address, "status")["ports"]
    network = damage.stack.enter_context(OtherNetwork(damage.service.address, *ports))
    viewer = Viewer(damage, network.address)
    viewer.wait()
    network.cut()
    began = time.monotonic()
    damage.send(len(damage.scan.documents))
    time.sleep(CUT_S)
    viewer.heard.clear()
    network.heal()
    viewer.wait()
    return time.monotonic() - began


def kill_viewer(damage: Damage) -> float:
    """The window of another process, then one that begins in the middle."""
    command = [sys.executable, "-m", "nsbluesky.cli", "view", "--live", damage.service.address]
    window = subprocess.Popen(command, env={**os.environ, "QT_QPA_PLATFORM": "offscreen"})
    damage.send(len(damage.scan.documents) * 3 // 4)
    time.sleep(WINDOW_S)
    assert window.poll() is None
    window.kill()
    window.wait()
    began = time.monotonic()
    Viewer(damage, damage.service.address).wait()
    return time.monotonic() - began


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
    with tempfile.TemporaryDirectory() as name:
        scan = record(Path(name) / "scan")
        figures = [Figure("fault", "frames sent, recorded, cleaned, reconstructed, lost", "time to recover")]
        for key, fault in FAULTS.items():
            figures.append(fault(scan, Path(name) / key))
            print(figures[-1], file=sys.stderr)
        return figures


def row(
    scan: Scan,
    folder: Path,
    what: str,
    do: Callable[[Damage], float | None],
    command: str = "",
    serve: bool = False,
    **service: Any,
) -> Figure:
    """Send a scan, do the damage in the middle, and count."""
    folder.mkdir()
    damage = Damage(scan, folder, command, **service)
    if serve:
        damage.service = ServeCommand(damage.settings, f"tcp://127.0.0.1:{free_port()}")
    with damage.running():
        damage.send(len(scan.documents) // 2)
        if not command:
            damage.wait_for_frames()
        damage.begin()
        lasted = do(damage)
        damage.send(len(scan.documents))
        assert damage.connection.wait(TIMEOUT_S)
        if command == FULL_DISK:
            assert not damage.connection.finished[scan.uid].cxi
            damage.service.command = ProcessingService.command
            damage.connection.close(0)
            damage.begin()
            restart_service(damage)
            damage.connect()
            assert damage.connection.wait(TIMEOUT_S)
        counts = count(scan, damage.connection)
    note = "" if do is nothing and not command else f"{lasted or damage.recovered - damage.began:.1f} s"
    if command == POISON:
        note += ", that frame is left out and listed"
    return Figure(what, counts, note)


def count(scan: Scan, connection: Connection) -> str:
    """Return frames sent, recorded, cleaned, reconstructed and lost, in words."""
    path = connection.cxi_path(scan.uid)
    assert path is not None
    with read_cxi(path) as cxi:
        cleaned = len(cxi.seq_nums)
    sent, recorded = counted(scan)
    return f"{sent}, {recorded}, {cleaned}, {connection.results[scan.uid]['num_frames']}, {recorded - cleaned}"


@contextmanager
def dask_cluster() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler and a worker as processes; yields the scheduler's address and the scheduler."""
    address = f"tcp://127.0.0.1:{free_port()}"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    with ExitStack() as stack:

        def start(*command: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        port = address.rpartition(":")[2]
        scheduler = start(*dask, "--host", "127.0.0.1", "--port", port, "--no-dashboard")
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", address]
        start(*worker, "--nthreads", "1", "--no-dashboard", "--no-nanny")
        yield address, scheduler


def dask_scheduler(scan: Scan, folder: Path) -> Figure:
    """The scheduler is lost: the service cleans frames itself."""
    with dask_cluster() as (address, scheduler):

        def kill(damage: Damage) -> None:
            scheduler.kill()
            scheduler.wait()
            damage.begin()  # what was on its way does not count

        return row(scan, folder, "kill -9 of the Dask scheduler", kill, scheduler=address)


def two_hosts_row(scan: Scan, folder: Path) -> Figure:
    """The cable between two hosts is pulled out."""
    what = f"the cable between two hosts is out for {two_hosts.CUT_S:.0f} s (network namespaces, with keys)"
    told = two_hosts.run(folder, scan.documents, scan.frames, SERVE_OPTIONS)
    if told is None:
        return Figure(what, "not measured", "this user may make no network namespaces here")
    with read_cxi(told["cxi"]) as cxi:
        cleaned = len(cxi.seq_nums)
    sent, recorded = counted(scan)
    counts = f"{sent}, {recorded}, {cleaned}, {told['num_frames']}, {recorded - cleaned}"
    return Figure(what, counts, f"{told['recovered_s']:.1f} s; {told['waited']} documents waited in the log")


def renamed(scan: Scan, clock_s: float) -> Scan:
    """Return the same scan as another run, from a machine whose clock is that far ahead."""
    uids = {document["uid"]: str(uuid.uuid4()) for _, document in scan.documents if "uid" in document}

    def other(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: other(item) for key, item in value.items()}
        return uids.get(value, value) if isinstance(value, str) else value

    documents = [(name, other(document)) for name, document in scan.documents]
    for _, document in documents:
        if "time" in document:
            document["time"] += clock_s
    return replace(scan, documents=documents)


def abort_and_next(scan: Scan, folder: Path) -> Figure:
    """A scan is aborted in its middle, and the next one starts at once."""
    folder.mkdir()
    half, stop = list(scan.documents[: len(scan.documents) // 2]), scan.documents[-1][1]
    while half[-1][0] != "event":  # a point that was not finished is none
        half.pop()
    aborted = replace(scan, documents=[*half, ("stop", {**stop, "exit_status": "abort"})])
    following = renamed(scan, 0.0)
    damage = Damage(aborted, folder)
    with damage.running():
        damage.send(len(aborted.documents))
        damage.begin()
        damage.scan, damage.num_sent = following, 0
        damage.send(len(following.documents))
        assert damage.connection.wait(TIMEOUT_S)
        counts = f"{count(aborted, damage.connection)}; {count(following, damage.connection)}"
    return Figure("abort, and the next scan at once", counts, "the aborted scan; the next one")


def quick_succession(scan: Scan, folder: Path) -> Figure:
    """The next scan begins while the first one is processed."""
    folder.mkdir()
    following = renamed(scan, 0.0)
    damage = Damage(scan, folder)
    with damage.running():
        damage.send(len(scan.documents))
        damage.scan, damage.num_sent = following, 0
        damage.send(len(following.documents))
        assert damage.connection.wait(TIMEOUT_S)
        counts = f"{count(scan, damage.connection)}; {count(following, damage.connection)}"
    return Figure("two scans in quick succession", counts, "the first; the second")


def frames_disk(_: Scan, folder: Path) -> Figure:
    """The disk of the frames is full in the middle of a fly scan, and has space again after a while."""
    folder.mkdir()
    simulator, devices = twins(folder)
    free_MB = [10 * LEAST_MB]
    with patch.object(disk_space, "free_bytes", lambda _: 1e6 * free_MB[0]):
        RE = RunEngine({}, context_managers=[])
        suspender = SuspendWhileFull(folder, sleep=0.0, look_s=LOOK_S)
        RE.install_suspender(suspender)
        scan = Scan([], folder, pipeline_of(simulator))
        damage = Damage(scan, folder)
        told, held = threading.Event(), threading.Event()

        def note(name: str, document: dict[str, Any]) -> None:
            scan.documents.append((name, document))
            damage.send(len(scan.documents))
            if name == "stream_datum" and document["indices"]["stop"] >= FULL_FRAMES:
                told.set()

        def fill_up() -> None:
            told.wait(TIMEOUT_S)
            free_MB[0] = LEAST_MB / 2
            held.wait(TIMEOUT_S)
            time.sleep(CUT_S)
            damage.begin()  # what was on its way does not count
            free_MB[0] = 2 * LEAST_MB

        with damage.running():
            RE.subscribe(note)
            RE.msg_hook = lambda message: held.set() if suspender.tripped and message.command == "wait_for" else None
            disk = threading.Thread(target=fill_up)
            disk.start()
            RE(
                ptycho_fly_scan(
                    *devices, geometry=simulator.geometry, shape=SHAPE, step_um=step_um(simulator), rate_hz=40.0
                )
            )
            disk.join()
            assert held.is_set()
            assert damage.connection.wait(TIMEOUT_S)
            counts = count(scan, damage.connection)
        RE.remove_suspender(suspender)
    note_ = f"{damage.recovered - damage.began:.1f} s after there is space; suspended meanwhile"
    return Figure("the disk of the frames is full in the middle of a scan", counts, note_)


def ioc(_: Scan, folder: Path) -> Figure:
    """The IOC of camera, stage and shutter is killed in the middle of a fly scan, and started again."""
    with SimulatedBeamline(folder, layout="none") as beamline, ExitStack() as stack:
        site = session.simulated_site(beamline)
        devices = session.fccd(site), session.scan_stage(site), session.shutter(site)
        for device in devices:
            stack.callback(device.destroy)
        RE = RunEngine({}, context_managers=[])
        suspender = SuspendWhileAway(*devices)
        RE.install_suspender(suspender)
        scan = Scan([], folder, site.pipeline)
        damage = Damage(scan, folder)
        told = threading.Event()

        def note(name: str, document: dict[str, Any]) -> None:
            scan.documents.append((name, document))
            damage.send(len(scan.documents))
            if name == "stream_datum" and document["indices"]["stop"] >= IOC_FRAMES:
                told.set()

        def kill() -> None:
            told.wait(TIMEOUT_S)
            os.kill(beamline.pid, signal.SIGKILL)
            while not suspender.away:
                time.sleep(LOOK_S)
            damage.begin()  # what was on its way does not count
            beamline.stop()
            beamline.start()

        with damage.running():
            RE.subscribe(note)
            killer = threading.Thread(target=kill)
            killer.start()
            RE(ptycho_fly_scan(*devices, geometry=site.geometry, shape=SHAPE, step_um=site.step_um, rate_hz=20.0))
            killer.join()
            assert damage.connection.wait(TIMEOUT_S)
            counts = count(scan, damage.connection)
    note_ = f"{damage.recovered - damage.began:.1f} s, its start included; suspended meanwhile"
    return Figure("kill -9 of the IOC, which is started again", counts, note_)


def counted(scan: Scan) -> tuple[int, int]:
    """Return how many frames of the scan the documents tell of, and how many of these are in their files."""
    names = {d["uid"]: d["name"] for name, d in scan.documents if name == "descriptor"}
    files = {d["uid"]: d for name, d in scan.documents if name == "stream_resource"}
    image = scan.documents[0][1]["ptycho"]["keys"]["image"]
    sent = recorded = 0
    for name, document in scan.documents:
        if name != "stream_datum" or names[document["descriptor"]] != PRIMARY:
            continue
        resource, rows = files[document["stream_resource"]], document["indices"]
        if resource["data_key"] == image:
            sent += rows["stop"] - rows["start"]
            with h5py.File(local_path(resource["uri"]), "r", libver="latest", swmr=True) as file:
                recorded += len(file[resource["parameters"]["dataset"]][rows["start"] : rows["stop"]])
    return sent, recorded


def record(folder: Path) -> Scan:
    """Record a scan."""
    folder.mkdir()
    simulator, devices = twins(folder)
    documents: list[tuple[str, dict[str, Any]]] = []
    RE = RunEngine({}, context_managers=[])
    RE.subscribe(lambda name, document: documents.append((name, document)))
    plan = ptycho_scan(*devices, geometry=simulator.geometry, shape=SHAPE, step_um=step_um(simulator), num_dark=4)
    RE(plan)
    return Scan(documents, folder, pipeline_of(simulator))


def twins(folder: Path) -> tuple[FrameSimulator, tuple[SimFCCD, SimStage, SimShutter]]:
    """Return a simulator of frames, and the devices without EPICS that take them."""
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
    return simulator, (fccd, stage, shutter)


def step_um(simulator: FrameSimulator) -> float:
    """Return the step of the scans."""
    return min(simulator.sample.scan_range_m) * 1e6 / 20


def pipeline_of(simulator: FrameSimulator) -> PipelineSettings:
    """Return how the scans are processed."""
    solver = SolverSettings(sweep_frames=0, passes_final=2)
    return PipelineSettings(cleaning=simulator.cleaning_settings, solver=solver)


def of(what: str, do: Callable[[Damage], float | None] = nothing, **options: Any) -> Callable[[Scan, Path], Figure]:
    """Return what makes a row of this damage."""
    return lambda scan, folder: row(scan, folder, what, do, **options)


def stuck(scan: Scan, folder: Path) -> Figure:
    """A stage works on one block for ever, but only the first time."""
    marker = folder / "stuck"

    def get_stuck(damage: Damage) -> None:
        damage.send(len(scan.documents))
        while not marker.exists():
            time.sleep(LOOK_S)
        damage.begin()

    command = STUCK.format(marker=str(marker), frame=POISONED)
    limits = {"block_timeout_s": 5.0, "heartbeat_timeout_s": 10.0}
    return row(scan, folder, "a stage is stuck on a block once (limit 5 s)", get_stuck, command=command, **limits)


def other_clock(scan: Scan, folder: Path) -> Figure:
    """The session and the service are on machines whose clocks differ by a day."""
    what = "kill -9 of the process, and the session's clock is a day behind"
    return row(renamed(scan, -86400.0), folder, what, kill_process)


FAULTS: dict[str, Callable[[Scan, Path], Figure]] = {
    "none": of("none"),
    "process": of("kill -9 of the service's process", kill_process),
    "hang": of("its process hangs (heartbeat limit 3 s)", hang_process),
    "stuck": stuck,
    "supervisor": of("kill -9 of the supervisor, which is started again", kill_supervisor, serve=True),
    "restart": of("the service is stopped and started again", restart_service),
    "network": of("the network to the service is cut for 1 s (proxy)", cut_network),
    "viewers": of("the network to the viewers is cut for 1 s (proxy)", cut_viewers),
    "hosts": two_hosts_row,
    "session": of("the session dies: nsbluesky resume", kill_session),
    "window": of("kill -9 of a window, and another one opens", kill_viewer),
    "worker": of("kill -9 of one of two Dask workers", kill_worker, workers=2),
    "scheduler": dask_scheduler,
    "poison": of("a frame that crashes the process", command=POISON),
    "space": of("no space for results, then a restart", command=FULL_DISK),
    "clock": other_clock,
    "abort": abort_and_next,
    "succession": quick_succession,
    "frames_disk": frames_disk,
    "ioc": ioc,
}
"""Each returns a row, of a scan in a folder that it makes."""
