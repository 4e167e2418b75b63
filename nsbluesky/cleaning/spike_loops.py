"""`remove_spikes` for one frame on a CPU: the same sums without copies, three passes over the window."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nsbluesky.compiled import njit

__all__ = ["remove_spikes_compiled"]

ROWS_AT_ONCE = 4  # as many rows are added to a sum each time it is fetched

Floats = npt.NDArray[np.float32]
FAST = {"contract", "reassoc", "nsz"}


@njit(nogil=True, cache=True, fastmath=FAST)
def remove_spikes_compiled(
    values: Floats,
    good: npt.NDArray[np.uint8],
    row_basis: Floats,
    column_basis: Floats,
    full: npt.NDArray[np.float64],
    pair_rows: Floats,
    pair_columns: Floats,
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
    pair_rows, pair_columns : (2·lines² + 1, rows) and (2·lines², columns) float32
        As `SpikeFit.pairs` returns them: what pixels with light take from the normal matrix.
    limits : (float, float)
        What is background to the first and to the second fit, in ADU.
    least : float
        Least share of an ADC's pixels that must be background.
    """
    size, rows = row_basis.shape
    width, columns = values.shape[1], column_basis.shape[1]
    sums = np.empty((size, width), np.float32)
    light_sums = np.empty((len(pair_rows), width), np.float32)
    waves = np.empty((size, width), np.float32)
    dark = np.empty((ROWS_AT_ONCE, width), np.float32)
    light = np.empty((ROWS_AT_ONCE, width), np.float32)
    normal = np.empty((size, size), np.float64)
    moments = np.empty(size, np.float64)
    for fit in range(2):
        sums[:] = 0
        light_sums[:] = 0
        limit = np.float32(limits[fit])
        for r in range(0, rows, ROWS_AT_ONCE):
            for j in range(ROWS_AT_ONCE):
                if r + j < rows:
                    if fit:
                        _subtract(values, r + j, row_basis, waves)
                    _split(values, good, r + j, limit, dark, light, j)
                else:
                    dark[j] = 0
                    light[j] = 0
            _accumulate(row_basis, r, dark, sums)
            _accumulate(pair_rows, r, light, light_sums)
        for a in range(0, width, columns):
            lit = light_sums[-1, a : a + columns].sum()
            if rows * columns - lit < least * rows * columns:
                waves[:, a : a + columns] = 0
                continue
            _moments(sums, column_basis, a, moments)
            _background(full, light_sums, pair_columns, a, lit, normal)
            _solve(normal, moments)
            _spread(moments, column_basis, a, waves)
    for r in range(rows):
        _subtract(values, r, row_basis, waves)


@njit(nogil=True, fastmath=FAST)
def _subtract(values: Floats, r: int, row_basis: Floats, waves: Floats) -> None:
    """Subtract the waves from a row; cos and sin of a line at once."""
    for k in range(0, len(row_basis), 2):
        cos, sin = row_basis[k, r], row_basis[k + 1, r]
        for x in range(values.shape[1]):
            values[r, x] -= cos * waves[k, x] + sin * waves[k + 1, x]


@njit(nogil=True, fastmath=FAST)
def _split(
    values: Floats,
    good: npt.NDArray[np.uint8],
    r: int,
    limit: np.float32,
    dark: Floats,
    light: Floats,
    j: int,
) -> None:
    """Write the background of a row to row `j` of `dark`, and to `light` 1 where it is none; 0 elsewhere."""
    one, none = np.float32(1), np.float32(0)
    if good.shape[0]:
        for x in range(values.shape[1]):
            value = values[r, x]
            inside = (abs(value) < limit) & (good[r, x] != 0)
            dark[j, x] = value if inside else none
            light[j, x] = none if inside else one
    else:
        for x in range(values.shape[1]):
            value = values[r, x]
            inside = abs(value) < limit
            dark[j, x] = value if inside else none
            light[j, x] = none if inside else one


@njit(nogil=True, fastmath=FAST)
def _accumulate(basis: Floats, r: int, parts: Floats, sums: Floats) -> None:
    """Add `basis` (terms, rows) times four rows of `parts` from row `r` on to `sums` (terms, columns)."""
    last = basis.shape[1] - 1
    for k in range(len(basis)):
        b0, b1 = basis[k, r], basis[k, min(r + 1, last)]
        b2, b3 = basis[k, min(r + 2, last)], basis[k, min(r + 3, last)]
        for x in range(sums.shape[1]):
            sums[k, x] += (b0 * parts[0, x] + b1 * parts[1, x]) + (b2 * parts[2, x] + b3 * parts[3, x])


@njit(nogil=True)
def _moments(sums: Floats, column_basis: Floats, a: int, moments: npt.NDArray[np.float64]) -> None:
    """Write the right-hand sides (2·lines,) of the ADC that begins at column `a` of the sums over rows."""
    moments[:] = 0
    for k in range(0, len(moments), 2):
        for j in range(column_basis.shape[1]):
            cos, sin = column_basis[k, j], column_basis[k + 1, j]
            c, s = sums[k, a + j], sums[k + 1, a + j]
            moments[k] += c * cos - s * sin
            moments[k + 1] += s * cos + c * sin


@njit(nogil=True)
def _background(
    full: npt.NDArray[np.float64],
    light_sums: Floats,
    pair_columns: Floats,
    a: int,
    lit: np.float32,
    normal: npt.NDArray[np.float64],
) -> None:
    """Write the lower triangle of the normal matrix of what is background of one ADC."""
    for k in range(len(full)):  # an assignment of all at once takes the compiler 6 s
        for m in range(k + 1):
            normal[k, m] = full[k, m]
    p = 0
    for k in range(0, len(full), 2):
        for m in range(0, k + 1, 2):
            plus = _over_columns(light_sums, pair_columns, a, p)
            minus = complex(lit)
            p += 2
            if m < k:
                minus = _over_columns(light_sums, pair_columns, a, p)
                p += 2
            normal[k, m] -= 0.5 * (plus.real + minus.real)
            normal[k + 1, m + 1] -= 0.5 * (minus.real - plus.real)
            normal[k + 1, m] -= 0.5 * (plus.imag + minus.imag)
            if m < k:
                normal[k, m + 1] -= 0.5 * (plus.imag - minus.imag)


@njit(nogil=True)
def _over_columns(light_sums: Floats, pair_columns: Floats, a: int, p: int) -> complex:
    total = 0j
    for j in range(pair_columns.shape[1]):
        total += complex(light_sums[p, a + j], light_sums[p + 1, a + j]) * complex(
            pair_columns[p, j], pair_columns[p + 1, j]
        )
    return total


@njit(nogil=True)
def _spread(amplitudes: npt.NDArray[np.float64], column_basis: Floats, a: int, waves: Floats) -> None:
    """Write c·cos(r + j) + s·sin(r + j) as what multiplies cos r and sin r in each column of an ADC."""
    for k in range(0, len(amplitudes), 2):
        c, s = amplitudes[k], amplitudes[k + 1]
        for j in range(column_basis.shape[1]):
            cos, sin = column_basis[k, j], column_basis[k + 1, j]
            waves[k, a + j] = c * cos + s * sin
            waves[k + 1, a + j] = s * cos - c * sin


@njit(nogil=True)
def _solve(normal: npt.NDArray[np.float64], moments: npt.NDArray[np.float64]) -> None:
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
