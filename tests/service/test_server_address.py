"""Addresses: one that another service still has, and what is none."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from recorded_scan import wait_for

from nsbluesky.service import listening
from nsbluesky.service.access import AccessError, Credentials, forget_service, local_credentials, tell_service
from nsbluesky.service.connection import Connection, connect
from nsbluesky.service.control import ask
from nsbluesky.service.listening import AddressInUse, check_free
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.service.supervisor import ProcessingService, ServiceError
from nsbluesky.settings import SettingsError

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
        bound = threading.Thread(target=listening.bind, args=(comes, address))
        bound.start()
        bound.join(2 * listening.RETRY_S)
        assert bound.is_alive()
        leaves.close(0)
        bound.join(TIMEOUT_S)
        assert comes.getsockopt_string(zmq.LAST_ENDPOINT) == address


def test_it_gives_up_where_the_other_stays(
    context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "BIND_S", 0.0)
    with context.socket(zmq.ROUTER) as stays, context.socket(zmq.ROUTER) as comes:
        port = stays.bind_to_random_port("tcp://127.0.0.1")
        with pytest.raises(OSError, match=f":{port} is in use: 'nsbluesky status' tells"):
            listening.bind(comes, f"tcp://127.0.0.1:{port}")


@pytest.mark.parametrize("which", ["control", "documents", "publications"])
def test_a_port_of_somebody_who_stays_is_told_before_a_process_starts(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path, which: str
) -> None:
    with context.socket(zmq.ROUTER) as stays:
        port = stays.bind_to_random_port("tcp://127.0.0.1")
        settings = ServiceSettings(
            str(tmp_path),
            ("/",),
            f"tcp://127.0.0.1:{port if which == 'control' else 0}",
            (port if which == "documents" else 0, port if which == "publications" else 0),
            state=str(tmp_path / "state"),
        )
        service = ProcessingService(settings)
        service.command = ("/no/such/program",)  # type: ignore[misc]
        with pytest.raises(ServiceError, match=f":{port} is in use: 'nsbluesky status' .* take another --address"):
            service.start()
        tell_service(settings.address, Credentials(), tmp_path / "state")
        if which == "control":
            with pytest.raises(ServiceError, match=f":{port} is in use: process {os.getpid()} has started a service"):
                service.start()


def test_the_process_of_a_service_that_was_killed_is_waited_for(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    """It ends as soon as it sees that its supervisor is gone: the check does not take it for one that stays."""
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    with context.socket(zmq.ROUTER) as ends:
        address = f"tcp://127.0.0.1:{ends.bind_to_random_port('tcp://127.0.0.1')}"
        tell_service(address, Credentials(), tmp_path)
        with pytest.raises(AddressInUse):
            check_free(address, (0, 0), tmp_path)
        (told,) = (tmp_path / "services").iterdir()
        told.write_text(told.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {killed.pid}'))
        check_free(address, (0, 0), tmp_path)
        told.write_text("{")
        with pytest.raises(AddressInUse):
            check_free(address, (0, 0), tmp_path)


@pytest.mark.parametrize(
    "address", ["localhost:60610", "tcp://localhost", "tcp://localhost:abc", "tcp://localhost:70000"]
)
def test_what_is_no_address_is_refused_at_once(tmp_path: Path, address: str) -> None:
    with pytest.raises(AccessError, match="expected tcp://HOST:PORT, as in"):
        connect(address, tmp_path)
    with pytest.raises(AccessError, match="expected tcp://HOST:PORT, as in"):
        ask(address, "status")


@pytest.mark.parametrize("address", ["tcp://[::1]:60610", "tcp://[::]:0"])
def test_an_address_of_IPv6_is_refused_at_once(tmp_path: Path, address: str) -> None:
    with pytest.raises(SettingsError, match="is one of IPv6: expected a name or IPv4, as in"):
        ServiceSettings(str(tmp_path), ("/",), address, keys=str(tmp_path))
    with pytest.raises(AccessError, match="is one of IPv6"):
        ask(address, "status")


def test_what_another_service_has_told_stays(tmp_path: Path) -> None:
    """One that was started where this one has been."""
    address = f"tcp://127.0.0.1:{PORT_OF_NOBODY}"
    others = Credentials(token="another's")
    tell_service(address, others, tmp_path)
    (told,) = (tmp_path / "services").iterdir()
    told.write_text(told.read_text().replace(f'"pid": {os.getpid()}', '"pid": 1'))
    forget_service(address, tmp_path)
    assert local_credentials(address, tmp_path) == others
    tell_service(address, others, tmp_path)
    forget_service(address, tmp_path)
    assert not told.exists()


def test_a_session_waits_for_its_key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSBLUESKY_KEY", str(tmp_path / "key"))
    with Connection(f"tcp://127.0.0.1:{PORT_OF_NOBODY}", tmp_path) as connection:
        wait_for(lambda: "is no key file" in connection.errors.get("", ""))
        assert connection._sender.is_alive()


@pytest.mark.parametrize("reply", [b"hello", b"\xff", b"[]", b"{}", b'{"ok": true}', b'{"ok": true, "ports": [1]}'])
def test_what_is_no_service_ends_no_connection(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path, reply: bytes
) -> None:
    """Another program has the port, or another version of the service: it may be gone in the next minute."""
    over = threading.Event()
    with context.socket(zmq.ROUTER) as other:
        port = other.bind_to_random_port("tcp://127.0.0.1")

        def answer() -> None:
            while not over.is_set():
                if other.poll(20):
                    other.send_multipart([other.recv_multipart()[0], reply])

        answering = threading.Thread(target=answer)
        answering.start()
        with Connection(f"tcp://127.0.0.1:{port}", tmp_path) as connection:
            wait_for(lambda: "no processing service" in connection.errors.get("", ""))
            assert connection._sender.is_alive()
        over.set()
        answering.join()
