"""The commands of the command line: each module has ``add_arguments(parser)`` and ``run(options) -> summary``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

__all__ = ["CommandFailed", "parse_shape"]


class CommandFailed(Exception):
    """A command ran, but its result is not what it must be; carries the summary all the same."""

    def __init__(self, message: str, summary: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.summary = summary


def parse_shape(text: str) -> tuple[int, int]:
    """Return rows and columns from a text as 20x20."""
    rows, _, columns = text.lower().partition("x")
    if not (rows.isdigit() and columns.isdigit() and int(rows) > 0 and int(columns) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: expected ROWSxCOLUMNS, as in 20x20")
    return int(rows), int(columns)
