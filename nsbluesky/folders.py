"""Where this user's data and states live."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

__all__ = ["data_directory", "state_directory"]


def data_directory() -> Path:
    """Return where catalogs, logs and frames live: ``$NSBLUESKY_DATA``, or the user's data folder."""
    return Path(os.environ.get("NSBLUESKY_DATA") or platformdirs.user_data_dir("nsbluesky"))


def state_directory() -> Path:
    """Return where logs and states of services live: ``$NSBLUESKY_STATE``, or the user's state folder."""
    return Path(os.environ.get("NSBLUESKY_STATE") or platformdirs.user_state_dir("nsbluesky"))
