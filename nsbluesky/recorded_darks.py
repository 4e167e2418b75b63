"""Darks of an earlier run for a new one: found in the document log, checked against the camera, and told again.

The new run's dark streams refer to the earlier run's files.  So whatever reads the new run, also when it is replayed,
finds the same darks in it, and needs nothing of the earlier run but its frames.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from event_model import compose_stream_resource

from nsbluesky.document_log import LATEST, SUFFIX, DocumentLogError, find_log, find_runs, read_documents
from nsbluesky.folders import data_directory
from nsbluesky.streams import PRIMARY, exposure_of_dark

__all__ = ["LATEST", "DarkRun", "DarkStream", "DarksError", "RecordedDarks", "find_darks", "read_dark_run"]

SAME_EXPOSURE = 1e-6
"""Relative difference up to which two exposure times are one."""

Part = tuple[Mapping[str, Any], int, int]
"""A stream resource, and the first and last + 1 of its rows."""


class DarksError(ValueError):
    """The darks of an earlier run cannot be taken; the message says why and what to do."""


@dataclass
class DarkStream:
    """The darks of one exposure.

    Attributes
    ----------
    descriptor : dict
        Event descriptor of the stream.
    key : str
        Data key of the frames.
    parts : list
        Where the frames are, in their order.
    """

    descriptor: Mapping[str, Any]
    key: str
    parts: list[Part] = field(default_factory=list)

    @property
    def num_frames(self) -> int:
        """How many there are."""
        return sum(stop - start for _, start, stop in self.parts)

    def add(self, resource: Mapping[str, Any], start: int, stop: int) -> None:
        """Add the rows of a file; rows that go on where the last ones end are one part with them."""
        if self.parts and self.parts[-1][0]["uid"] == resource["uid"] and self.parts[-1][2] == start:
            start = self.parts.pop()[1]
        self.parts.append((resource, start, stop))

    def misfit(self, fccd: Any) -> str:
        """Return why they do not fit the camera as it is now, exposure aside; "" where they do."""
        configuration = self.descriptor.get("configuration", {}).get(fccd.name)
        if configuration is None:
            return f"its darks are not of {fccd.name!r}"
        shape = tuple(self.descriptor["data_keys"][self.key]["shape"][-2:])
        if shape != tuple(fccd.frame_shape):
            return f"its darks are of {shape} pixels: expected {tuple(fccd.frame_shape)}"
        then, now = configuration["data"], fccd.read_configuration()
        for name in fccd.dark_signals:
            if name in then and then[name] != now[name]["value"]:
                return f"{name} was {then[name]!r} for its darks and is {now[name]['value']!r} now"
        for resource, *_ in self.parts:
            path = Path(unquote(urlparse(resource["uri"]).path))
            if path.parent.is_dir() and not path.is_file():
                return f"its darks are gone: there is no {path}"
        return ""


@dataclass(frozen=True)
class DarkRun:
    """The darks that a run has taken itself.

    Attributes
    ----------
    uid : str
    time : float
        When it began, in seconds since 1970.
    streams : dict
        By exposure time in seconds; only exposures with frames.
    """

    uid: str
    time: float
    streams: Mapping[float, DarkStream]

    @property
    def name(self) -> str:
        """The run for messages."""
        return f"run {self.uid[:8]} ({time.strftime('%Y-%m-%d %H:%M', time.localtime(self.time))})"

    def of(self, exposure_s: float) -> DarkStream | None:
        """Return the darks of an exposure time; None where there are none."""
        for other_s, stream in self.streams.items():
            if math.isclose(other_s, exposure_s, rel_tol=SAME_EXPOSURE):
                return stream
        return None

    def misfit(self, fccd: Any, exposures_s: Sequence[float]) -> str:
        """Return why these darks do not fit a scan of the camera as it is now; "" where they do.

        What counts is the shape of the frames, and what the camera's `dark_signals` name beside the exposure times.
        """
        if not self.streams:
            return "it has no dark frames of its own in files"
        for exposure_s in exposures_s:
            stream = self.of(exposure_s)
            if stream is None:
                there = ", ".join(f"{one_s:g}" for one_s in self.streams)
                return f"its darks are of {there} s: expected {exposure_s:g} s"
            if why := stream.misfit(fccd):
                return why
        return ""


def find_darks(told: str, fccd: Any, exposures_s: Sequence[float]) -> DarkRun:
    """Return the darks of an earlier run for a scan; document logs are in ``documents`` in the user's data folder.

    Parameters
    ----------
    told : str
        The run's uid (the beginning will do), the path of its document log, or "latest": the newest run that has
        taken darks which fit.
    fccd : Device
        The camera as it will measure.
    exposures_s : sequence of float
        Exposure times of the scan.

    Raises
    ------
    DarksError
        Where there is no such run, or its darks do not fit the scan and the camera.
    """
    told = str(told)  # a path is fine
    directory = data_directory() / "documents"
    if told == LATEST:
        return _latest(fccd, exposures_s, directory)
    try:
        is_path = told.endswith(SUFFIX)
        run = read_dark_run(Path(told) if is_path else find_log(told, directory))
    except DocumentLogError as error:
        raise DarksError(f"darks_from = {told!r}: {error}") from error
    if why := run.misfit(fccd, exposures_s):
        raise DarksError(f"darks_from = {told!r}: the darks of {run.name} do not fit: {why}; {_ADVICE}")
    return run


def _latest(fccd: Any, exposures_s: Sequence[float], directory: Path) -> DarkRun:
    newest = ""
    for logged in find_runs(directory):
        if "ptycho" not in logged.start or "darks_from" in logged.start["ptycho"]:
            continue
        try:
            run = read_dark_run(logged.path)
        except (DocumentLogError, LookupError):  # a log that a crash has damaged
            continue
        why = run.misfit(fccd, exposures_s)
        if not why:
            return run
        if run.streams and not newest:
            newest = f"; of {run.name}, the newest with darks: {why}"
    raise DarksError(f"darks_from = {LATEST!r}: no run in {directory} has darks that fit{newest}; {_ADVICE}")


_ADVICE = "take some with ptycho_darks, or leave darks_from out"


def read_dark_run(path: Path) -> DarkRun:
    """Return the darks that a run has taken, from its document log, which is read up to the first frame with light.

    A run that has none of its own but those of an earlier run counts as that one.

    Raises
    ------
    DocumentLogError
        If the log cannot be read.
    """
    documents = read_documents(path)
    _, start = next(documents, ("", None))
    if not isinstance(start, dict) or "ptycho" not in start:
        raise DocumentLogError(f"{path}: not a run of a ptycho plan")
    ptycho = start["ptycho"]
    streams: dict[int, DarkStream] = {}
    of_descriptor: dict[str, DarkStream] = {}
    resources: dict[str, dict[str, Any]] = {}
    for name, document in documents:
        if name == "descriptor" and document["name"] == PRIMARY:
            break
        if name == "descriptor" and (exposure := exposure_of_dark(document["name"])) is not None:
            stream = streams.setdefault(exposure, DarkStream(document, str(ptycho.get("keys", {}).get("image", ""))))
            of_descriptor[document["uid"]] = stream
        elif name == "stream_resource":
            resources[document["uid"]] = document
        elif name == "stream_datum" and document["descriptor"] in of_descriptor:
            stream, resource = of_descriptor[document["descriptor"]], resources[document["stream_resource"]]
            if resource["data_key"] == stream.key:
                stream.add(resource, document["indices"]["start"], document["indices"]["stop"])
    by_time = {
        float(exposure_s): streams[k]
        for k, exposure_s in enumerate(ptycho.get("exposures_s", ()))
        if k in streams and streams[k].num_frames
    }
    return DarkRun(str(ptycho.get("darks_from", start["uid"])), float(start["time"]), by_time)


class RecordedDarks:
    """Darks that are there already, as bluesky collects those of a camera: each `collect` tells of one more part.

    Parameters
    ----------
    fccd : Device
        The camera that they stand for.
    stream : DarkStream
    """

    parent = None

    def __init__(self, fccd: Any, stream: DarkStream) -> None:
        self.name = str(fccd.name)
        self._key = str(fccd.image_key)
        self._stream = stream
        self._told = 0

    def describe_collect(self) -> dict[str, Any]:
        """Describe the frames as the earlier run did."""
        return {self._key: {**self._stream.descriptor["data_keys"][self._stream.key]}}

    def read_configuration(self) -> dict[str, Any]:
        """Return how the camera was when they were taken."""
        configuration = self._configuration
        stamps = configuration["timestamps"]
        return {name: {"value": value, "timestamp": stamps[name]} for name, value in configuration["data"].items()}

    def describe_configuration(self) -> dict[str, Any]:
        """Describe what `read_configuration` returns."""
        return dict(self._configuration["data_keys"])

    @property
    def _configuration(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._stream.descriptor["configuration"][self.name]
        return found

    @property
    def num_parts(self) -> int:
        """How often to collect."""
        return len(self._stream.parts)

    def get_index(self) -> int:
        """Return how many frames there are."""
        return self._stream.num_frames

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, Any]]:
        """Yield the documents of the next part."""
        if self._told == self.num_parts:
            return
        resource, start, stop = self._stream.parts[self._told]
        self._told += 1
        bundle = compose_stream_resource(
            mimetype=resource["mimetype"],
            uri=resource["uri"],
            data_key=self._key,
            parameters=dict(resource["parameters"]),
        )
        yield "stream_resource", bundle.stream_resource_doc
        yield "stream_datum", bundle.compose_stream_datum({"start": start, "stop": stop})
