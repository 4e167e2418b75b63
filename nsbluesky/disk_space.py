"""Space on a disk, asked for before something is written.

HDF5 does not survive a write that fails: it crashes when the file is closed, or later.  So files are not written up
to the last byte of a disk, but given up while they can still be closed.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

__all__ = ["MARGIN_BYTES", "NoSpace", "free_bytes", "require_space"]

MARGIN_BYTES = 64 * 2**20
"""What stays free for closing what is open, and for logs."""


class NoSpace(OSError):
    """A disk is as full as it may be; the message says which, and what to do."""


def free_bytes(folder: Path) -> int:
    """Return the free space on the disk of a folder, which need not be there yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_space(folder: Path, num_bytes: int, file: Path | None = None) -> None:
    """Look that there is space for `num_bytes` more.

    Parameters
    ----------
    folder : path
    num_bytes : int
    file : path, optional
        What is to be written, for the error to name.

    Raises
    ------
    NoSpace
        If there is not.
    """
    free = free_bytes(folder)
    if free < num_bytes + MARGIN_BYTES:
        raise NoSpace(
            errno.ENOSPC,
            f"no space left: {free / 2**20:.0f} MB are free in {folder}, {MARGIN_BYTES / 2**20:.0f} MB stay free: "
            "make space and do it again, for a run of a session by 'nsbluesky resume'",
            *(() if file is None else (str(file),)),
        )
