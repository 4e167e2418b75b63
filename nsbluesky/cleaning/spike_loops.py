"""`remove_spikes` for one frame on a CPU: the same sums without copies, three passes over the window."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

__all__ = ["remove_spikes_compiled"]

Floats = npt.NDArray[np.float32]


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def remove_spikes_compiled(
    values: Floats,
    good: npt.NDArray[np.uint8],
    row_basis: Floats,
    column_basis: Floats,
    full: npt.NDArray[np.float64],
    pair_rows: npt.NDArray[np.complex64],
    pair_sums: npt.NDArray[np.complex64],
    limits: tuple[float, float],
    least: float,
) -> None:
    """Subtract the interference from the rows of one half of one frame, in place.

    Parameters
    ----------
    values : (rows, width) float32
        ADU; whole ADCs side by side.
    good : (rows, width) uint8, or (0, 0) where all pixels tell something
    row_basis, column_basis : (2·lines, rows) and (2·lines, columns) float32
        As in `nsbluesky.cleaning.spikes.SpikeFit`.
    full : (2·lines, 2·lines) float64
        Normal matrix of an ADC that is all background.
    pair_rows : (rows, lines, lines, 2) complex64
        exp(i(ωₖ + ωₗ)t) and exp(i(ωₖ − ωₗ)t) at the rows' clocks.
    pair_sums : (2**columns, lines, lines, 2) complex64
        The same at the columns' clocks, summed over the columns whose bits are set: what pixels with light take from
        the normal matrix, ten at a time.
    limits : (float, float)
        What is background to the first and to the second fit, in ADU.
    least : float
        Least share of an ADC's pixels that must be background.
    """
    size, rows = row_basis.shape
    width = values.shape[1]
    columns = column_basis.shape[1]
    adcs = width // columns
    lines = size // 2
    sums = np.empty((size, width), np.float32)
    waves = np.zeros((size, width), np.float32)
    lit = np.empty((adcs, lines, lines, 2), np.complex64)
    normal = np.empty((size, size), np.float64)
    counts = np.empty(adcs, np.int64)
    kept = np.empty(width, np.float32)
    light = np.empty(width, np.uint8)
    for fit in range(2):
        limit = np.float32(limits[fit])
        sums[:] = 0
        counts[:] = 0
        lit[:] = 0
        for r in range(rows):
            row = values[r]
            if fit:
                _subtract(row, waves, row_basis, r)
            if good.shape[0]:
                usable = good[r]
                for x in range(width):
                    inside = (abs(row[x]) < limit) & (usable[x] != 0)
                    light[x] = not inside
                    kept[x] = row[x] if inside else np.float32(0)
            else:
                for x in range(width):
                    inside = abs(row[x]) < limit
                    light[x] = not inside
                    kept[x] = row[x] if inside else np.float32(0)
            for k in range(size):
                factor, total = row_basis[k, r], sums[k]
                for x in range(width):
                    total[x] += factor * kept[x]
            for a in range(adcs):
                first = a * columns
                bits = 0
                for j in range(columns):
                    bits |= int(light[first + j]) << j
                if bits == 0:
                    continue
                for j in range(columns):
                    counts[a] += light[first + j]
                for k in range(lines):
                    for m in range(k + 1):
                        for both in range(2):
                            lit[a, k, m, both] += pair_rows[r, k, m, both] * pair_sums[bits, k, m, both]
        for a in range(adcs):
            first = a * columns
            if rows * columns - counts[a] < least * rows * columns:
                waves[:, first : first + columns] = 0
                continue
            moments = np.zeros(size)
            for k in range(lines):
                for j in range(columns):
                    cj, sj = column_basis[2 * k, j], column_basis[2 * k + 1, j]
                    c, s = sums[2 * k, first + j], sums[2 * k + 1, first + j]
                    moments[2 * k] += c * cj - s * sj
                    moments[2 * k + 1] += s * cj + c * sj
            normal[:] = full
            for k in range(lines):
                for m in range(k + 1):
                    plus, minus = lit[a, k, m]
                    normal[2 * k, 2 * m] -= 0.5 * (plus.real + minus.real)
                    normal[2 * k + 1, 2 * m + 1] -= 0.5 * (minus.real - plus.real)
                    normal[2 * k + 1, 2 * m] -= 0.5 * (plus.imag + minus.imag)
                    if m < k:
                        normal[2 * k, 2 * m + 1] -= 0.5 * (plus.imag - minus.imag)
            amplitudes = _solve(normal, moments)
            for k in range(lines):
                for j in range(columns):
                    cj, sj = column_basis[2 * k, j], column_basis[2 * k + 1, j]
                    c, s = amplitudes[2 * k], amplitudes[2 * k + 1]
                    # a cos(r + j) + b sin(r + j), gathered by cos r and sin r
                    waves[2 * k, first + j] = c * cj + s * sj
                    waves[2 * k + 1, first + j] = s * cj - c * sj
    for r in range(rows):
        _subtract(values[r], waves, row_basis, r)


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def _subtract(row: Floats, waves: Floats, row_basis: Floats, r: int) -> None:
    for k in range(len(row_basis)):
        factor, wave = row_basis[k, r], waves[k]
        for x in range(len(row)):
            row[x] -= factor * wave[x]


@numba.njit(nogil=True, cache=True)
def _solve(normal: npt.NDArray[np.float64], moments: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Solve by Cholesky's decomposition of the lower triangle, in place."""
    size = len(moments)
    for p in range(size):
        for q in range(p + 1):
            total = normal[p, q]
            for i in range(q):
                total -= normal[p, i] * normal[q, i]
            normal[p, q] = np.sqrt(max(total, 1e-9)) if p == q else total / normal[q, q]
    for p in range(size):
        for i in range(p):
            moments[p] -= normal[p, i] * moments[i]
        moments[p] /= normal[p, p]
    for p in range(size - 1, -1, -1):
        for i in range(p + 1, size):
            moments[p] -= normal[i, p] * moments[i]
        moments[p] /= normal[p, p]
    return moments
