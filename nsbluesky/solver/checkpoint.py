"""The file of an unfinished reconstruction: arrays and plain values by section, whole or not there at all.

It is a NumPy ``.npz`` without pickles: each array under ``section/name``, all other values in one JSON text.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import uuid
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nsbluesky.whole_file import naming, remove_part

__all__ = [
    "CheckpointError",
    "read_checkpoint",
    "remove_checkpoint",
    "write_checkpoint",
]

log = logging.getLogger(__name__)

RECONSTRUCTION = "reconstruction"
VERSION = 14
VALUES = "values"

Sections = dict[str, dict[str, Any]]
"""What a checkpoint holds: section → name → array or JSON value."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be gone on from; the message says why and what to do."""


def write_checkpoint(
    path: str | Path, sections: Mapping[str, Mapping[str, Any]], *, kind: str = RECONSTRUCTION
) -> None:
    """Write a checkpoint; an older file of that name stays whole until the new one is on the disk.

    Parameters
    ----------
    path : path
    sections : mapping
        Arrays must be NumPy's.
    kind : str
        Of what.
    """
    target = Path(path)
    arrays: dict[str, Any] = {}
    values: Sections = {}
    for section, content in sections.items():
        values[section] = {}
        for name, value in content.items():
            if isinstance(value, np.ndarray):
                arrays[f"{section}/{name}"] = value
            else:
                values[section][name] = value
    text = json.dumps({"format": _format(kind), "version": VERSION, "sections": values, "arrays": list(arrays)})
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")  # others may write the same file
    try:
        with naming(target), partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **{VALUES: np.frombuffer(text.encode(), np.uint8)}, **arrays)
            file.flush()
            os.fsync(file.fileno())
        with naming(target):
            partial.replace(target)
    finally:
        remove_part(partial)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, if there is one, and what processes left that were killed as they wrote it.

    One that cannot be removed is told in the log: what it was for is over.
    """
    try:
        for left in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
            left.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s cannot be removed: %s", path, error.strerror)


def read_checkpoint(path: str | Path, *, kind: str = RECONSTRUCTION) -> Sections:
    """Read a checkpoint.

    Raises
    ------
    CheckpointError
        If the file is none of that kind, is damaged, or is of another version.
    """
    try:
        with Path(path).open("rb") as stored, np.load(stored, allow_pickle=False) as file:
            told = json.loads(file[VALUES].tobytes())
            if told["format"] != _format(kind):
                raise ValueError("another format")
            version, sections = told["version"], told["sections"]
            if version == VERSION:
                for key in told["arrays"]:
                    section, _, name = key.partition("/")
                    sections[section][name] = file[key]
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there: expected the checkpoint of a {kind}") from None
    except (
        EOFError,
        IndexError,
        KeyError,
        NotImplementedError,
        OSError,
        RuntimeError,
        SyntaxError,
        TypeError,  # also: np.load returns an array for a .npy file
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise CheckpointError(
            f"{path} is no checkpoint of a {kind}, or it is damaged ({error}): remove it, or begin anew"
        ) from None
    if version != VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of another version of nsbluesky (format {version!r:.20}, expected {VERSION}): "
            "begin anew, or go on with that version"
        )
    return {str(section): dict(content) for section, content in sections.items()}


def _format(kind: str) -> str:
    return f"nsbluesky {kind}"
