"""The logs of runs that are not in the catalog yet, and what becomes of those that never will be."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from nsbluesky.document_log import SUFFIX

__all__ = ["WaitingLogs"]


class WaitingLogs:
    """A folder of document logs that are only kept until their runs are in the catalog.

    Each session has its own.  It is locked by the session and by the process that writes for it, so that others see
    when both have died.

    Parameters
    ----------
    directory : path
    failed : path
        Where the logs of runs go that cannot be written.
    """

    def __init__(self, directory: Path, failed: Path) -> None:
        self.directory = directory
        self.failed = failed
        self._lock: int | None = None

    def open(self) -> None:
        """Make the folder, where it is missing, and lock it."""
        while self._lock is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # somebody has taken it for one that was left
                self._lock = os.open(self.directory, os.O_RDONLY)
                with contextlib.suppress(OSError):  # some network disks know no locks
                    fcntl.flock(self._lock, fcntl.LOCK_SH)
                if not self.directory.is_dir():
                    os.close(self._lock)
                    self._lock = None

    @contextlib.contextmanager
    def left_by_others(self) -> Iterator[list[WaitingLogs]]:
        """Lock and give the folders of sessions that have died."""
        with contextlib.ExitStack() as stack:
            yield [
                WaitingLogs(directory, self.failed)
                for directory in sorted(self.directory.parent.iterdir())
                if stack.enter_context(_locked(directory))
            ]

    def logs(self) -> list[Path]:
        """Return the logs, oldest first."""
        return sorted(self.directory.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime)

    def remove(self, path: Path) -> None:
        """Forget a log whose run is in the catalog; logs of others stay as they are."""
        if path.parent == self.directory:
            path.unlink(missing_ok=True)

    def set_aside(self, path: Path) -> None:
        """Keep a log whose run is not in the catalog."""
        self.failed.mkdir(parents=True, exist_ok=True)
        if path.parent == self.directory:
            path.replace(self.failed / path.name)
        else:
            shutil.copyfile(path, self.failed / path.name)

    def close(self) -> None:
        """Remove the folder, if nothing is left in it."""
        with contextlib.suppress(OSError):
            self.directory.rmdir()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Lock a folder; False where it is somebody's, or cannot be locked."""
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(directory, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = True
        except OSError:
            is_locked = False
        yield is_locked
