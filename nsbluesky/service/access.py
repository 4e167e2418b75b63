"""What a client shows to the service: a token on this machine, keys beyond it.

On loopback any user of the machine can connect, so what changes something needs a token that only the owner of the
service can read.  Beyond loopback every socket is encrypted (CURVE), and a key that is not known is refused.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlparse

import zmq

from nsbluesky.folders import state_directory

__all__ = [
    "DEFAULT_ADDRESS",
    "AccessError",
    "Credentials",
    "check_address",
    "check_secret",
    "forget_service",
    "is_loopback",
    "local_credentials",
    "path_of_service",
    "tell_service",
    "write_secret",
]

KEY = "NSBLUESKY_KEY"
"""Environment variable: the key file that this user shows to services on other machines."""

LOOPBACK = ("127.0.0.1", "localhost")

DEFAULT_ADDRESS = "tcp://127.0.0.1:60610"
"""Where `nsbluesky serve` listens and `nsbluesky.connect` looks, unless told otherwise."""


class AccessError(ValueError):
    """What was asked is not allowed, or keys are missing; the message says what and what to do."""


@dataclass(frozen=True)
class Credentials:
    """What a client shows to the service.

    Attributes
    ----------
    token : str
        Without keys: the service's token; "" for a viewer.
    server_key : str
        With keys: the service's public key (Z85).
    public_key, secret_key : str
        With keys: the client's own (Z85).
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

    @classmethod
    def make(cls, server_key: str = "") -> Self:
        """Return new credentials that nobody can guess: a token, and keys where the service has some."""
        token = secrets.token_hex(16)
        if not server_key:
            return cls(token=token)
        public, secret = zmq.curve_keypair()
        return cls(token, server_key, public.decode(), secret.decode())

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Return the credentials in a client's key file, as ``nsbluesky keys`` makes it.

        Raises
        ------
        AccessError
            If there is no such file, it is not one, or other users can read it.
        """
        try:
            told = json.loads(Path(path).read_text())
            found = cls(
                server_key=str(told["server_key"]),
                public_key=str(told["public_key"]),
                secret_key=str(told["secret_key"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AccessError(f"{path} is no key file ({error}): make one with 'nsbluesky keys'") from error
        check_secret(Path(path))
        return found


def check_address(address: str) -> None:
    """Check that an address is ``tcp://HOST:PORT``, of IPv4: no socket of the service is one of IPv6.

    Raises
    ------
    AccessError
        If it is not.
    """
    try:
        parts = urlparse(address)
        is_address = parts.scheme == "tcp" and parts.hostname is not None and parts.port is not None
        is_IPv6 = is_address and ":" in str(parts.hostname)
    except ValueError:  # of a port that is no number
        is_address = False
    if not is_address:
        raise AccessError(f"address = {address!r}: expected tcp://HOST:PORT, as in {DEFAULT_ADDRESS}")
    if is_IPv6:
        raise AccessError(f"address = {address!r} is one of IPv6: expected a name or IPv4, as in {DEFAULT_ADDRESS}")


def is_loopback(address: str) -> bool:
    """Return whether a 0MQ address can be reached from this machine only."""
    return urlparse(address).hostname in LOOPBACK


def tell_service(address: str, credentials: Credentials, directory: Path | None = None) -> None:
    """Write address and credentials of a service into a file that only this user can read."""
    write_secret(path_of_service(address, directory), {"address": address, "pid": os.getpid(), **asdict(credentials)})


def local_credentials(address: str, directory: Path | None = None) -> Credentials:
    """Return the credentials of a service that this user runs on this machine.

    Else the keys in the file that ``NSBLUESKY_KEY`` names; without that, those of a viewer on this machine.

    Raises
    ------
    AccessError
        If the environment names a file that is no key file.
    """
    try:
        told: dict[str, Any] = json.loads(path_of_service(address, directory).read_text())
        if told["address"] == address:
            return Credentials(told["token"], told["server_key"], told["public_key"], told["secret_key"])
    except (OSError, ValueError, KeyError):
        pass
    return Credentials.read(os.environ[KEY]) if os.environ.get(KEY) else Credentials()


def forget_service(address: str, directory: Path | None = None) -> None:
    """Remove what `tell_service` wrote, unless another process has told of a service there since."""
    path = path_of_service(address, directory)
    try:
        if json.loads(path.read_text())["pid"] == os.getpid():
            path.unlink()
    except (OSError, ValueError, KeyError, TypeError):
        pass


def write_secret(path: Path, content: dict[str, Any]) -> None:
    """Write JSON into a file that only this user can read, never a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file)
    temporary.replace(path)


def check_secret(path: Path) -> None:
    """Raise an AccessError where other users can read a file that `write_secret` wrote, or that was carried here."""
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise AccessError(f"{path} holds a secret key, and other users can read it: run 'chmod 600 {path}'")


def path_of_service(address: str, directory: Path | None = None) -> Path:
    """Return the file that `tell_service` writes."""
    return (directory or state_directory()) / "services" / f"{urlparse(address).port}.json"
