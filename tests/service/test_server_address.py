"""Addresses: one that another service still has, and what is none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from recorded_scan import wait_for

from nsbluesky.service import server
from nsbluesky.service.access import AccessError
from nsbluesky.service.connection import Connection, connect
from nsbluesky.service.control import ask

TIMEOUT_S = 10.0
PORT_OF_NOBODY = 9


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context


def test_it_waits_until_the_other_has_left(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with context.socket(zmq.ROUTER) as leaves, context.socket(zmq.ROUTER) as comes:
        port = leaves.bind_to_random_port("tcp://127.0.0.1")
        address = f"tcp://127.0.0.1:{port}"
        bound = threading.Thread(target=server._bind, args=(comes, address))
        bound.start()
        bound.join(2 * server.RETRY_S)
        assert bound.is_alive()
        leaves.close(0)
        bound.join(TIMEOUT_S)
        assert comes.getsockopt_string(zmq.LAST_ENDPOINT) == address


def test_it_gives_up_where_the_other_stays(
    context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BIND_S", 0.0)
    with context.socket(zmq.ROUTER) as stays, context.socket(zmq.ROUTER) as comes:
        port = stays.bind_to_random_port("tcp://127.0.0.1")
        with pytest.raises(zmq.ZMQError, match="Address already in use"):
            server._bind(comes, f"tcp://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "address", ["localhost:60610", "tcp://localhost", "tcp://localhost:abc", "tcp://localhost:70000"]
)
def test_what_is_no_address_is_refused_at_once(tmp_path: Path, address: str) -> None:
    with pytest.raises(AccessError, match="expected tcp://HOST:PORT, as in"):
        connect(address, tmp_path)
    with pytest.raises(AccessError, match="expected tcp://HOST:PORT, as in"):
        ask(address, "status")


def test_a_session_waits_for_its_key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSBLUESKY_KEY", str(tmp_path / "key"))
    with Connection(f"tcp://127.0.0.1:{PORT_OF_NOBODY}", tmp_path) as connection:
        wait_for(lambda: "is no key file" in connection.errors.get("", ""))
        assert connection._sender.is_alive()
