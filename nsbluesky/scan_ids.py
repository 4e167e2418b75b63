"""The ``scan_id`` of start documents: one number a scan, also when the session is another one."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, TextIO

__all__ = ["ScanIds"]

log = logging.getLogger(__name__)


class ScanIds:
    """``RunEngine({}, scan_id_source=ScanIds(path))``; sessions that share the file share the numbers.

    Setting ``RE.md["scan_id"]`` goes on from there, where that is higher.  Trouble with the file never fails a scan:
    the session then counts by itself.

    Parameters
    ----------
    path : path
        Holds the latest number; made where missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._taken: tuple[int, int | None] | None = None

    def __call__(self, md: Mapping[str, Any]) -> int:
        """Return the number of the next scan."""
        before = md.get("scan_id")
        number = int(before or 0) + 1
        try:
            with self._latest() as (latest, file):
                number = max(number, latest + 1)
                _write(file, number)
        except (OSError, ValueError) as error:
            log.warning("%s cannot be used, scan_id may come twice: %s", self.path, error)
        self._taken = number, before
        return number

    def give_back(self, md: MutableMapping[str, Any]) -> None:
        """Take back the number that was given last, of a scan that was refused; the next one gets it.

        Where another session has gone on from it, it stays a gap.

        Parameters
        ----------
        md : dict
            ``RE.md``, as it was when the number was asked for.
        """
        if self._taken is None:
            return
        (number, before), self._taken = self._taken, None
        with contextlib.suppress(OSError, ValueError), self._latest() as (latest, file):
            if latest != number:
                return
            _write(file, number - 1)
        if md.get("scan_id") != number:
            return
        if before is None:
            del md["scan_id"]
        else:
            md["scan_id"] = before

    @contextlib.contextmanager
    def _latest(self) -> Iterator[tuple[int, TextIO]]:
        """Give the latest number, and the file to write another one to while no other session does."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+", encoding="utf-8") as file:
            with contextlib.suppress(OSError):  # some network disks know no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            yield int(file.read() or 0), file


def _write(file: TextIO, number: int) -> None:
    file.truncate(0)
    file.write(f"{number}\n")
