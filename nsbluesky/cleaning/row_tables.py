"""What `nsbluesky.cleaning.row_loops` works with: one plan's tables, and one thread's rows on their way."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.background import HalfBackground
from nsbluesky.cleaning.words import GAIN_FACTORS, VALUE_BITS, has_packets, saturation_limit

if TYPE_CHECKING:
    from nsbluesky.cleaning.plan import CleaningPlan

__all__ = ["RowTables", "Scratch", "row_tables"]

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint16]


class RowTables(NamedTuple):
    """All that rows of raw frames need to become rows of the window, and those to become bins: one plan's.

    Attributes
    ----------
    raw_rows, halves : (rows,) int64
        Where a row of the window lies in the raw frame, -1 off the sensor, and in which half.
    first_columns : (halves,) int64
        First raw column that is wanted.
    columns_per_adc, data_columns : int
        Raw columns from one ADC to the next, and how many of them are wanted.
    dark : (rows, width) float32
        Mean dark in ADU.
    gain_steps : (2, rows, width) float32, or (0, …)
        Darks of the middle and of the lowest gain less that of gain ×8.
    packets : (rows,) bool
        Whether a word of 0 says that it never came.
    raw_columns_per_adc : int
        As the layout says, where `columns_per_adc` may be a whole row's.
    value_bits, middle_gain : int
        Bits of a word that are its value; code of the middle gain, 0 where words have no gain bits.
    saturation_bits, saturation : int
        As `saturation_limit` returns them.
    basis : (rows, terms) float32
        Of the overscan's fit.
    good : (rows, width) bool
    bad_starts, bad_columns : (rows + 1,) and (n,) int64
        Where the bad pixels of each row begin in the list of their columns.
    sensitivity, behind_beamstop : (rows, width) float32, or (0, 0)
        What to multiply by, before and after the threshold.
    shaded : (rows, 2) int64
        From where to where a row's `behind_beamstop` is not 1, within the window.
    threshold : float32
        In ADU; 0 keeps everything.
    source, target, num_columns : int
        First column of the width that lies in the window, where it goes in it, and how many do.
    bin_px : int
    scale : (bins, bins) float32
    """

    raw_rows: npt.NDArray[np.int64]
    halves: npt.NDArray[np.int64]
    first_columns: npt.NDArray[np.int64]
    columns_per_adc: int
    data_columns: int
    dark: Floats
    gain_steps: Floats
    packets: npt.NDArray[np.bool_]
    raw_columns_per_adc: int
    value_bits: int
    middle_gain: int
    saturation_bits: int
    saturation: int
    basis: Floats
    good: npt.NDArray[np.bool_]
    bad_starts: npt.NDArray[np.int64]
    bad_columns: npt.NDArray[np.int64]
    sensitivity: Floats
    behind_beamstop: Floats
    shaded: npt.NDArray[np.int64]
    threshold: np.float32
    source: int
    target: int
    num_columns: int
    bin_px: int
    scale: Floats


class Scratch(NamedTuple):
    """What one thread's frames are on their way from rows to bins.

    Attributes
    ----------
    words : (width,) uint16
        Data words of a row.
    offset : (width,) float32
    near : (width,) uint8
        Which pixels of a row have light in their neighbourhood.
    rings : (frames, 3, width) float32
        The last three rows of each frame.
    lit : (frames, 3, width + 2) uint8
        Which pixels of them exceed the threshold; 0 to either side.
    lines : (frames, rows) float32
        Sums of the rows of unfinished bins; a window is a square.
    """

    words: Words
    offset: Floats
    near: Bytes
    rings: Floats
    lit: Bytes
    lines: Floats

    @classmethod
    def of(cls, tables: RowTables, num_frames: int) -> Scratch:
        """Return the arrays for so many frames at once."""
        rows, width = tables.dark.shape
        return cls(
            np.zeros(width, np.uint16),
            np.zeros(width, np.float32),
            np.zeros(width, np.uint8),
            np.zeros((num_frames, 3, width), np.float32),
            np.zeros((num_frames, 3, width + 2), np.uint8),
            np.zeros((num_frames, rows), np.float32),
        )


def row_tables(plan: CleaningPlan) -> RowTables:
    """Return the tables of a plan in NumPy."""
    layout, settings = plan.layout, plan.settings
    rows, width = plan.good.shape
    halves = plan.background
    adcs = halves[0].adcs
    per_adc, data = layout.columns_per_adc, layout.data_columns_per_adc
    first_columns = [adcs.start * per_adc + half.layout.data_columns.start for half in halves]
    if not layout.overscan_columns:  # columns that are neighbours in the raw frame already are one long run
        per_adc = data = width
    bases = [_basis(half) for half in halves]
    terms = max(0 if b is None else b.shape[1] for b in bases)
    raw_rows, half_of_row = np.full(rows, -1, np.int64), np.zeros(rows, np.int64)
    dark, basis = np.zeros((rows, width), np.float32), np.zeros((rows, terms), np.float32)
    gain_steps = np.zeros((0 if halves[0].gain_steps is None else 2, rows, width), np.float32)
    for k, (half, own_basis) in enumerate(zip(halves, bases, strict=True)):
        own = half.image_rows
        raw_rows[own] = np.arange(half.raw_rows.start, half.raw_rows.stop)
        half_of_row[own] = k
        dark[own] = half.dark.reshape(-1, width)
        if half.gain_steps is not None:
            gain_steps[:, own] = half.gain_steps.reshape(2, -1, width)
        if own_basis is not None:
            basis[own] = own_basis
    good = plan.good != 0
    bad_rows, bad_columns = np.nonzero(~good)
    behind, inside = plan.behind_beamstop, plan.source
    saturation_bits, saturation = saturation_limit(settings)
    words = settings.gain_words
    return RowTables(
        raw_rows=raw_rows,
        halves=half_of_row,
        first_columns=np.array(first_columns),
        columns_per_adc=per_adc,
        data_columns=data,
        dark=dark,
        gain_steps=gain_steps,
        packets=np.isin(raw_rows, plan.packet_rows) & has_packets(layout),
        raw_columns_per_adc=layout.columns_per_adc,
        value_bits=0xFFFF if words == "plain" else VALUE_BITS,
        middle_gain=GAIN_FACTORS[words].index(4.0) if words in GAIN_FACTORS else 0,
        saturation_bits=saturation_bits,
        saturation=saturation,
        basis=basis,
        good=good,
        bad_starts=np.searchsorted(bad_rows, np.arange(rows + 1)),
        bad_columns=np.ascontiguousarray(bad_columns),  # else the loops are compiled once more
        sensitivity=_map(plan.sensitivity),
        behind_beamstop=_map(behind),
        shaded=np.zeros((rows, 2), np.int64) if behind is None else _not_one(behind, inside),
        threshold=np.float32(plan.threshold_adu),
        source=plan.source.start,
        target=plan.target.start,
        num_columns=plan.source.stop - plan.source.start,
        bin_px=plan.bin_px,
        scale=plan.scale,
    )


def _basis(half: HalfBackground) -> Floats | None:
    """Return the basis (rows, terms) of the fit to a half's overscan, if there is one."""
    fit = half.overscan
    return None if fit is None or fit.basis is None else fit.basis[fit.wanted]


def _map(values: Floats | None) -> Floats:
    return np.zeros((0, 0), np.float32) if values is None else np.ascontiguousarray(values)


def _not_one(values: Floats, inside: slice) -> npt.NDArray[np.int64]:
    """Return from where to where each row is not 1 in the columns `inside`, (rows, 2); the same where it is 1."""
    other = values[:, inside] != 1
    first, last = other.argmax(axis=1), other.shape[1] - other[:, ::-1].argmax(axis=1)
    edges: npt.NDArray[np.int64] = np.stack([first, np.where(other.any(axis=1), last, first)], axis=1)
    edges += inside.start
    return edges
