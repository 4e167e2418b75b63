"""PtychoPipeline: the usual chain in one object, from raw documents to a CXI file and live pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nsbluesky.callbacks.block_watch import BlockWatch
from nsbluesky.callbacks.cxi_writer import CXIWriter
from nsbluesky.callbacks.incremental_reconstructor import IncrementalReconstructor
from nsbluesky.callbacks.live_plots import LivePlots
from nsbluesky.callbacks.results import NewestResults
from nsbluesky.geometry import Geometry
from nsbluesky.settings import PipelineSettings

__all__ = ["PtychoPipeline"]


class PtychoPipeline(IncrementalReconstructor):
    """From a raw run to its image: all stages, what the windows show, and the CXI file.

    ``RE.subscribe(PtychoPipeline())`` is all that a session needs.

    Parameters
    ----------
    settings : PipelineSettings, optional
    directory : path, optional
        Where CXI files go; None writes none.
    geometry : Geometry, optional
        Instead of what the start document tells, and for runs whose start document tells nothing.
    roots : sequence of path
        Folders that frames may be read from; empty allows any.
    watch : BlockWatch, optional
        Is told which block is at work.

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
    ) -> None:
        self.live = LivePlots()
        self._results = NewestResults(self.max_results)
        self.results: dict[str, dict[str, Any]] = self._results.results
        self.cxi = CXIWriter(directory) if directory is not None else None
        super().__init__(settings, geometry=geometry, roots=roots, watch=watch)
        for callback in (self.live, self._results, self.cxi):
            if callback is not None:
                self.subscribe(callback)
