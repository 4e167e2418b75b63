"""``nsbluesky abort``: end the processing of a run with what there is."""

from __future__ import annotations

import argparse
from typing import Any

from nsbluesky.commands import add_service_arguments, service_credentials
from nsbluesky.service.control import ask

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_service_arguments(parser)
    parser.add_argument("--run", help="a run that goes on; by default the final passes of those that have ended")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Ask the service to end it."""
    fields = {} if options.run is None else {"run": options.run}
    ask(options.address, "abort", service_credentials(options), **fields)
    return {"aborted": options.run or "what has ended"}
