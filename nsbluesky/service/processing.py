"""What the service does with documents: the pipeline, its files, and a record of the runs that are finished."""

from __future__ import annotations

import json
import logging
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nsbluesky.callbacks.block_watch import BlockWatch
from nsbluesky.callbacks.derived_run_writer import DerivedRunWriter
from nsbluesky.callbacks.pipeline import PtychoPipeline
from nsbluesky.callbacks.stage import Workers
from nsbluesky.document_log import DocumentLog, aborted
from nsbluesky.service.finished import DERIVED, FinishedRun, FinishedRuns, RunEnds
from nsbluesky.service.order import RECORDING
from nsbluesky.service.settings import ServiceSettings
from nsbluesky.settings import PipelineSettings
from nsbluesky.whole_file import write_whole

__all__ = ["Processing"]

log = logging.getLogger(__name__)


class Processing:
    """A pipeline with its files.

    Parameters
    ----------
    settings : ServiceSettings
    pipeline : PipelineSettings
        How runs are processed.
    publish : callable
        Takes the derived documents, with their arrays in memory.
    workers : Workers, optional
        Clean frames.
    watch : BlockWatch, optional
        Is told which block is at work.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        pipeline: PipelineSettings,
        publish: Callable[[str, dict[str, Any]], Any],
        workers: Workers | None = None,
        watch: BlockWatch | None = None,
    ) -> None:
        self.directory = Path(settings.directory)
        self._record = FinishedRuns(self.directory)
        self._derived = DocumentLog(self.directory / DERIVED)
        self._ended: queue.SimpleQueue[FinishedRun] = queue.SimpleQueue()
        self._stopped: list[str] = []
        self._ended_here: set[str] = set()
        self.not_whole: set[str] = set()
        """Raw runs whose files could not be written whole: they may be processed again."""
        self.pipeline = PtychoPipeline(
            pipeline,
            directory=self.directory,
            roots=settings.roots,
            watch=watch,
            workers=workers,
        )
        if settings.warm_up:
            self.pipeline.warm_up()
        self._recording = self.directory / RECORDING
        self._record_as_before()
        self._remove_left_checkpoints()
        self.pipeline.subscribe(publish)
        assert self.pipeline.cxi is not None  # it has a directory
        self._files = DerivedRunWriter(self._derived.directory, self._derived, cxi=self.pipeline.cxi)
        self.pipeline.subscribe(self._files)
        self.pipeline.subscribe(RunEnds(self.pipeline.cxi, self._files, self._derived, self._end))

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Take a document of a raw run; returns at once."""
        self.pipeline(name, document)
        if name == "start":
            self.not_whole.discard(document["uid"])
        run = document.get("run_start")
        if name == "stop" and isinstance(run, str):
            self._stopped.append(run)

    def end_run(self, uid: str) -> None:
        """Let a run end as if its stop document had come, and for good: a process that takes over leaves it alone."""
        stop = aborted(uid, "ended at the processing service")
        self._ended_here.add(uid)
        try:
            self._record.add(FinishedRun(uid, exit_status=stop["exit_status"], reason=stop["reason"]))
        except OSError as error:
            log.error("a process that takes over will process run %s: %s", uid, error)
        self("stop", stop)

    @property
    def recording(self) -> list[str]:
        """The stages that are recorded."""
        return self.pipeline.recorder.stages if self.pipeline.recorder is not None else []

    def record(self, stages: list[str]) -> None:
        """Record these stages from now on, here and in a process that takes over from this one.

        Raises
        ------
        SettingsError
            For a stage that there is not.
        """
        self.pipeline.record(stages)
        try:
            write_whole(self._recording, json.dumps(self.recording))
        except OSError as error:  # as on a full disk: it is in force all the same
            log.error("a process that takes over will not record the same stages: %s", error)

    def _record_as_before(self) -> None:
        """Go on with what the process before this one recorded; a damaged file must not keep the service away."""
        try:
            self.pipeline.record(json.loads(self._recording.read_text()))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s cannot be used, nothing is recorded: %s", self._recording, error)

    def _remove_left_checkpoints(self) -> None:
        """Remove those of runs that were ended or given up, and that no process has brought to their end."""
        left = {path.name.partition(".")[0] for path in self.directory.glob("*.checkpoint*")}
        for uid in left.intersection(run.raw_uid for run in self._record.read()):
            self.pipeline.forget(uid)

    def finished_before(self) -> list[FinishedRun]:
        """Return the runs that were finished in this folder, in this life of the service or an earlier one."""
        return self._record.read()

    def newly_finished(self) -> list[FinishedRun]:
        """Return the runs that were finished since the last call, and record them."""
        is_idle = bool(self._stopped) and self.pipeline.wait(0)  # before the look at what has ended until then
        runs = []
        while not self._ended.empty():
            runs.append(self._ended.get())
        ended = {run.raw_uid for run in runs}
        self._stopped = [uid for uid in self._stopped if uid not in ended]
        if is_idle:  # what has not ended by now has never begun: it is left alone
            runs += [FinishedRun(uid) for uid in self._stopped]
            self._stopped = []
        try:
            self._record.add(*(run for run in runs if run.raw_uid not in self.not_whole))
            self._record.withdraw(*(ended & self.not_whole & self._ended_here))
        except OSError as error:
            log.error("finished runs cannot be recorded, they will be processed again: %s", error)
        self._ended_here.difference_update(run.raw_uid for run in runs)
        return runs

    def close(self, timeout: float) -> bool:
        """Finish what is queued, within `timeout` seconds; True if nothing was left undone."""
        complete = self.pipeline.close(timeout)
        self.pipeline.gate.wait()
        assert self.pipeline.cxi is not None
        self.pipeline.cxi.close()
        self._files.close()
        self._derived.close()
        return complete

    def _end(self, run: FinishedRun, is_whole: bool) -> None:
        if not is_whole:
            self.not_whole.add(run.raw_uid)
        self._ended.put(run)
