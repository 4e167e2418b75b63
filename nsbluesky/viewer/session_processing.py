"""SessionProcessing: what the control panel steers, where the processing is in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.document_log import DocumentLogError
from nsbluesky.replay import documents_of
from nsbluesky.settings import PipelineSettings

__all__ = ["SessionProcessing"]


class SessionProcessing:
    """Steers a pipeline of this process.

    Parameters
    ----------
    pipeline : PtychoPipeline
    log : path, optional
        Folder of the document log, from where a run can be processed again.
    """

    def __init__(self, pipeline: PtychoPipeline, log: Path | None = None) -> None:
        self._pipeline = pipeline
        self._log = log
        self._cleared = ""

    def settings(self) -> PipelineSettings:
        """Return the settings of the next run."""
        return self._pipeline.settings

    def configure(self, changes: dict[str, Any]) -> PipelineSettings:
        """Change settings, by dotted names, and return all; those of `Settings.AT_ONCE` also of runs that go on."""
        return self._pipeline.configure(changes)

    def show_fit(self, seq_num: int | None) -> None:
        """Tell with each picture how this frame is modelled; None for the newest."""
        self._pipeline.show_fit(seq_num)

    def do(self, action: str) -> str:
        """Do what a button says, and tell what was done.

        Raises
        ------
        ValueError
            If it cannot be done now; the message says what to do.
        """
        if action == "resume":
            self._pipeline.resume()
            return "the processing goes on"
        if action == "pause":
            self._pipeline.pause()
            return "the processing rests; documents wait"
        if action == "abort":
            self._pipeline.abort()
            return "the final passes of the runs that have ended are cut short"
        if action == "clear":
            run = self._pipeline.live.snapshot().run
            self._cleared = run.raw_uid if run is not None else self._cleared
            self._pipeline.live.clear()
            return "nothing is shown until the next run"
        return self._process_again()

    def _process_again(self) -> str:
        """Give the documents of the last run to the pipeline once more, also where it is not shown any more."""
        run = self._pipeline.live.snapshot().run
        raw_uid = run.raw_uid if run is not None else self._cleared
        if not raw_uid or self._log is None:
            raise ValueError("no run to process again: expected one that was shown here and is in the document log")
        if self._pipeline.activity() or self._pipeline.queued:
            raise ValueError("a run is being processed: wait for its end, or abort it, then reset")
        try:
            documents = list(documents_of(raw_uid, self._log))
        except DocumentLogError as error:
            raise ValueError(str(error)) from error
        for name, document in documents:
            self._pipeline(name, document)
        return f"run {raw_uid[:8]} is processed again"
