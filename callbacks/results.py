"""The newest picture of each of the latest runs."""

from __future__ import annotations

from typing import Any

__all__ = ["NewestResults"]


class NewestResults:
    """Callback of derived runs: keeps the last ``reconstruction`` event's data of each run; runs may overlap.

    Parameters
    ----------
    max_results : int
        Runs that are kept.

    Attributes
    ----------
    results : dict
        By the uid of the raw run.
    """

    def __init__(self, max_results: int) -> None:
        self.results: dict[str, dict[str, Any]] = {}
        self._max_results = max_results
        self._raw_uids: dict[str, str] = {}

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Take one document of a derived run."""
        if name == "start":
            self._raw_uids[document["uid"]] = document["raw_uid"]
        elif name == "descriptor" and document["name"] == "reconstruction":
            self._raw_uids[document["uid"]] = self._raw_uids[document["run_start"]]
        elif name == "event" and document["descriptor"] in self._raw_uids:
            self.keep(self._raw_uids[document["descriptor"]], document["data"])
        elif name == "stop":
            over = self._raw_uids.get(document["run_start"])
            self._raw_uids = {uid: raw_uid for uid, raw_uid in self._raw_uids.items() if raw_uid != over}

    def keep(self, raw_uid: str, picture: dict[str, Any]) -> None:
        """Keep a picture of a run, and let go of the oldest run's where there are too many."""
        self.results[raw_uid] = picture
        while len(self.results) > self._max_results:
            self.results.pop(next(iter(self.results)))
