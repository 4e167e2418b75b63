"""The verbatim log of documents: what a run said, in its order, one JSON line each; replay starts from here.

One file per run, ``<uid>.jsonl``, written and flushed document by document: after a crash all but the line that was
being written is there.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from nsbluesky.latest import Latest
from nsbluesky.run_index import RunIndex

__all__ = [
    "LATEST",
    "SUFFIX",
    "UID",
    "DocumentLog",
    "DocumentLogError",
    "GrowingLog",
    "LoggedRun",
    "aborted",
    "encode",
    "encode_metadata",
    "end_log",
    "find_log",
    "find_runs",
    "read_documents",
]

logger = logging.getLogger(__name__)

ARRAY_KEY = "__ndarray__"
SUFFIX = ".jsonl"
LATEST = "latest"
"""Stands for the newest run where the uid of one is expected."""
UID = re.compile(r"[A-Za-z0-9_-]+")
NUMBER = re.compile(r"-?[0-9]{1,18}")


class DocumentLogError(ValueError):
    """A log that cannot be read or a run that is not in it; the message says what and what to do."""


@dataclass(frozen=True)
class LoggedRun:
    """A run in the log.

    Attributes
    ----------
    uid : str
    path : Path
    start : dict
        Its start document.
    """

    uid: str
    path: Path
    start: dict[str, Any]


class DocumentLog:
    """Callback: write every document of every run, verbatim.

    Runs may overlap.  Arrays in events are written bit by bit; metadata that JSON does not know, as a path or a date,
    become texts; of a text that is no Unicode the broken signs are replaced.  A run that is in the directory already,
    as when it is replayed, is not written again.  Trouble (a full disk) ends the log of that run, never the run.

    Parameters
    ----------
    directory : path
        Made where missing.

    Attributes
    ----------
    errors : dict
        What went wrong, by the run's uid; of the latest runs.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).absolute()  # a session may change its own
        self.directory.mkdir(parents=True, exist_ok=True)
        self.errors: dict[str, str] = Latest()
        self._index = RunIndex()
        self._files: dict[str, TextIO] = {}

    def __call__(self, name: str, document: Mapping[str, Any]) -> None:
        """Write one document and flush it."""
        for uid in self._index.runs_of(name, document):
            try:
                if name == "start":
                    self._open(uid)
                if uid in self._files:
                    self._files[uid].write(_to_line(name, document))
                    self._files[uid].flush()
            except (OSError, TypeError, ValueError) as error:
                self.errors[uid] = str(error)
                logger.error("the document log of run %s ends here: %s", uid, error)
                self._close(uid)
            if name == "stop":
                self._close(uid)

    def leave(self, uid: str) -> None:
        """Close the log of a run of which nothing more comes, not even its stop document."""
        self._index.runs_of("stop", {"run_start": uid})
        self._close(uid)

    def close(self) -> None:
        """Close the logs of runs that did not stop."""
        for uid in list(self._files):
            self._close(uid)

    def _open(self, uid: str) -> None:
        path = _path_of(uid, self.directory)
        try:
            self._files[uid] = path.open("x", encoding="utf-8")
            with contextlib.suppress(OSError):  # some network disks know no locks
                fcntl.flock(self._files[uid], fcntl.LOCK_SH)
        except FileExistsError:
            logger.info("run %s is in the log already: %s stays as it is", uid, path)

    def _close(self, uid: str) -> None:
        file = self._files.pop(uid, None)
        if file is not None:
            with contextlib.suppress(OSError):  # what could not be flushed was told when it was written
                file.close()


def find_log(uid: str, directory: str | Path) -> Path:
    """Return the log file of a run.

    Parameters
    ----------
    uid : str
        Its uid or the beginning of it; or, as for a catalog, its scan_id, of which the latest run counts, or -1 for
        the run that began last and -2 for the one before it; "latest" is -1.
    directory : path
        Of the log.

    Raises
    ------
    DocumentLogError
        If there is no such run, or the uid's beginning fits several.
    """
    directory = Path(directory)
    if uid == LATEST:
        runs = find_runs(directory)
        if not runs:
            raise DocumentLogError(f"{directory}: no run is in this document log; check the folder")
        return runs[0].path
    path = _path_of(uid, directory)
    if not path.is_file():
        found = sorted(directory.glob(f"{uid}*{SUFFIX}"))
        if len(found) > 1:
            raise DocumentLogError(f"{len(found)} runs begin with {uid!r}: give more of the uid")
        path = found[0] if found else _by_number(uid, directory) or path
    return _existing(path)


def _by_number(text: str, directory: Path) -> Path | None:
    """Return the log of the latest run of a scan_id, or of a run counted from the last; None where there is none."""
    if not NUMBER.fullmatch(text):
        return None
    number, runs = int(text), find_runs(directory)
    if number < 0:
        return runs[-number - 1].path if -number <= len(runs) else None
    return next((run.path for run in runs if run.start.get("scan_id") == number), None)


def read_documents(
    path_or_uid: str | Path, directory: str | Path | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the documents of one run in their order, one at a time.

    A last line that was cut off by a crash is left out.

    Parameters
    ----------
    path_or_uid : path or str
        A log file; with `directory`, the uid of a run or its beginning.
    directory : path, optional

    Raises
    ------
    DocumentLogError
        At once if there is no such run, or the uid's beginning fits several; while reading, at a line that is not a
        document.
    """
    return _read(_existing(Path(path_or_uid)) if directory is None else find_log(str(path_or_uid), directory))


class GrowingLog:
    """The log of a run that goes on.

    Parameters
    ----------
    path : path
        A log that is being written, by this or by another process.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._file = self._path.open("rb")
        self._number = 0

    def new_documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Read the documents that have been written whole since the last call.

        Raises
        ------
        DocumentLogError
            At a line that is not a document.
        """
        while (line := self._file.readline()).endswith(b"\n"):
            self._number += 1
            yield _to_document(line, self._path, self._number)
        self._file.seek(-len(line), os.SEEK_CUR)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def end_log(path: str | Path) -> bool:
    """End the log of a run whose session has died: cut off what is no whole line, and add a stop document.

    Returns
    -------
    bool
        Whether it had no stop document.

    Raises
    ------
    DocumentLogError
        If a session of this machine is writing it.
    """
    path = Path(path)
    newest = dict(_read(path))
    if "stop" in newest or "start" not in newest:
        return False
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DocumentLogError(f"{path}: the run goes on, its session is writing it") from None
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)
        stop = aborted(newest["start"]["uid"], "its session ended before the run did")
        file.write(_to_line("stop", stop).encode())
    return True


def aborted(run: str, reason: str) -> dict[str, Any]:
    """Return the stop document of a run, by its uid, that nobody ended."""
    stop = {"uid": str(uuid.uuid4()), "run_start": run, "time": time.time()}
    return stop | {"exit_status": "abort", "reason": reason}


def find_runs(directory: str | Path) -> list[LoggedRun]:
    """Return the runs in a log directory, newest first; files that are no logs are passed over."""
    runs = []
    for path in Path(directory).glob(f"*{SUFFIX}"):
        try:
            name, start = next(_read(path))
        except (StopIteration, DocumentLogError):
            continue
        if name == "start":
            runs.append(LoggedRun(start["uid"], path, start))
    return sorted(runs, key=lambda run: float(run.start["time"]), reverse=True)


def _path_of(uid: str, directory: Path) -> Path:
    """Return the file of a run; a uid that came from elsewhere must not lead out of the directory."""
    if not UID.fullmatch(uid):
        raise DocumentLogError(f"run uid {uid!r}: expected letters, digits and dashes")
    return directory / f"{uid}{SUFFIX}"


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DocumentLogError(
            f"{path}: no such document log: check uid or scan_id, and folder; "
            "'nsbluesky view --runs' shows a session's runs"
        )
    return path


def _read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield _to_document(line, path, number)
            except DocumentLogError:
                if not line.endswith("\n"):
                    return
                raise


def _to_document(line: str | bytes, path: Path, number: int) -> tuple[str, dict[str, Any]]:
    try:
        entry = json.loads(line, object_hook=_decode)
        name, document = entry["name"], entry["doc"]
        if not (isinstance(name, str) and isinstance(document, dict)):
            raise TypeError("expected a name and a document")
    except (ValueError, TypeError, KeyError) as error:
        raise DocumentLogError(
            f"{path}, line {number} is no document ({error}): expected JSON with 'name' and 'doc'; "
            "take the run from the catalog instead"
        ) from error
    return name, document


def _to_line(name: str, document: Mapping[str, Any]) -> str:
    default = encode_metadata if name == "start" else encode
    line = json.dumps({"name": name, "doc": document}, default=default)
    # half a character, as in a file name that is no UTF-8: neither a catalog nor a CXI file takes it
    if r"\ud" in line:
        text = json.dumps({"name": name, "doc": document}, default=default, ensure_ascii=False)
        line = json.dumps(json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")))
    return line + "\n"


def encode(value: Any) -> Any:
    """Return JSON for what documents hold besides JSON: arrays, NumPy numbers, mappings."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode("ascii")
        return {ARRAY_KEY: data, "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence | Set):
        return list(value)
    raise TypeError(f"it holds a {type(value).__name__}; expected JSON or arrays of numbers")


def encode_metadata(value: Any) -> Any:
    """Return JSON for what people put into the metadata: a path or a date becomes a text, and costs no run."""
    try:
        return encode(value)
    except TypeError:
        return str(value)


def _decode(value: dict[str, Any]) -> Any:
    if value.keys() == {ARRAY_KEY, "dtype", "shape"}:
        data = bytearray(base64.b64decode(value[ARRAY_KEY]))
        return np.frombuffer(data, dtype=np.dtype(value["dtype"])).reshape(value["shape"])
    return value
