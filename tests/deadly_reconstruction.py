"""The command line in a process that kills itself at its fifth checkpoint: before it, or while ``writing`` it.

Its transforms are SciPy's: FFTW measures which of its algorithms is fastest, and takes another one now and then.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import scipy.fft

from nsbluesky import backend, cli
from nsbluesky.solver.incremental import IncrementalSolver

CHECKPOINTS = 4


def main(where: str, *arguments: str) -> None:
    """Run a command, and die."""
    written = 0
    save, fsync = IncrementalSolver.save, os.fsync

    def counted(self: IncrementalSolver, path: str | Path) -> None:
        nonlocal written
        if written == CHECKPOINTS and where == "between":
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, path)
        written += 1

    def deadly(file: Any) -> None:
        if written == CHECKPOINTS:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(file)

    IncrementalSolver.save = counted  # type: ignore[method-assign]
    os.fsync = deadly
    backend._host_transforms = lambda: scipy.fft
    cli.main(list(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
