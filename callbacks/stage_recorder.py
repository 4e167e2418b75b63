"""StageRecorder: what chosen stages yield goes into HDF5 files, from now on, while a run goes on."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.array_file import ArrayFile
from nsbluesky.disk_space import NoSpace, require_space
from nsbluesky.folders import new_file
from nsbluesky.run_index import RunIndex
from nsbluesky.settings import SettingsError
from nsbluesky.streams import holds_frames

__all__ = ["STAGES", "StageRecorder"]

log = logging.getLogger(__name__)

RAW = "raw"
STAGES = (
    RAW,
    "dark_statistics",
    "detector",
    "clean",
    "low_resolution",
    "geometry",
    "reconstruction",
    "second_engine",
)
"""What can be recorded: raw frames and darks as they were read, and the derived run's streams that hold arrays."""


class StageRecorder:
    """Callback: write what stages yield to ``<raw uid>_<stream>.h5``, each stage switched on and off at any time.

    A file has a dataset for each data key, whose first axis counts events, and ``seq_num`` and ``time`` beside them;
    it can be read while it grows.  ``seq_num`` is written last: a row counts when it has a number.  The attributes
    tell the run and its start document.

    Where a file cannot be written, as on a full disk, its recording ends with an error, which the processor tells in
    the ``health`` stream; nothing else stops.  It begins anew with the next `record`.

    Parameters
    ----------
    directory : path
        Made where missing.

    Attributes
    ----------
    paths : list of Path
        The files so far.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.paths: list[Path] = []
        self._stages: frozenset[str] = frozenset()
        self._index = RunIndex()
        self._starts: dict[str, Mapping[str, Any]] = {}
        self._streams: dict[str, str] = {}
        self._files: dict[tuple[str, str], ArrayFile] = {}
        self._failed: frozenset[tuple[str, str]] = frozenset()
        self._damaged: list[ArrayFile] = []

    @property
    def stages(self) -> list[str]:
        """What is recorded now, in the order of the processing."""
        return [stage for stage in STAGES if stage in self._stages]

    def record(self, stages: Collection[str]) -> None:
        """Record these stages from now on and no others; any thread.

        Raises
        ------
        SettingsError
            For a stage that there is not.
        """
        for stage in stages:
            if stage not in STAGES:
                raise SettingsError(f"stage {stage!r:.40} cannot be recorded: expected some of {', '.join(STAGES)}")
        self._failed = frozenset()
        self._stages = frozenset(stages)

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Take one document of a derived run; other runs are left alone."""
        for uid in self._index.runs_of(name, document):
            if name == "start" and "raw_uid" in document:
                self._starts[uid] = document
            if uid in self._starts:
                self._take(uid, name, document)

    def close(self) -> None:
        """Close the files of runs that did not stop."""
        for key in list(self._files):
            self._close(key)

    def _take(self, uid: str, name: str, document: Mapping[str, Any]) -> None:
        if name == "descriptor":
            self._streams[document["uid"]] = document["name"]
        elif name in ("event", "event_page"):
            stream = self._streams[document["descriptor"]]
            if _stage_of(stream) not in self._stages:
                self._close((uid, stream))
            elif (uid, stream) not in self._failed:
                self._write((uid, stream), _columns(document))
        elif name == "stop":
            del self._starts[uid]
            for key in [key for key in self._files if key[0] == uid]:
                self._close(key)

    def _write(self, key: tuple[str, str], columns: Mapping[str, npt.NDArray[Any]]) -> None:
        try:
            require_space(self.directory, sum(column.nbytes for column in columns.values()))
            if key not in self._files:
                self._files[key] = self._open(*key, {name: column[0] for name, column in columns.items()})
            self._files[key].extend(columns)
        except NoSpace:
            self._failed |= {key}
            self._close(key)
            raise
        except (OSError, RuntimeError):  # RuntimeError: HDF5, where it cannot grow a dataset
            self._failed |= {key}
            if key in self._files:
                self._damaged.append(self._files.pop(key))  # HDF5 may crash where it closes one after an error
            raise

    def _open(self, uid: str, stream: str, first: Mapping[str, npt.NDArray[Any]]) -> ArrayFile:
        start = self._starts[uid]
        path = new_file(self.directory, f"{start['raw_uid']:.8}_{stream}.h5")
        about = {"raw_uid": start["raw_uid"], "uid": uid, "stream": stream, "start": json.dumps(start)}
        file = ArrayFile(path, first, about)
        self.paths.append(path)
        return file

    def _close(self, key: tuple[str, str]) -> None:
        file = self._files.pop(key, None)
        if file is not None:
            file.close()


def _stage_of(stream: str) -> str:
    return RAW if holds_frames(stream) else stream


def _columns(document: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Return what is to be written of an event or a page: arrays (n, …) by data key, and last the numbers."""
    if isinstance(document["seq_num"], int):
        columns = {key: value[None] for key, value in _arrays(document["data"])}
    else:
        columns = dict(_arrays(document["data"]))
    columns["time"] = np.atleast_1d(np.asarray(document["time"], float))
    columns["seq_num"] = np.atleast_1d(np.asarray(document["seq_num"], np.int64))
    return columns


def _arrays(data: Mapping[str, Any]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield arrays, and numbers and lists of them as arrays; texts are left out."""
    for key, value in data.items():
        array = np.asarray(value)
        if array.dtype.kind in "biufc":
            yield key, array.astype(np.uint8) if array.dtype.kind == "b" else array
