"""What the process of the service is told at its start, and what it answers: one line of JSON each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nsbluesky.folders import state_directory
from nsbluesky.service.access import Credentials
from nsbluesky.service.settings import ServiceSettings

__all__ = ["RECORDING", "Order", "Ready", "log_directory"]

RECORDING = "recording.json"
"""The stages that are recorded: a process that takes over from one that died goes on with it."""


@dataclass(frozen=True)
class Order:
    """What the process is to do.

    Attributes
    ----------
    settings : ServiceSettings
    owner : Credentials
        Of whoever starts the service.
    restarts : tuple of str
        Why processes before it had to be replaced, oldest first.
    """

    settings: ServiceSettings
    owner: Credentials
    restarts: tuple[str, ...] = ()

    def to_line(self) -> bytes:
        """Return the order as a line of JSON."""
        return json.dumps({**asdict(self), "settings": self.settings.to_dict()}).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Order:
        """Return the order that a line holds."""
        told = json.loads(line)
        return cls(ServiceSettings.from_dict(told["settings"]), Credentials(**told["owner"]), tuple(told["restarts"]))


@dataclass(frozen=True)
class Ready:
    """What the process says when clients may connect.

    Attributes
    ----------
    address : str
        Of the control socket.
    ports : (int, int)
        Of documents and of publications.
    pid : int
        Process id.
    instance : str
        Which life of the service this is.
    """

    address: str
    ports: tuple[int, int]
    pid: int
    instance: str

    @classmethod
    def from_line(cls, line: bytes) -> Ready:
        """Return what a line says."""
        told: dict[str, Any] = json.loads(line)
        return cls(told["address"], (told["ports"][0], told["ports"][1]), told["pid"], told["instance"])


def log_directory(settings: ServiceSettings) -> Path:
    """Return where the logs of a service are."""
    return (Path(settings.state) if settings.state else state_directory()) / "logs"
