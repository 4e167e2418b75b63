"""Names of the streams of a raw run: what plans write and the processing reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["PRIMARY", "dark_stream", "exposure_of_dark", "holds_frames", "num_exposures"]

PRIMARY = "primary"
DARK = "dark"


def dark_stream(exposure: int) -> str:
    """Return the stream of the darks of the first (0), second (1), … exposure of every point."""
    return DARK if exposure == 0 else f"{DARK}_{exposure}"


def exposure_of_dark(stream: str) -> int | None:
    """Return which exposure a stream holds the darks of; None for any other stream."""
    if stream == DARK:
        return 0
    name, _, number = stream.rpartition("_")
    return int(number) if name == DARK and number.isdecimal() and int(number) > 0 else None


def holds_frames(stream: str) -> bool:
    """Return whether the events of a stream are frames of the camera."""
    return stream == PRIMARY or exposure_of_dark(stream) is not None


def num_exposures(start: Mapping[str, Any]) -> int:
    """Return the exposures of each point, from the run's start document."""
    return max(1, len(start.get("ptycho", {}).get("exposures_s", ())))
