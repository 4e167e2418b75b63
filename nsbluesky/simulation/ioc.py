"""The simulated beamline over real Channel Access: a fast CCD, a scan stage and a shutter.

`serve` runs it in the foreground; `SimulatedBeamline` runs it as a child process for a session, a script or a test.
Everything stays on the loopback interface.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from caproto.asyncio.server import Context

from nsbluesky.geometry import Geometry
from nsbluesky.settings import CleaningSettings, Settings
from nsbluesky.simulation import samples
from nsbluesky.simulation.faults import DetectorFaults
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.ioc_camera import CameraGroup, ImageGroup
from nsbluesky.simulation.ioc_frames import Frame, FramesAhead, Shot
from nsbluesky.simulation.ioc_hdf5 import HDF5Group
from nsbluesky.simulation.ioc_repeater import Repeater
from nsbluesky.simulation.ioc_settings import BeamlineSettings
from nsbluesky.simulation.ioc_shutter import ShutterGroup
from nsbluesky.simulation.ioc_stage import METRES_PER_UM, StageGroup
from nsbluesky.simulation.ioc_stats import StatisticsGroup

__all__ = ["BeamlineError", "BeamlineSettings", "Ready", "SimulatedBeamline", "channel_access", "serve"]

LOOPBACK = "127.0.0.1"
GOLD_BALLS = "gold_balls"
LOG_NAME = "ioc.log"
TRUTH_NAME = "truth.h5"
NANOMETRES_PER_UM = 1e3
LOW_LATENCY = {"CAPROTO_SERVER_HIGH_LOAD_TIMEOUT_SEC": "0.001", "CAPROTO_SERVER_MAX_LATENCY_SEC": "0.01"}
"""caproto waits 10 ms (1 s under load) for more updates to send at once: a step scan waits for each of them."""


class BeamlineError(RuntimeError):
    """The simulated beamline does not start or has died."""


@dataclass(frozen=True)
class Ready(Settings):
    """What a beamline says when clients may connect.

    Attributes
    ----------
    prefix : str
        Of every PV.
    truth_path : str
        Ground truth of sample, probe and sensor.
    frame_shape : (int, int)
        Rows and columns of a raw frame.
    geometry : Geometry
        For the start document.
    cleaning : CleaningSettings
        Which bring the frames to the sample's own pixel.
    scan_range_um : (float, float)
        Full range in x and y, around zero, that is worth a scan.
    """

    prefix: str
    truth_path: str
    frame_shape: tuple[int, int]
    geometry: Geometry
    cleaning: CleaningSettings
    scan_range_um: tuple[float, float]


def channel_access(port: int, beacon_port: int) -> dict[str, str]:
    """Return the environment with which Channel Access clients and the IOC find each other, on loopback only."""
    return {
        # with its port: libca reads EPICS_CA_SERVER_PORT when ophyd is imported, this one at the first channel
        "EPICS_CA_ADDR_LIST": f"{LOOPBACK}:{port}",
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_SERVER_PORT": str(port),
        "EPICS_CA_REPEATER_PORT": str(beacon_port),
        "EPICS_CA_MAX_ARRAY_BYTES": str(64 * 1024 * 1024),
        "EPICS_CAS_INTF_ADDR_LIST": LOOPBACK,
        "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_CAS_BEACON_ADDR_LIST": LOOPBACK,
        "EPICS_CAS_BEACON_PORT": str(beacon_port),
    }


class _Beamline:
    """The groups of process variables, and what ties them together: frames are made where the stage is."""

    def __init__(self, settings: BeamlineSettings) -> None:
        self.settings = settings
        self.frames_directory = Path(settings.directory) / "frames"
        self.frames_directory.mkdir(parents=True, exist_ok=True)
        self._simulator = _frame_simulator(settings)
        self.truth_path = Path(settings.directory) / TRUTH_NAME
        self._simulator.save_truth(self.truth_path)
        self.shape = self._simulator.shape
        self.frames = FramesAhead(self._make, settings.pool, settings.workers)
        prefix = settings.prefix
        self.stage = StageGroup(
            prefix=f"{prefix}STAGE:",
            following_error_um=settings.following_error_nm / NANOMETRES_PER_UM,
            position_noise_um=settings.position_noise_nm / NANOMETRES_PER_UM,
            seed=settings.seed,
        )
        self.shutter = ShutterGroup(prefix=f"{prefix}SHUTTER:")
        self.hdf5 = HDF5Group(prefix=f"{prefix}FCCD:HDF1:")
        self.image = ImageGroup(prefix=f"{prefix}FCCD:image1:", max_rate_hz=settings.image_rate_hz)
        self.statistics = StatisticsGroup(prefix=f"{prefix}FCCD:Stats1:")
        self.camera = CameraGroup(
            prefix=f"{prefix}FCCD:cam1:",
            surroundings=self,
            frames=self.frames,
            shape=self.shape,
            max_rate_hz=settings.max_rate_hz,
            lost_frames=frozenset(settings.lost_frames),
        )
        self.hdf5.frame_shape = self.shape
        self.stage.on_armed = self._armed

    def _make(self, shot: Shot) -> Frame:
        return self._simulator.raw_frame(
            shot.x_m, shot.y_m, shutter_open=shot.shutter_open, exposure_s=shot.exposure_s, index=shot.index
        )

    def ready(self) -> Ready:
        """Say what clients and the processing need to know."""
        width_m, height_m = self._simulator.sample.scan_range_m
        return Ready(
            prefix=self.settings.prefix,
            truth_path=str(self.truth_path),
            frame_shape=self.shape,
            geometry=self._simulator.geometry,
            cleaning=self._simulator.cleaning_settings,
            scan_range_um=(width_m / METRES_PER_UM, height_m / METRES_PER_UM),
        )

    def pvdb(self) -> dict[str, Any]:
        """Return every process variable by name, ``_RBV`` aliases included."""
        database: dict[str, Any] = {}
        for group in (self.stage, self.shutter, self.hdf5, self.image, self.statistics, self.camera):
            database.update(group.pvdb)
            for name in getattr(group, "SETPOINTS", ()):
                database[f"{group.prefix}{name}_RBV"] = database[f"{group.prefix}{name}"]
        return database

    async def prepare(self) -> None:
        """Fill in what is known only at run time."""
        rows, columns = self.shape
        await self.camera.set_shape()
        await self.stage.set_units()
        await self.hdf5.path.write(str(self.frames_directory))
        for group in (self.hdf5, self.image):
            await group.width.write(columns)
            await group.height.write(rows)

    async def close(self) -> None:
        """Close the file and stop the threads."""
        await self.hdf5.close()
        self.frames.close()

    async def _armed(self, num_points: int) -> None:
        """Start on the frames of a trajectory while the stage goes to its first point."""
        self.camera.expect(num_points)
        if self.settings.fill_pool:
            await asyncio.wait([asyncio.wrap_future(frame) for frame in self.frames.waiting()])

    def shots(self, first_index: int, num: int, exposure_s: float) -> Iterator[Shot]:
        """Return what the next exposures would see."""
        positions = self.stage.next_positions_m(num)
        is_open = self.shutter.is_open
        for i, (x, y) in enumerate(positions):
            yield Shot(first_index + i, float(x), float(y), is_open, exposure_s)

    async def triggered(self) -> None:
        """Advance the stage."""
        await self.stage.trigger()

    async def publish(self, frame: Frame, shot: Shot) -> None:
        """Hand a frame to the file and to viewers."""
        await self.hdf5.process(frame, shot)
        await self.image.process(frame, shot)
        await self.statistics.process(frame)

    async def drain(self) -> None:
        """Wait till every frame is in the file."""
        await self.hdf5.drain()


def _frame_simulator(settings: BeamlineSettings) -> FrameSimulator:
    sample = samples.gold_balls() if settings.sample == GOLD_BALLS else samples.from_picture(settings.sample)
    faults = None if settings.faults else DetectorFaults(bad_adcs=0, hot_pixels=0, stuck_pixels=0)
    return FrameSimulator(sample, layout=settings.layout, seed=settings.seed, faults=faults)


def serve(
    settings: BeamlineSettings,
    *,
    ports: tuple[int, int] | None = None,
    on_ready: Callable[[Ready], None] | None = None,
    lifeline: IO[bytes] | None = None,
) -> None:
    """Run the beamline in the foreground until SIGINT or SIGTERM.

    Parameters
    ----------
    settings : BeamlineSettings
    ports : (int, int), optional
        UDP ports on loopback: where clients search and where they hear beacons, as they find them in
        ``EPICS_CA_SERVER_PORT`` and ``EPICS_CA_REPEATER_PORT``; free ones by default.
    on_ready : callable, optional
        Called once, when clients may connect.
    lifeline : binary file, optional
        A pipe; the beamline stops when its other end closes, so that it cannot outlive its parent.
    """
    search_port, beacon_port = ports or (_free_port(), _free_port())
    os.environ.update(channel_access(search_port, beacon_port))
    asyncio.run(_serve(settings, beacon_port, on_ready, lifeline))


async def _serve(
    settings: BeamlineSettings,
    beacon_port: int,
    on_ready: Callable[[Ready], None] | None,
    lifeline: IO[bytes] | None,
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if lifeline is not None:
        loop.add_reader(lifeline, stop.set)  # nothing is ever sent: readable means that the parent has gone

    beamline = _Beamline(settings)
    await beamline.prepare()
    await loop.create_datagram_endpoint(Repeater, local_addr=(LOOPBACK, beacon_port))

    context = Context(beamline.pvdb(), [LOOPBACK])

    async def say_ready(_async_lib: Any) -> None:
        for listener in context.tcp_sockets.values():
            # caproto's circuits inherit it; without, Nagle and delayed acknowledgement cost 40 ms per exchange
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if on_ready is not None:
            on_ready(beamline.ready())

    server = asyncio.create_task(context.run(startup_hook=say_ready))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({server, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    await beamline.close()
    server.cancel()
    await asyncio.wait({server})
    if not server.cancelled():
        server.result()


class SimulatedBeamline:
    """The simulated beamline in a child process, as a context manager.

    Entering starts the child, waits till it is ready and points this process's Channel Access clients at it through
    ``os.environ``.  libca reads these variables when the first channel is made, so enter before any device connects.
    libca keeps its ports for the life of a process: one beamline at a time, and a later one takes the same ports.
    The child ends with the ``with`` block, and by itself if this process dies.

    Parameters
    ----------
    directory : path
        Truth, log and (below ``frames``) the frames.
    start_timeout_s : float
        How long the child may take to be ready.
    **settings
        Other fields of `BeamlineSettings`.
    """

    _ports: tuple[int, int] | None = None
    _running = False

    def __init__(self, directory: str | os.PathLike[str], *, start_timeout_s: float = 120.0, **settings: Any) -> None:
        self.settings = BeamlineSettings(directory=str(Path(directory).resolve()), **settings)
        self._start_timeout_s = start_timeout_s
        self._child: subprocess.Popen[bytes] | None = None
        self._ready: Ready | None = None

    @property
    def prefix(self) -> str:
        """Prefix of every PV."""
        return self.settings.prefix

    @property
    def directory(self) -> Path:
        """Where truth and log lie."""
        return Path(self.settings.directory)

    @property
    def frames_directory(self) -> Path:
        """Where the frames go."""
        return self.directory / "frames"

    @property
    def truth_path(self) -> Path:
        """The ground truth of the sample and the probe."""
        return self.directory / TRUTH_NAME

    @property
    def ready(self) -> Ready:
        """What the beamline said of itself: frame shape, geometry, how to clean its frames."""
        if self._ready is None:
            raise BeamlineError("the simulated beamline is not running: enter it with 'with'")
        return self._ready

    @property
    def geometry(self) -> Geometry:
        """The experiment, for the start document."""
        return self.ready.geometry

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Rows and columns of a raw frame."""
        return self.ready.frame_shape

    @property
    def pid(self) -> int:
        """Process id of the IOC."""
        if self._child is None:
            raise BeamlineError("the simulated beamline is not running: enter it with 'with'")
        return self._child.pid

    def __enter__(self) -> Self:
        """Start the child and wait till clients may connect."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the child."""
        self.stop()

    def start(self) -> None:
        """Start the child and wait till clients may connect.

        Raises
        ------
        BeamlineError
            If it does not start, or another one runs in this process.
        """
        cls = type(self)
        if cls._running:
            raise BeamlineError("a simulated beamline runs in this process already: stop it first")
        if cls._ports is None:
            cls._ports = _free_port(), _free_port()
        self.directory.mkdir(parents=True, exist_ok=True)
        os.environ.update(channel_access(*cls._ports))
        with (self.directory / LOG_NAME).open("wb") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**LOW_LATENCY, **os.environ},
                start_new_session=True,  # Ctrl-C in the session pauses a scan; it must not end the beamline
            )
        cls._running = True
        try:
            self._ready = self._handshake(self._child, cls._ports)
        except BaseException:
            self.stop()
            raise

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop the child: ask, wait, then kill."""
        child, self._child, self._ready = self._child, None, None
        if child is None:
            return
        type(self)._running = False
        assert child.stdin is not None
        assert child.stdout is not None
        child.terminate()
        try:
            child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdin.close()
        child.stdout.close()

    def _handshake(self, child: subprocess.Popen[bytes], ports: tuple[int, int]) -> Ready:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps({"ports": ports, "settings": self.settings.to_dict()}).encode() + b"\n")
        child.stdin.flush()
        line = _read_line(child.stdout, self._start_timeout_s)
        if not line:
            log = (self.directory / LOG_NAME).read_text(errors="replace").strip().splitlines()
            why = log[-1] if log else f"no answer in {self._start_timeout_s:g} s"
            raise BeamlineError(f"the simulated beamline does not start: {why} (log: {self.directory / LOG_NAME})")
        return Ready.from_dict(json.loads(line))


def _read_line(stream: IO[bytes], timeout_s: float) -> bytes:
    """Return one line, or nothing where the stream ends or the time is over."""
    if not select.select([stream], [], [], timeout_s)[0]:
        return b""
    return stream.readline()


def _free_port() -> int:
    """Return a port that is free on loopback for UDP and TCP."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as streams,
        ):
            datagrams.bind((LOOPBACK, 0))
            port: int = datagrams.getsockname()[1]
            try:
                streams.bind((LOOPBACK, port))
            except OSError:
                continue
            return port


def _child() -> None:
    """Run as a child: the order comes as a line on stdin, the answer goes as a line to stdout."""
    order = json.loads(sys.stdin.buffer.readline())

    def answer(ready: Ready) -> None:
        sys.stdout.write(ready.to_json() + "\n")
        sys.stdout.flush()

    settings = BeamlineSettings.from_dict(order["settings"])
    serve(settings, ports=tuple(order["ports"]), on_ready=answer, lifeline=sys.stdin.buffer)


if __name__ == "__main__":
    _child()
