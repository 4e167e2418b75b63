"""When an unfinished reconstruction is written to its checkpoint, and what is told where that cannot be done."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CheckpointWriter", "Checkpoints"]


@dataclass(frozen=True)
class Checkpoints:
    """Where an unfinished reconstruction is written.

    Attributes
    ----------
    path : Path
        A file that is replaced each time.
    interval_s : float
        Seconds from one to the next; 0 writes one after each pass.
    resume : bool
        Go on from the file that is there, if there is one.
    """

    path: Path
    interval_s: float = 60.0
    resume: bool = False

    @property
    def to_go_on(self) -> bool:
        """Whether there is one to go on from, and it is wanted."""
        return self.resume and self.path.exists()


class CheckpointWriter:
    """Writes checkpoints at their intervals; one that cannot be written ends nothing, and is tried again at the next.

    Parameters
    ----------
    checkpoints : Checkpoints or None
        None for none.
    kept : int
        Passes that are in the one that is there.

    Attributes
    ----------
    missed : int
        How many could not be written.
    """

    def __init__(self, checkpoints: Checkpoints | None, *, kept: int = 0) -> None:
        self._checkpoints = checkpoints
        self._tried_s = time.monotonic()
        self._kept = kept
        self.missed = 0

    def write(self, save: Callable[[Path], object], passes: int) -> None:
        """Call `save` with the path, where it is time to.

        Parameters
        ----------
        save : callable
        passes : int
            What is saved; for the warning at the end.
        """
        wanted = self._checkpoints
        if wanted is None or time.monotonic() - self._tried_s < wanted.interval_s:
            return
        try:
            save(wanted.path)
        except OSError as error:
            if not self.missed:
                warnings.warn(
                    f"{wanted.path} cannot be written ({error.strerror or error}): the reconstruction goes on, and "
                    "tries again at the next interval; make space, or see to its folder",
                    stacklevel=3,
                )
            self.missed += 1
        else:
            self._kept = passes
        self._tried_s = time.monotonic()

    def tell_missed(self) -> None:
        """Warn, at the end, of what could not be written."""
        if self.missed:
            assert self._checkpoints is not None
            last = f"the last that could is of pass {self._kept}" if self._kept else "none could"
            missed = "1 checkpoint" if self.missed == 1 else f"{self.missed} checkpoints"
            warnings.warn(f"{missed} could not be written to {self._checkpoints.path}; {last}", stacklevel=3)
