"""Many datagrams with one call of the kernel, where it is Linux; else one at a time.

A frame is 585 datagrams and 146 frames come in a second: a call for each would take most of a core.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys

import numpy as np
import numpy.typing as npt

__all__ = ["DatagramBatch", "enlarge_buffer"]

MESSAGE = np.dtype(
    [
        ("name", "u8"),
        ("name_length", "u4"),
        ("parts", "u8"),
        ("num_parts", "u8"),
        ("control", "u8"),
        ("control_length", "u8"),
        ("flags", "i4"),
        ("padding", "i4"),
        ("length", "u4"),
    ],
    align=True,
)
"""struct mmsghdr of Linux on 64 bits: a struct msghdr and a length."""
MESSAGE_BYTES = MESSAGE.itemsize
MSG_WAITFORONE = 0x10000
MSG_TRUNC = 0x20
"""Tells the length of a datagram as it was sent, also where there is less room for it."""
SO_FORCE = {socket.SO_RCVBUF: 33, socket.SO_SNDBUF: 32}
"""SO_RCVBUFFORCE and SO_SNDBUFFORCE, which a privileged process may set beyond the kernel's limit."""

BATCHED = sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8


def enlarge_buffer(udp: socket.socket, option: int, wanted_bytes: int) -> int:
    """Ask for a buffer (SO_RCVBUF or SO_SNDBUF) and return the size in bytes that the kernel gave."""
    udp.setsockopt(socket.SOL_SOCKET, option, wanted_bytes)
    if sys.platform == "linux" and udp.getsockopt(socket.SOL_SOCKET, option) < wanted_bytes:
        with contextlib.suppress(PermissionError):  # the caller tells how small it stays
            udp.setsockopt(socket.SOL_SOCKET, SO_FORCE[option], wanted_bytes)
    return udp.getsockopt(socket.SOL_SOCKET, option)


class DatagramBatch:
    """Room for datagrams, received or to send.

    Attributes
    ----------
    datagrams : (count, width) uint8
    sizes : (count,) int64
        Their lengths in bytes; beyond `width`, of one that did not fit.

    Parameters
    ----------
    datagrams : (count, width) uint8
        Contiguous along a row; the kernel reads and writes here.
    """

    def __init__(self, datagrams: npt.NDArray[np.uint8]) -> None:
        count, width = datagrams.shape
        self.datagrams = datagrams
        self.sizes = np.full(count, width, np.int64)
        self._parts = np.zeros((count, 2), np.uint64)
        self._parts[:, 0] = datagrams.ctypes.data + datagrams.strides[0] * np.arange(count, dtype=np.uint64)
        self._parts[:, 1] = width
        self._messages = np.zeros(count, MESSAGE)
        self._messages["parts"] = self._parts.ctypes.data + 16 * np.arange(count, dtype=np.uint64)
        self._messages["num_parts"] = 1
        self._libc = ctypes.CDLL(None, use_errno=True) if BATCHED else None

    def receive(self, udp: socket.socket) -> int:
        """Wait for a datagram, take what else is there, and return how many came; 0 after the socket's timeout.

        The timeout is the kernel's (SO_RCVTIMEO): the Python socket must be a blocking one.
        """
        if self._libc is None:
            return self._receive_one(udp)
        first = ctypes.c_void_p(self._messages.ctypes.data)
        count = self._libc.recvmmsg(udp.fileno(), first, len(self.sizes), MSG_WAITFORONE | MSG_TRUNC, None)
        if count < 0:
            return _nothing_or_raise(ctypes.get_errno())
        self.sizes[:count] = self._messages["length"][:count]
        return int(count)

    def send(self, udp: socket.socket, start: int, stop: int) -> None:
        """Send rows start to stop to the peer of a connected socket."""
        if self._libc is None:
            for k in range(start, stop):
                with contextlib.suppress(ConnectionRefusedError):  # nobody listens: a camera sends all the same
                    udp.send(self.datagrams[k, : self.sizes[k]].data)
            return
        self._parts[start:stop, 1] = self.sizes[start:stop]
        while start < stop:
            first = ctypes.c_void_p(self._messages.ctypes.data + MESSAGE_BYTES * start)
            sent = self._libc.sendmmsg(udp.fileno(), first, stop - start, 0)
            if sent < 0:
                error = ctypes.get_errno()
                if error not in (_ECONNREFUSED, _EINTR):
                    raise OSError(error, os.strerror(error))
                sent = 1 if error == _ECONNREFUSED else 0
            start += sent

    def _receive_one(self, udp: socket.socket) -> int:
        try:
            self.sizes[0] = udp.recv_into(self.datagrams[0].data, 0, MSG_TRUNC)
        except BlockingIOError:
            return 0
        return 1


_EINTR, _EAGAIN, _ECONNREFUSED = 4, 11, 111


def _nothing_or_raise(error: int) -> int:
    if error in (_EAGAIN, _EINTR):
        return 0
    raise OSError(error, os.strerror(error))
