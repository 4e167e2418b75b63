"""The ``scan_id`` of start documents: one number a scan, also when the session is another one."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

    def __call__(self, md: Mapping[str, Any]) -> int:
        """Return the number of the next scan."""
        number = int(md.get("scan_id", 0)) + 1
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+", encoding="utf-8") as file:
                with contextlib.suppress(OSError):  # some network disks know no locks
                    fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                number = max(number, int(file.read() or 0) + 1)
                file.truncate(0)
                file.write(f"{number}\n")
        except (OSError, ValueError) as error:
            log.warning("%s cannot be used, scan_id may come twice: %s", self.path, error)
        return number
