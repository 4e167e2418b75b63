"""``nsbluesky profile``: the startup files of a beamline session, in a folder of the beamline's own."""

from __future__ import annotations

import argparse
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nsbluesky.commands import output_folder

__all__ = ["add_arguments", "run"]

PACKAGE = Path(__file__).parents[1]
FILES = "*.py", "user_group_permissions.yaml"
"""What belongs to a profile; sessions and queues leave other files beside these."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("directory", type=Path, help="folder of the session; made where missing")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Copy the files that are missing; one that is another already is refused before anything is written."""
    out = output_folder(options.directory / "startup")
    files = {source: out / source.name for source in _startup_files()}
    others = [target.name for source, target in files.items() if target.exists() and not _same(source, target)]
    if others:
        raise ValueError(
            f"{out} has files that differ from those to write: {', '.join(others)}; nothing was written: "
            "expected a new folder, to compare with this one"
        )
    missing = {source: target for source, target in files.items() if not target.exists()}
    for source, target in missing.items():
        shutil.copyfile(source, target)
    return {
        "directory": str(out.parent),
        "written": [target.name for target in missing.values()],
        "pvs_and_geometry": str(out / "00-base.py"),
        **({} if find_spec("IPython") else {"install_first": "pip install 'nsbluesky[ipython]'"}),
        "session": f"ipython --profile-dir={shlex.quote(str(options.directory))}",
    }


def _startup_files() -> list[Path]:
    """Return the files: inside the package where it is installed, beside it in a clone."""
    folders = (folder / "profile_collection" / "startup" for folder in (PACKAGE, PACKAGE.parent))
    folder = next(folder for folder in folders if folder.is_dir())
    return sorted(path for pattern in FILES for path in folder.glob(pattern))


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()
