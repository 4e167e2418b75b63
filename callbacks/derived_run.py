"""Compose the documents of a derived run: what the processing of one raw run has to say.

Arrays stay arrays: events are *filled*, so that stages in one process hand over pointers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import event_model
import numpy as np

from nsbluesky._version import __version__
from nsbluesky.settings import PipelineSettings

__all__ = ["DerivedRun", "Document", "num_bytes", "split_page", "units_of"]

Document = tuple[str, dict[str, Any]]
"""The name of a document and the document, as callbacks receive them."""

COPIED = ("ptycho", "sample")
"""What a derived start document takes over from the raw one."""

UNITS = {
    "frame": "photons",
    "photons": "photons",
    "illumination": "photons",
    "transmission": "photons",
    "dark_field": "photons",
    "dpc_x": "px",
    "dpc_y": "px",
    "mean": "ADU",
    "std": "ADU",
}
"""Units that the name of a data key does not say; those that end in one of `SUFFIXES` do."""
SUFFIXES = {"_1_m": "1/m", "_m": "m", "_s": "s", "_hz": "Hz", "_px": "px", "_rad": "rad", "_adu": "ADU"}

ExitStatus = Literal["success", "abort", "fail"]

_DTYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}

_valid: set[tuple[str, str]] = set()
"""Streams and what their descriptors say that are known to fit the schema: to look costs 10 ms, at each run's first
frame."""


class DerivedRun:
    """The derived run of one raw run.

    Parameters
    ----------
    raw_start : dict
        Start document of the raw run.
    settings : PipelineSettings
        Recorded in the derived start document.
    """

    def __init__(self, raw_start: Mapping[str, Any], settings: PipelineSettings) -> None:
        metadata = {
            "plan_name": "ptycho_processing",
            "raw_uid": raw_start["uid"],
            "settings": settings.to_dict(),
            "version": __version__,
        }
        metadata |= {key: raw_start[key] for key in COPIED if key in raw_start}
        self._run = event_model.compose_run(metadata=metadata)
        self._streams: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        self.start_document: dict[str, Any] = dict(self._run.start_doc)

    @property
    def uid(self) -> str:
        """The uid of the derived run."""
        return str(self.start_document["uid"])

    def owns(self, document: Mapping[str, Any]) -> bool:
        """Return whether a start, descriptor or stop document belongs to this run."""
        return self.uid in (document.get("run_start"), document["uid"])

    def stream_of(self, document: Mapping[str, Any]) -> str:
        """Return the stream of this run that an event or event page belongs to; "" for those of other runs."""
        return self._names.get(document.get("descriptor", ""), "")

    def event(self, stream: str, **data: Any) -> list[Document]:
        """Return the documents that add one event: the event, and its stream's descriptor before the first one."""
        documents = self._descriptor(stream, data, page=False)
        now = time.time()
        document = self._streams[stream].compose_event(
            data=data,
            timestamps=dict.fromkeys(data, now),
            filled={key: True for key, value in data.items() if isinstance(value, np.ndarray)},
            time=now,
            validate=False,
        )
        return [*documents, ("event", dict(document))]

    def page(self, stream: str, seq_nums: Sequence[int], times: Sequence[float], **data: Any) -> list[Document]:
        """Return the documents that add a block of events, each column of `data` an array of `len(seq_nums)` rows."""
        documents = self._descriptor(stream, data, page=True)
        count = len(seq_nums)
        document = self._streams[stream].compose_event_page(
            data=data,
            timestamps={key: list(times) for key in data},
            seq_num=list(seq_nums),
            filled={key: [True] * count for key, value in data.items() if value.ndim > 1},
            time=list(times),
            validate=False,
        )
        return [*documents, ("event_page", dict(document))]

    def stop(self, exit_status: ExitStatus = "success", reason: str = "") -> Document:
        """Return the stop document."""
        return "stop", dict(self._run.compose_stop(exit_status=exit_status, reason=reason))

    def _descriptor(self, stream: str, data: Mapping[str, Any], page: bool) -> list[Document]:
        if stream in self._streams:
            return []
        keys = {key: _data_key(stream, value, page) | units_of(stream, key) for key, value in data.items()}
        described = stream, repr(keys)
        self._streams[stream] = self._run.compose_descriptor(
            name=stream, data_keys=keys, validate=described not in _valid
        )
        _valid.add(described)
        document = dict(self._streams[stream].descriptor_doc)
        self._names[document["uid"]] = stream
        return [("descriptor", document)]


def _is_array(value: Any) -> bool:
    """Return whether a value is an array, or stands for one that is read when it is used."""
    return hasattr(value, "__array__") and value.ndim > 0


def _data_key(stream: str, value: Any, page: bool) -> dict[str, Any]:
    """Describe one value; sides of arrays may change from event to event, as the object's canvas grows."""
    source = f"nsbluesky:{stream}"
    if _is_array(value) and (value.ndim > 1 or not page):
        inner = value.ndim - 1 if page else value.ndim
        return {
            "source": source,
            "dtype": "array",
            "dtype_numpy": value.dtype.str,
            "shape": [None] * inner,
            "external": "MEMORY:",
        }
    if isinstance(value, np.ndarray):
        kind = {"i": int, "u": int, "b": bool}.get(value.dtype.kind, float)
        return {"source": source, "dtype": _DTYPES[kind], "shape": []}
    if isinstance(value, (list, tuple)):
        return {"source": source, "dtype": "array", "shape": [None]}
    if type(value) not in _DTYPES:
        raise TypeError(
            f"{stream}: a value of type {type(value).__name__}: expected an array or a plain number or text"
        )
    return {"source": source, "dtype": _DTYPES[type(value)], "shape": []}


def units_of(stream: str, key: str) -> dict[str, str]:
    """Return what a descriptor tells of the units of a data key; nothing where it has none."""
    if key == "frame" and stream != "clean":
        return {"units": "ADU"}
    if key in UNITS:
        return {"units": UNITS[key]}
    unit = next((unit for suffix, unit in SUFFIXES.items() if key.endswith(suffix)), "")
    return {"units": unit} if unit else {}


def num_bytes(document: Mapping[str, Any]) -> int:
    """Return the size of the arrays in an event or a page."""
    return sum(getattr(value, "nbytes", 0) for value in document.get("data", {}).values())


def split_page(page: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Split an event page into pages of one event each (views, no copies)."""
    return [
        {
            **page,
            "uid": page["uid"][i : i + 1],
            "time": page["time"][i : i + 1],
            "seq_num": page["seq_num"][i : i + 1],
            "data": {key: column[i : i + 1] for key, column in page["data"].items()},
            "timestamps": {key: column[i : i + 1] for key, column in page["timestamps"].items()},
            "filled": {key: column[i : i + 1] for key, column in page["filled"].items()},
        }
        for i in range(len(page["seq_num"]))
    ]
