"""Cleaning compiled for a CPU: raw words to sums of bins in one pass, or two where interference is removed.

Nothing is converted to floating point outside the window, and no full frame of floats is made where one pass does.
A few rows are taken of each frame of a block in turn, so that dark rows are read once for all of them.
"""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.background import HalfBackground, OverscanFit, overscan_offset
from nsbluesky.cleaning.flags import Doubts
from nsbluesky.cleaning.resample import resample
from nsbluesky.cleaning.row_loops import FAST, finish_frame, load_frame, one_pass
from nsbluesky.cleaning.row_tables import Scratch, row_tables
from nsbluesky.cleaning.spike_loops import remove_spikes_compiled
from nsbluesky.cleaning.spikes import LEAST_BACKGROUND
from nsbluesky.cleaning.words import has_lost_packets
from nsbluesky.compiled import njit

if TYPE_CHECKING:
    from nsbluesky.cleaning.plan import CleaningPlan

__all__ = ["CompiledCleaning", "can_compile"]

BLOCK_FRAMES = 8

Floats = npt.NDArray[np.float32]


def can_compile(plan: CleaningPlan) -> bool:
    """Return whether `CompiledCleaning` knows all steps of a plan."""
    return plan.xp is np and plan.counting is None and plan.settings.spikes != "fourier"


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
        self._tables = row_tables(plan)
        self._overscan = [
            (k, half, half.overscan, _overscan_arrays(half, half.overscan))
            for k, half in enumerate(plan.background)
            if half.overscan is not None
        ]
        self._num_halves = len(plan.background)
        self._num_terms = self._tables.basis.shape[1]
        self._adcs = plan.background[0].adcs
        self._num_bins = plan.num_bins
        self._layout, self._probe = plan.layout, plan.probe
        self._other_rows = np.setdiff1d(plan.packet_rows, self._tables.raw_rows)
        self._filling, self._resampling = plan.filling, plan.resampling
        self._outside = np.flatnonzero(plan.mask.ravel())
        self._spikes = [(fit, self._usable(fit.image_rows), fit.pairs()) for fit in plan.spikes]
        self._local = threading.local()

    def _usable(self, rows: slice) -> npt.NDArray[np.uint8]:
        good = self._tables.good[rows]
        return np.zeros((0, 0), np.uint8) if good.all() else np.ascontiguousarray(good).view(np.uint8)

    def __call__(self, frames: npt.NDArray[np.uint16], out: Floats, threads: int = 1) -> Doubts:
        """Clean `frames` (n, rows, columns) to `out` (n, frame_px, frame_px).

        What comes out for a frame with any doubt must not be used.
        """
        doubts = Doubts(*np.zeros((3, len(frames)), bool))
        size = max(min(BLOCK_FRAMES, -(-len(frames) // threads)), 1)
        blocks = [slice(start, start + size) for start in range(0, len(frames), size)]

        def clean(block: slice) -> None:
            self._block(frames[block], out[block], Doubts(*(doubt[block] for doubt in doubts)))

        if threads == 1 or len(blocks) == 1:
            for block in blocks:
                clean(block)
        else:
            list(_pool(threads).map(clean, blocks))
        return doubts

    def _block(self, frames: npt.NDArray[np.uint16], out: Floats, doubts: Doubts) -> None:
        frames = np.ascontiguousarray(frames)
        bins = out
        if self._resampling is not None or not out.flags.c_contiguous:
            bins = self._buffer("bins", (BLOCK_FRAMES, self._num_bins, self._num_bins))[: len(frames)]
        drift, offsets = self._offsets(frames)
        scratch = self._scratch()
        if not self._spikes:
            one_pass(frames, self._tables, drift, offsets, scratch, bins, doubts)
        else:
            values = self._buffer("values", self._tables.dark.shape)
            for k in range(len(frames)):
                load_frame(frames, k, self._tables, drift, offsets, scratch, doubts, values)
                for fit, usable, (full, pair_rows, pair_columns) in self._spikes:
                    remove_spikes_compiled(
                        values[fit.image_rows], usable, fit.row_basis, fit.column_basis, full, pair_rows,
                        pair_columns, fit.limits_adu, LEAST_BACKGROUND,
                    )  # fmt: skip
                finish_frame(values, self._tables, scratch, bins[k])
        if self._resampling is not None and self._filling is not None:
            self._filling.fill(bins)
            for k in range(len(bins)):
                out[k] = resample(bins[k : k + 1], self._resampling)[0]
            out.reshape(len(out), -1)[:, self._outside] = 0
        elif bins is not out:
            out[...] = bins
        doubts.lost[:] |= has_lost_packets(frames, self._layout, self._other_rows)
        if self._probe is not None:
            doubts.corrupt[:] = self._probe.corrupt(frames)

    def _offsets(self, frames: npt.NDArray[np.uint16]) -> tuple[Floats, Floats]:
        """Return the offset as coefficients (n, halves, terms, width) or, without a fit, as (n, rows, ADCs).

        The other one has no elements but frames.
        """
        rows, width = self._tables.dark.shape
        n = len(frames)
        no_drift, no_offsets = np.zeros((n, 0, 0, 0), np.float32), np.zeros((n, 0, 0), np.float32)
        if self._num_terms:
            drift = self._buffer("drift", (BLOCK_FRAMES, self._num_halves, self._num_terms, width))[:n]
            for k, _, overscan, arrays in self._overscan:
                assert arrays is not None
                places, weights, dark, fit = arrays
                for f, frame in enumerate(frames):
                    _fit_overscan(
                        frame[overscan.rows], places, weights, dark, fit, self._tables.value_bits, drift[f, k]
                    )
            return drift, no_offsets
        if not self._overscan:
            return no_drift, no_offsets
        offsets = np.zeros((n, rows, self._adcs.stop - self._adcs.start), np.float32)
        for _, half, overscan, _ in self._overscan:
            offsets[:, half.image_rows] = overscan_offset(frames, half, overscan)
        return no_drift, offsets

    def _buffer(self, name: str, shape: tuple[int, ...]) -> Floats:
        """Return this thread's scratch array: fresh memory for every block costs more than filling it."""
        buffer: Floats | None = getattr(self._local, name, None)
        if buffer is None:
            buffer = np.zeros(shape, np.float32)
            setattr(self._local, name, buffer)
        return buffer

    def _scratch(self) -> Scratch:
        scratch: Scratch | None = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = Scratch.of(self._tables, BLOCK_FRAMES)
        return scratch


_POOLS: dict[int, ThreadPoolExecutor] = {}


def _pool(threads: int) -> ThreadPoolExecutor:
    if threads not in _POOLS:
        _POOLS[threads] = ThreadPoolExecutor(threads, thread_name_prefix="nsbluesky-cleaning")
    return _POOLS[threads]


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


@njit(nogil=True, cache=True, fastmath=FAST)
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
        if count == 2:  # as it is in all layouts: a loop over two costs more than they do
            for a in range(adcs):
                one, other = words[r, np.uintp(places[a, 0])] & bits, words[r, np.uintp(places[a, 1])] & bits
                value = np.float32(np.int32(one)) * weights[r, a, 0] + np.float32(np.int32(other)) * weights[r, a, 1]
                values[a] = value - dark[r, a]
        else:
            for a in range(adcs):
                values[a] = -dark[r, a]
                for c in range(count):
                    values[a] += np.float32(words[r, places[a, c]] & bits) * weights[r, a, c]
        for t in range(terms):
            factor = fit[r, t]
            for a in range(adcs):
                sums[t, a] += factor * values[a]
    data = coefficients.shape[1] // adcs
    for t in range(terms):
        for a in range(adcs):
            coefficients[t, a * data : (a + 1) * data] = sums[t, a]
