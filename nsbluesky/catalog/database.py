"""The file that a catalog is: what can be seen of it in a moment, without tiled."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

__all__ = ["DATABASE", "LOCK", "check_usable", "is_made"]

DATABASE, LOCK = "catalog.db", "lock"
"""In the folder of a catalog."""


def is_made(database: Path) -> bool:
    """Return whether tiled's tables are complete; its version is what initialisation writes last."""
    if not database.is_file():
        return False
    with contextlib.closing(sqlite3.connect(database)) as connection:
        try:
            return bool(connection.execute("SELECT count(*) FROM alembic_version").fetchone()[0])
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return False
            raise


def check_usable(folder: Path) -> None:
    """Make the folder of a catalog, where it is missing, and look whether a catalog can be read and written there.

    Raises
    ------
    OSError
        If nothing can be written there.
    sqlite3.DatabaseError
        If what is there is locked or no database.
    """
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / DATABASE
    with (folder / LOCK).open("a"):
        pass
    if database.exists() and not os.access(database, os.W_OK):
        raise PermissionError(f"{database} may not be written: let this user write it, or set another NSBLUESKY_DATA")
    try:
        is_made(database)
    except sqlite3.DatabaseError as error:
        raise type(error)(
            f"{database} cannot be read: {error}: expected tiled's SQLite database; if it is locked, end what holds "
            f"it, if it is damaged, put a copy in its place, or move {folder} away and a new catalog is made"
        ) from error
