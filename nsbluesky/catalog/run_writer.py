"""One run on its way into tiled: bluesky-tiled-plugins' writer, and what it has to be helped with."""

from __future__ import annotations

import logging
from typing import Any

import bluesky_tiled_plugins
import numpy as np

from nsbluesky.replay import FRAMES_MISPLACED, ROWS_LEFT_OUT

__all__ = ["run_writer"]

logger = logging.getLogger(__name__)


def run_writer(client: Any) -> bluesky_tiled_plugins.TiledWriter:
    """Return a callback that writes one run, and raises what goes wrong.

    Parameters
    ----------
    client : tiled client
        The catalog, with data sources included: the writer asks for them again where they are not.
    """
    tables, rows = _FloatColumns(), RowsLeftOut()
    return bluesky_tiled_plugins.TiledWriter(
        client,
        patches={
            "descriptor": tables.descriptor,
            "event": tables.event,
            "stream_resource": rows.stream_resource,
            "stream_datum": rows.stream_datum,
            "stop": rows.stop,
        },
        max_array_size=0,  # SQLite has no columns of lists: every array becomes a zarr
    )


class RowsLeftOut:
    """Notes in the stop document that a file of a run holds rows that belong to no point.

    A pause between trigger and save leaves such a row, and an IOC that dies may leave some at the end of its file,
    after which the run goes on with another.  The documents say so, but bluesky-tiled-plugins 2.0.12 takes the rows
    of a file as if none were left out: the catalog then shows each later frame beside its neighbour's point.
    """

    def __init__(self) -> None:
        self._next: dict[str, int] = {}
        self._keys: dict[str, str] = {}
        self._files: dict[tuple[str, str], str] = {}
        self._found = False

    def stream_resource(self, document: dict[str, Any]) -> dict[str, Any]:
        """Note whose file it is."""
        self._keys[document["uid"]] = document["data_key"]
        return document

    def stream_datum(self, document: dict[str, Any]) -> dict[str, Any]:
        """Compare the rows with those that came before."""
        resource, rows = document["stream_resource"], document["indices"]
        column = document["descriptor"], self._keys.get(resource, "")
        is_first_file = self._files.setdefault(column, resource) == resource
        self._found = self._found or not is_first_file or rows["start"] != self._next.get(resource, 0)
        self._next[resource] = rows["stop"]
        return document

    def stop(self, document: dict[str, Any]) -> dict[str, Any]:
        """Add the note."""
        if self._found:
            logger.warning("run %s in the catalog: %s", document["run_start"], FRAMES_MISPLACED)
            document[ROWS_LEFT_OUT] = True
        return document


class _FloatColumns:
    """Makes every column of numbers one of floats.

    A device's first value may be 0 and the next 0.5; bluesky-tiled-plugins 2.0.12 takes the type from the first one
    and loses the run at the second.
    """

    def __init__(self) -> None:
        self._columns: dict[str, set[str]] = {}

    def descriptor(self, document: dict[str, Any]) -> dict[str, Any]:
        """Note the columns of single numbers, and declare them as floats."""
        columns = set()
        for name, key in document["data_keys"].items():
            if key["dtype"] in ("number", "integer") and not key["shape"] and "external" not in key:
                columns.add(name)
                key["dtype"] = "number"
                key["dtype_numpy"] = "<f8"
        self._columns[document["uid"]] = columns
        return document

    def event(self, document: dict[str, Any]) -> dict[str, Any]:
        """Make the numbers of these columns floats."""
        for name in self._columns[document["descriptor"]] & document["data"].keys():
            value = document["data"][name]
            if isinstance(value, (int, float, np.number, np.ndarray)):
                document["data"][name] = float(value)
        return document
