"""The simulated beamline over real Channel Access: a fast CCD, a scan stage and a shutter.

`serve` runs it in the foreground, `nsbluesky.simulation.beamline` as a child process.  Everything stays on the
loopback interface.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

try:
    from caproto.asyncio.server import Context
    from caproto.server import common
except ImportError as error:
    raise ImportError(f"the simulated beamline needs caproto ({error}): pip install 'nsbluesky[sim]'") from error

from nsbluesky.geometry import Geometry
from nsbluesky.settings import CleaningSettings, Settings
from nsbluesky.simulation import samples
from nsbluesky.simulation.fccd_frames import FrameSimulator
from nsbluesky.simulation.ioc_camera import CameraGroup, ImageGroup
from nsbluesky.simulation.ioc_frames import Frame, FramesAhead, Shot
from nsbluesky.simulation.ioc_hdf5 import HDF5Group
from nsbluesky.simulation.ioc_repeater import Repeater
from nsbluesky.simulation.ioc_settings import BeamlineSettings
from nsbluesky.simulation.ioc_shutter import ShutterGroup
from nsbluesky.simulation.ioc_stage import METRES_PER_UM, StageGroup
from nsbluesky.simulation.ioc_stats import StatisticsGroup
from nsbluesky.simulation.loopback import LOOPBACK, channel_access, free_port

__all__ = ["BeamlineSettings", "Ready", "serve"]

GOLD_BALLS = "gold_balls"
TRUTH_NAME = "truth.h5"
NANOMETRES_PER_UM = 1e3
BATCH_TIMEOUT_S = 0.001
FILL_TIMEOUT_S = 20.0
"""A trajectory begins with a pool that is not full after so long; its client waits for it."""

MAX_LATENCY_S = 0.01
"""caproto waits 10 ms (1 s under load) for more updates to send at once: a step scan waits for each of them."""


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


class _Beamline:
    """The groups of process variables, and what ties them together: frames are made where the stage is."""

    def __init__(self, settings: BeamlineSettings) -> None:
        self.settings = settings
        self.frames_directory = Path(settings.directory) / "frames"
        self.frames_directory.mkdir(parents=True, exist_ok=True)
        self._simulator = _frame_simulator(settings)
        self.truth_path = Path(settings.directory) / TRUTH_NAME
        self._simulator.save_truth(self.truth_path)
        self._simulator.raw_frame(0, 0, shutter_open=True, index=0)  # compiled before clients come
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
            waiting = [asyncio.wrap_future(frame) for frame in self.frames.waiting()]
            await asyncio.wait(waiting, timeout=FILL_TIMEOUT_S)

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
    detector = "sensor" if settings.faults else "none"
    return FrameSimulator(sample, layout=settings.layout, seed=settings.seed, detector=detector)


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
    search_port, beacon_port = ports or (free_port(), free_port())
    os.environ.update(channel_access(search_port, beacon_port))
    common.HIGH_LOAD_TIMEOUT, common.MAX_LATENCY = BATCH_TIMEOUT_S, MAX_LATENCY_S
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
