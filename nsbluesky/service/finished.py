"""The record of the runs whose processing is over: it outlives the service, so that nothing is done twice."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

__all__ = ["FinishedRun", "FinishedRuns"]

log = logging.getLogger(__name__)

NAME = "finished-runs.jsonl"


@dataclass(frozen=True)
class FinishedRun:
    """A run whose processing is over.

    Attributes
    ----------
    raw_uid : str
    derived_uid : str
        "" where the run was left alone.
    exit_status, reason : str
        Of the derived run.
    cxi : str
        Path of the CXI file, "" for none.
    documents : str
        Path of the derived run's document log, with its arrays in files; "" for none.
    """

    raw_uid: str
    derived_uid: str = ""
    exit_status: str = ""
    reason: str = ""
    cxi: str = ""
    documents: str = ""


class FinishedRuns:
    """One line of JSON for each finished run.

    Parameters
    ----------
    directory : path
        Of the results.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME

    def add(self, *runs: FinishedRun) -> None:
        """Record runs."""
        if not runs:
            return
        with self._path.open("ab+") as file:
            if self._is_cut_off(file):
                file.write(b"\n")
            file.writelines(json.dumps(asdict(run)).encode() + b"\n" for run in runs)

    @staticmethod
    def _is_cut_off(file: IO[bytes]) -> bool:
        """Return whether a disk that was full has cut off the last line; the next one must not be part of it."""
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"

    def read(self) -> list[FinishedRun]:
        """Return what is recorded, oldest first."""
        if not self._path.exists():
            return []
        runs = []
        for line in self._path.read_bytes().splitlines():
            try:
                runs.append(FinishedRun(**json.loads(line)))
            except (ValueError, TypeError):
                log.warning("%s: a line that cannot be read is passed over", self._path)
        return runs
