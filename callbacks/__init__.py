"""Bluesky callbacks: one file per stage of the processing, documents in, documents out.

Each is usable alone, ``RE.subscribe(DarkAverager())``; `PtychoPipeline` is the usual chain in one object.
"""

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
