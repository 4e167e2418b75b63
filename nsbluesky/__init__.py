"""Streaming ptychography for Bluesky.

The modules follow the way of the light: raw frame → dark → clean frame → low-resolution image → object.
Nothing is imported here but the version (`connect` is when it is asked for), so that ``import nsbluesky`` needs
neither a screen nor a beamline.
"""

from __future__ import annotations

import atexit
import gc
from typing import TYPE_CHECKING, Any

from nsbluesky._version import __version__

if TYPE_CHECKING:
    from nsbluesky.service.connection import connect as connect

__all__ = ["__version__", "connect"]

atexit.register(gc.freeze)  # else Python looks for garbage among all that was imported, for up to two seconds


def __getattr__(name: str) -> Any:
    """Import what a session uses of the package itself when it is asked for."""
    if name == "connect":
        from nsbluesky.service.connection import connect

        return connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
