"""What may be asked of the service: one JSON object a message, one JSON object as the answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "ACTIONS",
    "MAX_CONTROL_BYTES",
    "OPEN_ACTIONS",
    "ControlError",
    "Request",
    "answer",
    "failure",
    "parse_request",
]

MAX_CONTROL_BYTES = 64 * 1024

ACTIONS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "status": {},
    "snapshot": {},
    "configure": {"settings": dict},
    "fit": {"frame": int},
    "pause": {},
    "resume": {},
    "abort": {"run": str},
    "clear": {},
    "reset": {},
    "record": {"stages": list},
    "checkpoint": {},
    "shutdown": {},
}
"""Actions and the types of their optional fields; the manual's page docs/reference/control-messages.md lists them."""

OPEN_ACTIONS = frozenset({"status", "snapshot"})
"""What a viewer may ask."""


class ControlError(ValueError):
    """A message that cannot be understood or done; the message says what was expected."""


@dataclass(frozen=True)
class Request:
    """What was asked.

    Attributes
    ----------
    action : str
        One of `ACTIONS`.
    token : str
        What the sender shows for its right.
    fields : dict
        Further fields of the action.
    """

    action: str
    token: str = ""
    fields: dict[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the message."""
        return json.dumps({"do": self.action, "token": self.token, **self.fields}).encode()


def parse_request(data: bytes) -> Request:
    """Return what a message asks.

    Raises
    ------
    ControlError
        If it is no JSON object, or not one of the known forms.
    """
    if len(data) > MAX_CONTROL_BYTES:
        raise ControlError(f"{len(data)} bytes: expected at most {MAX_CONTROL_BYTES}")
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ControlError(
            f'no JSON ({type(error).__name__}): expected an object, as in {{"do": "status"}}'
        ) from None
    if not isinstance(message, dict):
        raise ControlError('expected a JSON object, as in {"do": "status"}')
    action, token = message.pop("do", None), message.pop("token", "")
    if not isinstance(action, str) or action not in ACTIONS:
        raise ControlError(f"do = {action!r:.60}: expected one of {', '.join(ACTIONS)}")
    if not isinstance(token, str):
        raise ControlError("token: expected a text")
    allowed = ACTIONS[action]
    for name, value in message.items():
        if name not in allowed:
            raise ControlError(f"{action} has no field {name!r:.60}: expected {', '.join(allowed) or 'none'}")
        if not isinstance(value, allowed[name]) or isinstance(value, bool):
            raise ControlError(f"{action}: {name} = {value!r:.60} is of the wrong type")
    return Request(action, token, message)


def answer(**fields: Any) -> bytes:
    """Return the answer to what was done."""
    return json.dumps({"ok": True, **fields}).encode()


def failure(reason: str, refused: bool = False) -> bytes:
    """Return the answer to what was not done; `refused` where the sender has no right to it."""
    return json.dumps({"ok": False, "error": reason, "refused": refused}).encode()
