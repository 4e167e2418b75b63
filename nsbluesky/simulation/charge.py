"""The charge of photons in pixels: shared between neighbours, and more than a pixel can hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nsbluesky.compiled import njit

__all__ = ["Charge", "bloom", "share_charge"]

SINGLE_PHOTONS = 12  # so many photons of a pixel are drawn one by one; of more, the sums are

Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Charge:
    """How charge spreads.

    Attributes
    ----------
    cloud_px : float
        Side of a photon's cloud of charge in pixels, 0 to 1.  A photon lands anywhere in a pixel and its square cloud
        reaches into up to 2 × 2 pixels; 1 − (1 − cloud_px)² of all photons are shared.
    full_well_photons : float
        What a pixel holds; what exceeds it flows along its column.  0: no limit.
    """

    cloud_px: float = 0.0
    full_well_photons: float = 0.0

    def __post_init__(self) -> None:
        """Check every value."""
        if not 0 <= self.cloud_px <= 1:
            raise ValueError(f"cloud_px = {self.cloud_px!r}: expected 0 to 1 pixel")
        if not self.full_well_photons >= 0:
            raise ValueError(f"full_well_photons = {self.full_well_photons!r}: expected ≥ 0 (0: no limit)")


def share_charge(photons: npt.NDArray[np.uint32], cloud_px: float, rng: np.random.Generator) -> Image:
    """Return the charge of every pixel in photons, (rows, columns) float32.

    No charge is lost but over the image's edges.

    Notes
    -----
    A photon at u (0…1 across a pixel) gives its right neighbour r = max(0, u + w/2 − 1)/w of its charge, w the
    cloud's side: E[r] = w/8 and E[r²] = w/24; the same to the left and along the other axis, and the product of both
    to a corner.  Few photons are drawn so, one by one.  For many, the sums' means and variances follow from these
    moments, and the sums are normal.
    """
    rows, columns = photons.shape
    charge = np.zeros((rows + 2, columns + 2), np.float32)
    _share(photons, float(cloud_px), rng, charge)
    return np.ascontiguousarray(charge[1:-1, 1:-1])


@njit(nogil=True, cache=True)
def _share(photons: npt.NDArray[np.uint32], width: float, rng: np.random.Generator, charge: Image) -> None:
    mean, square = width / 8, width / 24
    kept, kept_square = 1 - 2 * mean, 1 - 4 * mean + 2 * square
    edge_mean, corner_mean = mean * kept, mean * mean
    edge_var = square * kept_square - edge_mean**2
    corner_var = square**2 - corner_mean**2
    inner = 1 - width / 2
    rows, columns = photons.shape
    for i in range(rows):
        for j in range(columns):
            n = photons[i, j]
            if n == 0:
                continue
            if n <= SINGLE_PHOTONS:
                for _ in range(n):
                    u, v = rng.random(), rng.random()
                    di, dj, a, b = 0, 0, 0.0, 0.0
                    if u > inner:
                        di, a = 1, (u - inner) / width
                    elif u < width / 2:
                        di, a = -1, 0.5 - u / width
                    if v > inner:
                        dj, b = 1, (v - inner) / width
                    elif v < width / 2:
                        dj, b = -1, 0.5 - v / width
                    charge[1 + i, 1 + j] += (1 - a) * (1 - b)
                    charge[1 + i + di, 1 + j] += a * (1 - b)
                    charge[1 + i, 1 + j + dj] += (1 - a) * b
                    charge[1 + i + di, 1 + j + dj] += a * b
                continue
            left = float(n)
            for di in range(-1, 2):
                for dj in range(-1, 2):
                    if di == 0 and dj == 0:
                        continue
                    if di == 0 or dj == 0:
                        part = n * edge_mean + np.sqrt(n * edge_var) * rng.standard_normal()
                    else:
                        part = n * corner_mean + np.sqrt(n * corner_var) * rng.standard_normal()
                    charge[1 + i + di, 1 + j + dj] += part
                    left -= part
            charge[1 + i, 1 + j] += left


@njit(nogil=True, cache=True)
def bloom(charge: Image, full_well: float) -> None:
    """Let what exceeds a full well flow along the column in place, half each way, until there is room for it.

    What reaches the image's first or last row is lost there.
    """
    rows, columns = charge.shape
    for i in range(rows):
        for j in range(columns):
            excess = charge[i, j] - full_well
            if excess <= 0:
                continue
            charge[i, j] = full_well
            for step in (-1, 1):
                flowing, row = excess / 2, i + step
                while flowing > 0 and 0 <= row < rows:
                    taken = min(max(full_well - charge[row, j], 0.0), flowing)
                    charge[row, j] += taken
                    flowing -= taken
                    row += step
