"""Datagrams in batches, by one call of the kernel or one by one."""

import socket
import struct

import numpy as np
import pytest

from nsbluesky.camera import datagrams
from nsbluesky.camera.datagrams import DatagramBatch, enlarge_buffer


@pytest.fixture(params=[True, False], ids=["batched", "one by one"])
def batched(request, monkeypatch):
    if not datagrams.BATCHED and request.param:
        pytest.skip("only on Linux")
    monkeypatch.setattr(datagrams, "BATCHED", request.param)
    return request.param


@pytest.fixture
def sockets():
    """A sender that is connected to a receiver, which waits 10 ms at most."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 10_000))
        sender.connect(receiver.getsockname())
        yield sender, receiver


def received(receiver, count, width=32):
    batch = DatagramBatch(np.zeros((8, width), np.uint8))
    found = []
    while len(found) < count:
        came = batch.receive(receiver)
        assert came > 0
        found += [(batch.sizes[k], batch.datagrams[k, : batch.sizes[k]].tobytes()) for k in range(came)]
    return found


def test_what_is_sent_comes(batched, sockets):
    sender, receiver = sockets
    batch = DatagramBatch(np.arange(20 * 16, dtype=np.uint32).astype(np.uint8).reshape(20, 16))
    batch.sizes[3], batch.sizes[19] = 0, 5
    batch.send(sender, 0, 12)
    batch.send(sender, 12, 20)
    expected = [batch.datagrams[k, : batch.sizes[k]].tobytes() for k in range(20)]
    assert received(receiver, 20) == [(len(content), content) for content in expected]


def test_a_longer_one_is_cut_and_its_length_told(batched, sockets):
    sender, receiver = sockets
    sender.send(bytes(range(100)))
    assert received(receiver, 1) == [(100, bytes(range(32)))]


def test_nothing_within_the_timeout_is_none(batched, sockets):
    assert DatagramBatch(np.zeros((8, 32), np.uint8)).receive(sockets[1]) == 0


def test_nobody_listens_and_the_camera_sends_on(batched):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(address)
        batch = DatagramBatch(np.zeros((30, 16), np.uint8))
        for _ in range(3):
            batch.send(sender, 0, 30)


def test_a_socket_that_is_gone_is_an_error(batched):
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.close()
    batch = DatagramBatch(np.zeros((2, 16), np.uint8))
    with pytest.raises(OSError, match="Bad file descriptor"):
        batch.receive(udp)
    with pytest.raises(OSError, match="Bad file descriptor"):
        batch.send(udp, 0, 2)


def test_a_buffer_is_as_large_as_the_kernel_lets(sockets):
    given = enlarge_buffer(sockets[1], socket.SO_RCVBUF, 1 << 20)
    assert given == sockets[1].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert given >= 65536
