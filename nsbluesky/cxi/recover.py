"""Copy what is whole in a CXI file into a clean, compact one: after a crash, and at the end of every scan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from nsbluesky.cxi.layout import (
    DATA,
    FRAME_FLAGS,
    FRAME_WEIGHTS,
    IMAGE,
    SECOND,
    SEQ_NUM,
    TRANSLATION,
    CxiError,
    part_path,
)
from nsbluesky.disk_space import require_space

__all__ = ["open_file", "recover", "rewrite", "whole_frames"]

PER_FRAME = (TRANSLATION, SEQ_NUM, FRAME_FLAGS, FRAME_WEIGHTS)
FRAME_DATASETS = (DATA, *PER_FRAME)


def open_file(path: str | Path) -> h5py.File:
    """Open an HDF5 file for reading, also while a writer has it open or where one was killed.

    Raises
    ------
    CxiError
        If there is no such file, or it is no HDF5 file.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise CxiError(f"{path} is a folder: expected a file")
        if not path.is_file():
            raise CxiError(f"{path}: no such file; check its name")
        # HDF5 reads a damaged file in SWMR mode again and again, almost for ever: only where a writer left it open.
        if _is_open_for_writing(path):
            return h5py.File(path, "r", libver="latest", swmr=True)
        return h5py.File(path, "r")
    except PermissionError as error:
        raise CxiError(f"{path} may not be read: expected a file that this user may read; ask its owner") from error
    except BlockingIOError as error:
        raise CxiError(
            f"{path} is open for writing in another program: expected a file that is finished; wait for its end"
        ) from error
    except OSError as error:
        if not h5py.is_hdf5(path):
            raise CxiError(
                f"{path} is no HDF5 file: expected a CXI file; a damaged one has to be copied again"
            ) from error
        raise CxiError(f"{path}: HDF5 cannot read it, {error}; copy it again from where it was recorded") from error


def _is_open_for_writing(path: Path) -> bool:
    """Return what the file's superblock says (HDF5 file format, version 3: byte 11, bit 0)."""
    with path.open("rb") as file:
        head = file.read(12)
    return head.startswith(b"\x89HDF\r\n\x1a\n") and len(head) == 12 and head[8] >= 3 and bool(head[11] & 1)


def whole_frames(file: h5py.File) -> npt.NDArray[np.intp]:
    """Return the indices of the frames that are complete: those with a finite translation."""
    count = min(file[DATA].shape[0], file[TRANSLATION].shape[0])
    return np.flatnonzero(np.isfinite(file[TRANSLATION][:count]).all(axis=1))


def recover(path: str | Path, out: str | Path) -> list[str]:
    """Copy what can be read of a CXI file into a new one that any HDF5 library opens.

    Parameters
    ----------
    path : path
        A file that this library wrote, whose writer may have been killed.
    out : path
        The new file.

    Returns
    -------
    list of str
        What was left out and why; empty where everything was whole.

    Raises
    ------
    CxiError
        If `path` cannot be opened at all, or `out` exists.
    NoSpace
        If there is no space for it: HDF5 would crash.
    """
    out = Path(out)
    if out.exists():
        raise CxiError(f"{out}: expected a new name, this file exists; move it away")
    part = part_path(out)
    open_file(path).close()
    require_space(out.parent, Path(path).stat().st_size)
    try:
        lost = rewrite(path, part)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return lost


def rewrite(path: str | Path, out: str | Path) -> list[str]:
    """Copy what is whole of `path` into `out`, and return what is not (see `recover`)."""
    lost: list[str] = []
    with open_file(path) as source, h5py.File(out, "w") as target:
        try:
            _copy_frames(source, target, lost)
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            lost.append(f"all frames: {error}")
        for name, item in _datasets(source, lost):
            try:
                value = _whole_value(item)
            except (OSError, RuntimeError) as error:
                lost.append(f"{name}: {error}")
                continue
            if value is not None:
                target.create_dataset(name, data=value).attrs.update(item.attrs)
        for image in (IMAGE, SECOND):
            complete = f"{image}/process_1/complete"
            if image in target and f"{image}/data" not in target:
                del target[image]
            elif complete in target and not target[complete][()]:
                lost.append(f"{image}: the writer ended while it wrote this picture")
        _copy_links(source, target)
    return lost


def _copy_frames(source: h5py.File, target: h5py.File, lost: list[str]) -> None:
    """Copy the whole frames with their translations and numbers; leave out those that cannot be read."""
    frames = source[DATA]
    rows = whole_frames(source)
    cell = frames.shape[1:]
    copy = target.create_dataset(DATA, (len(rows), *cell), frames.dtype, maxshape=(None, *cell), chunks=(1, *cell))
    copy.attrs.update(frames.attrs)
    kept: list[int] = []
    for row in rows.tolist():
        try:
            copy[len(kept)] = frames[row]
            kept.append(row)
        except OSError as error:
            lost.append(f"frame {row}: {error}")
    copy.resize(len(kept), axis=0)
    for name in PER_FRAME:
        if name in source:
            target[name] = source[name][()][kept]


def _datasets(group: h5py.Group, lost: list[str], prefix: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    """Walk over the datasets below a group that are not links."""
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        try:
            item = group[name]
        except (KeyError, OSError, RuntimeError) as error:
            lost.append(f"{prefix}{name}: {error}")
            continue
        if isinstance(item, h5py.Group):
            yield from _datasets(item, lost, f"{prefix}{name}/")
        elif isinstance(item, h5py.Dataset) and item.name.lstrip("/") not in FRAME_DATASETS:
            yield f"{prefix}{name}", item


def _whole_value(item: h5py.Dataset) -> Any:
    """Return a dataset's value, None where nothing was written; text without the padding of its fixed length."""
    value = item[()]
    value = value.decode() if isinstance(value, bytes) else value
    return value if item.size and not (isinstance(value, str) and value == "") else None


def _copy_links(source: h5py.Group, target: h5py.Group) -> None:
    """Copy the soft links that lead somewhere in the new file."""
    for name in source:
        link = source.get(name, getlink=True)
        if isinstance(link, h5py.SoftLink) and link.path in target.file:
            target[name] = link
        elif isinstance(group := source.get(name), h5py.Group) and (
            name in target or group.name not in (f"/{IMAGE}", f"/{SECOND}")
        ):
            _copy_links(group, target.require_group(name))  # an image that was never written is left out
