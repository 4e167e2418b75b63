"""From raw rows to bins, compiled: the steps of one row, and the loops over rows that share them.

Every step is put into the loop that uses it, as a call with so many arrays costs as much as a row: by numba, before
anything is compiled, as LLVM would compile each step alone first, and the same machine code takes half as long again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.flags import Doubts
from nsbluesky.cleaning.prefetch import fetch_row
from nsbluesky.cleaning.row_tables import RowTables, Scratch
from nsbluesky.cleaning.words import is_row_lost
from nsbluesky.compiled import njit

__all__ = ["FAST", "finish_frame", "load_frame", "one_pass"]

ROWS_AT_ONCE = 8
"""Of each frame in turn: what is read of a frame is one run of pages, and the darks of the rows stay near."""
COLUMNS_AT_ONCE = 64  # of a row with lower gains

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint16]
F = TypeVar("F", bound=Callable[..., Any])
FAST = {"nsz", "contract", "reassoc", "nnan", "ninf"}
U1, U2, U3, U4, U5, U6, U7, U8, U9 = (np.uintp(k) for k in range(1, 10))


def loop(*, cache: bool = False, inline: str = "never") -> Callable[[F], F]:
    """Return the decorator of loops over rows.

    They do not count who uses an array (numba's `_nrt`, as in its own loops over strings): that is a lock on the bus
    for each piece of an array, and threads that share the array wait for each other.  So they cannot make arrays.
    """
    return njit(nogil=True, fastmath=FAST, error_model="numpy", _nrt=False, cache=cache, inline=inline)


row_step = loop(inline="always")


@loop(cache=True)
def one_pass(
    frames: Words,
    tables: RowTables,
    drift: Floats,
    offsets: Floats,
    scratch: Scratch,
    out: Floats,
    doubts: Doubts,
) -> None:
    """Clean frames (n, rows, columns) to bins (n, bins, bins), the last three rows of each in a ring."""
    n, rows = len(frames), len(tables.raw_rows)
    lit, lines = scratch.lit, scratch.lines
    for f in range(n):
        lit[f] = 0
        lines[f] = 0
    for first_row in range(0, rows + 1, ROWS_AT_ONCE):
        for f in range(n):
            ring, line = scratch.rings[f], lines[f]
            is_last = f + 1 == n
            for r in range(first_row, min(first_row + ROWS_AT_ONCE, rows + 1)):
                here = r % 3
                ahead = r + ROWS_AT_ONCE * is_last
                if ahead < rows and tables.raw_rows[ahead] >= 0:
                    fetch_row(frames, 0 if is_last else f + 1, tables.raw_rows[ahead])
                if r < rows:
                    load_row(frames, f, r, tables, drift, offsets, scratch, doubts, ring, here)
                    settle_row(ring, here, r, tables)
                    light_row(ring, here, tables, lit[f], here)
                else:
                    lit[f, here] = 0
                if r == 0:
                    continue
                add_row(ring, (r - 1) % 3, r - 1, lit[f], tables, scratch.near, line)
                if r % tables.bin_px == 0:
                    end_bins(line, r // tables.bin_px - 1, tables, out[f])


@loop(cache=True)
def load_frame(
    frames: Words,
    f: int,
    tables: RowTables,
    drift: Floats,
    offsets: Floats,
    scratch: Scratch,
    doubts: Doubts,
    values: Floats,
) -> None:
    """Write the window of frame `f` without dark and offset to `values` (rows, width)."""
    for r in range(len(values)):
        load_row(frames, f, r, tables, drift, offsets, scratch, doubts, values, r)


@loop(cache=True)
def finish_frame(values: Floats, tables: RowTables, scratch: Scratch, out: Floats) -> None:
    """Sum a window (rows, width) into bins (bins, bins)."""
    rows = len(values)
    lit, line = scratch.lit[0], scratch.lines[0]
    lit[:] = 0
    line[:] = 0
    for r in range(rows + 1):
        if r < rows:
            settle_row(values, r, r, tables)
            light_row(values, r, tables, lit, r % 3)
        else:
            lit[r % 3] = 0
        if r == 0:
            continue
        add_row(values, r - 1, r - 1, lit, tables, scratch.near, line)
        if r % tables.bin_px == 0:
            end_bins(line, r // tables.bin_px - 1, tables, out)


@row_step
def load_row(
    frames: Words,
    f: int,
    r: int,
    tables: RowTables,
    drift: Floats,
    offsets: Floats,
    scratch: Scratch,
    doubts: Doubts,
    out: Floats,
    to: int,
) -> None:
    """Write row `r` of the window of frame `f`, without dark and offset and at gain ×8, to row `to` of `out`.

    Parameters
    ----------
    frames : (n, raw rows, raw columns) uint16
    f, r : int
    tables : RowTables
    drift : (n, halves, terms, width) float32, or (n, 0, 0, 0)
        Coefficients of the overscan's fit.
    offsets : (n, rows, ADCs) float32, or (n, 0, 0)
        Offsets where there is no fit.
    scratch : Scratch
    doubts : Doubts
        What is wrong with the row is added to them.
    out : (…, width) float32
    to : int
    """
    row, half = tables.raw_rows[r], tables.halves[r]
    if row < 0:
        out[to] = 0
        return
    words, offset = scratch.words, scratch.offset
    _gather(frames, np.uintp(f), np.uintp(row), tables, tables.first_columns[half], words)
    top_bits = _any_bits(words, 0, len(words)) & np.uint16(0xE000) if tables.middle_gain else np.uint16(0)
    if not doubts.doubtful[f] and (top_bits or not tables.middle_gain):  # with a gain, the lowest alone saturates
        doubts.doubtful[f] = _is_doubtful(words, r, tables)
    if tables.packets[r] and not doubts.lost[f]:
        doubts.lost[f] = is_row_lost(frames, f, row, tables.raw_columns_per_adc)
    bits, dark = np.uint16(tables.value_bits), tables.dark
    if drift.shape[1] or offsets.shape[1]:
        if drift.shape[1]:
            _drift_row(drift, f, half, tables.basis, r, offset)
        else:
            _spread_row(offsets, f, r, tables.data_columns, offset)
        for x in range(len(words)):
            # by way of int32, which a vector turns into float32 at once
            out[to, x] = (np.float32(np.int32(words[x] & bits)) - dark[r, x]) - offset[x]
    else:
        for x in range(len(words)):
            out[to, x] = np.float32(np.int32(words[x] & bits)) - dark[r, x]
    if top_bits:
        _apply_gain(words, r, tables, out, to)


@row_step
def _gather(frames: Words, f: np.uintp, row: np.uintp, tables: RowTables, first: int, words: Words) -> None:
    """Copy the data columns of each ADC.

    Indices are unsigned, as numba looks at signed ones for counting from the end, which no vector can.
    """
    per, data = tables.columns_per_adc, tables.data_columns
    adcs = len(words) // data
    if adcs == 1:
        source = np.uintp(first)
        for j in range(np.uintp(len(words))):
            words[j] = frames[f, row, source + j]
    elif per == 12 and data == 10:
        for a in range(adcs):
            s, p = np.uintp(first + a * 12), np.uintp(a * 10)
            # all of an ADC is read before any is written: else a compiler must fear that one changes the other
            w0, w1, w2, w3, w4 = (
                frames[f, row, s],
                frames[f, row, s + U1],
                frames[f, row, s + U2],
                frames[f, row, s + U3],
                frames[f, row, s + U4],
            )
            w5, w6, w7, w8, w9 = (
                frames[f, row, s + U5],
                frames[f, row, s + U6],
                frames[f, row, s + U7],
                frames[f, row, s + U8],
                frames[f, row, s + U9],
            )
            words[p], words[p + U1], words[p + U2], words[p + U3], words[p + U4] = w0, w1, w2, w3, w4
            words[p + U5], words[p + U6], words[p + U7], words[p + U8], words[p + U9] = w5, w6, w7, w8, w9
    else:
        for a in range(adcs):
            source, place = np.uintp(first + a * per), np.uintp(a * data)
            for j in range(np.uintp(data)):
                words[place + j] = frames[f, row, source + j]


@row_step
def _drift_row(drift: Floats, f: int, half: int, basis: Floats, r: int, offset: Floats) -> None:
    """Write the offset of every column from coefficients."""
    if basis.shape[1] == 4:
        b0, b1, b2, b3 = basis[r, 0], basis[r, 1], basis[r, 2], basis[r, 3]
        for x in range(len(offset)):
            low = b0 * drift[f, half, 0, x] + b1 * drift[f, half, 1, x]
            offset[x] = low + (b2 * drift[f, half, 2, x] + b3 * drift[f, half, 3, x])
        return
    offset[:] = 0
    for t in range(basis.shape[1]):
        factor = basis[r, t]
        for x in range(len(offset)):
            offset[x] += factor * drift[f, half, t, x]


@row_step
def _spread_row(offsets: Floats, f: int, r: int, data: int, offset: Floats) -> None:
    """Write the offset of every column from one value per ADC."""
    for a in range(offsets.shape[2]):
        value = offsets[f, r, a]
        for x in range(a * data, (a + 1) * data):
            offset[x] = value


@row_step
def _any_bits(words: Words, first: int, last: int) -> np.uint16:
    """Return the bits that any of some words has."""
    bits = np.uint16(0)
    for x in range(np.uintp(first), np.uintp(last)):
        bits = np.uint16(bits | words[x])
    return bits


@row_step
def _apply_gain(words: Words, r: int, tables: RowTables, out: Floats, to: int) -> None:
    """Take a row to the scale of gain ×8, by the gain of each word; 0 for gains that there are not.

    Light that needs a lower gain lies close together: where no word has it, nothing is read.
    """
    middle, lowest = np.int32(tables.middle_gain), np.int32(6)
    one, four, eight = np.float32(1), np.float32(4), np.float32(8)
    steps = tables.gain_steps
    for first in range(0, len(words), COLUMNS_AT_ONCE):
        last = min(first + COLUMNS_AT_ONCE, len(words))
        if _any_bits(words, first, last) & np.uint16(0xE000) == 0:
            continue
        if steps.shape[0]:
            for x in range(np.uintp(first), np.uintp(last)):
                code = np.int32(words[x] >> np.uint16(13))
                out[to, x] -= (
                    np.float32(code == middle) * steps[0, r, x] + np.float32(code == lowest) * steps[1, r, x]
                )
        for x in range(np.uintp(first), np.uintp(last)):
            code = np.int32(words[x] >> np.uint16(13))
            factor = one * np.float32(code == np.int32(0))
            factor += four * np.float32(code == middle) + eight * np.float32(code == lowest)
            out[to, x] *= factor


@row_step
def _is_doubtful(words: Words, r: int, tables: RowTables) -> bool:
    """Return whether a good pixel of a row is saturated, or has an error."""
    mask, limit = np.uint16(tables.saturation_bits), np.uint16(tables.saturation)
    middle, lowest = np.uint16(tables.middle_gain), np.uint16(6)
    top, wrong = np.uint16(0), np.uint16(0)
    for x in range(len(words)):
        top = max(top, np.uint16(words[x] & mask))
    if middle:
        for x in range(len(words)):
            code = np.uint16(words[x] >> np.uint16(13))
            wrong |= np.uint16((code != np.uint16(0)) & (code != middle) & (code != lowest))
    if top < limit and wrong == 0:
        return False
    for x in range(len(words)):
        code = np.uint16(words[x] >> np.uint16(13))
        if tables.good[r, x] and (
            (words[x] & mask) >= limit or (middle and code != 0 and code != middle and code != lowest)
        ):
            return True
    return False


@row_step
def settle_row(rows: Floats, at: int, r: int, tables: RowTables) -> None:
    """Clear the bad pixels of row `r` of the window and apply its flat field, in row `at` of `rows`."""
    for b in range(tables.bad_starts[r], tables.bad_starts[r + 1]):
        rows[at, np.uintp(tables.bad_columns[b])] = 0
    if tables.sensitivity.shape[0]:
        for x in range(rows.shape[1]):
            rows[at, x] *= tables.sensitivity[r, x]


@row_step
def light_row(rows: Floats, at: int, tables: RowTables, lit: Bytes, slot: int) -> None:
    """Note in row `slot` of `lit` (3, width + 2) which pixels of a row exceed the threshold."""
    if tables.threshold > 0:
        for x in range(np.uintp(rows.shape[1])):
            lit[slot, x + U1] = rows[at, x] > tables.threshold


@row_step
def add_row(rows: Floats, at: int, r: int, lit: Bytes, tables: RowTables, near: Bytes, line: Floats) -> None:
    """Add row `r` of the window, in row `at` of `rows`, to `line` (rows of the window,), as before the beamstop.

    Without the pixels of which no 2 × 2 neighbourhood has light: none of the 3 × 3 about them, in `lit`, which holds
    this row's light and that of the rows to either side, in any order.
    """
    source, count, target = np.uintp(tables.source), np.uintp(tables.num_columns), np.uintp(tables.target)
    first, last = np.uintp(tables.shaded[r, 0]), np.uintp(tables.shaded[r, 1])
    behind, shift = tables.behind_beamstop, target - source
    if tables.threshold > 0:
        for x in range(np.uintp(rows.shape[1])):
            left, right = x, x + U2
            beside = (lit[0, left] | lit[1, left] | lit[2, left]) | (lit[0, right] | lit[1, right] | lit[2, right])
            near[x] = beside | (lit[0, x + U1] | lit[1, x + U1] | lit[2, x + U1])
        for i in range(count):
            # a product in the place of a branch: this loop then runs in vectors
            line[target + i] += rows[at, source + i] * np.float32(near[source + i] != 0)
        for x in range(first, last):
            line[shift + x] += rows[at, x] * np.float32(near[x] != 0) * (behind[r, x] - np.float32(1))
    else:
        for i in range(count):
            line[target + i] += rows[at, source + i]
        for x in range(first, last):
            line[shift + x] += rows[at, x] * (behind[r, x] - np.float32(1))


@row_step
def end_bins(line: Floats, k: int, tables: RowTables, out: Floats) -> None:
    """Write the sums of groups of pixels of a line to row `k` of the bins `out`, and clear the line.

    Sizes that a compiler knows run in vectors.
    """
    scale, bin_px = tables.scale, tables.bin_px
    bins = np.uintp(out.shape[1])
    if bin_px == 1:
        for b in range(bins):
            out[k, b] = line[b] * scale[k, b]
    elif bin_px == 2:
        for b in range(bins):
            x = b * U2
            out[k, b] = (line[x] + line[x + U1]) * scale[k, b]
    elif bin_px == 4:
        for b in range(bins):
            x = b * U4
            out[k, b] = ((line[x] + line[x + U1]) + (line[x + U2] + line[x + U3])) * scale[k, b]
    elif bin_px == 8:
        for b in range(bins):
            x = b * np.uintp(8)
            low = (line[x] + line[x + U1]) + (line[x + U2] + line[x + U3])
            high = (line[x + U4] + line[x + U5]) + (line[x + U6] + line[x + U7])
            out[k, b] = (low + high) * scale[k, b]
    else:
        size = np.uintp(bin_px)
        for b in range(bins):
            total = np.float32(0)
            for j in range(size):
                total += line[b * size + j]
            out[k, b] = total * scale[k, b]
    line[:] = 0
