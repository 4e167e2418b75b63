"""Optional areaDetector plugins of the fast CCD: statistics, regions of interest, and CSX's own corrections."""

from __future__ import annotations

from ophyd import Component, Device, EpicsSignalRO, EpicsSignalWithRBV

__all__ = ["PLUGINS", "FastCCDPlugin", "RegionOfInterest", "Statistics"]


class Statistics(Device):  # type: ignore[misc]
    """``Stats1:`` …: numbers of the last frame, while it is enabled."""

    enable = Component(EpicsSignalWithRBV, "EnableCallbacks", string=True, put_complete=True, kind="config")
    total = Component(EpicsSignalRO, "Total_RBV")
    mean = Component(EpicsSignalRO, "MeanValue_RBV", kind="omitted")
    maximum = Component(EpicsSignalRO, "MaxValue_RBV")


class RegionOfInterest(Device):  # type: ignore[misc]
    """``ROI1:`` …: a part of the frame."""

    min_x = Component(EpicsSignalWithRBV, "MinX", kind="config")
    min_y = Component(EpicsSignalWithRBV, "MinY", kind="config")
    size_x = Component(EpicsSignalWithRBV, "SizeX", kind="config")
    size_y = Component(EpicsSignalWithRBV, "SizeY", kind="config")


class FastCCDPlugin(Device):  # type: ignore[misc]
    """``FastCCD1:``: the plugin that descrambles and corrects at CSX."""

    capture_background = Component(EpicsSignalWithRBV, "CaptureBgnd", kind="omitted")
    enable_background = Component(EpicsSignalWithRBV, "EnableBgnd", kind="config")
    enable_gain = Component(EpicsSignalWithRBV, "EnableGain", kind="config")
    enable_size = Component(EpicsSignalWithRBV, "EnableSize", kind="config")
    rows = Component(EpicsSignalWithRBV, "Rows", kind="config")
    row_offset = Component(EpicsSignalWithRBV, "RowOffset", kind="config")
    overscan_columns = Component(EpicsSignalWithRBV, "OverscanCols", kind="config")


PLUGINS: dict[str, tuple[type[Device], str]] = {
    **{f"stats{i}": (Statistics, f"Stats{i}:") for i in range(1, 6)},
    **{f"roi{i}": (RegionOfInterest, f"ROI{i}:") for i in range(1, 5)},
    "fastccd1": (FastCCDPlugin, "FastCCD1:"),
}
"""Optional plugins by name: device class and PV suffix."""
