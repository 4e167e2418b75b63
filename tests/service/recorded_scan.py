"""A scan that was recorded once, to be sent to services as often as tests like; and what stands in the way."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlparse

import numpy as np
from twin_beamline import RIM_PX, TwinBeamline

from nsbluesky.cxi import read_cxi
from nsbluesky.document_log import DocumentLog
from nsbluesky.service.connection import Connection, connect
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.solver.quality import contrast_correlation

TIMEOUT_S = 60.0

GOOD_SOLVER = {"sweep_candidates": 7, "sweep_frames": 40, "sweep_passes": 4, "passes_final": 8}
"""Enough for an image that can be compared with the truth."""

Document = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class RecordedScan:
    """The documents of a scan whose frames are on disk."""

    beamline: TwinBeamline
    documents: list[Document]
    folder: Path

    @property
    def uid(self) -> str:
        return str(self.documents[0][1]["uid"])

    @property
    def num_points(self) -> int:
        return int(self.documents[0][1]["ptycho"]["scan"]["num_points"])

    def settings(self, folder: Path, **solver: Any) -> ServiceSettings:
        """Settings of a service that may read these frames."""
        return ServiceSettings(
            directory=str(folder / "results"),
            roots=(str(self.folder),),
            address="tcp://127.0.0.1:0",
            state=str(folder / "state"),
            pipeline=self.beamline.settings(**{**GOOD_SOLVER, **solver}),
        )

    def correlation(self, image: np.ndarray) -> float:
        return contrast_correlation(image, self.beamline.simulator.sample.object, RIM_PX)


class Session:
    """A session that sends documents: the log first, then the connection, as a RunEngine does."""

    def __init__(self, address: str, folder: Path, credentials: Any) -> None:
        self.log = DocumentLog(folder / "documents")
        self.connection = connect(address, self.log, credentials)

    def send(self, documents: Sequence[Document]) -> None:
        for name, document in documents:
            self.log(name, document)
            self.connection(name, document)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close(timeout=0)
        self.log.close()


def assert_all_frames_are_there(connection: Connection, scan: RecordedScan, missing: Sequence[int] = ()) -> None:
    """Every recorded frame is in the image and in the CXI file, except those that are known to be missing."""
    expected = [k for k in range(1, scan.num_points + 1) if k not in missing]
    result = connection.results[scan.uid]
    assert result["final"]
    assert result["num_frames"] == len(expected)
    path = connection.cxi_path(scan.uid)
    assert path is not None
    with read_cxi(path) as cxi:
        assert sorted(cxi.seq_nums.tolist()) == expected


class Network:
    """Another address of the same service, whose connections can be cut.

    A cut is silent, as that of a cable: what is on its way is lost.
    """

    HOST = "127.0.0.2"

    def __init__(self, address: str, *ports: int) -> None:
        port = urlparse(address).port
        assert port is not None
        self.address = f"tcp://{self.HOST}:{port}"
        self._alive = True
        self._cut = False
        self._listeners = [self._listen(port) for port in (port, *ports)]
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._thread = threading.Thread(target=self._run, name="network")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._alive = False
        self._thread.join()
        for end in (*self._listeners, *self._pairs):
            end.close()

    def cut(self) -> None:
        self._cut = True

    def heal(self) -> None:
        self._cut = False

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.HOST, port))
        listener.listen()
        return listener

    def _run(self) -> None:
        while self._alive:
            if self._cut and self._pairs:
                self._drop(*self._pairs)
            ready = select.select([*self._listeners, *self._pairs], [], [], 0.02)[0]
            for end in ready:
                if end in self._listeners:
                    self._accept(end)
                elif end in self._pairs:
                    self._pass_on(end)

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        if self._cut:
            client.close()
            return
        server = socket.create_connection(("127.0.0.1", listener.getsockname()[1]))
        self._pairs |= {client: server, server: client}

    def _pass_on(self, end: socket.socket) -> None:
        try:
            data = end.recv(1 << 16)
            if data and not self._cut:
                self._pairs[end].sendall(data)
        except OSError:
            data = b""
        if not data:
            self._drop(end)

    def _drop(self, *ends: socket.socket) -> None:
        for end in ends:
            other = self._pairs.pop(end, None)
            for side in (end, other):
                if side is not None:
                    with contextlib.suppress(OSError):
                        side.close()
            if other is not None:
                self._pairs.pop(other, None)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for what other processes do."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def halves(documents: Sequence[Document]) -> tuple[Sequence[Document], Sequence[Document]]:
    middle = len(documents) // 2
    return documents[:middle], documents[middle:]
