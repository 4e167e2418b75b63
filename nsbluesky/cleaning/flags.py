"""What is wrong with single frames, as flags that are stored and weights that the solver uses."""

from __future__ import annotations

import enum
from bisect import insort
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nsbluesky.settings import CleaningSettings

__all__ = ["Doubts", "FluxMonitor", "FrameFlag", "weights_of"]

# Frames that the median of the flux needs before it says anything.
LEAST_FRAMES = 8


class FrameFlag(enum.IntFlag):
    """What is wrong with a frame; 0 where nothing is."""

    LOST_PACKETS = 1
    """Part of it never came: those pixels are NaN."""
    SATURATED = 2
    """Pixels were too bright for the detector: those are NaN."""
    DARK = 4
    """Far fewer photons than the other frames: the shutter or the beam."""
    BRIGHT = 8
    """Far more photons than the other frames."""
    CORRUPT = 16
    """Too little of it was measured, or it is something else than a frame."""


UNUSABLE = FrameFlag.DARK | FrameFlag.BRIGHT | FrameFlag.CORRUPT


def weights_of(flags: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Return the weights (n,) of frames with these flags: 0 for those that would harm the image, else 1."""
    weights: npt.NDArray[np.float32] = ((flags & np.uint16(UNUSABLE)) == 0).astype(np.float32)
    return weights


class Doubts(NamedTuple):
    """Frames that are not whole, each (n,) bool on the host.

    Attributes
    ----------
    doubtful : array
        With saturated words or errors among the good pixels.
    lost : array
        With words that never came.
    corrupt : array
        Something else than frames.
    """

    doubtful: npt.NDArray[np.bool_]
    lost: npt.NDArray[np.bool_]
    corrupt: npt.NDArray[np.bool_]


class FluxMonitor:
    """Compares the photons of each frame with the median of the scan so far."""

    def __init__(self, settings: CleaningSettings) -> None:
        self._sorted: list[float] = []
        self.configure(settings)

    def configure(self, settings: CleaningSettings) -> None:
        """Take the range of other settings for the frames that come from now on."""
        self._range = settings.dark_flux, settings.bright_flux

    def flags(self, photons: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
        """Return `DARK` or `BRIGHT` for frames (n,) whose photons are out of the range of the settings."""
        for value in photons[np.isfinite(photons)]:
            insort(self._sorted, float(value))
        flags = np.zeros(len(photons), np.uint16)
        if len(self._sorted) < LEAST_FRAMES:
            return flags
        median = self._sorted[len(self._sorted) // 2]
        low, high = (factor * median for factor in self._range)
        flags[photons < low] = FrameFlag.DARK
        flags[photons > high] = FrameFlag.BRIGHT
        return flags
