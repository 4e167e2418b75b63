"""Ask the service: one request, one answer, and an error in time where nobody answers."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

import zmq

from nsbluesky.service.access import AccessError, Credentials, check_address, local_credentials
from nsbluesky.service.messages import ControlError, Request
from nsbluesky.service.wire import WireError, unpack

__all__ = ["Endpoints", "ServiceAway", "ask", "ask_snapshot", "find_endpoints"]

TIMEOUT_S = 3.0

OPEN_S = 0.5


class ServiceAway(ConnectionError):
    """Nobody answers at the address of the service."""


@dataclass(frozen=True)
class Endpoints:
    """Where the sockets of a service are, and which of its lives it is in.

    Attributes
    ----------
    documents, publications : str
        0MQ addresses.
    instance : str
        Changes when the service starts again.
    restarts : tuple of str
        Why it did, oldest first.
    """

    documents: str
    publications: str
    instance: str
    restarts: tuple[str, ...] = ()


def ask(
    address: str,
    action: str,
    credentials: Credentials | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
    **fields: Any,
) -> dict[str, Any]:
    """Ask a service and return its answer.

    Parameters
    ----------
    address : str
        Of the control socket.
    action : str
        As ``"status"``; see `nsbluesky.service.messages.ACTIONS`.
    credentials : Credentials, optional
        By default those of this user on this machine.
    timeout_s : float
    **fields
        Of the action.

    Raises
    ------
    ServiceAway
        If no answer comes in time.
    AccessError
        If it is not allowed, or the address is none.
    ControlError
        If it cannot be done.
    """
    answer, _ = _ask(address, action, credentials, timeout_s, fields)
    return answer


def ask_snapshot(
    address: str, credentials: Credentials | None = None
) -> tuple[int, list[tuple[str, dict[str, Any]]]]:
    """Return the number of the last publication and the documents that make up the state so far.

    Raises
    ------
    ServiceAway, ControlError
    """
    answer, parts = _ask(address, "snapshot", credentials, TIMEOUT_S, {})
    try:
        documents = [(str(name), dict(document)) for name, document in map(unpack, parts)]
        return int(answer["number"]), documents
    except (WireError, KeyError, TypeError, ValueError) as error:
        raise ControlError(f"the snapshot cannot be read: {error}") from error


def find_endpoints(
    address: str, credentials: Credentials | None = None, *, timeout_s: float = TIMEOUT_S
) -> Endpoints:
    """Ask a service where its other sockets are.

    Raises
    ------
    ServiceAway
        If no answer comes in time.
    ControlError
        If what answers is no processing service, or one of another version.
    """
    status = ask(address, "status", credentials, timeout_s=timeout_s)
    host = urlparse(address).hostname
    try:
        documents, publications = (f"tcp://{host}:{int(port)}" for port in status["ports"])
        return Endpoints(documents, publications, str(status["instance"]), tuple(map(str, status["restarts"])))
    except (KeyError, TypeError, ValueError):
        raise _no_service(address) from None


def _ask(
    address: str, action: str, credentials: Credentials | None, timeout_s: float, fields: dict[str, Any]
) -> tuple[dict[str, Any], list[bytes]]:
    check_address(address)
    credentials = credentials if credentials is not None else local_credentials(address)
    with zmq.Context() as context, context.socket(zmq.DEALER) as asking:
        asking.linger = 0
        credentials.apply(asking)
        asking.connect(address)
        asking.send(Request(action, credentials.token, fields).to_bytes())
        if not asking.poll(int(timeout_s * 1000)):
            keys = "with this key" if credentials.server_key else "without keys"  # another one gets no answer at all
            told = f"no answer from {address} in {timeout_s:g} s: is 'nsbluesky serve' running there, {keys}?"
            if _is_open(address):
                told += " Something listens there: it may be busy, or another program"
            raise ServiceAway(told)
        header, *parts = asking.recv_multipart()
    try:
        answer: dict[str, Any] = json.loads(header)
        done = answer["ok"]
    except (KeyError, TypeError, ValueError):
        raise _no_service(address) from None
    if not done:
        reason = str(answer.get("error"))
        raise AccessError(reason) if answer.get("refused") else ControlError(reason)
    return answer, parts


def _is_open(address: str) -> bool:
    """Return whether anything at all listens at an address."""
    place = urlparse(address)
    try:
        with socket.create_connection((place.hostname or "", place.port or 0), timeout=OPEN_S):
            return True
    except (OSError, ValueError):
        return False


def _no_service(address: str) -> ControlError:
    return ControlError(
        f"what answers at {address} is no processing service of this version: expected 'nsbluesky serve'"
    )
