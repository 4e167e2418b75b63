"""Who may do what: a token in the user's own folder on this machine, CURVE keys beyond it.

On loopback any user of the machine can connect, so what changes something needs a token that only the owner of the
service can read.  Beyond loopback every socket is encrypted, and a key that is not known is refused.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import platformdirs
import zmq

__all__ = [
    "AccessError",
    "Credentials",
    "forget_service",
    "is_loopback",
    "read_service",
    "state_directory",
    "tell_service",
]

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class AccessError(ValueError):
    """What was asked is not allowed, or keys are missing; the message says what and what to do."""


@dataclass(frozen=True)
class Credentials:
    """What a client shows to the service.

    Attributes
    ----------
    token : str
        On loopback: the service's token, as `read_service` finds it; "" for a viewer.
    server_key : str
        Beyond loopback: the service's public key (Z85).
    public_key, secret_key : str
        Beyond loopback: the client's own keys (Z85).
    """

    token: str = ""
    server_key: str = ""
    public_key: str = ""
    secret_key: str = ""

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        """Let a socket use the keys, where there are any; before it connects."""
        if self.server_key:
            socket.curve_serverkey = self.server_key.encode()
            socket.curve_publickey = self.public_key.encode()
            socket.curve_secretkey = self.secret_key.encode()

    def allows(self, token: bytes) -> bool:
        """Return whether a token that somebody shows is the one of these credentials."""
        return bool(self.token) and hmac.compare_digest(self.token.encode(), token)

    @classmethod
    def with_new_token(cls) -> Credentials:
        """Return credentials with a token that nobody can guess."""
        return cls(token=secrets.token_hex(16))


def state_directory() -> Path:
    """Return where logs and states of services live: ``$NSBLUESKY_STATE``, or the user's state folder."""
    return Path(os.environ.get("NSBLUESKY_STATE") or platformdirs.user_state_dir("nsbluesky"))


def is_loopback(address: str) -> bool:
    """Return whether a 0MQ address can be reached from this machine only."""
    parts = urlparse(address)
    return parts.scheme in ("ipc", "inproc") or parts.hostname in LOOPBACK


def tell_service(address: str, credentials: Credentials, directory: Path | None = None) -> Path:
    """Write address and token of a service into a file that only this user can read; return its path."""
    path = _path_of(address, directory)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"address": address, "token": credentials.token, "pid": os.getpid()}, file)
    temporary.replace(path)
    return path


def read_service(address: str, directory: Path | None = None) -> dict[str, Any] | None:
    """Return what `tell_service` wrote about a service on this machine; None where there is nothing."""
    if not is_loopback(address):
        return None
    try:
        told: dict[str, Any] = json.loads(_path_of(address, directory).read_text())
    except (OSError, ValueError):
        return None
    return told


def forget_service(address: str, directory: Path | None = None) -> None:
    """Remove what `tell_service` wrote."""
    _path_of(address, directory).unlink(missing_ok=True)


def _path_of(address: str, directory: Path | None) -> Path:
    return (directory or state_directory()) / "services" / f"{urlparse(address).port}.json"
