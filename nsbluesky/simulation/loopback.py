"""Channel Access on the loopback interface only: its environment and its ports."""

from __future__ import annotations

import socket

__all__ = ["LOOPBACK", "channel_access", "free_port"]

LOOPBACK = "127.0.0.1"


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


def free_port() -> int:
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
