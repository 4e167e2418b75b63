"""Documents of runs as tests look at them: validated, and read back by seq_num (the later wins)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import event_model
import h5py
import numpy as np
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted

TIMEOUT_S = 30.0


class RecordedRun:
    """A callback that validates each document, keeps it, and tells when a number of them came."""

    def __init__(self) -> None:
        self.documents: list[tuple[str, dict[str, Any]]] = []
        self._conditions: list[tuple[Callable[[RecordedRun], bool], threading.Event]] = []

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        schema = event_model.schema_validators[event_model.DocumentNames[name]]
        schema.validate(event_model.sanitize_doc(document))
        self.documents.append((name, document))
        for condition, event in self._conditions:
            if condition(self):
                event.set()

    def when(self, condition: Callable[[RecordedRun], bool]) -> threading.Event:
        """Return an event that is set at the first document after which the condition holds."""
        event = threading.Event()
        self._conditions.append((condition, event))
        return event

    def all(self, name: str) -> list[dict[str, Any]]:
        return [document for kind, document in self.documents if kind == name]

    def counts(self) -> Counter[str]:
        return Counter(name for name, _ in self.documents)

    @property
    def start(self) -> dict[str, Any]:
        (document,) = self.all("start")
        return document

    @property
    def stop(self) -> dict[str, Any]:
        (document,) = self.all("stop")
        return document

    def streams(self) -> dict[str, str]:
        """Descriptor uid to stream name."""
        return {d["uid"]: d["name"] for d in self.all("descriptor")}

    def descriptor(self, stream: str) -> dict[str, Any]:
        return next(d for d in self.all("descriptor") if d["name"] == stream)

    def events(self, stream: str) -> list[dict[str, Any]]:
        names = self.streams()
        return [event for event in self.all("event") if names[event["descriptor"]] == stream]

    def data(self, stream: str) -> list[tuple[str, dict[str, Any]]]:
        """(data key, stream_datum) of one stream, in order."""
        names = self.streams()
        keys = {r["uid"]: r["data_key"] for r in self.all("stream_resource")}
        found = [d for d in self.all("stream_datum") if names[d["descriptor"]] == stream]
        return [(keys[d["stream_resource"]], d) for d in found]

    def values_told(self, stream: str, key: str) -> set[int]:
        """The seq_nums of one data key that documents told of; nothing is read."""
        told = {n for name, d in self.data(stream) if name == key for n in range(*d["seq_nums"].values())}
        return told | {event["seq_num"] for event in self.events(stream) if key in event["data"]}

    def values(self, stream: str, key: str) -> dict[int, Any]:
        """Values of one data key by seq_num; the later wins."""
        values: dict[int, Any] = {}
        resources = {r["uid"]: r for r in self.all("stream_resource")}
        for name, datum in self.data(stream):
            if name != key:
                continue
            resource = resources[datum["stream_resource"]]
            with h5py.File(path_of(resource), "r", swmr=True, libver="latest") as file:
                rows = file[resource["parameters"]["dataset"]][datum["indices"]["start"] : datum["indices"]["stop"]]
            seq_nums = range(datum["seq_nums"]["start"], datum["seq_nums"]["stop"])
            assert len(rows) == len(seq_nums)
            values.update(zip(seq_nums, rows, strict=True))
        for event in self.events(stream):
            if key in event["data"]:
                values[event["seq_num"]] = event["data"][key]
        return values

    def column(self, stream: str, key: str) -> Any:
        """Values in the order of seq_num, which must run from 1 without a gap."""
        values = self.values(stream, key)
        assert sorted(values) == list(range(1, len(values) + 1))
        return np.array([values[n] for n in sorted(values)])


def path_of(resource: dict[str, Any]) -> Path:
    return Path(unquote(urlparse(resource["uri"]).path))


def interrupt(RE: RunEngine, plan: Any, when: threading.Event, action: Callable[[], Any]) -> None:
    """Run a plan that another thread interrupts as soon as an event is set."""

    def wait_and_act() -> None:
        if when.wait(TIMEOUT_S):
            action()

    thread = threading.Thread(target=wait_and_act, name="interrupter")
    thread.start()
    try:
        RE(plan)
    except RunEngineInterrupted:
        pass
    else:
        raise AssertionError("the plan ended before it was interrupted")
    finally:
        thread.join(TIMEOUT_S)
