"""``nsbluesky serve``: the processing in a process of its own, until it is interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from nsbluesky.commands import input_folder, only_one_in, output_folder, parse_workers, tell_progress
from nsbluesky.folders import data_directory
from nsbluesky.service.settings import DEFAULT_ADDRESS, ServiceSettings
from nsbluesky.service.supervisor import ProcessingService
from nsbluesky.settings import PipelineSettings

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--address", default=DEFAULT_ADDRESS, help="tcp://HOST:PORT to listen at (%(default)s)")
    parser.add_argument(
        "--ports",
        type=_parse_ports,
        default=(0, 0),
        metavar="A,B",
        help="of documents and publications, as in 60611,60612, for a firewall (free ones by default)",
    )
    parser.add_argument("--out", type=Path, help="folder of the results (the session's by default)")
    parser.add_argument(
        "--root",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder that frames may be read from; may be given again (the session's data folder by default)",
    )
    parser.add_argument("--keys", type=Path, help="folder of keys, as nsbluesky keys makes it; beyond this machine")
    parser.add_argument(
        "--workers", type=parse_workers, default=0, metavar="N", help="processes that clean frames (0)"
    )
    parser.add_argument(
        "--adaptive", action="store_true", help="start these processes while frames wait, and end them when none do"
    )
    parser.add_argument("--scheduler", default="", metavar="tcp://HOST:PORT", help="Dask cluster that cleans frames")
    parser.add_argument("--nice", type=int, default=10, help="how much the scan comes first, 0 to 19 (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in solver.modes=3")


def _parse_ports(text: str) -> tuple[int, int]:
    first, _, second = text.partition(",")
    if not (first.isdecimal() and second.isdecimal() and int(first) < 65536 and int(second) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r}: expected two ports, as in 60611,60612")
    return int(first), int(second)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Serve until SIGINT, SIGTERM or ``nsbluesky control shutdown``."""
    out = output_folder(options.out or data_directory() / "results")
    roots = [input_folder(root) for root in options.root] or [data_directory()]
    settings = ServiceSettings(
        directory=str(out),
        roots=tuple(str(root.resolve()) for root in roots),
        address=options.address,
        ports=options.ports,
        keys=str(input_folder(options.keys).resolve()) if options.keys is not None else "",
        nice=options.nice,
        workers=options.workers,
        adaptive=options.adaptive,
        scheduler=options.scheduler,
        pipeline=PipelineSettings().set_from_text(options.set),
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as Ctrl-C does, and as a system's manager asks for it
    with only_one_in(out, options.command), ProcessingService(settings) as service:
        tell_progress(f"the processing service listens at {service.address}")
        service.wait()
        return {"restarts": len(service.restarts)}
