"""Where this user's data and states live."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

import platformdirs

__all__ = ["DATA", "STATE", "data_directory", "new_file", "require_folder", "state_directory"]

DATA, STATE = "NSBLUESKY_DATA", "NSBLUESKY_STATE"
"""Environment variables: the folders in the place of those in the user's home."""


def data_directory() -> Path:
    """Return where catalogs, logs and frames live: ``$NSBLUESKY_DATA``, or the user's data folder."""
    return _from_here(os.environ.get(DATA) or platformdirs.user_data_dir("nsbluesky"))


def state_directory() -> Path:
    """Return where logs and states of services live: ``$NSBLUESKY_STATE``, or the user's state folder."""
    return _from_here(os.environ.get(STATE) or platformdirs.user_state_dir("nsbluesky"))


def require_folder(folder: Path, variable: str) -> None:
    """Make one of these folders, where it is missing, and look whether files can be made there.

    Raises
    ------
    OSError
        If not, as where the user has no home or a disk is read-only; it says which variable names another folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise type(error)(
            f"nothing can be written into {folder} ({error.strerror}): set {variable} to a folder that this user may "
            "write, or mend this one"
        ) from error


@functools.cache
def _from_here(folder: str) -> Path:
    """Return a folder as it was meant when it was first asked for: a session may change its directory."""
    return Path(folder).absolute()


def new_file(directory: Path, name: str) -> Path:
    """Return the path of a file in a folder that is not there yet: where it is, it gets a number, as ``name_2.h5``.

    Raises
    ------
    ValueError
        For a name that leads out of the folder, as one made of a uid that came from elsewhere may.
    """
    path = first = directory / name
    if not path.resolve().is_relative_to(directory.resolve()):
        raise ValueError(f"{name!r:.80} leads out of {directory}: expected the name of a file in it")
    number = 1
    while path.exists():
        number += 1
        path = first.with_stem(f"{first.stem}_{number}")
    return path
