"""What a beamline session is made of: the startup files of ``profile_collection`` call these functions in order.

Importing this module needs neither a screen nor hardware, and starts nothing.  Channel Access reads its environment
once, so `simulated_beamline` comes before anything that imports ophyd; that is why devices are imported late.

Everything is closed with the session, last in, first out: the processing, then the catalog, both before tiled stops
the server inside it; then Channel Access (ophyd's own handler), then the simulated beamline.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsbluesky.bound_plan import bind
from nsbluesky.geometry import Geometry
from nsbluesky.refusals import is_no_refusal, refusing
from nsbluesky.session_runs import before_threads_end, processing_service, start_processing, subscribe
from nsbluesky.settings import PipelineSettings

if TYPE_CHECKING:
    from bluesky import RunEngine

    from nsbluesky.beamline_check import BeamlineCheck
    from nsbluesky.callbacks.pipeline import PtychoPipeline
    from nsbluesky.catalog import Catalog
    from nsbluesky.service.connection import Connection
    from nsbluesky.simulation.beamline import SimulatedBeamline
    from nsbluesky.viewer.control_panel import Processing
    from nsbluesky.viewer.live import LiveWindow
    from nsbluesky.viewer.log_tail import LogLines
    from nsbluesky.viewer.modules import Modules

__all__ = [
    "Site",
    "bind",
    "check",
    "fccd",
    "has_screen",
    "live_window",
    "modules_of",
    "open_catalog",
    "processing_service",
    "run_engine",
    "scan_stage",
    "shutter",
    "simulated_beamline",
    "simulated_site",
    "start_processing",
    "subscribe",
    "suspend_while_away",
    "suspend_while_full",
]

logger = logging.getLogger(__name__)

SIMULATE = "NSBLUESKY_SIM"
"""Environment variable: 1 starts the simulated beamline with the session."""

CONNECT_TIMEOUT_S = 20.0
CATALOG_TIMEOUT_S = 5.0
"""That the end of a session waits for the catalog."""
DEFAULT_POINTS = 20


@dataclass(frozen=True)
class Site:
    """Where a session works.

    Attributes
    ----------
    fccd, stage, shutter : str
        PV prefixes; the first one is that of the camera, whichever it is.
    write_path : str
        Folder of the frames, as the camera's IOC sees it.
    read_path : str
        The same folder as this machine sees it.
    geometry : Geometry
        Default of the scans.
    pipeline : PipelineSettings
        How runs are processed.
    step_um : float
        Default of the scans.
    frame_shape : (int, int), optional
        Rows and columns of a frame; asked from the camera by default.
    plugins : tuple of str
        Of the camera, as ``("stats1", "fastccd1")``; see `nsbluesky.devices.plugins`.
    camera : callable, optional
        Class of the camera, as `nsbluesky.devices.area_detector.AreaDetector`; `FCCD` by default.
    num_dark : int
        Default of the scans; 0 for a detector that counts photons.
    connected : bool
        Whether the devices must answer when they are made; else they may come later.
    """

    fccd: str
    stage: str
    shutter: str
    write_path: str
    read_path: str
    geometry: Geometry
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)
    step_um: float = 0.1
    frame_shape: tuple[int, int] | None = None
    plugins: tuple[str, ...] = ()
    camera: Callable[..., Any] | None = None
    num_dark: int = 25
    connected: bool = False


def simulated_beamline() -> SimulatedBeamline | None:
    """Start the simulated beamline if ``NSBLUESKY_SIM=1``; it ends with the session."""
    if os.environ.get(SIMULATE, "0") in ("", "0"):
        return None
    from nsbluesky.folders import DATA, data_directory, require_folder
    from nsbluesky.simulation.beamline import SimulatedBeamline

    with refusing(OSError):
        require_folder(data_directory(), DATA)

    # ``NSBLUESKY_SIM_LAYOUT=none`` makes small plain frames: a session on a slow machine, or in a test
    layout = os.environ.get("NSBLUESKY_SIM_LAYOUT", "cosmic")
    beamline = SimulatedBeamline(data_directory() / "simulation", layout=layout)
    beamline.start()
    atexit.register(beamline.stop)
    return beamline


def simulated_site(beamline: SimulatedBeamline) -> Site:
    """Return the site that a simulated beamline is."""
    ready = beamline.ready
    return Site(
        fccd=f"{beamline.prefix}FCCD:",
        stage=f"{beamline.prefix}STAGE:",
        shutter=f"{beamline.prefix}SHUTTER:",
        write_path=str(beamline.frames_directory),
        read_path=str(beamline.frames_directory),
        geometry=ready.geometry,
        pipeline=PipelineSettings(cleaning=ready.cleaning),
        step_um=min(ready.scan_range_um) / DEFAULT_POINTS,
        connected=True,
    )


def has_screen() -> bool:
    """Return whether windows can be shown, or rendered where ``QT_QPA_PLATFORM`` asks for it; without Qt none can."""
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")) and _has_qt()


@functools.cache
def _has_qt() -> bool:
    """Warn once where it is missing: nothing else of a session needs it."""
    try:
        import nsbluesky.viewer.qt  # noqa: F401
    except ImportError as error:
        logger.warning("no live window: %s", error)
        return False
    return True


def run_engine() -> RunEngine:
    """Make the RunEngine; with a screen the windows stay alive while a plan runs.

    Its ``scan_id`` goes on from session to session.  It refuses a run whose metadata cannot be (see
    `nsbluesky.run_metadata`), as in ``RE(plan, ptycho=5)``: what `RE` is given comes before what the plan says.
    """
    from bluesky import RunEngine

    from nsbluesky.folders import data_directory
    from nsbluesky.run_metadata import check_metadata
    from nsbluesky.scan_ids import ScanIds

    scan_ids = ScanIds(data_directory() / "scan_id")
    options: dict[str, Any] = {"scan_id_source": scan_ids}
    if has_screen():
        from nsbluesky.viewer.qt import QtDuringTask, application

        application()
        options["during_task"] = QtDuringTask()
    RE = RunEngine({}, **options)
    check: Callable[[dict[str, Any]], object] = RE.md_validator

    def check_all(md: dict[str, Any]) -> None:
        try:
            check(md)
            with refusing():
                check_metadata(md)
        except Exception:  # the RunEngine has numbered the run before it asks
            scan_ids.give_back(RE.md)
            raise

    RE.md_validator = check_all
    logging.getLogger("bluesky").addFilter(is_no_refusal)
    return RE


def open_catalog() -> Catalog:
    """Open the user's catalog; it is closed with the session, and what it is behind is written afterwards.

    Raises
    ------
    OSError
        If nothing can be written into the user's folder of data.
    """
    from nsbluesky import catalog
    from nsbluesky.folders import DATA, data_directory, require_folder
    from nsbluesky.heap import end_without_collection

    end_without_collection()
    with refusing(OSError):
        require_folder(data_directory(), DATA)
    opened = catalog.open_catalog()
    opened.start_writing()
    before_threads_end(functools.partial(opened.close, timeout=CATALOG_TIMEOUT_S))
    return opened


def fccd(site: Site) -> Any:
    """Make the camera ``fccd``."""
    from nsbluesky.devices.fccd import FCCD

    camera = (site.camera or FCCD)(
        site.fccd,
        name="fccd",
        write_path=site.write_path,
        read_path=site.read_path,
        frame_shape=site.frame_shape,
        plugins=site.plugins,
    )
    return _connected(camera, site)


def scan_stage(site: Site) -> Any:
    """Make the scan stage ``stage``."""
    from nsbluesky.devices.stage import ScanStage

    return _connected(ScanStage(site.stage, name="stage", write_path=site.read_path), site)


def shutter(site: Site) -> Any:
    """Make the shutter ``shutter``."""
    from nsbluesky.devices.shutter import Shutter

    return _connected(Shutter(site.shutter, name="shutter"), site)


def check(site: Site, fccd: Any, stage: Any, shutter: Any) -> BeamlineCheck:
    """Look whether camera, stage, shutter and the folder of the frames are as scans need them; nothing moves."""
    from nsbluesky.beamline_check import check_beamline

    return check_beamline(
        fccd, stage, shutter, geometry=site.geometry, cleaning=site.pipeline.cleaning, step_um=site.step_um
    )


def suspend_while_away(RE: RunEngine, *devices: Any) -> None:
    """Let plans rest while one of these devices is away, and go on when it is back."""
    from nsbluesky.lost_ioc import SuspendWhileAway

    RE.install_suspender(SuspendWhileAway(*devices))


def suspend_while_full(RE: RunEngine, site: Site) -> None:
    """Let plans rest while the disk of the frames is full, where this machine sees it."""
    from nsbluesky.full_disk import SuspendWhileFull

    if Path(site.read_path).is_dir():
        RE.install_suspender(SuspendWhileFull(site.read_path))


def modules_of(pipeline: PtychoPipeline | Connection) -> Modules:
    """Return how each module of a processing is, for the live window."""
    from nsbluesky.service.connection import Connection
    from nsbluesky.viewer.modules import modules_of_activity, modules_of_heartbeat

    if isinstance(pipeline, Connection):
        return modules_of_heartbeat(pipeline.heartbeat)
    return modules_of_activity(pipeline.activity(), pipeline.paused, pipeline.queued)


def live_window(
    pipeline: PtychoPipeline | Connection, RE: RunEngine | None = None, **plans: Callable[..., Any]
) -> LiveWindow | None:
    """Open the live window, and let IPython keep it alive at the prompt; None without a screen.

    Parameters
    ----------
    pipeline : PtychoPipeline or Connection
        What is shown and steered.
    RE : RunEngine, optional
        Is paused, resumed and stopped from the window, and runs the next scan.
    **plans : callable
        Plans that the window may run, with their devices filled in (`bind`).
    """
    if not has_screen():
        return None
    from nsbluesky.folders import data_directory
    from nsbluesky.service.connection import Connection
    from nsbluesky.service.remote_processing import RemoteProcessing
    from nsbluesky.viewer.live import LiveWindow
    from nsbluesky.viewer.log_tail import in_order, tail_of_files
    from nsbluesky.viewer.scan_panel import Scans

    lines = _logged_lines()
    processing: Processing
    if isinstance(pipeline, Connection):
        processing = RemoteProcessing(pipeline.address, pipeline.credentials)
    else:
        from nsbluesky.viewer.session_processing import SessionProcessing

        processing = SessionProcessing(pipeline, data_directory() / "documents")
    window = LiveWindow(
        pipeline.live,
        modules=functools.partial(modules_of, pipeline),
        log_lines=lambda: in_order(lines(), tail_of_files(data_directory() / "service" / "logs")),
        processing=processing,
        scans=Scans(RE, plans) if RE is not None else None,
    )
    window.show()
    return window


def _logged_lines() -> LogLines:
    """Let a window have what the package logs; warnings are still told at the prompt as well."""
    from nsbluesky.viewer.log_tail import LogLines

    lines = LogLines()
    package = logging.getLogger("nsbluesky")
    if not package.hasHandlers() and logging.lastResort is not None:
        package.addHandler(logging.lastResort)  # which Python asks only where there is no other
    package.addHandler(lines)
    # handlers of the session have levels of their own
    package.setLevel(min(package.getEffectiveLevel(), logging.INFO))
    return lines


def _connected(device: Any, site: Site) -> Any:
    if site.connected:
        device.wait_for_connection(timeout=CONNECT_TIMEOUT_S)
    return device
