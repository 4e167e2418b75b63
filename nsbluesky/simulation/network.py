"""Networks that can be cut, on loopback and between namespaces: what services and sessions must survive."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Self
from urllib.parse import urlparse

__all__ = ["CuttableNetwork", "OtherHost"]


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


class OtherHost:
    """A host beside this one, and the cable between them: a network namespace of Linux, with addresses of its own.

    This process must be in a namespace where it may do as it likes, as that of ``unshare --user --map-root-user
    --net``.  A cut is that of a cable: no end is told, and what is on its way is lost.

    Attributes
    ----------
    ADDRESS : str
        Of the other host, as this one reaches it.
    """

    ADDRESS = "10.77.0.2"
    HERE = "10.77.0.1"

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])

    def __enter__(self) -> Self:
        """Lay the cable."""
        while Path(f"/proc/{self._holder.pid}/ns/net").samefile("/proc/self/ns/net"):  # it has not left yet
            time.sleep(0.01)
        _ip("link", "add", "here", "type", "veth", "peer", "name", "there", "netns", str(self._holder.pid))
        for command, device, address in (((), "here", self.HERE), (self.command(), "there", self.ADDRESS)):
            _ip("link", "set", "lo", "up", command=command)
            _ip("address", "add", f"{address}/24", "dev", device, command=command)
            _ip("link", "set", device, "up", command=command)
        return self

    def __exit__(self, *_: object) -> None:
        """End the namespace, once nobody is in it."""
        self._holder.kill()
        self._holder.wait()

    def command(self, *arguments: str) -> tuple[str, ...]:
        """Return a command that runs another one there."""
        return ("nsenter", "--target", str(self._holder.pid), "--net", *arguments)

    def cut(self) -> None:
        """Pull the cable out."""
        _ip("link", "set", "here", "down")

    def heal(self) -> None:
        """Put it in again."""
        _ip("link", "set", "here", "up")


def _ip(*arguments: str, command: tuple[str, ...] = ()) -> None:
    subprocess.run([*command, "ip", *arguments], check=True)
