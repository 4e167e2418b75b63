"""A service whose address another one still has."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import zmq

from nsbluesky.service import server

TIMEOUT_S = 10.0


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
