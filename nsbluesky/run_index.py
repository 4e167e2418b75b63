"""Which run a document belongs to, for callbacks that keep something per run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["RunIndex"]

_PARENT = {
    "start": "uid",
    "descriptor": "run_start",
    "resource": "run_start",
    "stream_resource": "run_start",
    "stop": "run_start",
    "event": "descriptor",
    "event_page": "descriptor",
    "stream_datum": "stream_resource",
    "datum": "resource",
    "datum_page": "resource",
}


class RunIndex:
    """Follows the references between the documents of overlapping runs.

    Unlike event-model's ``RunRouter`` it leaves documents as they are: that one packs events into pages.
    """

    def __init__(self) -> None:
        self._run_of: dict[str, str] = {}

    @property
    def open_runs(self) -> list[str]:
        """The uids of the runs that started and did not stop yet, oldest first."""
        return list(dict.fromkeys(self._run_of.values()))

    def runs_of(self, name: str, document: Mapping[str, Any]) -> list[str]:
        """Return the uids of the runs that a document belongs to.

        That is one run; every open run for a resource of old devices, which does not tell its run, and for its datum
        documents; none for a document of a run that was not seen to start, nor for the start document of one that
        goes on: whoever sends that again, as a proxy that repeats, begins nothing.
        """
        parent = document.get(_PARENT.get(name, ""))
        if name == "start":
            if document["uid"] in self._run_of:
                return []
            self._run_of[document["uid"]] = document["uid"]
            return [document["uid"]]
        if parent is None and name == "resource":
            return self.open_runs
        run = self._run_of.get(str(parent))
        if run is None:
            return self.open_runs if name in ("datum", "datum_page") else []
        if name in ("descriptor", "resource", "stream_resource"):
            self._run_of[document["uid"]] = run
        elif name == "stop":
            self._run_of = {uid: owner for uid, owner in self._run_of.items() if owner != run}
        return [run]
