"""PNG pictures of objects and windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["save_window_png"]


def save_window_png(path: str | Path, window: Any) -> None:
    """Write a Qt window as it is drawn now to a PNG file.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    if not window.grab().save(str(path), "PNG"):
        raise OSError(f"cannot write {path}: the folder is missing, or not writable")
