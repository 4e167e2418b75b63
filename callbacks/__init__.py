"""Bluesky callbacks: one file per stage of the processing, documents in, documents out.

Each is usable alone, ``RE.subscribe(DarkAverager())``; `PtychoPipeline` is the usual chain in one object.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nsbluesky.callbacks.cxi_writer import CXIWriter
    from nsbluesky.callbacks.dark_averager import DarkAverager
    from nsbluesky.callbacks.derived_run_writer import DerivedRunWriter
    from nsbluesky.callbacks.frame_cleaner import FrameCleaner
    from nsbluesky.callbacks.frame_source import FrameSource
    from nsbluesky.callbacks.incremental_reconstructor import IncrementalReconstructor
    from nsbluesky.callbacks.live_plots import LivePlots
    from nsbluesky.callbacks.low_resolution_imager import LowResolutionImager
    from nsbluesky.callbacks.pipeline import PtychoPipeline

__all__ = [
    "CXIWriter",
    "DarkAverager",
    "DerivedRunWriter",
    "FrameCleaner",
    "FrameSource",
    "IncrementalReconstructor",
    "LivePlots",
    "LowResolutionImager",
    "PtychoPipeline",
]

_MODULES = {
    "CXIWriter": "cxi_writer",
    "DarkAverager": "dark_averager",
    "DerivedRunWriter": "derived_run_writer",
    "FrameCleaner": "frame_cleaner",
    "FrameSource": "frame_source",
    "IncrementalReconstructor": "incremental_reconstructor",
    "LivePlots": "live_plots",
    "LowResolutionImager": "low_resolution_imager",
    "PtychoPipeline": "pipeline",
}
"""Each is imported when it is asked for: a session that only shows what another process makes needs no solver."""


def __getattr__(name: str) -> Any:
    """Import one of the callbacks."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the callbacks as well, for the Tab key."""
    return sorted({*globals(), *__all__})
