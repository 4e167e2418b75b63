"""The record of the runs whose processing is over: it outlives the service, so that nothing is done twice."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nsbluesky.callbacks.cxi_writer import CXIWriter
    from nsbluesky.callbacks.derived_run_writer import DerivedRunWriter
    from nsbluesky.document_log import DocumentLog

__all__ = ["DERIVED", "FinishedRun", "FinishedRuns", "RunEnds"]

log = logging.getLogger(__name__)

NAME = "finished-runs.jsonl"
WITHDRAWN = "withdrawn"
"""Exit status in the line after which the lines before it about the same run do not count."""
DERIVED = "derived"
"""Folder of the derived runs' document logs, in that of the results."""


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

    def withdraw(self, *raw_uids: str) -> None:
        """Record that runs, which were told as finished, are not."""
        self.add(*(FinishedRun(uid, exit_status=WITHDRAWN) for uid in raw_uids))

    @staticmethod
    def _is_cut_off(file: IO[bytes]) -> bool:
        """Return whether a disk that was full has cut off the last line; the next one must not be part of it."""
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"

    def read(self) -> list[FinishedRun]:
        """Return what is recorded, oldest first."""
        return self._runs_in(self._lines())

    def find(self, raw_uid: str) -> FinishedRun | None:
        """Return the newest of what is recorded of a run; of the lines of years only its own are parsed."""
        told = json.dumps(raw_uid).encode()
        lines = [line for line in self._lines() if told in line]
        runs = [run for run in self._runs_in(lines) if run.raw_uid == raw_uid]
        return runs[-1] if runs else None

    def _lines(self) -> list[bytes]:
        return self._path.read_bytes().splitlines() if self._path.exists() else []

    def _runs_in(self, lines: Iterable[bytes]) -> list[FinishedRun]:
        runs: list[FinishedRun] = []
        for line in lines:
            try:
                run = FinishedRun(**json.loads(line))
            except (ValueError, TypeError):
                log.warning("%s: a line that cannot be read is passed over", self._path)
                continue
            if run.exit_status == WITHDRAWN:
                runs = [other for other in runs if other.raw_uid != run.raw_uid]
            else:
                runs.append(run)
        return runs


class RunEnds:
    """Callback of derived runs, the last one: tells what became of each run, once its files are complete.

    Parameters
    ----------
    cxi : CXIWriter
    files : DerivedRunWriter
    documents : DocumentLog
        That `files` writes to.
    tell : callable
        Takes the `FinishedRun`, and whether its files are whole.
    """

    def __init__(
        self,
        cxi: CXIWriter,
        files: DerivedRunWriter,
        documents: DocumentLog,
        tell: Callable[[FinishedRun, bool], Any],
    ) -> None:
        self._raw_of: dict[str, str] = {}
        self._cxi = cxi
        self._files = files
        self._documents = documents
        self._tell = tell

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Take one document."""
        if name == "start":
            self._raw_of[document["uid"]] = document["raw_uid"]
        elif name == "stop":
            uid = document["run_start"]
            unwritten = {
                "CXIWriter": self._cxi.errors.get(uid),
                "DerivedRunWriter": self._files.errors.get(uid) or self._documents.errors.get(uid),
            }
            failures = [f"{who}: {error}" for who, error in unwritten.items() if error]
            run = FinishedRun(
                raw_uid=self._raw_of.pop(uid),
                derived_uid=uid,
                exit_status="fail" if failures else document["exit_status"],
                reason="; ".join(failures) or document.get("reason", ""),
                cxi=str(self._cxi.paths.get(uid) or ""),
                documents="" if unwritten["DerivedRunWriter"] else str(self._documents.directory / f"{uid}.jsonl"),
            )
            self._documents.leave(uid)  # which has no stop document where `files` has given the run up
            self._tell(run, not failures)
