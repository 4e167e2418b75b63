"""Feed a recorded run to callbacks again: from the verbatim log, or from the catalog where there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from nsbluesky.document_log import DocumentLogError, aborted, read_documents

__all__ = ["FRAMES_MISPLACED", "NO_END", "ROWS_LEFT_OUT", "documents_of", "how_it_ended", "replay"]

ROWS_LEFT_OUT = "rows_left_out"
"""Key that `nsbluesky.catalog` adds to the stop document of a run whose frames it cannot place."""
FRAMES_MISPLACED = (
    "its frame file holds rows that belong to no point (a pause in mid-exposure), so frames lie beside the wrong "
    "points there; the document log has them right"
)
NO_END = "its record has no end: its session died, or the run goes on"
"""Reason of the stop document that a replay adds where there is none."""

Document = tuple[str, dict[str, Any]]


class _Catalog(Protocol):
    """What replay needs of `nsbluesky.catalog.Catalog`."""

    @property
    def client(self) -> Any: ...


def documents_of(
    uid: str, log_directory: str | Path | None = None, catalog: _Catalog | None = None
) -> Iterator[Document]:
    """Return the documents of a recorded run.

    The verbatim log is preferred: a catalog gives a reconstruction, with events before the frames and other uids.

    Parameters
    ----------
    uid : str
        The run's uid; its beginning will do in the log.
    log_directory : path, optional
        Directory of a `DocumentLog`.
    catalog : Catalog, optional

    Raises
    ------
    DocumentLogError
        If the run is in neither, or only in a catalog that cannot say which frame belongs to which point.
    """
    if log_directory is not None:
        try:
            return read_documents(uid, log_directory)
        except DocumentLogError:
            if catalog is None:
                raise
    if catalog is not None and uid in catalog.client:
        if (catalog.client[uid].metadata.get("stop") or {}).get(ROWS_LEFT_OUT):
            raise DocumentLogError(f"run {uid} cannot be replayed from the catalog: {FRAMES_MISPLACED}")
        # tiled gives an empty stop document for a run that has none
        return ((name, dict(document)) for name, document in catalog.client[uid].documents() if document)
    raise DocumentLogError(f"run {uid!r} is neither in the document log nor in the catalog: check the uid")


def replay(
    documents: Iterable[Document],
    *callbacks: Callable[[str, dict[str, Any]], Any],
    speed: float | None = None,
    stop: threading.Event | None = None,
) -> int:
    """Give documents to callbacks, in the order of both.

    A run whose record has no stop document, as after a crash or while it goes on, gets one with which it was aborted:
    without it nothing would work on the frames that wait for more.

    Parameters
    ----------
    documents : iterable of (str, dict)
        From `documents_of` or `nsbluesky.document_log.read_documents`.
    *callbacks : callable
        Called with the name and the document, as by the RunEngine.
    speed : float, optional
        1 keeps the pace of the recording, 2 is twice as fast; None does not wait at all.
    stop : Event, optional
        Set by another thread, it ends the replay after the current document.

    Returns
    -------
    int
        Documents given, with those that were added.
    """
    if speed is not None and not speed > 0:
        raise ValueError(f"speed = {speed!r}: expected a positive factor, or None for as fast as possible")
    interrupt = stop if stop is not None else threading.Event()
    began = time.monotonic()
    first: float | None = None
    count = 0
    unended: set[str] = set()

    def give(name: str, document: dict[str, Any]) -> None:
        nonlocal count
        for callback in callbacks:
            callback(name, document)
        count += 1

    for name, document in documents:
        moment = _moment(document)
        if speed is not None and moment is not None:
            first = moment if first is None else first
            interrupt.wait(max(0.0, began + (moment - first) / speed - time.monotonic()))
        if interrupt.is_set():
            return count
        give(name, document)
        if name == "start":
            unended.add(document["uid"])
        elif name == "stop":
            unended.discard(document["run_start"])
    for uid in unended:
        give("stop", aborted(uid, NO_END))
    return count


def how_it_ended(stop: Mapping[str, Any]) -> str:
    """Return what a stop document says of the end of its run, as in ``abort: the beam was lost``."""
    status, reason = str(stop.get("exit_status", "success")), stop.get("reason")
    return f"{status}: {reason}" if reason else status


def _moment(document: dict[str, Any]) -> float | None:
    """Return when a document was made; the last event's time for a page, None for documents without a time."""
    moment = document.get("time")
    if isinstance(moment, (list, tuple)):
        moment = moment[-1] if moment else None
    return None if moment is None else float(moment)
