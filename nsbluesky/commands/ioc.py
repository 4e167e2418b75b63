"""``nsbluesky ioc``: the simulated beamline alone, until it is interrupted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsbluesky.commands import output_folder, parse_count, parse_port
from nsbluesky.simulation.ioc_settings import BeamlineSettings
from nsbluesky.simulation.loopback import channel_access

if TYPE_CHECKING:
    from nsbluesky.simulation.ioc import Ready

__all__ = ["add_arguments", "run"]

DEFAULT_PORTS = 5064, 5065
"""Where Channel Access clients search and hear beacons unless told otherwise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--directory", type=Path, default=Path("ioc-output"), help="frames and truth (%(default)s)")
    parser.add_argument("--prefix", default="SIM:", help="of every PV (%(default)s)")
    parser.add_argument("--sample", default="gold_balls", help="gold_balls or the path of a picture (%(default)s)")
    parser.add_argument("--layout", default="cosmic", help="detector mode; none: small plain frames (%(default)s)")
    parser.add_argument("--seed", type=parse_count, default=0, help="seed of all noise (%(default)s)")
    parser.add_argument(
        "--ports",
        type=parse_port,
        nargs=2,
        default=DEFAULT_PORTS,
        metavar=("SEARCH", "BEACON"),
        help=f"UDP ports on loopback ({DEFAULT_PORTS[0]} {DEFAULT_PORTS[1]})",
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Serve until SIGINT or SIGTERM."""
    from nsbluesky.simulation.ioc import serve

    settings = BeamlineSettings(
        directory=str(output_folder(options.directory)),
        prefix=options.prefix,
        sample=options.sample,
        layout=options.layout,
        seed=options.seed,
    )

    ports: tuple[int, int] = tuple(options.ports)
    client = {name: value for name, value in channel_access(*ports).items() if not name.startswith("EPICS_CAS")}

    def say(ready: Ready) -> None:
        print(f"{ready.prefix} serves frames of {ready.frame_shape}; for its clients:", file=sys.stderr)
        print("".join(f"export {name}={value}\n" for name, value in client.items()), file=sys.stderr, flush=True)

    serve(settings, ports=ports, on_ready=say)
    return {"directory": settings.directory}
