"""What viewers get: small copies of the derived documents, and the state so far for those that come late."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nsbluesky.callbacks.stage import DocumentError
from nsbluesky.streams import PRIMARY, holds_frames

__all__ = ["Previews", "Snapshot"]

Document = tuple[str, dict[str, Any]]

PREVIEW_INTERVAL_S = 0.4
"""Of each stream of frames, at most one frame in this time goes to the viewers."""

MAX_RUNS = 2
"""How many runs a late viewer is told of."""
WHOLE = (PRIMARY, "clean")
"""Streams of which a late viewer gets the numbers of all frames: positions, photons."""
MAX_PAGES = 64
"""Pages of such a stream that are kept apart; more are merged into one."""
HISTORY = "reconstruction"
"""The stream of which a late viewer gets the numbers of earlier events: how R came down."""
MAX_HISTORY = 2000
"""Earlier events that are kept; of more than these, every second one is forgotten."""
MAX_STREAMS = 64
"""Streams, the latest ones, whose names are known after the end of a run, as another one may go on."""


class Previews:
    """Thins the documents of derived runs: of a block of frames only the last is left, now and then.

    Frames that are left out are not *filled*: in their place stands "".  All numbers of the block stay.
    """

    def __init__(self, interval_s: float = PREVIEW_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._streams: dict[str, str] = {}
        self._next: dict[str, float] = {}

    def __call__(self, name: str, document: dict[str, Any]) -> dict[str, Any]:
        """Return the document as viewers get it."""
        if name == "descriptor":
            self._streams[document["uid"]] = document["name"]
        elif name == "stop":
            self._streams = dict(list(self._streams.items())[-MAX_STREAMS:])
            self._next.clear()
        elif name == "event_page":
            stream = self._streams.get(document["descriptor"], "")
            if stream == "clean" or holds_frames(stream):
                return self._thin(stream, document)
        return document

    def _thin(self, stream: str, page: dict[str, Any]) -> dict[str, Any]:
        now = time.monotonic()
        shown = now >= self._next.get(stream, 0.0)
        if shown:
            self._next[stream] = now + self._interval_s
        return without_frames(page, keep_last=shown)


def without_frames(page: Mapping[str, Any], keep_last: bool) -> dict[str, Any]:
    """Return a page whose frames are not filled, except the last one where it is to be kept."""
    count = len(page["seq_num"])
    kept = [False] * (count - 1) + [keep_last]
    frames: list[Any] = [""] * count
    if keep_last:
        try:
            frames[-1] = np.ascontiguousarray(page["data"]["frame"][-1])
        except DocumentError:  # a frame that only its worker was to read, and that cannot be read
            kept[-1] = False
    return {**page, "data": {**page["data"], "frame": frames}, "filled": {**page["filled"], "frame": kept}}


def without_arrays(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event whose images are not filled."""
    images = [key for key, value in event["data"].items() if np.ndim(value) > 1]
    data = {**event["data"], **dict.fromkeys(images, "")}
    return {**event, "data": data, "filled": {**event["filled"], **dict.fromkeys(images, False)}}


class Snapshot:
    """Start, descriptors, newest event of each stream and stop of the newest derived runs; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, _RunState] = {}
        self._run_of: dict[str, str] = {}

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Take a document as viewers get it."""
        with self._lock:
            if name == "start":
                self._runs[document["uid"]] = _RunState(document)
                for uid in list(self._runs)[:-MAX_RUNS]:
                    del self._runs[uid]
                    self._run_of = {d: run for d, run in self._run_of.items() if run != uid}
                return
            uid = document.get("run_start") or self._run_of.get(document.get("descriptor", ""), "")
            if name == "descriptor":
                self._run_of[document["uid"]] = uid
            if uid in self._runs:
                self._runs[uid].take(name, document)

    def documents(self) -> list[Document]:
        """Return what makes a late viewer see what the others see, oldest run first."""
        with self._lock:
            return [document for run in self._runs.values() for document in run.documents()]

    def has(self, uid: str) -> bool:
        """Return whether a run is among them."""
        with self._lock:
            return uid in self._runs

    def clear(self) -> None:
        """Forget the runs that have stopped."""
        with self._lock:
            self._runs = {uid: run for uid, run in self._runs.items() if run.stop is None}

    def drop_open(self) -> None:
        """Forget the runs that have not stopped, as nothing more comes of them."""
        with self._lock:
            self._runs = {uid: run for uid, run in self._runs.items() if run.stop is not None}


class _RunState:
    """What a late viewer gets of one run."""

    def __init__(self, start: dict[str, Any]) -> None:
        self.start = start
        self.stop: dict[str, Any] | None = None
        self._descriptors: list[dict[str, Any]] = []
        self._streams: dict[str, str] = {}
        self._events: dict[str, Document] = {}
        self._pages: dict[str, list[dict[str, Any]]] = {}
        self._history: list[dict[str, Any]] = []

    def take(self, name: str, document: dict[str, Any]) -> None:
        if name == "descriptor":
            self._descriptors.append(document)
            self._streams[document["uid"]] = document["name"]
        elif name == "stop":
            self.stop = document
        elif name == "event":
            earlier = self._events.get(self._key(document))
            if earlier is not None and self._streams.get(document["descriptor"]) == HISTORY:
                self._history.append(without_arrays(earlier[1]))
                if len(self._history) > MAX_HISTORY:
                    del self._history[1::2]
            self._events[self._key(document)] = (name, document)
        elif name == "event_page":
            if document["filled"].get("frame", [True])[-1] is not False:  # the last frame that was filled stays
                self._events[self._key(document)] = (name, document)
            if self._streams.get(document["descriptor"]) in WHOLE:
                pages = self._pages.setdefault(document["descriptor"], [])
                pages.append(without_frames(document, keep_last=False))
                if len(pages) > MAX_PAGES:
                    pages[:] = [_merge(pages)]

    def documents(self) -> Iterator[Document]:
        yield "start", self.start
        for descriptor in self._descriptors:
            yield "descriptor", descriptor
        for pages in self._pages.values():
            yield "event_page", _merge(pages)
        for event in self._history:
            yield "event", event
        yield from self._events.values()
        if self.stop is not None:
            yield "stop", self.stop

    def _key(self, document: Mapping[str, Any]) -> str:
        """Return what a newer event replaces: its stream, and where a stream tells of several things, which."""
        data = document["data"]
        return f"{document['descriptor']}/{data.get('stage', '')}/{data.get('exposure', '')}"


def _merge(pages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return pages of one stream as one page."""
    if len(pages) == 1:
        return pages[0]
    first = pages[0]

    def columns(part: str) -> dict[str, list[Any]]:
        return {key: [value for page in pages for value in page[part][key]] for key in first[part]}

    return {
        **first,
        "uid": [uid for page in pages for uid in page["uid"]],
        "time": [moment for page in pages for moment in page["time"]],
        "seq_num": [number for page in pages for number in page["seq_num"]],
        "data": columns("data"),
        "timestamps": columns("timestamps"),
        "filled": columns("filled"),
    }
