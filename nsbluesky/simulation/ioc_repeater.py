"""A Channel Access repeater for the loopback interface: one process hears the servers' beacons for all clients.

libca starts the program ``caRepeater`` where none answers, and complains where it cannot, as with wheels that bring
no such program.  caproto has a repeater, but it leaves libca's empty registrations without an answer.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

__all__ = ["Repeater"]

REGISTER, CONFIRM = 24, 17
HEADER = struct.Struct(">HHHHII")
"""Command, payload size, data type, data count, two parameters (EPICS Channel Access protocol)."""


class Repeater(asyncio.DatagramProtocol):
    """Confirm each client that registers, and pass everything else on to all of them."""

    def __init__(self) -> None:
        self._clients: set[Any] = set()
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        """Keep the socket."""
        self._transport = transport

    def datagram_received(self, data: bytes, sender: Any) -> None:
        """Answer or pass on one datagram."""
        if self._transport is None:
            return
        if not data or (len(data) >= HEADER.size and HEADER.unpack_from(data)[0] == REGISTER):
            self._clients.add(sender)
            address = struct.unpack(">I", socket.inet_aton(sender[0]))[0]
            self._transport.sendto(HEADER.pack(CONFIRM, 0, 0, 0, 0, address), sender)
            return
        for client in self._clients - {sender}:
            self._transport.sendto(data, client)
