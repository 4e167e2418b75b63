"""``nsbluesky grab``: the Fast CCD's packets to an HDF5 file, and a list of what was lost."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nsbluesky.camera.grabber import Grabber, GrabberSettings
from nsbluesky.cleaning.layout import LAYOUTS
from nsbluesky.commands import CommandFailed, ended_by_ctrl_c, output_file, parse_count, tell_progress

__all__ = ["add_arguments", "run"]

DEFAULTS = GrabberSettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("out", type=Path, help="the HDF5 file to write; readable while it grows")
    parser.add_argument("--frames", type=parse_count, metavar="N", help="end after so many (on Ctrl-C by default)")
    parser.add_argument("--layout", choices=sorted(LAYOUTS), default="cosmic", help="detector mode (%(default)s)")
    parser.add_argument("--host", default=DEFAULTS.host, help="address to listen at (%(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULTS.port, help="0: any free one (%(default)s)")
    parser.add_argument(
        "--payload", type=int, default=DEFAULTS.payload_bytes, help="bytes in a packet, 4096 or 8184 (%(default)s)"
    )
    parser.add_argument(
        "--timeout-s", type=float, default=DEFAULTS.timeout_s, help="end after so long without a packet (%(default)s)"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Write frames until there are enough, the camera ends or the user does."""
    if options.frames == 0:
        raise ValueError("--frames 0: expected at least 1")
    out = output_file(options.out)
    settings = GrabberSettings(options.host, options.port, options.payload, timeout_s=options.timeout_s)
    with Grabber(LAYOUTS[options.layout], settings) as grabber, ended_by_ctrl_c(grabber.stop):
        host, port = grabber.address
        tell_progress(f"listening at {host}:{port}")
        with tqdm(total=options.frames, unit="frame", disable=None) as progress:
            summary = {"file": str(out), **grabber.record(out, options.frames, lambda _: progress.update())}
    if options.frames is not None and summary["frames"] < options.frames:
        raise CommandFailed(f"{summary['frames']} of {options.frames} frames came", summary)
    return summary
