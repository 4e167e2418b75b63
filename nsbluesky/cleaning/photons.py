"""From ADU to photons: ADU per photon, the photon threshold, and photon counting."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from scipy.special import ndtr

from nsbluesky.settings import CleaningSettings

__all__ = ["ADU_PER_EV", "CLUSTER_NOISE", "adu_per_photon", "count_photons", "counting_threshold", "keep_photons"]

ADU_PER_EV = 0.034  # at gain ×8

# A pixel from here on has charge to count; a cluster has no other pixel beside it from there on.
SPLIT_SIGMAS = 2.0
ALONE_SIGMAS = 3.0
# Noise of a cluster's charge in units of a pixel's, between the noise of two pixels and the charge that the split
# limit cuts off.  Measured: sums come out right within 2 % at 0.003 to 0.03 photons a pixel and a noise of 0.1.
CLUSTER_NOISE = 1.2
# Photons per pixel; that rare, photons need not be told from noise any better.
LEAST_RATE = 1e-4
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))
NEIGHBOURS = tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0))


def adu_per_photon(settings: CleaningSettings, energy_eV: float) -> float:
    """Return ADU of one photon at gain ×8, from the settings or, where they say 0, from the energy."""
    return settings.adu_per_photon or ADU_PER_EV * energy_eV


def keep_photons(values: Any, threshold: float) -> Any:
    """Return where any pixel of the 2 × 2 neighbourhoods of a pixel exceeds `threshold`, (n, rows, columns) bool.

    A pixel belongs to four neighbourhoods of 2 × 2, so what decides is the maximum over 3 × 3 pixels: a photon whose
    charge is shared between neighbours is kept whole.
    """
    keep = values > threshold
    _widen(keep)
    _widen(keep.swapaxes(-1, -2))
    return keep


def _widen(mask: Any) -> None:
    """Let True spread by one pixel along the last axis, in place."""
    before = mask.copy()
    mask[..., 1:] |= before[..., :-1]
    mask[..., :-1] |= before[..., 1:]


def counting_threshold(noise: float, rate: Any) -> Any:
    """Return the value from which a pixel has a photon, so that as many false ones come in as true ones get lost.

    Parameters
    ----------
    noise : float
        Read noise in photons, normally distributed.
    rate : float or array
        Expected photons: of a pixel, or of a place if clusters are counted.

    Returns
    -------
    float or array
        In photons, 0.5 or more.

    Notes
    -----
    Of the pixels without a photon (share 1 − p) noise lifts Q(θ/σ) over the threshold θ; of those with one (p) it
    pushes Q((1 − θ)/σ) below it; Q is the normal distribution's tail.  The sum of counted photons is free of bias
    where both weigh the same, (1 − p)·Q(θ/σ) = p·Q((1 − θ)/σ).  It is 0.5 at p = 0.5; the rarer photons are, the
    higher it has to be; with little noise it stays close to 0.5 at any rate.  With Poisson's distribution
    p/(1 − p) is the rate, as long as two photons are rare.
    """
    odds = np.clip(np.asarray(rate, np.float64), LEAST_RATE, 1.0)
    low, high = np.full_like(odds, 0.5), np.full_like(odds, 1.5)
    for _ in range(30):
        middle = (low + high) / 2
        too_low = ndtr(-middle / noise) > odds * ndtr((middle - 1) / noise)
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
    return (low + high) / 2


def count_photons(values: Any, noise: float, threshold: Any, keep: float, xp: ModuleType = np) -> Any:
    """Return frames in which photons are counted where they fall one by one.

    Parameters
    ----------
    values : (n, rows, columns) float32
        Photons, with noise of `noise` photons.
    noise : float
    threshold : float or (rows, columns) float32
        Charge from which a cluster is a photon, as `counting_threshold` gives it for `CLUSTER_NOISE` times the noise.
    keep : float
        Threshold of `keep_photons` for all that is not counted.

    Returns
    -------
    (n, rows, columns) float32
        Whole numbers where clusters stand alone; plain values, as free of bias as they came, where light is dense;
        0 elsewhere.

    Notes
    -----
    A pixel that exceeds `SPLIT_SIGMAS` sigmas and all its eight neighbours is a candidate.  A photon's charge lies on
    no more than 2 × 2 pixels, so of the four such squares with the candidate in a corner the one with most charge is
    its cluster; the charge counts that exceeds the same limit, as in the event grades of X-ray astronomy's CCDs.
    The cluster stands alone where no pixel of the frame around it, one pixel wide, exceeds `ALONE_SIGMAS`.  Its
    charge, rounded to whole photons, goes to the candidate, and the rest of the square is empty.

    Whether light is dense is so decided by the light itself, place by place: where clusters touch, charge cannot be
    told apart, rounding pixel by pixel would be biased, and plain values are better.
    """
    n, rows, columns = values.shape
    padded = xp.full((n, rows + 4, columns + 4), -xp.inf, xp.float32)
    padded[:, 2:-2, 2:-2] = values

    def shifted(array: Any, down: int, right: int) -> Any:
        return array[:, 2 + down : 2 + down + rows, 2 + right : 2 + right + columns]

    center = shifted(padded, 0, 0)
    candidates = center > SPLIT_SIGMAS * noise
    for down, right in NEIGHBOURS:
        other = shifted(padded, down, right)
        # of equals the last one in the order of reading
        candidates &= (center >= other) if (down, right) < (0, 0) else (center > other)

    charge = xp.where(padded > SPLIT_SIGMAS * noise, padded, xp.float32(0))
    squares = charge[:, :-1] + charge[:, 1:]
    squares = squares[:, :, :-1] + squares[:, :, 1:]  # by their upper left corner
    hits = (padded > ALONE_SIGMAS * noise).astype(xp.int8)
    hits_of_square = hits[:, :-1] + hits[:, 1:]
    hits_of_square = hits_of_square[:, :, :-1] + hits_of_square[:, :, 1:]
    wide = xp.pad(hits_of_square, ((0, 0), (1, 1), (1, 1)))
    around = wide[:, :-2] + wide[:, 2:]
    around = around[:, :, :-2] + around[:, :, 2:]  # 4 × 4 pixels around each square
    alone = around == hits_of_square

    best, best_alone = shifted(squares, 0, 0).copy(), shifted(alone, 0, 0).copy()
    corner = xp.zeros(best.shape, xp.int8)
    for k, (up, left) in enumerate(CORNERS[1:], start=1):
        other = shifted(squares, -up, -left)
        better = other > best
        xp.copyto(best, other, where=better)
        xp.copyto(best_alone, shifted(alone, -up, -left), where=better)
        corner[better] = k
    counted = candidates & best_alone

    taken = xp.zeros(padded.shape, bool)
    for k, (up, left) in enumerate(CORNERS):
        here = counted & (corner == k)
        for down, right in CORNERS:
            target = shifted(taken, down - up, right - left)
            target |= here
    photons = xp.where(best < threshold, xp.float32(0), xp.maximum(xp.rint(best), 1))
    rest = xp.where(shifted(taken, 0, 0), xp.float32(0), values)
    rest *= keep_photons(rest, keep)
    return xp.where(counted, photons, rest).astype(xp.float32)
