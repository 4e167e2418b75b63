"""Refusals: errors about what somebody asked for, told before anything is done, whose message says all.

The prompt shows them in one line.  Else IPython would print the whole way through the RunEngine, and bluesky's log
the same once more.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator

__all__ = ["is_no_refusal", "refusing"]

MARK = "_render_traceback_"
"""What IPython calls for the lines of an exception that brings its own."""


@contextlib.contextmanager
def refusing(*others: type[Exception]) -> Iterator[None]:
    """Let a ValueError that the block raises, or one of the other errors, be a refusal."""
    kinds: tuple[type[Exception], ...] = (ValueError, *others)
    try:
        yield
    except kinds as error:
        lines = [f"{type(error).__name__}: {error}"]
        setattr(error, MARK, functools.partial(list, lines))  # which can be pickled
        raise


def is_no_refusal(record: logging.LogRecord) -> bool:
    """Return whether a line of the log tells of something else: whoever is refused hears it himself."""
    error = record.exc_info[1] if record.exc_info else None
    return not hasattr(error, MARK)
