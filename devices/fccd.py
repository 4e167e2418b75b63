"""The fast CCD over EPICS areaDetector (ADFastCCD): only the prefix changes between simulation and beamline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from ophyd import Component, EpicsSignalRO, EpicsSignalWithRBV

from nsbluesky.devices import area_detector
from nsbluesky.devices.area_detector import AreaDetector

__all__ = ["ALS_7011", "CSX", "FCCD", "Camera", "CameraSite"]


class Camera(area_detector.Camera):
    """``cam1:``: makes frames."""

    gain = Component(EpicsSignalWithRBV, "FCRICGain", string=True, kind="config")
    dropped_packets = Component(EpicsSignalRO, "DroppedPck_RBV", auto_monitor=True, kind="omitted")


@dataclass(frozen=True)
class CameraSite:
    """Where a fast CCD stands: PV prefix, frame shape (None: ask the camera) and the plugins that its IOC has."""

    prefix: str
    frame_shape: tuple[int, int] | None = None
    plugins: tuple[str, ...] = ()


CSX = CameraSite("XF:23ID1-ES{FCCD}", plugins=("stats1", "fastccd1"))
"""NSLS-II 23-ID-1."""

ALS_7011 = CameraSite("ES7011:FastCCD:", frame_shape=(1040, 1152))
"""ALS 7.0.1.1 (COSMIC scattering)."""


class FCCD(AreaDetector):
    """The fast CCD; parameters as of `AreaDetector`."""

    camera = Component(Camera, "cam1:")

    @classmethod
    def at(cls, site: CameraSite, *, name: str, write_path: str, **kwargs: Any) -> Self:
        """Make the camera of a site: ``FCCD.at(CSX, name="fccd", write_path="/frames")``."""
        chosen = {"frame_shape": site.frame_shape, "plugins": site.plugins, **kwargs}
        return cls(site.prefix, name=name, write_path=write_path, **chosen)

    @property
    def dark_signals(self) -> tuple[str, ...]:
        """Gain, and what CSX's own corrections do to a frame."""
        corrections = getattr(self, "fastccd1", None)
        return (self.camera.gain.name, *(() if corrections is None else corrections.read_configuration()))
