"""PtychoPipeline: the usual chain in one object, from raw documents to a CXI file and live pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nsbluesky.callbacks.cxi_writer import CXIWriter
from nsbluesky.callbacks.incremental_reconstructor import IncrementalReconstructor
from nsbluesky.callbacks.live_plots import LivePlots
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
    ) -> None:
        self.live = LivePlots()
        self.results: dict[str, dict[str, Any]] = {}
        self._raw_uids: dict[str, str] = {}
        self.cxi = CXIWriter(directory) if directory is not None else None
        super().__init__(settings, geometry=geometry)
        for callback in (self.live, self._keep_results, self.cxi):
            if callback is not None:
                self.subscribe(callback)

    def _keep_results(self, name: str, document: dict[str, Any]) -> None:
        """Keep the newest picture of each run; runs may overlap, so each descriptor knows its own."""
        if name == "start":
            self._raw_uids[document["uid"]] = document["raw_uid"]
        elif name == "descriptor" and document["name"] == "reconstruction":
            self._raw_uids[document["uid"]] = self._raw_uids[document["run_start"]]
        elif name == "event" and document["descriptor"] in self._raw_uids:
            self.results[self._raw_uids[document["descriptor"]]] = document["data"]
            while len(self.results) > self.max_results:
                self.results.pop(next(iter(self.results)))
