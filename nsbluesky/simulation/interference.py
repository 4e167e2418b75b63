"""Interference: sinusoids of fixed frequency in the clock of the readout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.layout import FCCDLayout

__all__ = ["Interference", "interference_waves"]


@dataclass(frozen=True)
class Interference:
    """Lines that come in with the readout.

    Attributes
    ----------
    cycles_per_clock : tuple of float
        Frequency of each line; fixed, below 0.5.
    amplitude_adu : (float, float)
        Range of the amplitudes, one for each ADC and line, drawn once.
    """

    cycles_per_clock: tuple[float, ...] = ()
    amplitude_adu: tuple[float, float] = (1.0, 10.0)

    def __post_init__(self) -> None:
        """Check every value."""
        for f in self.cycles_per_clock:
            if not 0 < f < 0.5:
                raise ValueError(f"cycles_per_clock has {f!r}: expected above 0 and below 0.5")


def interference_waves(
    interference: Interference, layout: FCCDLayout, half: int, phases: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Return each line at amplitude 1 as an ADC of that half sees it, (lines, rows, columns per ADC) float32.

    With the clock t = columns per ADC · row + column, exp(iωt) is a product of one factor per row and one per column.
    """
    clocks = layout.clocks(half)
    omega = 2 * np.pi * np.asarray(interference.cycles_per_clock)[:, None]
    rows = np.exp(1j * (omega * clocks[:, 0] + phases[:, None]))
    columns = np.exp(1j * omega * (clocks[0] - clocks[0, 0]))
    waves: npt.NDArray[np.float32] = np.real(rows[:, :, None] * columns[:, None, :]).astype(np.float32)
    return waves
