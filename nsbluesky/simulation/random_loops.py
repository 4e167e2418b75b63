"""Random numbers inside compiled loops: uniform, normal and Poisson.

A state is one 64-bit counter; every function returns it advanced, beside the number.  The generator is SplitMix64
(Steele, Lea & Flood, OOPSLA 2014), the normal numbers come from a ziggurat of 256 layers (Marsaglia & Tsang, J. Stat.
Softw. 5 (8), 2000), the Poisson numbers from inversion or, for means from 10 on, from transformed rejection (PTRS of
Hörmann, Insurance: Mathematics and Economics 12, 39, 1993).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from nsbluesky.compiled import njit

__all__ = ["add_noise", "poisson_image", "uniform"]

STEP = np.uint64(0x9E3779B97F4A7C15)
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S11, S27, S30, S31, S32 = (np.uint64(shift) for shift in (11, 27, 30, 31, 32))
TO_UNIT = 2.0**-53

LAYERS = 256
TAIL_START = 3.6541528853610088  # of 256 layers of equal area
LAYER_AREA = 0.00492867323399
LAYER_MASK = np.uint64(LAYERS - 1)
PARTS = 2.0**23  # a layer's half width is divided into so many

SMALL_MEAN = 10.0
MOST_OF_SMALL_MEAN = 100  # no mean below 10 gives so many


def _layer_edges() -> npt.NDArray[np.float64]:
    """Return the right edges of the layers of exp(−x²/2), from the widest (which holds the tail) to 0."""
    edges = np.zeros(LAYERS + 1)
    edges[1] = TAIL_START
    edges[0] = LAYER_AREA / math.exp(-0.5 * TAIL_START**2)
    for i in range(2, LAYERS):
        below = math.exp(-0.5 * edges[i - 1] ** 2)
        edges[i] = math.sqrt(-2 * math.log(LAYER_AREA / edges[i - 1] + below))
    return edges


EDGES = _layer_edges()
WIDTHS = (EDGES[:-1] / PARTS).astype(np.float32)
INSIDE = (EDGES[1:] / EDGES[:-1] * PARTS).astype(np.int32)  # below, every point of a layer is under the curve


@njit(nogil=True, cache=True)
def _bits(state: np.uint64) -> tuple[np.uint64, np.uint64]:
    state = state + STEP
    z = (state ^ (state >> S30)) * MIX_1
    z = (z ^ (z >> S27)) * MIX_2
    return state, z ^ (z >> S31)


@njit(nogil=True, cache=True)
def uniform(state: np.uint64) -> tuple[np.uint64, float]:
    """Return the state and a number in [0, 1)."""
    state, bits = _bits(state)
    return state, np.int64(bits >> S11) * TO_UNIT


@njit(nogil=True, cache=True)
def _outside(state: np.uint64, layer: int, x: float) -> tuple[np.uint64, float]:
    """Return the state and a normal number, from a point at x that lies in the layer's edge or in the tail."""
    while True:
        if layer == 0:
            while True:
                state, u = uniform(state)
                state, v = uniform(state)
                beyond = -math.log(1.0 - u) / TAIL_START
                if -2.0 * math.log(1.0 - v) > beyond * beyond:
                    return state, TAIL_START + beyond if x > 0 else -TAIL_START - beyond
        state, u = uniform(state)
        low = math.exp(0.5 * (x * x - EDGES[layer] ** 2))
        high = math.exp(0.5 * (x * x - EDGES[layer + 1] ** 2))
        if low + u * (high - low) < 1.0:
            return state, x
        state, bits = _bits(state)
        part = np.int32(bits) >> np.int32(8)
        layer = int(bits & LAYER_MASK)
        x = part * float(WIDTHS[layer])
        if abs(part) < INSIDE[layer]:
            return state, x


@njit(nogil=True, cache=True)
def add_noise(values: npt.NDArray[np.float32], sigma: npt.NDArray[np.float32], state: np.uint64) -> np.uint64:
    """Add normal numbers of standard deviation `sigma` (n,) to `values` (n,), n even; return the state.

    Each 64 bits give two numbers: 8 bits choose the layer, 24 the place in it.
    """
    for i in range(0, values.size, 2):
        state, bits = _bits(state)
        for k in range(2):
            part = np.int32(bits) >> np.int32(8)
            layer = int(bits & LAYER_MASK)
            x = np.float32(part) * WIDTHS[layer]
            if abs(part) >= INSIDE[layer]:
                state, far = _outside(state, layer, float(x))
                x = np.float32(far)
            values[i + k] += sigma[i + k] * x
            bits = bits >> S32
    return state


@njit(nogil=True, cache=True)
def _by_inversion(mean: float, u: float) -> int:
    """Return the Poisson number of a mean below 10 at the uniform number u, which is below the mean."""
    chance = math.exp(-mean)
    left, count = 1.0 - u, 0
    while left > chance and count < MOST_OF_SMALL_MEAN:
        left -= chance
        count += 1
        chance *= mean / count
    return count


@njit(nogil=True, cache=True)
def _by_rejection(state: np.uint64, mean: float) -> tuple[np.uint64, int]:
    """Return the state and a Poisson number of a mean from 10 on."""
    b = 0.931 + 2.53 * math.sqrt(mean)
    a = -0.059 + 0.02483 * b
    accept = 0.9277 - 3.6224 / (b - 2.0)
    while True:
        state, u = uniform(state)
        state, v = uniform(state)
        u -= 0.5
        rest = 0.5 - abs(u)
        if rest <= 0.0:
            continue
        k = math.floor((2.0 * a / rest + b) * u + mean + 0.43)
        if rest >= 0.07 and v <= accept:
            return state, int(k)
        if k < 0 or (rest < 0.013 and v > rest) or v <= 0.0:
            continue
        log_v = math.log(v * (1.1239 + 1.1328 / (b - 3.4)) / (a / (rest * rest) + b))
        if log_v <= k * math.log(mean) - mean - math.lgamma(k + 1.0):
            return state, int(k)


@njit(nogil=True, cache=True)
def poisson_image(
    mean: npt.NDArray[np.float32],
    factor: float,
    transmission: npt.NDArray[np.float32],
    state: np.uint64,
    photons: npt.NDArray[np.uint32],
    charge: npt.NDArray[np.float32],
) -> None:
    """Fill `photons` and `charge` (rows, columns) with the same numbers, of means `factor` · `mean` · `transmission`.

    A `transmission` without elements is 1 everywhere.
    """
    rows, columns = mean.shape
    for i in range(rows):
        for j in range(columns):
            expected = factor * mean[i, j]
            if transmission.size:
                expected *= transmission[i, j]
            count = 0
            if expected >= SMALL_MEAN:
                state, count = _by_rejection(state, expected)
            elif expected > 0.0:
                state, u = uniform(state)
                if u < expected:  # at least 1 − mean of all are 0: most pixels need no exponential
                    count = _by_inversion(expected, u)
            photons[i, j] = count
            charge[i, j] = count
