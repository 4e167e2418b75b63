"""Files that are there whole or not at all, whenever the process that writes them is killed."""

from __future__ import annotations

import contextlib
import glob
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

__all__ = ["naming", "remove_part", "write_whole"]

LEFT_S = 3600.0
"""A part that is as old as that was left by a process that was killed as it wrote it."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the system tell which file could not be written: one that comes from writing does not.

    Nor does one of a part, whose name is another one each time, and which nobody knows.
    """
    try:
        yield
    except OSError as error:
        named = error.filename
        if error.errno is None or not (named is None or str(named).startswith(f"{path}.")):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_whole(path: Path, text: str) -> None:
    """Write a small file; until all of it is on its way to the disk, the former one stays in its place."""
    _remove_left_parts(path)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")  # other processes may write the same file
    try:
        with naming(path):
            part.write_text(text)
            part.replace(path)
    finally:
        remove_part(part)


def remove_part(part: Path) -> None:
    """Remove a part, if there is one; what keeps it there has been told by what kept it from its name."""
    with contextlib.suppress(OSError):
        part.unlink(missing_ok=True)


def _remove_left_parts(path: Path) -> None:
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > LEFT_S:
                part.unlink()
