"""``nsbluesky control``: let the processing service pause, resume, begin anew …"""

from __future__ import annotations

import argparse
import json
from typing import Any

from nsbluesky.callbacks.stage_recorder import STAGES
from nsbluesky.commands import add_service_arguments, service_credentials
from nsbluesky.service.control import ask
from nsbluesky.service.messages import ACTIONS, OPEN_ACTIONS
from nsbluesky.settings import SettingsError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("action", choices=[name for name in ACTIONS if name not in OPEN_ACTIONS])
    add_service_arguments(parser)
    parser.add_argument("--run", help="abort: end a run that goes on; its uid")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="configure: as in solver.modes=3"
    )
    parser.add_argument("--frame", type=int, help="fit: the frame whose model is told; the newest by default")
    parser.add_argument(
        "--stages", default="", metavar="A,B", help=f"record: of {', '.join(STAGES)}; without it nothing any more"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Ask the service to do it."""
    fields: dict[str, Any] = {}
    if options.run is not None:
        fields["run"] = options.run
    if options.set or options.action == "configure":
        fields["settings"] = dict(_assignment(text) for text in options.set)
    if options.frame is not None:
        fields["frame"] = options.frame
    if options.stages or options.action == "record":
        fields["stages"] = [stage for stage in options.stages.split(",") if stage]
    answer = ask(options.address, options.action, service_credentials(options), **fields)
    return {"done": options.action, **{key: value for key, value in answer.items() if key != "ok"}}


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SettingsError(f"cannot read {text!r}: expected KEY=VALUE, as in solver.modes=3")
    try:
        return key.strip(), json.loads(value)
    except json.JSONDecodeError:
        return key.strip(), value
