"""What a reconstruction is of: its checkpoint is gone on from where that is the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nsbluesky.geometry import Geometry
from nsbluesky.settings import SolverSettings
from nsbluesky.solver.checkpoint import CheckpointError

__all__ = ["check_identity", "identity_of"]

FREE_SETTINGS = ("passes_final", "final_s", "publish_hz", "live")
"""Settings that may be others when a checkpoint is gone on from."""


def identity_of(
    frame_px: int,
    pixel_m: float,
    geometry: Geometry,
    settings: SolverSettings,
    cleaning: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what must be the same for a checkpoint to be gone on from.

    `cleaning` are the settings that its frames were cleaned with, where that is known.
    """
    return {
        **({} if cleaning is None else {"cleaning": dict(cleaning)}),
        "frame_px": frame_px,
        "pixel_m": pixel_m,
        "geometry": geometry.to_dict(),
        "settings": {name: value for name, value in settings.to_dict().items() if name not in FREE_SETTINGS},
    }


def check_identity(path: str | Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise a CheckpointError where what a checkpoint is of is not what is to be gone on with."""
    others = list(_differences(there, here))
    if others:
        raise CheckpointError(f"{path} is not of this reconstruction: {'; '.join(others)}; begin anew")


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], *, prefix: str = "") -> Iterator[str]:
    """Yield, as text, in what two nested mappings differ."""
    for name in sorted({*there, *here}):
        a, b = there.get(name), here.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _differences(a, b, prefix=f"{prefix}{name}.")
        elif a != b:
            yield f"{prefix}{name} is {a!r} there and {b!r} here"
