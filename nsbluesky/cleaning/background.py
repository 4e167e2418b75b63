"""Dark, overscan offset and gain of each half of the sensor, prepared once, applied to every frame."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.darks import DarkStatistics
from nsbluesky.cleaning.layout import FCCDLayout, by_adc
from nsbluesky.cleaning.overscan import drift_basis, drift_fit, running_median, smallest
from nsbluesky.cleaning.words import LOWER_GAINS, decode_words
from nsbluesky.settings import CleaningSettings

__all__ = [
    "HalfBackground",
    "OverscanFit",
    "apply_gain",
    "image_background",
    "overscan_drift",
    "overscan_offset",
    "subtract_background",
    "subtract_dark",
    "subtract_offset",
]

# Rows that a packet was lost from are filled with the fit of the others; so often, until they no longer pull.
FILL_ITERATIONS = 12


@dataclass(frozen=True, eq=False)
class OverscanFit:
    """How the overscan columns of one half become the offset of the wanted rows and ADCs.

    Attributes
    ----------
    rows : slice
        All good raw rows of the half: the fit uses more rows than those wanted.
    weights, dark : (rows, ADCs, overscan columns) and (rows, ADCs) float32
        Weights of the columns of each ADC, 0 for bad pixels, and the weighted mean of the dark.
    column_dark : (rows, ADCs, overscan columns) float32
        Dark of every column, for the minimum.
    minimum : bool
        Whether the smallest of the columns is taken, not their mean.
    fit, basis : (terms, rows) and (rows, terms) float32, or None
        Both halves of the hat matrix in the order of the raw rows; None for a running median.
    wanted : slice
        The wanted ones among `rows`.
    """

    rows: slice
    weights: Any
    dark: Any
    column_dark: Any
    minimum: bool
    fit: Any | None
    basis: Any | None
    wanted: slice


@dataclass(frozen=True, eq=False)
class HalfBackground:
    """What to subtract from the wanted part of one half of the sensor.

    Attributes
    ----------
    layout : FCCDLayout
    adcs : slice
        Wanted ADCs, counted along the half.
    raw_rows, image_rows : slice
        Wanted raw rows, and where they go in the target.
    dark : (rows, ADCs, data columns) float32
        Dark mean in ADU.
    gain_steps : (2, rows, ADCs, data columns) float32 or None
        What the dark means of the middle and of the lowest gain exceed it by; None where they are not known.
    overscan : OverscanFit or None
        None where there is no overscan, or it is not wanted.
    gain_words : str
        As `CleaningSettings.gain_words`.
    xp : module
        NumPy or CuPy: where the arrays live.
    """

    layout: FCCDLayout
    adcs: slice
    raw_rows: slice
    image_rows: slice
    dark: Any
    gain_steps: Any | None
    overscan: OverscanFit | None
    gain_words: str
    xp: ModuleType


def image_background(
    settings: CleaningSettings,
    layout: FCCDLayout,
    dark: DarkStatistics | None,
    rows: slice,
    adcs: slice,
    xp: ModuleType = np,
) -> tuple[HalfBackground, ...]:
    """Prepare the background of image rows `rows` of the ADCs `adcs`; the rows may reach beyond the sensor.

    Without dark frames the running median of the overscan, which follows the readout's exponential start, stands in
    for pedestal and dark.
    """
    halves = []
    first = 0  # image row where the half begins
    for half, (good_start, good_stop) in enumerate(layout.good_rows):
        last = first + good_stop - good_start
        start, stop = max(rows.start, first), min(rows.stop, last)
        if start < stop:
            own = layout.for_half(half)
            raw_rows = slice(good_start + start - first, good_start + stop - first)
            subtract = dark is not None and settings.subtract_dark
            mean = dark.mean if dark is not None and subtract else np.zeros(layout.shape, np.float32)
            steps = None
            if dark is not None and subtract and dark.gain_steps is not None:
                steps = xp.asarray(by_adc(dark.gain_steps[:, raw_rows], own)[:, :, adcs, own.data_columns])
            halves.append(
                HalfBackground(
                    layout=own,
                    adcs=adcs,
                    raw_rows=raw_rows,
                    image_rows=slice(start - rows.start, stop - rows.start),
                    dark=xp.asarray(by_adc(mean[raw_rows], own)[:, adcs, own.data_columns]),
                    gain_steps=steps,
                    overscan=_overscan_fit(settings, own, dark, half, raw_rows, adcs, xp),
                    gain_words=settings.gain_words,
                    xp=xp,
                )
            )
        first = last
    return tuple(halves)


def _overscan_fit(
    settings: CleaningSettings,
    layout: FCCDLayout,
    dark: DarkStatistics | None,
    half: int,
    raw_rows: slice,
    adcs: slice,
    xp: ModuleType,
) -> OverscanFit | None:
    if settings.overscan == "none" or not layout.overscan_columns:
        return None
    start, stop = layout.good_rows[half]
    columns = list(layout.overscan_columns)
    shape = (stop - start, adcs.stop - adcs.start, len(columns))
    weights = np.full(shape, 1 / len(columns), np.float32)
    column_dark = np.zeros(shape, np.float32)
    if dark is not None:
        good = ~by_adc(dark.bad[start:stop], layout)[:, adcs][..., columns]
        weights = (good / np.maximum(good.sum(axis=-1, keepdims=True), 1)).astype(np.float32)
        if settings.subtract_dark:
            column_dark = by_adc(dark.mean[start:stop], layout)[:, adcs][..., columns].copy()
    mean = (column_dark * weights).sum(axis=-1)
    fit: npt.NDArray[np.float32] | None = None
    basis: npt.NDArray[np.float32] | None = None
    if settings.overscan == "quadratic" and dark is not None and settings.subtract_dark:
        from_outer_edge = slice(None) if half == 0 else slice(None, None, -1)
        decay = _decay_shape(mean[from_outer_edge]) if settings.overscan_decay else None
        in_time = drift_basis(stop - start, decay)
        fit = xp.asarray(drift_fit(in_time, settings.overscan_start_row)[:, from_outer_edge])
        basis = xp.asarray(np.ascontiguousarray(in_time[from_outer_edge]))
    return OverscanFit(
        rows=slice(start, stop),
        weights=xp.asarray(weights),
        dark=xp.asarray(mean),
        column_dark=xp.asarray(column_dark),
        minimum=settings.overscan == "minimum" and dark is not None and len(columns) > 1,
        fit=fit,
        basis=basis,
        wanted=slice(raw_rows.start - start, raw_rows.stop - start),
    )


def _decay_shape(dark: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the shape of the readout's exponential start, (rows,), from the dark overscan (rows, ADCs).

    One supply feeds all ADCs: the median over them is known better than one.  Its last quarter is its plateau.
    """
    level = np.median(dark, axis=1).astype(np.float64)
    shape: npt.NDArray[np.float64] = level - np.median(level[-len(level) // 4 :])
    return shape


def subtract_background(frames: Any, halves: tuple[HalfBackground, ...], out: Any) -> None:
    """Write `frames` (n, rows, columns) without dark and offset to `out` (n, image rows, image columns) float32, ADU.

    Rows of `out` that belong to no half are left as they are.
    """
    subtract_dark(frames, halves, out)
    subtract_offset(frames, halves, out)
    apply_gain(frames, halves, out)


def subtract_dark(frames: Any, halves: tuple[HalfBackground, ...], out: Any) -> None:
    """Write the values of the words without dark to `out`, in ADU at each word's own gain."""
    for half in halves:
        values, factors = decode_words(_words(frames, half), half.gain_words, half.xp)
        part = _part(out, half)
        half.xp.subtract(values, half.dark, out=part)
        if half.gain_steps is not None and factors is not None:
            for factor, step in zip(LOWER_GAINS, half.gain_steps, strict=True):
                part -= (factors == factor) * step


def subtract_offset(frames: Any, halves: tuple[HalfBackground, ...], out: Any, lost: Any = None) -> None:
    """Subtract the overscan's offset from `out`, in place."""
    for half in halves:
        if half.overscan is not None:
            part = _part(out, half)
            part -= overscan_offset(frames, half, half.overscan, lost)[..., None]


def apply_gain(frames: Any, halves: tuple[HalfBackground, ...], out: Any) -> None:
    """Bring `out` to the scale of gain ×8, in place; words with the error bit become 0."""
    for half in halves:
        if half.gain_words in ("plain", "13_bits"):
            continue
        _, factors = decode_words(_words(frames, half), half.gain_words, half.xp)
        part = _part(out, half)
        part *= factors


def _words(frames: Any, half: HalfBackground) -> Any:
    return by_adc(frames[:, half.raw_rows], half.layout)[:, :, half.adcs, half.layout.data_columns]


def _part(out: Any, half: HalfBackground) -> Any:
    """Return the half's rows of `out` as (n, rows, ADCs, data columns); rows are whole, so it is a view."""
    target = out[:, half.image_rows]
    return target.reshape(*target.shape[:2], -1, half.layout.data_columns_per_adc)


def overscan_offset(frames: Any, half: HalfBackground, overscan: OverscanFit, lost: Any = None) -> Any:
    """Return the offset (n, wanted rows, ADCs) in ADU.

    Parameters
    ----------
    frames : (n, rows, columns) uint16
    half : HalfBackground
    overscan : OverscanFit
        Its own.
    lost : (n, rows, columns) bool, optional
        Words that never came: the fit of the others stands in.
    """
    xp = half.xp
    words = by_adc(frames[:, overscan.rows], half.layout)[:, :, half.adcs]
    columns = [decode_words(words[..., c], half.gain_words, xp)[0] for c in half.layout.overscan_columns]
    if overscan.minimum:
        values = smallest(xp.stack([c - overscan.column_dark[..., k] for k, c in enumerate(columns)]), xp)
    else:
        values = -overscan.dark
        for k, column_words in enumerate(columns):
            values = values + column_words * overscan.weights[..., k]
    if lost is not None:
        gone = by_adc(lost[:, overscan.rows], half.layout)[:, :, half.adcs][..., list(half.layout.overscan_columns)]
        values = _filled(values, gone.any(axis=-1), overscan, xp)
    if overscan.fit is None or overscan.basis is None:
        return running_median(values, xp)[:, overscan.wanted]
    return overscan.basis[overscan.wanted] @ (overscan.fit @ values)


def _filled(values: Any, lost: Any, overscan: OverscanFit, xp: ModuleType) -> Any:
    values = xp.where(lost, xp.float32(np.nan), values)
    values = xp.where(lost.all(axis=1, keepdims=True), xp.float32(0), values)  # of a frame that never came
    values = xp.where(lost, xp.nanmedian(values, axis=1, keepdims=True), values)
    if overscan.fit is not None and overscan.basis is not None:
        for _ in range(FILL_ITERATIONS):
            values = xp.where(lost, overscan.basis @ (overscan.fit @ values), values)
    return values


def overscan_drift(frame: Any, halves: tuple[HalfBackground, ...]) -> float:
    """Return how far a frame's (rows, columns) overscan has moved since the darks, in ADU: the median over ADCs."""
    offsets = [
        half.xp.abs(overscan_offset(frame[None], half, half.overscan).mean(axis=1)).ravel()
        for half in halves
        if half.overscan is not None
    ]
    return float(halves[0].xp.median(halves[0].xp.concatenate(offsets))) if offsets else 0.0
