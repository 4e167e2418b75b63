"""The panels of the live window: those of this package, and those of others by entry points of `PANELS`."""

from __future__ import annotations

from nsbluesky.plugins import PANELS, load_plugins
from nsbluesky.viewer.panels.base import LiveImagePanel, LivePanel
from nsbluesky.viewer.panels.corrections import CorrectionsPanel
from nsbluesky.viewer.panels.fit import FitPanel
from nsbluesky.viewer.panels.frames import CleanPanel, DarkPanel, RawPanel
from nsbluesky.viewer.panels.low_resolution import LowResolutionPanel
from nsbluesky.viewer.panels.object import ObjectPanel, SecondEnginePanel
from nsbluesky.viewer.panels.probe import ProbePanel
from nsbluesky.viewer.panels.quality import LightPanel, QualityPanel, SweepPanel

__all__ = [
    "LIVE_PANELS",
    "CleanPanel",
    "CorrectionsPanel",
    "DarkPanel",
    "FitPanel",
    "LightPanel",
    "LiveImagePanel",
    "LivePanel",
    "LowResolutionPanel",
    "ObjectPanel",
    "ProbePanel",
    "QualityPanel",
    "RawPanel",
    "SecondEnginePanel",
    "SweepPanel",
    "live_panels",
]

LIVE_PANELS: tuple[type[LivePanel], ...] = (
    CleanPanel,
    RawPanel,
    DarkPanel,
    FitPanel,
    LowResolutionPanel,
    CorrectionsPanel,
    ObjectPanel,
    ProbePanel,
    QualityPanel,
    SweepPanel,
    LightPanel,
    SecondEnginePanel,
)
"""Of each group of docks, the first is in front."""


def live_panels() -> tuple[type[LivePanel], ...]:
    """Return the panels of this package and those that are installed beside it."""
    return (*LIVE_PANELS, *load_plugins(PANELS, LivePanel))
