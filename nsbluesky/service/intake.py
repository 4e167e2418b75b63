"""The intake: numbered documents of any number of runs come in any state of disorder, and go on in order and once.

A document is known by its run and its index among that run's documents, which is also its line in the document log:
whoever sends can therefore start again anywhere, and what comes twice is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nsbluesky.document_log import UID
from nsbluesky.latest import MAX_KNOWN_RUNS
from nsbluesky.service.finished import FinishedRun

__all__ = ["DocumentRefused", "Intake", "RunProgress"]

MAX_UID = 64
MAX_OPEN_RUNS = 256
"""Runs that are taken at once; while so many go on or are processed, further ones wait in their sessions' logs."""


class DocumentRefused(ValueError):
    """A document that must not be processed; the message says why."""


@dataclass(frozen=True)
class RunProgress:
    """How far a run is.

    Attributes
    ----------
    next : int
        Index of the document that is expected.
    ended : bool
        Whether it was ended here: what still comes is counted, and not processed.
    finished : FinishedRun or None
        What became of it, once its processing is over, so that nothing of it is needed any more.
    stopped : bool
        Whether a stop document came, which may be one that cannot be used.
    """

    next: int = 0
    ended: bool = False
    finished: FinishedRun | None = None
    stopped: bool = False


class Intake:
    """Hands documents on in the order of their runs, each once.

    Parameters
    ----------
    deliver : callable
        Takes the name and the document.
    """

    def __init__(self, deliver: Callable[[str, dict[str, Any]], Any]) -> None:
        self._deliver = deliver
        self._runs: dict[str, RunProgress] = {}
        self.num_taken = 0
        self.num_duplicates = 0
        self.num_gaps = 0

    def progress(self, run: str) -> RunProgress:
        """Return how far a run is; one that was never heard of is at its beginning."""
        return self._runs.get(run, RunProgress())

    @property
    def open_runs(self) -> list[str]:
        """The runs that are not finished."""
        return [uid for uid, progress in self._runs.items() if progress.finished is None]

    def is_open(self, run: str) -> bool:
        """Return whether a run has begun and is not finished."""
        return run in self._runs and self._runs[run].finished is None

    def take(self, run: str, index: int, name: str, document: dict[str, Any]) -> bool:
        """Take one document; return False where an earlier one is missing or many runs wait: it must come again.

        Raises
        ------
        DocumentRefused
            For a start document whose uid is not that of the run or could name a file elsewhere, and where too many
            runs have begun that nobody has ended.
        """
        progress = self.progress(run)
        if progress.finished is not None or index < progress.next:
            self.num_duplicates += 1
            return True
        if index > progress.next:
            self.num_gaps += 1
            return False
        if index == 0:
            self._check_start(run, name, document)
            if len(self.open_runs) >= MAX_OPEN_RUNS:
                return False
        if not progress.ended:
            self._deliver(name, document)
        self._runs[run] = RunProgress(index + 1, progress.ended, stopped=progress.stopped or name == "stop")
        self.num_taken += 1
        return True

    def end(self, run: str) -> None:
        """Hand on nothing more of a run."""
        self._runs[run] = RunProgress(self.progress(run).next, ended=True)

    def finish(self, run: FinishedRun) -> None:
        """Note that the processing of a run is over; the latest ones are remembered."""
        progress = RunProgress(self.progress(run.raw_uid).next, ended=True, finished=run)
        self.forget(run.raw_uid)
        self._runs[run.raw_uid] = progress
        done = [uid for uid, progress in self._runs.items() if progress.finished is not None]
        for uid in done[:-MAX_KNOWN_RUNS]:
            del self._runs[uid]

    def forget(self, run: str) -> None:
        """Expect a run from its beginning again."""
        self._runs.pop(run, None)

    def _check_start(self, run: str, name: str, document: Mapping[str, Any]) -> None:
        if name != "start":
            raise DocumentRefused(f"run {run!r:.80} begins with a {name} document: expected its start document")
        if document.get("uid") != run:
            raise DocumentRefused(f"the start document of run {run!r:.80} has the uid {document.get('uid')!r:.80}")
        if len(run) > MAX_UID or not UID.fullmatch(run):
            raise DocumentRefused(f"run {run!r:.80}: expected a uid of at most {MAX_UID} letters, digits and dashes")
        if sum(not (progress.ended or progress.stopped) for progress in self._runs.values()) >= MAX_OPEN_RUNS:
            raise DocumentRefused(f"{MAX_OPEN_RUNS} runs are open: finish or abort some of them first")
