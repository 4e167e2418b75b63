"""The server's side of access: who may connect, and who may change something."""

from __future__ import annotations

import hmac
import logging

import zmq
from zmq.auth.thread import ThreadAuthenticator

from nsbluesky.service.access import Credentials
from nsbluesky.service.keys import KeyFolder, Role

__all__ = ["Rights"]

log = logging.getLogger(__name__)


class Rights:
    """Decides about connections and messages.

    Parameters
    ----------
    context : zmq.Context
        Of all sockets.
    keys : KeyFolder or None
        None: no encryption, and a token in its place.
    owner : Credentials
        Of whoever started the service; they may do everything.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: KeyFolder | None, owner: Credentials) -> None:
        self._keys = keys
        self._owner = owner
        self._authenticator: ThreadAuthenticator | None = None
        if keys is not None:
            self._server_keys = tuple(key.encode() for key in keys.server_keys())
            self._authenticator = ThreadAuthenticator(context, log=log)
            self._authenticator.start()

    def protect(self, socket: zmq.Socket[bytes], domain: str, *roles: Role) -> None:
        """Let only clients of these roles connect to a socket; before it binds."""
        if self._authenticator is None:
            return
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = self._server_keys
        socket.zap_domain = domain.encode()
        self._authenticator.configure_curve_callback(domain, _KnownKeys(self, roles))

    def role_of(self, public_key: str) -> Role | None:
        """Return the role of a key; None for one that is not known."""
        if public_key == self._owner.public_key:
            return "operator"
        return self._keys.roles().get(public_key) if self._keys is not None else None

    def may_operate(self, frame: zmq.Frame, token: bytes) -> bool:
        """Return whether the sender of a message may change something."""
        if self._authenticator is not None:
            return self.role_of(str(frame.get("User-Id"))) == "operator"
        return bool(self._owner.token) and hmac.compare_digest(self._owner.token.encode(), token)

    def close(self) -> None:
        """End; after the sockets."""
        if self._authenticator is not None:
            self._authenticator.stop()


class _KnownKeys:
    """What 0MQ asks about each client that wants to connect."""

    def __init__(self, rights: Rights, roles: tuple[Role, ...]) -> None:
        self._rights = rights
        self._roles = roles

    def callback(self, domain: str, key: bytes) -> bool:
        allowed = self._rights.role_of(key.decode()) in self._roles
        if not allowed:
            log.warning("refused a connection for %s: the key %s has no right to it", domain, key.decode())
        return allowed
