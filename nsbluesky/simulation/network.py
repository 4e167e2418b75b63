"""A network on loopback that can be cut: what services and sessions must survive."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import Self
from urllib.parse import urlparse

__all__ = ["CuttableNetwork"]


class CuttableNetwork:
    """Another address of the same service, whose connections can be cut.

    A cut is silent, as that of a cable: what is on its way is lost.

    Parameters
    ----------
    address : str
        0MQ address on loopback, ``tcp://127.0.0.1:PORT``.
    *ports : int
        Further ones of the same service.

    Attributes
    ----------
    address : str
        Where clients connect instead.
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
        """Listen."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close everything."""
        self._alive = False
        self._thread.join()
        for end in (*self._listeners, *self._pairs):
            end.close()

    def cut(self) -> None:
        """End all connections, and let no others come about."""
        self._cut = True

    def heal(self) -> None:
        """Let connections come about again."""
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
        try:
            if self._cut:
                raise ConnectionRefusedError
            server = socket.create_connection(("127.0.0.1", listener.getsockname()[1]))
        except OSError:
            client.close()
            return
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
