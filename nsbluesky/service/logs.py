"""Logs of the service: one rotating file for each module."""

from __future__ import annotations

import logging
import logging.handlers
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

__all__ = ["ModuleLogs", "follow", "log_files"]

MAX_BYTES = 2 * 2**20
BACKUPS = 3
POLL_S = 0.2

_NAME = re.compile(r"[A-Za-z0-9_]+")


class ModuleLogs(logging.Handler):
    """Writes what each module says into a file of its own, ``<module>.log``.

    Parameters
    ----------
    directory : path
        Made where missing.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._handlers: dict[str, logging.Handler] = {}
        self._making = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(process)d %(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; a disk that is full must not stop what is being told of."""
        try:
            self._of(record.name).handle(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Close the files."""
        for handler in self._handlers.values():
            handler.close()
        super().close()

    def _of(self, name: str) -> logging.Handler:
        module = name.rpartition(".")[2] if name.startswith("nsbluesky") else name.partition(".")[0]
        module = module if _NAME.fullmatch(module) else "other"
        with self._making:
            if module not in self._handlers:
                path = self._directory / f"{module}.log"
                handler = logging.handlers.RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=BACKUPS)
                handler.setFormatter(self.formatter)
                self._handlers[module] = handler
            return self._handlers[module]


def log_files(directory: Path) -> dict[str, Path]:
    """Return the log files by module."""
    return {path.stem: path for path in sorted(directory.glob("*.log"))}


def follow(path: Path, stop: threading.Event | None = None) -> Iterator[str]:
    """Yield the lines of a log and those that are added, through rotation, until `stop` is set."""
    stop = stop or threading.Event()
    file: TextIO = path.open(errors="replace")
    try:
        put_aside = False
        while not stop.is_set():
            line = file.readline()
            if line:
                yield line
            elif put_aside:
                following = _open_following(path, file)
                if following is not None:
                    file.close()
                    file = following
                put_aside = False
            else:  # what was written just before the file was put aside is still to be read
                stop.wait(POLL_S)
                put_aside = path.exists() and not _is(path, file)
    finally:
        file.close()


def _open_following(path: Path, file: TextIO) -> TextIO | None:
    """Open the file of a log that came after an open one; None where there is none now, as in mid-rotation.

    Whoever reads slowly, as through a pager, is more than one file behind, and goes on with the newest one where the
    file that is read has been removed meanwhile.
    """
    names = [path, *(path.with_name(f"{path.name}.{k}") for k in range(1, BACKUPS + 1))]  # as they move
    place = next((k for k, name in enumerate(names) if _is(name, file)), None)
    if place == 0:
        return None
    try:
        following = (names[place - 1] if place else path).open(errors="replace")
    except FileNotFoundError:
        return None
    if place is None or _is(names[place], file):
        return following
    following.close()  # they have moved on in between: it may be a later one
    return None


def _is(path: Path, file: TextIO) -> bool:
    """Return whether a path leads to an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
