"""The simulated beamline as a child process, for a session, a script or a test."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from nsbluesky.child_process import command_of, read_line, take_output
from nsbluesky.geometry import Geometry
from nsbluesky.simulation.ioc import TRUTH_NAME, BeamlineSettings, Ready, serve
from nsbluesky.simulation.loopback import channel_access, free_port

__all__ = ["BeamlineError", "SimulatedBeamline"]

LOG_NAME = "ioc.log"


class BeamlineError(RuntimeError):
    """The simulated beamline does not start or has died."""


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
            cls._ports = free_port(), free_port()
        self.directory.mkdir(parents=True, exist_ok=True)
        os.environ.update(channel_access(*cls._ports))
        with (self.directory / LOG_NAME).open("ab") as log:  # another session's beamline may be writing it
            told_before = log.tell()
            self._child = subprocess.Popen(
                command_of(__name__),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the session pauses a scan; it must not end the beamline
            )
        cls._running = True
        try:
            self._ready = self._handshake(self._child, cls._ports, told_before)
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
        with contextlib.suppress(OSError):  # of an order that it died before
            child.stdin.close()
        child.stdout.close()

    def _handshake(self, child: subprocess.Popen[bytes], ports: tuple[int, int], told_before: int) -> Ready:
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(OSError):  # it is dead already: told below
            child.stdin.write(json.dumps({"ports": ports, "settings": self.settings.to_dict()}).encode() + b"\n")
            child.stdin.flush()
        line = read_line(child.stdout, self._start_timeout_s)
        if not line:
            told = (self.directory / LOG_NAME).read_bytes()[told_before:]
            log = told.decode(errors="replace").strip().splitlines()
            why = log[-1] if log else f"no answer in {self._start_timeout_s:g} s"
            raise BeamlineError(f"the simulated beamline does not start: {why} (log: {self.directory / LOG_NAME})")
        return Ready.from_dict(json.loads(line))


def main() -> None:
    """Run as a child: the order comes as a line on stdin, the answer goes as a line to stdout."""
    answers = take_output(sys.stdout)
    order = json.loads(sys.stdin.buffer.readline())

    def answer(ready: Ready) -> None:
        os.write(answers, ready.to_json().encode() + b"\n")

    settings = BeamlineSettings.from_dict(order["settings"])
    serve(settings, ports=tuple(order["ports"]), on_ready=answer, lifeline=sys.stdin.buffer)
