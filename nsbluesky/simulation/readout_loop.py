"""The readout of half a sensor in one pass: levels, noise, gain and words."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from nsbluesky.compiled import njit
from nsbluesky.simulation.random_loops import add_noise

__all__ = ["read_half"]

Levels = npt.NDArray[np.float32]


@njit(nogil=True, cache=True)
def read_half(
    fixed: Levels,
    sigma: Levels,
    row_terms: Levels,
    column_terms: Levels,
    shadow: Levels,
    charge: Levels,
    adu_per_photon: Levels,
    good_rows: tuple[int, int],
    data_columns: tuple[int, int],
    dark: tuple[float, float],
    gain_range: tuple[int, float, float],
    divisors: npt.NDArray[np.float64],
    pedestal_shifts: npt.NDArray[np.float64],
    gain_bits: npt.NDArray[np.uint16],
    state: np.uint64,
    frame: npt.NDArray[np.uint16],
) -> None:
    """Fill `frame` (rows, columns), the raw rows of a half; all levels are ADU at gain ×8.

    Parameters
    ----------
    fixed, sigma : (rows, columns) float32
        Levels without light, half an ADU for rounding included, and their noise.
    row_terms, column_terms : (rows, terms) and (terms, columns) float32
        Their product is added: drift and interference of this frame.
    shadow : (good rows, ADCs) float32
        What full pixels take away; without elements: nothing.
    charge : (good rows, image columns) float32
        Of the light, in photons; without elements: dark.
    adu_per_photon : (ADCs,) float32
    good_rows, data_columns : (int, int)
        Start and stop: where light falls, in the half and in an ADC.
    dark : (float, float)
        Level and variance of the dark current, where light falls.
    gain_range : (int, float, float)
        First gain used, level above which the next one is, and the largest value.
    divisors, pedestal_shifts, gain_bits : (gains,)
        Of each gain: its factor against ×8, the relative change of its pedestal, and the bits of its words.
    state : uint64
        Of the random numbers.
    frame : (rows, columns) uint16
    """
    rows, columns = fixed.shape
    adcs = len(adu_per_photon)
    per_adc = columns // adcs
    first, last = data_columns
    start, stop = good_rows
    dark_level, dark_variance = np.float32(dark[0]), np.float32(dark[1])
    first_gain, switch, top = gain_range[0], np.float32(gain_range[1]), np.float32(gain_range[2])
    level, light, noise = np.empty(columns, np.float32), np.zeros(columns, np.float32), np.empty(columns, np.float32)
    for row in range(rows):
        for column in range(columns):  # an assignment of all at once takes the compiler 4 s
            level[column] = fixed[row, column]
        for term in range(len(column_terms)):
            factor = row_terms[row, term]
            for column in range(columns):
                level[column] += factor * column_terms[term, column]
        exposed = start <= row < stop
        if exposed and dark_variance > 0:
            for column in range(columns):
                noise[column] = math.sqrt(sigma[row, column] * sigma[row, column] + dark_variance)
            state = add_noise(level, noise, state)
        else:
            state = add_noise(level, sigma[row], state)
        if exposed:
            for adc in range(adcs):
                corner, pixel = adc * per_adc + first, adc * (last - first)
                for column in range(last - first):
                    light[corner + column] = dark_level
                if charge.size:
                    for column in range(last - first):
                        light[corner + column] += adu_per_photon[adc] * charge[row - start, pixel + column]
                if shadow.size:
                    for column in range(per_adc):
                        level[adc * per_adc + column] -= shadow[row - start, adc]
        else:
            light[:] = 0
        if first_gain == 0 and switch > top:
            for column in range(columns):
                value = min(max(level[column] + light[column], np.float32(0)), top)
                frame[row, column] = np.uint16(value) | gain_bits[0]
        else:
            for column in range(columns):
                gain = first_gain
                value = level[column] + light[column] / divisors[gain] + fixed[row, column] * pedestal_shifts[gain]
                while value > switch and gain + 1 < gain_bits.size:
                    gain += 1
                    value = level[column] + light[column] / divisors[gain]
                    value += fixed[row, column] * pedestal_shifts[gain]
                frame[row, column] = np.uint16(min(max(value, 0.0), float(top))) | gain_bits[gain]
