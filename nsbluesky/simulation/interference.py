"""Interference: sinusoids of fixed frequency in the clock of the readout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.layout import FCCDLayout

__all__ = ["Interference", "interference_columns", "interference_rows"]

Factors = npt.NDArray[np.complex128]


@dataclass(frozen=True)
class Interference:
    """Lines that come in with the readout.

    Attributes
    ----------
    cycles_per_clock : tuple of float
        Frequency of each line; fixed, below 0.5.
    amplitude_adu : (float, float)
        Range of the amplitudes, one for each ADC and line, drawn once.

    Notes
    -----
    With the clock t = columns per ADC · row + column, exp(iωt) is a product of one factor per row and one per column.
    A frame's interference is the real part of the product of `interference_rows` and `interference_columns`, summed
    over lines.
    """

    cycles_per_clock: tuple[float, ...] = ()
    amplitude_adu: tuple[float, float] = (1.0, 10.0)

    def __post_init__(self) -> None:
        """Check every value."""
        for f in self.cycles_per_clock:
            if not 0 < f < 0.5:
                raise ValueError(f"cycles_per_clock has {f!r}: expected above 0 and below 0.5")

    @property
    def omega(self) -> npt.NDArray[np.float64]:
        """Angular frequency of each line per clock, (lines,)."""
        return 2 * np.pi * np.asarray(self.cycles_per_clock, np.float64)


def interference_rows(
    interference: Interference, layout: FCCDLayout, half: int, phases: npt.NDArray[np.float64]
) -> Factors:
    """Return the factor of each row of a half in a frame with these phases (lines,), (rows, lines)."""
    clocks = layout.clocks(half)[:, :1]
    rows: Factors = np.exp(1j * (clocks * interference.omega + phases))
    return rows


def interference_columns(
    interference: Interference, layout: FCCDLayout, half: int, amplitudes: npt.NDArray[np.float32]
) -> Factors:
    """Return the factor of each raw column of a half, amplitudes (ADCs, lines) included, (lines, columns)."""
    clocks = layout.clocks(half)
    within = np.exp(1j * interference.omega[:, np.newaxis] * (clocks[0] - clocks[0, 0]))
    columns: Factors = amplitudes.T[:, :, np.newaxis] * within[:, np.newaxis]
    return columns.reshape(len(within), layout.columns)
