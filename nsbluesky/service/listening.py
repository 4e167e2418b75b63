"""Where a service listens: it waits for one that just ends to leave its place, and for nobody else."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from urllib.parse import urlparse

import zmq

from nsbluesky.service.access import path_of_service

__all__ = ["AddressInUse", "bind", "check_free"]

BIND_S = 10.0
"""How long an address may be in use; a service takes up to half of it to end."""
RETRY_S = 0.2


class AddressInUse(OSError):
    """Something else listens at an address."""

    def __init__(self, address: str, supervisor: int | None = None) -> None:
        why = "'nsbluesky status' tells whether another service runs there"
        if supervisor is not None:
            why = f"process {supervisor} has started a service there, wait for its end"
        super().__init__(f"{address} is in use: {why}; else take another --address")


def bind(socket: zmq.Socket[bytes], address: str) -> None:
    """Bind a socket, once a service that just ends has left its place: where its supervisor was killed, it may be."""
    end = time.monotonic() + BIND_S
    while not _is_bound(socket, address):
        if time.monotonic() > end:
            raise AddressInUse(address)
        time.sleep(RETRY_S)


def check_free(address: str, ports: tuple[int, int], directory: Path | None = None) -> None:
    """Check that a service may listen at an address, before it takes seconds to start.

    Parameters
    ----------
    address : str
        Of the control socket, ``tcp://HOST:PORT``.
    ports : (int, int)
        Of documents and of publications; 0 for any that is free.
    directory : path, optional
        Where services tell of themselves, as in `nsbluesky.service.access.tell_service`.

    Raises
    ------
    AddressInUse
        If something listens there, and it is not the process of a service whose supervisor was killed, which ends.
    """
    supervisor = _supervisor(address, directory)
    if supervisor is not None and not _is_alive(supervisor):
        return
    host = urlparse(address).hostname
    with zmq.Context() as context:
        for one in (address, *(f"tcp://{host}:{port}" for port in ports)):
            with context.socket(zmq.ROUTER) as socket:
                socket.linger = 0
                if not one.endswith(":0") and not _is_bound(socket, one):
                    raise AddressInUse(one, supervisor)


def _is_bound(socket: zmq.Socket[bytes], address: str) -> bool:
    """Bind a socket; return False where something else has the address."""
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def _supervisor(address: str, directory: Path | None) -> int | None:
    """Return the process id that the latest service of this user at an address has told, unless it has ended."""
    try:
        return int(json.loads(path_of_service(address, directory).read_text())["pid"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True
