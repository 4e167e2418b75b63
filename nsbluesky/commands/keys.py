"""``nsbluesky keys``: keys for a processing service that other machines may reach."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nsbluesky.commands import output_folder
from nsbluesky.service.keys import ROLES, KeyFolder

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("directory", type=Path, help="folder of the keys; made where missing")
    parser.add_argument("--add", metavar="NAME", help="make a key for a client")
    parser.add_argument("--role", choices=ROLES, default="viewer", help="what that client may do (%(default)s)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Make the service's keys where there are none, and those of a client."""
    keys = KeyFolder(output_folder(options.directory))
    summary: dict[str, Any] = {"server_public_key": keys.make_server()}
    if options.add is not None:
        summary["carry_to_the_client"] = str(keys.add(options.add, options.role))
    summary["clients"] = len(keys.roles())
    return summary
