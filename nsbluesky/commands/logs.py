"""``nsbluesky logs``: what the modules of the processing service have told."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from nsbluesky.commands import input_folder
from nsbluesky.folders import state_directory
from nsbluesky.service.logs import follow, log_files

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("module", nargs="?", help="as in server, frame_source; without one, those that there are")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is added, until Ctrl-C")
    parser.add_argument("--directory", type=Path, help="folder of the logs (the user's by default)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Print a log, or list the logs."""
    directory = input_folder(options.directory) if options.directory else state_directory() / "logs"
    files = log_files(directory)
    if options.json and options.follow:
        raise ValueError("--follow has no end that a summary could come after: expected it without --json")
    if options.module is None:
        return {"directory": str(directory), "modules": list(files)}
    if options.module not in files:
        raise ValueError(f"no log of {options.module!r} in {directory}: expected one of {', '.join(files) or 'none'}")
    path = files[options.module]
    if options.json:
        return {"lines": path.read_text(errors="replace").splitlines()}
    lines = follow(path) if options.follow else path.read_text(errors="replace").splitlines(keepends=True)
    with contextlib.suppress(BrokenPipeError):  # nobody reads on
        for line in lines:
            sys.stdout.write(line)
            sys.stdout.flush()
    return {}
