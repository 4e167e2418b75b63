"""``nsbluesky serve`` in a process of its own, as under a system's manager."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from recorded_scan import GOOD_SOLVER, TIMEOUT_S, RecordedScan


class Served:
    """A supervisor and its service.

    Parameters
    ----------
    folder : Path
        Of results, logs and the token.
    frames : Path
        May be read.
    *options : str
        Of the command.
    address : str
        Where it listens; a free port by default.
    """

    def __init__(self, folder: Path, frames: Path, *options: str, address: str = "tcp://127.0.0.1:0") -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "nsbluesky.cli", "serve", "--address", address, "--json"),
                *("--out", str(folder / "results"), "--root", str(frames), *options),
            ],
            env={**os.environ, "NSBLUESKY_STATE": str(folder / "state")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.address = self.process.stderr.readline().split()[-1]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode


def options_for(scan: RecordedScan, **solver: object) -> list[str]:
    """Options that let the command process a scan as `RecordedScan.settings` do."""
    cleaning = scan.beamline.simulator.cleaning_settings.to_dict()
    changed = {f"cleaning.{key}": json.dumps(value) for key, value in cleaning.items()}
    changed |= {f"solver.{key}": str(value) for key, value in {**GOOD_SOLVER, **solver}.items()}
    return [*(f"--set={key}={value}" for key, value in changed.items()), "--set=backend=numpy"]
