"""What the log says of a run: the few things that a person at the beamline waits for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["age_text", "news_of", "number_text", "numbered", "passes_text"]

Data = Mapping[str, Any]


def news_of(stream: str, data: Data) -> str:
    """Return a line about an event of a derived run; "" where it is nothing new to a person."""
    tell = _NEWS.get(stream)
    return "" if tell is None else tell(data)


def numbered(count: int, name: str) -> str:
    """Return how many there are of something: "1 frame", "3 frames"."""
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def number_text(value: float, form: str = ".3f") -> str:
    """Return a number in a form as of `format`; a dash where it is not known."""
    return format(value, form) if math.isfinite(value) else "–"


def passes_text(count: float) -> str:
    """Return how many passes that were: "1 pass", "2.5 passes"."""
    text = number_text(count, ".3g")
    return f"{text} pass" if text == "1" else f"{text} passes"


def _darks(data: Data) -> str:
    return f"{numbered(data['num_frames'], 'dark frame')}, {numbered(int(data['bad'].sum()), 'bad pixel')}"


def _detector(data: Data) -> str:
    place = f"row {data['center_row_px']:.1f}, column {data['center_column_px']:.1f}"
    return f"zero order at {place}; a clean frame has {numbered(int((data['mask'] != 0).sum()), 'masked pixel')}"


def _sweep(data: Data) -> str:
    taken = "taken" if data["accepted"] else "not taken"
    defocus = f"defocus {1e6 * data['defocus_m']:.3g} µm, confidence {data['confidence']:.2f}"
    if not data["warm_run"]:
        return f"{defocus}, {taken}"
    probe = f"the probe of run {data['warm_run'][:8]}, {age_text(data['warm_age_s'])} ago,"
    return f"{probe} fits best; {defocus}" if data["warm_fits"] else f"{probe} fits no more; {defocus}, {taken}"


def age_text(seconds: float) -> str:
    """Return a time in the unit that people would take, as "14 min"."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _picture(data: Data) -> str:
    if not data["final"]:
        return ""
    used = f"{numbered(data['num_frames'], 'frame')}, {passes_text(data['num_passes'])}"
    found = f"R {number_text(data['r_factor'])} from {used}"
    return f"last image by {data['engine']}: {found}" if "engine" in data else f"last image: {found}"


_NEWS: dict[str, Callable[[Data], str]] = {
    "dark_statistics": _darks,
    "detector": _detector,
    "geometry": _sweep,
    "reconstruction": _picture,
    "second_engine": _picture,
}
