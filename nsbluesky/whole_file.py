"""Files that are there whole or not at all, whenever the process that writes them is killed."""

from __future__ import annotations

import uuid
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, text: str) -> None:
    """Write a small file; until all of it is on its way to the disk, the former one stays in its place."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")  # other processes may write the same file
    try:
        part.write_text(text)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
