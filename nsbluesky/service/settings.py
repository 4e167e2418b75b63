"""Settings of the service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlparse

from nsbluesky.service.access import DEFAULT_ADDRESS, AccessError, check_address, is_loopback
from nsbluesky.settings import PipelineSettings, Settings, SettingsError

__all__ = ["DEFAULT_ADDRESS", "ServiceSettings"]


@dataclass(frozen=True)
class ServiceSettings(Settings):
    """How a processing service runs.

    Attributes
    ----------
    directory : str
        Where results go: CXI files, derived runs, and what the service must remember.
    roots : tuple of str
        Folders that frames may be read from; ``("/",)`` allows any.
    address : str
        ``tcp://HOST:PORT`` of the control socket; port 0 takes a free one.  The other sockets take free ports and are
        told by ``status``.
    ports : (int, int)
        Ports of documents and of publications; 0 takes a free one.
    keys : str
        Folder of CURVE keys, as `nsbluesky keys` makes it; needed beyond loopback, "" for none.
    state : str
        Folder of logs and of the token; "" for the user's state folder.
    nice : int
        Added to the priority of the process (`os.nice`), so that the scan and the windows come first.
    scheduler : str
        Of a Dask cluster whose workers clean frames, as ``tcp://HOST:8786``; "" for none.
    workers : int
        Without a scheduler: processes on this machine that clean frames; 0 for the service's own alone.
    adaptive : bool
        Start these processes while frames wait, as many as it takes, and end them when none do.
    warm_up : bool
        Compile what runs need while there is none, so that the first frames need not wait.
    pipeline : PipelineSettings
        How runs are processed, unless ``configure`` changes it.
    """

    directory: str
    roots: tuple[str, ...]
    address: str = DEFAULT_ADDRESS
    ports: tuple[int, int] = (0, 0)
    keys: str = ""
    state: str = ""
    nice: int = 10
    scheduler: str = ""
    workers: int = 0
    adaptive: bool = False
    warm_up: bool = True
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)

    LIMITS: ClassVar[Mapping[str, tuple[int, int]]] = {"nice": (0, 19), "workers": (0, 256)}

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        try:
            check_address(self.address)
        except AccessError as error:
            raise SettingsError(str(error)) from error
        if not is_loopback(self.address) and not self.keys:
            raise SettingsError(
                f"address = {self.address!r} can be reached from other machines: make keys with 'nsbluesky keys' "
                "and give their folder, or take tcp://127.0.0.1:PORT"
            )
        if not self.roots:
            raise SettingsError("roots is empty: name the folders that frames may be read from")
        for root in self.roots:
            if not Path(root).is_absolute():
                raise SettingsError(f"roots: {root!r} is relative: expected absolute folders")
        if self.scheduler and urlparse(self.scheduler).scheme not in ("tcp", "tls"):
            raise SettingsError(f"scheduler = {self.scheduler!r}: expected tcp://HOST:PORT or tls://HOST:PORT")
        if self.workers and self.scheduler:
            raise SettingsError(f"workers = {self.workers!r}: expected 0 where a scheduler has its own")
        if self.adaptive and not self.workers:
            raise SettingsError("adaptive needs workers: how many there may be at most; a scheduler adapts its own")
