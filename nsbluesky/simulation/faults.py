"""What is wrong with a simulated sensor: bad ADCs and bad pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.layout import FCCDLayout, by_adc

__all__ = ["DetectorFaults", "FaultMap", "place_faults"]


@dataclass(frozen=True)
class DetectorFaults:
    """How many faults there are and how bad they are.

    Attributes
    ----------
    bad_adcs : int
        Neighbouring ADCs of excessive noise; a real sensor had 6 or 7 of 192.
    bad_adc_noise : (float, float)
        Range of their noise, in units of the normal read noise.
    bad_adc_shift_adu : float
        Shift of the pedestal of the first of them.
    hot_pixels, stuck_pixels : int
        Pixels of excessive noise, and pixels that always give the same word.
    hot_noise_adu : float
        Noise of hot pixels.
    clear_px : float
        No bad ADC comes closer to the zero order than this.
    """

    bad_adcs: int = 4
    bad_adc_noise: tuple[float, float] = (6.0, 60.0)
    bad_adc_shift_adu: float = 600.0
    hot_pixels: int = 150
    stuck_pixels: int = 50
    hot_noise_adu: float = 300.0
    clear_px: float = 240.0


@dataclass(frozen=True, eq=False)
class FaultMap:
    """Where the faults are.

    Attributes
    ----------
    bad_adcs : (k,) int
        Counted as in `nsbluesky.cleaning.layout`.
    adc_noise : (k,) float
        Noise of each in units of the normal.
    hot, stuck : (n,) int
        Flat indices into the raw frame.
    stuck_words : (n,) uint16
        What the stuck pixels give.
    bad : (rows, columns) bool
        All of these together.
    """

    bad_adcs: npt.NDArray[np.int_]
    adc_noise: npt.NDArray[np.float64]
    hot: npt.NDArray[np.int_]
    stuck: npt.NDArray[np.int_]
    stuck_words: npt.NDArray[np.uint16]
    bad: npt.NDArray[np.bool_]


def place_faults(
    faults: DetectorFaults,
    layout: FCCDLayout,
    center_px: tuple[float, float],
    largest_word: int,
    rng: np.random.Generator,
) -> FaultMap:
    """Draw where the faults are: the bad ADCs side by side in one half, clear of the zero order.

    Stuck pixels give any word below `largest_word`.

    Raises
    ------
    ValueError
        Where so many bad ADCs find no place.
    """
    across, per_adc, k = layout.adcs_per_half, layout.data_columns_per_adc, faults.bad_adcs
    first = np.arange(across - k + 1)
    nearest = np.maximum(np.maximum(first * per_adc - center_px[1], center_px[1] - (first + k) * per_adc), 0)
    # beside the clear zone, but not at the sensor's edge, where no light would miss them
    places = first[(nearest >= faults.clear_px) & (nearest <= faults.clear_px + 10 * per_adc)]
    if k and not len(places):
        raise ValueError(f"bad_adcs = {k}: expected so few that they fit {faults.clear_px} pixels off the zero order")
    half = int(rng.integers(len(layout.halves)))
    bad_adcs = half * across + rng.choice(places) + np.arange(k) if k else np.zeros(0, int)

    good_rows = np.concatenate([np.arange(start, stop) for start, stop in layout.good_rows])
    rows = rng.choice(good_rows, faults.hot_pixels + faults.stuck_pixels)
    pixels = np.unique(rows * layout.columns + rng.integers(0, layout.columns, len(rows)))
    rng.shuffle(pixels)
    hot, stuck = pixels[faults.stuck_pixels :], pixels[: faults.stuck_pixels]

    bad = np.zeros(layout.shape, bool)
    bad.flat[pixels] = True
    for adc in bad_adcs:
        half, column = divmod(int(adc), across)
        by_adc(bad, layout)[slice(*layout.halves[half]), column] = True
    words = rng.integers(0, largest_word, len(stuck)).astype(np.uint16)
    return FaultMap(np.asarray(bad_adcs), rng.uniform(*faults.bad_adc_noise, k), hot, stuck, words, bad)
