"""Cleaning compiled for a CPU: raw words to sums of bins in one pass, or two where interference is removed.

Nothing is converted to floating point outside the window, and no full frame of floats is made where one pass does.
A few rows are taken of each frame of a block in turn, so that dark rows are read once for all of them.
"""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar

import numba
import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.background import HalfBackground, OverscanFit, overscan_offset
from nsbluesky.cleaning.resample import resample
from nsbluesky.cleaning.spike_loops import remove_spikes_compiled
from nsbluesky.cleaning.spikes import LEAST_BACKGROUND
from nsbluesky.cleaning.words import GAIN_FACTORS, VALUE_BITS, saturation_limit
from nsbluesky.settings import CleaningSettings

if TYPE_CHECKING:
    from nsbluesky.cleaning.plan import CleaningPlan

__all__ = ["CompiledCleaning", "can_compile"]

BLOCK_FRAMES = 8
ROWS_AT_ONCE = 16
"""Of each frame in turn: what is read of a frame is one run of pages, and the darks of the rows stay near."""
MAX_COLUMNS_PER_ADC = 12  # `remove_spikes_compiled` has a table of 2**columns entries

Floats = npt.NDArray[np.float32]
FAST = {"nsz", "contract", "reassoc", "nnan", "ninf"}
U1, U2, U3, U4, U5, U6, U7, U8, U9 = (np.uintp(k) for k in range(1, 10))


def can_compile(plan: CleaningPlan) -> bool:
    """Return whether `CompiledCleaning` knows all steps of a plan."""
    columns = plan.layout.data_columns_per_adc
    return (
        plan.xp is np
        and plan.counting is None
        and plan.settings.spikes != "fourier"
        and not (plan.spikes and columns > MAX_COLUMNS_PER_ADC)
    )


class CompiledCleaning:
    """One plan's tables, and the buffers of the threads that use them."""

    _known: ClassVar[weakref.WeakKeyDictionary[CleaningPlan, CompiledCleaning]] = weakref.WeakKeyDictionary()

    @classmethod
    def of(cls, plan: CleaningPlan) -> CompiledCleaning:
        """Return the one of this plan; made at the first call."""
        if plan not in cls._known:
            cls._known[plan] = cls(plan)
        return cls._known[plan]

    def __init__(self, plan: CleaningPlan) -> None:
        layout, settings = plan.layout, plan.settings
        crop, width = plan.good.shape
        adcs = plan.background[0].adcs
        self._overscan = [
            (k, half, half.overscan, _overscan_arrays(half, half.overscan))
            for k, half in enumerate(plan.background)
            if half.overscan is not None
        ]
        self._num_halves = len(plan.background)
        terms = {len(arrays[-1].T) for *_, arrays in self._overscan if arrays is not None}
        self._num_terms = max(terms, default=0)
        # Columns that are neighbours in the raw frame already are taken as one long run.
        whole = not layout.overscan_columns
        firsts = [adcs.start * layout.columns_per_adc + half.layout.data_columns.start for half in plan.background]
        self._columns = np.array(firsts), layout.columns_per_adc, layout.data_columns_per_adc
        if whole and not self._overscan:
            self._columns = np.array(firsts), width, width
        raw_rows, halves = np.full(crop, -1, np.int64), np.zeros(crop, np.int64)
        self._dark = np.zeros((crop, width), np.float32)
        self._basis = np.zeros((crop, self._num_terms), np.float32)
        has_steps = plan.background[0].gain_steps is not None
        self._gain_steps = np.zeros((2 if has_steps else 0, crop, width), np.float32)
        for k, half in enumerate(plan.background):
            raw_rows[half.image_rows] = np.arange(half.raw_rows.start, half.raw_rows.stop)
            halves[half.image_rows] = k
            self._dark[half.image_rows] = half.dark.reshape(len(half.dark), width)
            if half.gain_steps is not None:
                self._gain_steps[:, half.image_rows] = half.gain_steps.reshape(2, len(half.dark), width)
            if half.overscan is not None and half.overscan.basis is not None:
                self._basis[half.image_rows] = half.overscan.basis[half.overscan.wanted]
        self._rows = raw_rows, halves
        self._gain = _gain_codes(settings)
        self._good = plan.good != 0
        rows, columns = np.nonzero(~self._good)
        self._bad = np.searchsorted(rows, np.arange(crop + 1)), columns
        none = np.zeros((0, 0), np.float32)
        sensitivity, behind_beamstop = (
            none if a is None else np.ascontiguousarray(a) for a in (plan.sensitivity, plan.behind_beamstop)
        )
        self._maps = sensitivity, behind_beamstop
        self._place = plan.source.start, plan.target.start, plan.source.stop - plan.source.start
        self._bins = plan.num_bins, plan.bin_px, plan.scale
        self._threshold = np.float32(plan.threshold_adu)
        self._filling, self._resampling = plan.filling, plan.resampling
        self._outside = np.flatnonzero(plan.mask.ravel())
        self._spikes = [(fit, self._usable(fit.image_rows), fit.pairs()) for fit in plan.spikes]
        self._local = threading.local()

    def _usable(self, rows: slice) -> npt.NDArray[np.uint8]:
        good = self._good[rows]
        return np.zeros((0, 0), np.uint8) if good.all() else np.ascontiguousarray(good).view(np.uint8)

    def __call__(self, frames: npt.NDArray[np.uint16], out: Floats, threads: int = 1) -> npt.NDArray[np.bool_]:
        """Clean `frames` (n, rows, columns) to `out` (n, frame_px, frame_px).

        Returns
        -------
        (n,) bool
            Frames with saturated words or errors among the good pixels, whose result must not be used.
        """
        doubtful = np.zeros(len(frames), bool)
        size = max(min(BLOCK_FRAMES, -(-len(frames) // threads)), 1)
        blocks = [slice(start, start + size) for start in range(0, len(frames), size)]
        if threads == 1 or len(blocks) == 1:
            for block in blocks:
                self._block(frames[block], out[block], doubtful[block])
        else:
            list(_pool(threads).map(lambda b: self._block(frames[b], out[b], doubtful[b]), blocks))
        return doubtful

    def _block(self, frames: npt.NDArray[np.uint16], out: Floats, doubtful: npt.NDArray[np.bool_]) -> None:
        frames = np.ascontiguousarray(frames)
        side, bin_px, scale = self._bins
        bins = out
        if self._resampling is not None or not out.flags.c_contiguous:
            bins = self._buffer("bins", (BLOCK_FRAMES, side, side))[: len(frames)]
        drift, offsets = self._offsets(frames)
        if not self._spikes:
            _one_pass(
                frames, self._rows, self._columns, self._dark, drift, self._basis, offsets, self._gain,
                self._gain_steps, self._good, self._bad, self._maps, self._threshold, self._place, bin_px, scale,
                bins, doubtful,
            )  # fmt: skip
        else:
            values = self._buffer("values", self._dark.shape)
            for k, frame in enumerate(frames):
                own_drift = drift[k] if len(drift) else drift.reshape(0, 0, 0)
                own_offsets = offsets[k] if len(offsets) else offsets.reshape(0, 0)
                _load_frame(
                    frame, self._rows, self._columns, self._dark, own_drift, self._basis, own_offsets, self._gain,
                    self._gain_steps, self._good, self._bad, values, doubtful[k : k + 1],
                )  # fmt: skip
                for fit, usable, (full, pair_rows, pair_sums) in self._spikes:
                    remove_spikes_compiled(
                        values[fit.image_rows], usable, fit.row_basis, fit.column_basis, full, pair_rows, pair_sums,
                        fit.limits_adu, LEAST_BACKGROUND,
                    )  # fmt: skip
                _finish_frame(
                    values, self._bad, self._maps, self._threshold, self._place, bin_px, scale, bins[k]
                )  # fmt: skip
        if self._resampling is not None and self._filling is not None:
            self._filling.fill(bins)
            for k in range(len(bins)):
                out[k] = resample(bins[k : k + 1], self._resampling)[0]
            out.reshape(len(out), -1)[:, self._outside] = 0
        elif bins is not out:
            out[...] = bins

    def _offsets(self, frames: npt.NDArray[np.uint16]) -> tuple[Floats, Floats]:
        """Return the offset as coefficients (n, halves, terms, width) or, without a fit, as (n, rows, ADCs)."""
        crop, width = self._dark.shape
        nothing = np.zeros((0, 0, 0), np.float32)
        if self._num_terms:
            drift = self._buffer("drift", (BLOCK_FRAMES, self._num_halves, self._num_terms, width))[: len(frames)]
            for k, half, overscan, arrays in self._overscan:
                assert arrays is not None
                places, weights, dark, fit = arrays
                bits = 0xFFFF if half.gain_words == "plain" else VALUE_BITS
                for f, frame in enumerate(frames):
                    _fit_overscan(frame[overscan.rows], places, weights, dark, fit, bits, drift[f, k])
            return drift, nothing
        if not self._overscan:
            return nothing[..., None], nothing
        offsets = np.zeros((len(frames), crop, width // self._columns[2]), np.float32)
        for _, half, overscan, _ in self._overscan:
            offsets[:, half.image_rows] = overscan_offset(frames, half, overscan)
        return nothing[..., None], offsets

    def _buffer(self, name: str, shape: tuple[int, ...]) -> Floats:
        """Return this thread's scratch array: fresh memory for every block costs more than filling it."""
        buffer: Floats | None = getattr(self._local, name, None)
        if buffer is None:
            buffer = np.zeros(shape, np.float32)
            setattr(self._local, name, buffer)
        return buffer


_POOLS: dict[int, ThreadPoolExecutor] = {}


def _pool(threads: int) -> ThreadPoolExecutor:
    if threads not in _POOLS:
        _POOLS[threads] = ThreadPoolExecutor(threads, thread_name_prefix="nsbluesky-cleaning")
    return _POOLS[threads]


def _gain_codes(settings: CleaningSettings) -> tuple[int, int, int, int]:
    """Return the bits of the value, the code of the middle gain (0: no gain bits), and `saturation_limit`."""
    value_bits = 0xFFFF if settings.gain_words == "plain" else VALUE_BITS
    middle = GAIN_FACTORS[settings.gain_words].index(4.0) if settings.gain_words in GAIN_FACTORS else 0
    return value_bits, middle, *saturation_limit(settings)


def _overscan_arrays(
    half: HalfBackground, overscan: OverscanFit
) -> tuple[npt.NDArray[np.int64], Floats, Floats, Floats] | None:
    """Return what `_fit_overscan` needs, or None where there is no fit."""
    if overscan.fit is None:
        return None
    layout = half.layout
    columns = np.array(layout.overscan_columns)
    places = (half.adcs.start + np.arange(half.adcs.stop - half.adcs.start)) * layout.columns_per_adc
    return (
        (places[:, None] + columns).astype(np.int64),
        np.ascontiguousarray(overscan.weights),
        np.ascontiguousarray(overscan.dark),
        np.ascontiguousarray(overscan.fit.T),
    )


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _fit_overscan(
    words: npt.NDArray[np.uint16],
    places: npt.NDArray[np.int64],
    weights: Floats,
    dark: Floats,
    fit: Floats,
    bits: int,
    coefficients: Floats,
) -> None:
    """Write the coefficients (terms, width) of the overscan in `words` (rows, columns): the same over each ADC."""
    rows, adcs, count = weights.shape
    terms = fit.shape[1]
    sums = np.zeros((terms, adcs), np.float32)
    values = np.empty(adcs, np.float32)
    for r in range(rows):
        for a in range(adcs):
            value = -dark[r, a]
            for c in range(count):
                value += np.float32(words[r, places[a, c]] & bits) * weights[r, a, c]
            values[a] = value
        for t in range(terms):
            factor = fit[r, t]
            for a in range(adcs):
                sums[t, a] += factor * values[a]
    data = coefficients.shape[1] // adcs
    for t in range(terms):
        for a in range(adcs):
            coefficients[t, a * data : (a + 1) * data] = sums[t, a]


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _gather(words, first, per, data, row):  # type: ignore[no-untyped-def]
    """Copy the data columns of each ADC to `row`.

    Indices are unsigned, as numba looks at signed ones for counting from the end, which no vector can.
    """
    adcs = len(row) // data
    if adcs == 1:
        part = words[first : first + len(row)]
        for x in range(len(row)):
            row[x] = part[x]
    elif per == 12 and data == 10:
        for a in range(adcs):
            s, p = np.uintp(first + a * 12), np.uintp(a * 10)
            # all of an ADC is read before any is written: else a compiler must fear that one changes the other
            w0, w1, w2, w3, w4 = words[s], words[s + U1], words[s + U2], words[s + U3], words[s + U4]
            w5, w6, w7, w8, w9 = words[s + U5], words[s + U6], words[s + U7], words[s + U8], words[s + U9]
            row[p], row[p + U1], row[p + U2], row[p + U3], row[p + U4] = w0, w1, w2, w3, w4
            row[p + U5], row[p + U6], row[p + U7], row[p + U8], row[p + U9] = w5, w6, w7, w8, w9
    else:
        for a in range(adcs):
            source, place = np.uintp(first + a * per), np.uintp(a * data)
            for j in range(np.uintp(data)):
                row[place + j] = words[source + j]


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _drift_row(drift, basis, row):  # type: ignore[no-untyped-def]
    """Write the offset of every column from coefficients (terms, width)."""
    if len(basis) == 4:
        b0, b1, b2, b3 = basis[0], basis[1], basis[2], basis[3]
        d0, d1, d2, d3 = drift[0], drift[1], drift[2], drift[3]
        for x in range(len(row)):
            row[x] = (b0 * d0[x] + b1 * d1[x]) + (b2 * d2[x] + b3 * d3[x])
        return
    row[:] = 0
    for t in range(len(basis)):
        factor, part = basis[t], drift[t]
        for x in range(len(row)):
            row[x] += factor * part[x]


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _spread_row(offsets, data, row):  # type: ignore[no-untyped-def]
    """Write the offset of every column from one value per ADC."""
    for a in range(len(offsets)):
        row[a * data : (a + 1) * data] = offsets[a]


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _load_row(words, dark, offset, gain, gain_steps, row):  # type: ignore[no-untyped-def]
    """Write gathered words without dark and offset, at gain ×8, to `row`.

    `gain_steps` (2, width), or without elements, are the darks of the other gains less that of ×8.
    """
    bits = np.uint16(gain[0])
    if len(offset):
        for x in range(len(row)):
            row[x] = (np.float32(words[x] & bits) - dark[x]) - offset[x]
    else:
        for x in range(len(row)):
            row[x] = np.float32(words[x] & bits) - dark[x]
    if gain[1]:
        middle, lowest = np.uint16(gain[1]), np.uint16(6)
        one, four, eight = np.float32(1), np.float32(4), np.float32(8)
        if gain_steps.shape[0]:
            of_middle, of_lowest = gain_steps[0], gain_steps[1]
            for x in range(len(row)):
                code = words[x] >> np.uint16(13)
                row[x] -= np.float32(code == middle) * of_middle[x] + np.float32(code == lowest) * of_lowest[x]
        for x in range(len(row)):
            code = words[x] >> np.uint16(13)
            factor = one * np.float32(code == np.uint16(0))
            factor += four * np.float32(code == middle) + eight * np.float32(code == lowest)
            row[x] *= factor


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _is_doubtful(words, gain, good):  # type: ignore[no-untyped-def]
    """Return whether a good pixel of a row is saturated, or has an error."""
    _, middle, bits, limit = gain
    mask = np.uint16(bits)
    top = np.uint16(0)
    for x in range(len(words)):
        top = max(top, np.uint16(words[x] & mask))
    errors = np.uint16(0)
    if middle:
        odd = np.uint16(0x4000 if middle == 4 else 0x8000)
        for x in range(len(words)):
            alone = (words[x] & np.uint16(0xC000)) == odd
            errors |= (words[x] & np.uint16(0x2000)) | np.uint16(alone)
    if top < limit and errors == 0:
        return False
    for x in range(len(words)):
        code = words[x] >> 13
        if good[x] and ((words[x] & mask) >= limit or (middle and code != 0 and code != middle and code != 6)):
            return True
    return False


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _add_row(above, here, below, threshold, source, count, widest, line):  # type: ignore[no-untyped-def]
    """Add one row to `line`, without what is below the threshold in all of its 2 × 2 neighbourhoods."""
    part = here[source : source + count]
    if threshold > 0:
        for x in range(len(here)):
            widest[x + 1] = max(max(above[x], here[x]), below[x])
        left = widest[source : source + count]
        middle = widest[source + 1 : source + 1 + count]
        right = widest[source + 2 : source + 2 + count]
        for i in range(count):
            # a product in the place of a branch: this loop then runs in vectors
            line[i] += part[i] * np.float32(max(max(left[i], middle[i]), right[i]) > threshold)
    else:
        for i in range(count):
            line[i] += part[i]


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _end_bins(line, bin_px, scale, out):  # type: ignore[no-untyped-def]
    """Write the sums of groups of `bin_px` of a line to a row of bins, and clear the line.

    Sizes that a compiler knows run in vectors.
    """
    if bin_px == 2:
        for b in range(np.uintp(len(out))):
            k = b * U2
            out[b] = (line[k] + line[k + U1]) * scale[b]
    elif bin_px == 4:
        for b in range(np.uintp(len(out))):
            k = b * U4
            out[b] = ((line[k] + line[k + U1]) + (line[k + U2] + line[k + U3])) * scale[b]
    elif bin_px == 8:
        for b in range(np.uintp(len(out))):
            k = b * np.uintp(8)
            low = (line[k] + line[k + U1]) + (line[k + U2] + line[k + U3])
            high = (line[k + U4] + line[k + U5]) + (line[k + U6] + line[k + U7])
            out[b] = (low + high) * scale[b]
    else:
        for b in range(len(out)):
            total = np.float32(0)
            for x in range(b * bin_px, (b + 1) * bin_px):
                total += line[x]
            out[b] = total * scale[b]
    line[:] = 0


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _one_pass(
    frames: npt.NDArray[np.uint16],
    rows_of: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    columns_of: tuple[npt.NDArray[np.int64], int, int],
    dark: Floats,
    drift: Floats,
    basis: Floats,
    offsets: Floats,
    gain: tuple[int, int, int, int],
    gain_steps: Floats,
    good: npt.NDArray[np.bool_],
    bad: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    maps: tuple[Floats, Floats],
    threshold: np.float32,
    place: tuple[int, int, int],
    bin_px: int,
    scale: Floats,
    out: Floats,
    doubtful: npt.NDArray[np.bool_],
) -> None:
    """Clean frames (n, rows, columns) to bins (n, bins, bins), the last three rows of each in a ring."""
    n = len(frames)
    rows, width = dark.shape
    source, target, count = place
    sensitivity, behind_beamstop = maps
    firsts, per, data = columns_of
    raw_rows, halves = rows_of
    ring = np.zeros((n, 3, width), np.float32)
    lines = np.zeros((n, rows), np.float32)  # a window is a square
    widest = np.zeros(width + 2, np.float32)
    bright = np.zeros(width, np.float32)
    words = np.zeros(width, np.uint16)
    offset = np.zeros(width if drift.shape[0] or offsets.shape[0] else 0, np.float32)
    for first_row in range(0, rows + 1, ROWS_AT_ONCE):
        for f in range(n):
            for r in range(first_row, min(first_row + ROWS_AT_ONCE, rows + 1)):
                here = ring[f, r % 3]
                if r == rows or raw_rows[r] < 0:
                    here[:] = 0
                else:
                    _gather(frames[f, raw_rows[r]], firsts[halves[r]], per, data, words)
                    if drift.shape[0]:
                        _drift_row(drift[f, halves[r]], basis[r], offset)
                    elif offsets.shape[0]:
                        _spread_row(offsets[f, r], data, offset)
                    _load_row(words, dark[r], offset, gain, gain_steps[:, r], here)
                    if not doubtful[f]:
                        doubtful[f] = _is_doubtful(words, gain, good[r])
                    for b in range(bad[0][r], bad[0][r + 1]):
                        here[bad[1][b]] = 0
                    if sensitivity.shape[0]:
                        for x in range(width):
                            here[x] *= sensitivity[r, x]
                if r == 0:
                    continue
                done = r - 1
                above, middle = ring[f, (r - 2) % 3], ring[f, done % 3]
                line = lines[f, target : target + count]
                if behind_beamstop.shape[0]:
                    bright[:] = 0
                    _add_row(above, middle, here, threshold, 0, width, widest, bright)
                    for i in range(count):
                        line[i] += bright[source + i] * behind_beamstop[done, source + i]
                else:
                    _add_row(above, middle, here, threshold, source, count, widest, line)
                if r % bin_px == 0:
                    _end_bins(lines[f], bin_px, scale[done // bin_px], out[f, done // bin_px])


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _load_frame(
    frame: npt.NDArray[np.uint16],
    rows_of: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    columns_of: tuple[npt.NDArray[np.int64], int, int],
    dark: Floats,
    drift: Floats,
    basis: Floats,
    offsets: Floats,
    gain: tuple[int, int, int, int],
    gain_steps: Floats,
    good: npt.NDArray[np.bool_],
    bad: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    values: Floats,
    doubtful: npt.NDArray[np.bool_],
) -> None:
    """Write the window of one frame without dark and offset to `values` (rows, width)."""
    firsts, per, data = columns_of
    raw_rows, halves = rows_of
    width = values.shape[1]
    words = np.zeros(width, np.uint16)
    offset = np.zeros(width if drift.shape[0] or offsets.shape[0] else 0, np.float32)
    for r in range(len(values)):
        here = values[r]
        if raw_rows[r] < 0:
            here[:] = 0
            continue
        _gather(frame[raw_rows[r]], firsts[halves[r]], per, data, words)
        if drift.shape[0]:
            _drift_row(drift[halves[r]], basis[r], offset)
        elif offsets.shape[0]:
            _spread_row(offsets[r], data, offset)
        _load_row(words, dark[r], offset, gain, gain_steps[:, r], here)
        if not doubtful[0]:
            doubtful[0] = _is_doubtful(words, gain, good[r])
        for b in range(bad[0][r], bad[0][r + 1]):
            here[bad[1][b]] = 0


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def _finish_frame(
    values: Floats,
    bad: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    maps: tuple[Floats, Floats],
    threshold: np.float32,
    place: tuple[int, int, int],
    bin_px: int,
    scale: Floats,
    out: Floats,
) -> None:
    """Sum a window (rows, width) into bins (bins, bins): flat field, threshold, beamstop, crop."""
    rows, width = values.shape
    source, target, count = place
    sensitivity, behind_beamstop = maps
    widest = np.zeros(width + 2, np.float32)
    bright = np.zeros(width, np.float32)
    dark = np.zeros(width, np.float32)
    whole_line = np.zeros(rows, np.float32)
    line = whole_line[target : target + count]
    for r in range(rows):
        for b in range(bad[0][r], bad[0][r + 1]):
            values[r, bad[1][b]] = 0
        if sensitivity.shape[0]:
            for x in range(width):
                values[r, x] *= sensitivity[r, x]
    for r in range(rows):
        above = values[r - 1] if r else dark
        below = values[r + 1] if r + 1 < rows else dark
        if behind_beamstop.shape[0]:
            bright[:] = 0
            _add_row(above, values[r], below, threshold, 0, width, widest, bright)
            for i in range(count):
                line[i] += bright[source + i] * behind_beamstop[r, source + i]
        else:
            _add_row(above, values[r], below, threshold, source, count, widest, line)
        if (r + 1) % bin_px == 0:
            _end_bins(whole_line, bin_px, scale[r // bin_px], out[r // bin_px])
