"""Names of the streams of a raw run: what plans write and the processing reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "PRIMARY",
    "dark_stream",
    "exposure_of_dark",
    "exposures_s",
    "holds_frames",
    "num_exposures",
    "ptycho_of",
    "scan_of",
]

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
    return max(1, len(exposures_s(start)))


def exposures_s(start: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the exposure times of a point, from the run's start document; none where it does not tell them."""
    try:
        return tuple(float(one_s) for one_s in ptycho_of(start).get("exposures_s", ()))
    except (TypeError, ValueError):  # of metadata that somebody typed
        return ()


def ptycho_of(start: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the ``ptycho`` entry of a run's start document; nothing where it is of another form."""
    ptycho = start.get("ptycho")
    return ptycho if isinstance(ptycho, Mapping) else {}


def scan_of(start: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a run's start document tells of the scan; nothing where it is of another form."""
    scan = ptycho_of(start).get("scan")
    return scan if isinstance(scan, Mapping) else {}
