"""What a session does when the disk of the frames fills up: hold the plan, and go on when there is space again."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

from bluesky.suspenders import SuspendFloor
from ophyd import Signal

from nsbluesky import disk_space

__all__ = ["SuspendWhileFull"]

LEAST_MB = 1000.0
"""Three seconds of the Fast CCD at its full rate; more than what stays free for closing files."""

AGAIN = 1.5
"""Part of that from which on the plan goes on, so that it is not held again at once."""

LOOK_S = 1.0


class SuspendWhileFull(SuspendFloor):
    """Suspend while a disk has less space than it should; a fly scan holds its camera, and no frame is cut short.

    Parameters
    ----------
    folder : path
        Of the frames, as this machine sees it.
    least_MB : float
        Space below which plans rest.
    sleep : float
        Seconds from when there is space till the plan goes on.
    look_s : float
        Time between two looks.

    Examples
    --------
    ``RE.install_suspender(SuspendWhileFull("/data/frames"))``
    """

    def __init__(
        self, folder: str | Path, *, least_MB: float = LEAST_MB, sleep: float = 1.0, look_s: float = LOOK_S
    ) -> None:
        self._folder = Path(folder)
        self._look_s = look_s
        self._removed = threading.Event()
        self.free_MB = Signal(name="free_MB", value=self._free_MB())
        again_MB = AGAIN * least_MB
        super().__init__(self.free_MB, least_MB, resume_thresh=again_MB, sleep=sleep)  # type: ignore[no-untyped-call]

    def install(self, RE: Any, *, event_type: str | None = None) -> None:
        """Watch the disk for a RunEngine."""
        self._removed.clear()
        super().install(RE, event_type=event_type)  # type: ignore[no-untyped-call]
        threading.Thread(target=self._watch, name="suspend-while-full", daemon=True).start()

    def remove(self) -> None:
        """Watch no more."""
        self._removed.set()
        super().remove()  # type: ignore[no-untyped-call]

    def _free_MB(self) -> float:
        return disk_space.free_bytes(self._folder) / 1e6

    def _watch(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # of a disk that is away for a moment
                self.free_MB.put(self._free_MB())
            if self._removed.wait(self._look_s):
                return

    def _get_justification(self) -> str:
        if not self.tripped:
            return ""
        return (
            f"{self.free_MB.get():.0f} MB are free in {self._folder}: the plan goes on when there are "
            f"{self._resume_thresh:.0f}"
        )
