"""What a reconstruction is of: its checkpoint is gone on from where that is the same."""

from __future__ import annotations

from typing import Any

from nsbluesky.geometry import Geometry
from nsbluesky.settings import SolverSettings

__all__ = ["identity_of"]

FREE_SETTINGS = ("passes_final", "final_s", "publish_hz", "live")
"""Settings that may be others when a checkpoint is gone on from."""


def identity_of(frame_px: int, pixel_m: float, geometry: Geometry, settings: SolverSettings) -> dict[str, Any]:
    """Return what must be the same for a checkpoint to be gone on from."""
    return {
        "frame_px": frame_px,
        "pixel_m": pixel_m,
        "geometry": geometry.to_dict(),
        "settings": {name: value for name, value in settings.to_dict().items() if name not in FREE_SETTINGS},
    }
