"""Dark and overscan offset of each half of the sensor, prepared once, subtracted from every frame."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.darks import DarkStatistics
from nsbluesky.cleaning.layout import FCCDLayout, by_adc
from nsbluesky.cleaning.overscan import quadratic_basis, quadratic_fit, running_median
from nsbluesky.cleaning.photons import decode_gain
from nsbluesky.settings import CleaningSettings

__all__ = ["HalfBackground", "OverscanFit", "image_background", "subtract_background"]


@dataclass(frozen=True, eq=False)
class OverscanFit:
    """How the overscan columns of one half become the offset of the wanted rows and ADCs.

    Attributes
    ----------
    rows : slice
        All good raw rows of the half: the fit uses more rows than those wanted.
    weights, dark : (rows, ADCs, overscan columns) and (rows, ADCs) float32
        Weights of the columns of each ADC, 0 for bad pixels, and the weighted mean of the dark.
    fit, basis : (3, rows) and (wanted rows, 3) float32, or None
        Both halves of the quadratic's hat matrix in the order of the raw rows; None for the running median.
    wanted : slice
        The wanted ones among `rows`.
    """

    rows: slice
    weights: Any
    dark: Any
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
    overscan : OverscanFit or None
        None where there is no overscan, or it is not wanted.
    gain_bits : bool
        Whether raw words carry their gain.
    xp : module
        NumPy or CuPy: where the arrays live.
    """

    layout: FCCDLayout
    adcs: slice
    raw_rows: slice
    image_rows: slice
    dark: Any
    overscan: OverscanFit | None
    gain_bits: bool
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
            raw_rows = slice(good_start + start - first, good_start + stop - first)
            mean = np.zeros(layout.shape, np.float32) if dark is None else dark.mean
            halves.append(
                HalfBackground(
                    layout=layout,
                    adcs=adcs,
                    raw_rows=raw_rows,
                    image_rows=slice(start - rows.start, stop - rows.start),
                    dark=xp.asarray(by_adc(mean[raw_rows], layout)[:, adcs, layout.data_columns]),
                    overscan=_overscan_fit(settings, layout, dark, half, raw_rows, adcs, xp),
                    gain_bits=settings.gain_words != "plain",
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
    if dark is None:
        weights, mean = np.full(shape, 1 / len(columns), np.float32), np.zeros(shape[:2], np.float32)
    else:
        good = ~by_adc(dark.bad[start:stop], layout)[:, adcs][..., columns]
        weights = (good / np.maximum(good.sum(axis=-1, keepdims=True), 1)).astype(np.float32)
        mean = (by_adc(dark.mean[start:stop], layout)[:, adcs][..., columns] * weights).sum(axis=-1)
    wanted = slice(raw_rows.start - start, raw_rows.stop - start)
    fit: npt.NDArray[np.float32] | None = None
    basis: npt.NDArray[np.float32] | None = None
    if settings.overscan == "quadratic" and dark is not None:
        from_outer_edge = slice(None) if half == 0 else slice(None, None, -1)
        fit = xp.asarray(quadratic_fit(stop - start, settings.overscan_start_row)[:, from_outer_edge])
        basis = xp.asarray(quadratic_basis(stop - start)[from_outer_edge][wanted])
    return OverscanFit(slice(start, stop), xp.asarray(weights), xp.asarray(mean), fit, basis, wanted)


def subtract_background(frames: Any, halves: tuple[HalfBackground, ...], out: Any) -> None:
    """Write `frames` (n, rows, columns) without dark and offset to `out` (n, image rows, image columns) float32, ADU.

    Rows of `out` that belong to no half are left as they are.
    """
    for half in halves:
        layout = half.layout
        target = out[:, half.image_rows]
        target = target.reshape(*target.shape[:2], -1, layout.data_columns_per_adc)  # rows are whole: a view
        words = by_adc(frames[:, half.raw_rows], layout)[:, :, half.adcs, layout.data_columns]
        factors = None
        if half.gain_bits:
            words, factors = decode_gain(words, half.xp)
        half.xp.subtract(words, half.dark, out=target)
        if half.overscan is not None:
            target -= _offset(frames, half, half.overscan)[..., None]
        if factors is not None:
            target *= factors


def _offset(frames: Any, half: HalfBackground, overscan: OverscanFit) -> Any:
    """Return the offset (n, wanted rows, ADCs) of dark-subtracted overscan columns."""
    words = by_adc(frames[:, overscan.rows], half.layout)[:, :, half.adcs]
    values = -overscan.dark
    for k, column in enumerate(half.layout.overscan_columns):
        column_words = words[..., column]
        if half.gain_bits:
            column_words, _ = decode_gain(column_words, half.xp)
        values = values + column_words * overscan.weights[..., k]
    if overscan.fit is None or overscan.basis is None:
        return running_median(values, half.xp)[:, overscan.wanted]
    return overscan.basis @ (overscan.fit @ values)
