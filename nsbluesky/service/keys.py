"""The folder of CURVE keys: the service's own, and those of the clients that it knows.

``server.json`` holds the service's keys, ``clients/NAME.json`` the public key and the role of a client, and
``secrets/NAME.json`` what that client needs: it is carried to its machine and removed here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

import zmq

from nsbluesky.service.access import AccessError, check_secret, write_secret

__all__ = ["ROLES", "KeyFolder", "Role"]

Role = Literal["operator", "viewer"]

ROLES: tuple[Role, ...] = ("operator", "viewer")
"""An operator sends documents and control messages; a viewer looks."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class KeyFolder:
    """A folder of keys.

    Parameters
    ----------
    directory : path
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def server_keys(self) -> tuple[str, str]:
        """Return the service's public and secret key (Z85).

        Raises
        ------
        AccessError
            If there are none, or other users can read them.
        """
        path = self.directory / "server.json"
        try:
            told = json.loads(path.read_text())
            found = str(told["public_key"]), str(told["secret_key"])
        except (OSError, ValueError, KeyError) as error:
            raise AccessError(f"no keys in {path} ({error}): make them with 'nsbluesky keys'") from error
        check_secret(path)
        return found

    def make_server(self) -> str:
        """Make the service's keys where there are none; return the public one."""
        path = self.directory / "server.json"
        if not path.exists():
            public, secret = (key.decode() for key in zmq.curve_keypair())
            write_secret(path, {"public_key": public, "secret_key": secret})
        return self.server_keys()[0]

    def add(self, name: str, role: Role) -> Path:
        """Make the keys of a client, and return the path of what it needs.

        Raises
        ------
        AccessError
            If the name cannot be that of a file, or is taken.
        """
        if not _NAME.fullmatch(name):
            raise AccessError(f"{name!r:.80}: expected a name of letters, digits and dashes")
        server_key = self.make_server()
        known = self.directory / "clients" / f"{name}.json"
        if known.exists():
            raise AccessError(f"{name} has a key already: remove {known} first")
        public, secret = (key.decode() for key in zmq.curve_keypair())
        carried = self.directory / "secrets" / f"{name}.json"
        write_secret(carried, {"server_key": server_key, "public_key": public, "secret_key": secret})
        write_secret(known, {"public_key": public, "role": role})
        return carried

    def roles(self) -> dict[str, Role]:
        """Return the role of each known public key; read anew each time, so that keys come and go meanwhile."""
        roles: dict[str, Role] = {}
        for path in (self.directory / "clients").glob("*.json"):
            try:
                told = json.loads(path.read_text())
                if told["role"] in ROLES:
                    roles[str(told["public_key"])] = told["role"]
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return roles
