"""Settings of the simulated beamline, as the parent process hands them to the IOC."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from nsbluesky.settings import Settings, SettingsError

__all__ = ["BeamlineSettings"]


@dataclass(frozen=True)
class BeamlineSettings(Settings):
    """What the IOC simulates and where it keeps its files.

    Attributes
    ----------
    directory : str
        Where the truth lies; frames go to ``frames`` below it.
    prefix : str
        Of every PV: ``{prefix}FCCD:cam1:Acquire``, ``{prefix}STAGE:X``, ``{prefix}SHUTTER:Cmd``.
    sample : str
        "gold_balls", or the path of a picture.
    layout : str
        Detector layout: "cosmic" (1040 × 1152), or "none" (a small plain frame, for fast tests).
    seed : int
        Of the photons, the detector's noise and the stage's errors.
    pool : int
        Frames made ahead of the trigger at most; 2.4 MB each at full size.
    fill_pool : bool
        Let a trajectory begin only when the pool is full, or 20 s were spent on it: for rates at which no simulator
        can make frames.
    workers : int
        Threads that make frames.
    max_rate_hz : float
        The camera is never triggered faster.
    image_rate_hz : float
        ``image1:ArrayData`` is published at most this often.
    following_error_nm, position_noise_nm : float
        Standard deviation of readback − set point, and of the true position − readback (nobody knows that one).
    faults : bool
        Whether the sensor has bad ADCs and bad pixels.
    lost_frames : tuple of int
        Indices of frames (the camera's ArrayCounter) that never reach the file.
    """

    directory: str
    prefix: str = "SIM:"
    sample: str = "gold_balls"
    layout: str = "cosmic"
    seed: int = 0
    pool: int = 32
    fill_pool: bool = False
    workers: int = 1
    max_rate_hz: float = 500.0
    image_rate_hz: float = 4.0
    following_error_nm: float = 3.0
    position_noise_nm: float = 0.3
    faults: bool = True
    lost_frames: tuple[int, ...] = ()

    LIMITS: ClassVar[Mapping[str, tuple[int, int]]] = {
        "seed": (0, 2**32 - 1),
        "pool": (1, 10_000),
        "workers": (1, 256),
    }

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        for name in ("max_rate_hz", "image_rate_hz"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise SettingsError(f"{name} = {getattr(self, name)!r}: expected a positive number of Hz")
        for name in ("following_error_nm", "position_noise_nm"):
            if not getattr(self, name) >= 0:
                raise SettingsError(f"{name} = {getattr(self, name)!r}: expected ≥ 0 nm")
        if not self.prefix:
            raise SettingsError("prefix is empty: expected a PV prefix such as 'SIM:'")
