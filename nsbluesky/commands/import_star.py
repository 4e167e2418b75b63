"""``nsbluesky import-star``: the published Siemens star as CXI."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nsbluesky.commands import output_file
from nsbluesky.cxi import siemens_star_to_cxi

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("source", type=Path, help="siemens-star-small.npz.bz2")
    parser.add_argument("out", type=Path, help="the CXI file to write")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Convert the file."""
    out = output_file(options.out, options.source)
    return {"cxi": str(out), "frames": siemens_star_to_cxi(options.source, out)}
