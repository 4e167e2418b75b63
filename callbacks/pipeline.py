"""PtychoPipeline: the usual chain in one object, from raw documents to a CXI file and live pictures."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from nsbluesky.callbacks.block_watch import BlockWatch
from nsbluesky.callbacks.cxi_writer import CXIWriter
from nsbluesky.callbacks.incremental_reconstructor import IncrementalReconstructor
from nsbluesky.callbacks.live_plots import LivePlots
from nsbluesky.callbacks.results import NewestResults
from nsbluesky.callbacks.stage import Stage, Workers
from nsbluesky.callbacks.stage_recorder import StageRecorder
from nsbluesky.geometry import Geometry
from nsbluesky.plugins import STAGES, load_plugins
from nsbluesky.probe_library import ProbeLibrary
from nsbluesky.settings import PipelineSettings, SettingsError

__all__ = ["PtychoPipeline"]


class PtychoPipeline(IncrementalReconstructor):
    """From a raw run to its image: all stages, what the windows show, and the CXI file.

    ``RE.subscribe(PtychoPipeline())`` is all that a session needs.

    Parameters
    ----------
    directory : path, optional
        Where CXI files and the checkpoints of unfinished images go, to ``probes`` in it the probes for later runs to
        begin with, and to ``recorded`` what `record` asks for; None writes none.
    settings, geometry, roots, watch, workers
        As of `RunProcessor`.

    Attributes
    ----------
    live : LivePlots
        The newest of everything, for the windows and for plans that act on it.
    results : dict
        The last ``reconstruction`` event's data by the uid of the raw run; the latest `max_results` runs are kept.
    """

    max_results = 4

    def __init__(
        self,
        settings: PipelineSettings | None = None,
        *,
        directory: str | Path | None = None,
        geometry: Geometry | None = None,
        roots: Sequence[str | Path] = (),
        watch: BlockWatch | None = None,
        workers: Workers | None = None,
    ) -> None:
        if directory is not None:
            directory = Path(directory).absolute()  # a session may change its own
        self.live = LivePlots()
        self._results = NewestResults(self.max_results)
        self.results: dict[str, dict[str, Any]] = self._results.results
        self.cxi = CXIWriter(directory) if directory is not None else None
        self.recorder = StageRecorder(directory / "recorded") if directory is not None else None
        super().__init__(
            settings,
            geometry=geometry,
            roots=roots,
            watch=watch,
            workers=workers,
            checkpoints=directory,
            probes=ProbeLibrary(directory / "probes") if directory is not None else None,
        )
        for callback in (self.live, self._results, self.cxi, self.recorder):
            if callback is not None:
                self.subscribe(callback)

    def make_stages(self) -> tuple[type[Stage], ...]:
        """Return the stages of a run: those of this package, and those that are installed beside it."""
        return (*self.stages, *load_plugins(STAGES, Stage))

    def record(self, stages: Collection[str]) -> None:
        """Write what these stages yield from now on, and of no others, to HDF5 files; also in the middle of a run.

        Parameters
        ----------
        stages : collection of str
            Some of `nsbluesky.callbacks.stage_recorder.STAGES`, as ``["raw", "clean"]``; empty ends it.

        Raises
        ------
        SettingsError
            For a stage that there is not, or where this pipeline writes no files.
        """
        if self.recorder is None:
            raise SettingsError("this pipeline writes no files: make it with a directory")
        self.recorder.record(stages)

    def close(self, timeout: float | None = 60.0) -> bool:
        """Finish what is queued, within `timeout` seconds, and end the thread; True if nothing was left undone."""
        complete = super().close(timeout)
        if self.recorder is not None:
            self.recorder.close()
        return complete
