"""The folder of a conversion that is not finished: finished blocks, and what they are blocks of.

A block counts from the moment its file is there.  So a conversion that is killed at any moment, however, goes on
where it was, and one that goes on with anything else than it began with is refused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from nsbluesky._version import __version__
from nsbluesky.conversion.block_file import block_path, read_block
from nsbluesky.conversion.frames import ConversionError
from nsbluesky.conversion.scan import RawScan
from nsbluesky.folder_lock import FolderInUse, FolderLock
from nsbluesky.settings import PipelineSettings
from nsbluesky.whole_file import write_whole

__all__ = ["UnfinishedConversion", "identity_of", "unfinished_folder"]

FILE = "conversion.json"
NAMES = {
    "fingerprint": "another source",
    "settings": "other settings",
    "stages": "other stages to save",
    "exposures_s": "other exposure times",
    "version": "another version of nsbluesky",
}


def identity_of(scan: RawScan, settings: PipelineSettings, stages: tuple[str, ...]) -> dict[str, Any]:
    """Return what decides the result of a conversion, as JSON.

    The source counts by what it holds (numbers, places, and some frames bit by bit), not by where it lies.
    """
    digest = hashlib.sha256()
    digest.update(scan.geometry.to_json().encode())
    for array in (scan.translation_m, scan.seq_nums, *(stored.rows for stored in (*scan.frames, *scan.darks))):
        digest.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    for stored in (*scan.frames, *scan.darks):
        recorded = np.flatnonzero(stored.recorded)
        if len(recorded):
            some = np.unique(recorded[[0, len(recorded) // 2, -1]])
            digest.update(stored[some].read().tobytes())
    used = settings.to_dict()
    return {
        "source": scan.source,
        "fingerprint": digest.hexdigest(),
        "settings": {name: used[name] for name in ("cleaning", "backend", "block_frames")},
        "exposures_s": list(scan.exposures_s),
        "stages": sorted(stages),
        "version": __version__,
    }


def unfinished_folder(out: Path) -> Path:
    """Return where finished blocks lie while a conversion into `out` is at work, and after one that was ended."""
    return out.absolute().with_name(f"{out.name}.unfinished")


class UnfinishedConversion:
    """The folder beside the output; as a context manager it is made, and one conversion at a time works in it.

    Parameters
    ----------
    out : path
        The file that the conversion writes; the folder's name is this and ``.unfinished``.
    identity : dict
        As `identity_of` returns it.
    resume : bool
        Whether to go on where another conversion stopped; there may be none.

    Raises
    ------
    ConversionError
        Where there is one and it is not to be gone on with, or it is another one.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any], *, resume: bool) -> None:
        self.folder = unfinished_folder(out)
        self._description = self.folder / FILE
        self._identity = identity
        self._lock = FolderLock(self.folder, "another conversion")
        if not self.begun:
            return
        if not resume:
            raise ConversionError(
                f"{self.folder} holds a conversion that was not finished (blocks there: {len(self._blocks())}): "
                "add --resume to go on with it, or remove the folder to begin anew"
            )
        _check_same(self.folder, self._read_description(), identity)

    def _read_description(self) -> dict[str, Any]:
        try:
            begun = json.loads(self._description.read_text())
        except ValueError:
            begun = None
        if not isinstance(begun, dict):
            raise ConversionError(
                f"{self._description} is damaged: expected what the conversion began with; remove the folder to "
                "begin anew"
            )
        return begun

    @property
    def begun(self) -> bool:
        """Whether there is a conversion to go on with."""
        return self._description.exists() and bool(self._blocks())

    def finished(self) -> set[int]:
        """Return the numbers of the blocks that are whole; files that are not are removed."""
        whole = set()
        for path in self._blocks():
            if read_block(path) is None:
                path.unlink()
            else:
                whole.add(int(path.stem.removeprefix("block-")))
        for left in self.folder.glob(".*.part"):
            left.unlink()
        return whole

    def path(self, number: int) -> Path:
        """Return the file of a block."""
        return block_path(self.folder, number)

    def remove(self) -> None:
        """Remove the folder: the conversion is finished."""
        shutil.rmtree(self.folder)

    def _blocks(self) -> list[Path]:
        return sorted(self.folder.glob("block-*.npz"))

    def __enter__(self) -> Self:
        """Make the folder, and keep others out of it."""
        try:
            self._lock.__enter__()
        except FolderInUse as error:
            raise ConversionError(str(error)) from None
        if not self.begun:
            write_whole(self._description, json.dumps(self._identity))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let others into the folder; one without a finished block is removed."""
        if self.folder.exists() and not self._blocks():
            self.remove()
        self._lock.__exit__(kind, error, traceback)


def _check_same(folder: Path, begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise an error where a conversion that goes on would not be the one that began."""
    for key, what in NAMES.items():
        if begun.get(key) == now[key]:
            continue
        changes = list(_changes(key, begun.get(key), now[key])) if key != "fingerprint" else []
        detail = changes[0] if changes else f"{begun.get('source')}, now {now['source']}"
        raise ConversionError(
            f"{folder} was begun with {what} ({detail}): expected the same; remove the folder to begin anew"
        )


def _changes(name: str, before: Any, after: Any) -> Iterator[str]:
    """Yield what differs between two values of JSON."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in after:
            yield from _changes(key if name == "settings" else f"{name}.{key}", before.get(key), after[key])
    elif before != after:
        yield f"{name} = {before}, now {after}"
