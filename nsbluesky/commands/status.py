"""``nsbluesky status``: what the processing service is doing."""

from __future__ import annotations

import argparse
from typing import Any

from nsbluesky.callbacks.news import numbered
from nsbluesky.commands import add_service_arguments, service_credentials
from nsbluesky.service.control import ask

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_service_arguments(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Ask the service."""
    status = ask(options.address, "status", service_credentials(options))
    status.pop("ok")
    if not options.json:
        del status["time"]  # that of the answer
        runs = status.pop("runs")
        for run in runs:
            status[f"run {run['raw_uid'][:8]}"] = f"{numbered(run['num_frames'], 'frame')} clean"
            for stage in run["stages"]:
                blocks = numbered(stage["num_blocks"], "block")
                did = f"{blocks}, {stage['rate_hz']:.1f}/s, the last {stage['age_s']:.1f} s ago"
                why = f": {stage['error']}" if stage.get("error") else ""
                status[f"  {stage['stage']}"] = f"{stage['state']}, {did}, {stage['queue']} wait{why}"
    return status
