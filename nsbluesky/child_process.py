"""The one line that a process says to whoever started it, apart from all that is printed."""

from __future__ import annotations

import os
import select
import sys
from typing import IO

__all__ = ["read_line", "take_output"]


def take_output(out: IO[str]) -> int:
    """Return a descriptor for what standard output was; what is printed from now on goes to standard error.

    Else what a plug-in prints would be taken for an answer, and then fill a pipe that nobody reads.  The descriptor
    is not inherited: where this process dies, whoever started it sees the end at once.
    """
    out.flush()
    answers = os.dup(out.fileno())
    os.dup2(sys.stderr.fileno(), out.fileno())
    return answers


def read_line(stream: IO[bytes], timeout_s: float) -> bytes:
    """Return one line, or nothing where the stream ends or the time is over."""
    if not select.select([stream], [], [], timeout_s)[0]:
        return b""
    return stream.readline()
