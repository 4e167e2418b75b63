"""Raw frames to photons on a square that is centred on the zero order: a plan per scan, then block after block.

The order is that of the light's way back: dark, overscan offset, bad pixels, photon threshold, crop, downsampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.background import HalfBackground, image_background, subtract_background
from nsbluesky.cleaning.center import find_center
from nsbluesky.cleaning.darks import DarkStatistics
from nsbluesky.cleaning.layout import FCCDLayout, assemble
from nsbluesky.cleaning.photons import adu_per_photon, keep_photons
from nsbluesky.settings import CleaningSettings

__all__ = ["CleaningPlan", "clean", "find_center", "make_plan", "mean_image", "plan_for", "window_start"]

# CXI mask codes
MASK_BAD = 0x80
MASK_MISSING = 0x200

# A bin with fewer good pixels than this is no measurement.
LEAST_GOOD_FRACTION = 0.5


@dataclass(frozen=True, eq=False)
class CleaningPlan:
    """All that is the same for every frame of a scan, made by `make_plan`.

    Attributes
    ----------
    center : (float, float)
        Row and column of the zero order on the assembled image; pixel centres are whole numbers.
    frame_px, bin_px : int
        Side of a clean frame; detector pixels per side of each of its pixels.
    mask : (frame_px, frame_px) uint32
        CXI codes: 0 good, 0x80 too many bad pixels, 0x200 off the sensor.
    background : tuple of HalfBackground
        Dark and overscan offset of the halves that the window touches.
    good : (crop_px, width) float32
        1 for good pixels, 0 elsewhere, over the window's rows and the whole ADCs that it touches.
    source, target : slice
        Columns of that width that lie in the window, and where they go in it.
    scale : (frame_px, frame_px) float32
        From the sum of the good pixels' ADU to photons of the whole bin; 0 where `mask` is not.
    threshold_adu : float
        Of one pixel; 0 keeps everything.
    xp : module
        NumPy or CuPy: where the arrays of the plan live and frames are cleaned.
    """

    center: tuple[float, float]
    frame_px: int
    bin_px: int
    mask: Any
    background: tuple[HalfBackground, ...]
    good: Any
    source: slice
    target: slice
    scale: Any
    threshold_adu: float
    xp: ModuleType


def window_start(center: float, settings: CleaningSettings) -> int:
    """Return the first detector pixel of the window along one axis.

    The zero order belongs into the *middle* of bin N//2.  That bin covers pixels start + (N//2)·b … + b − 1, whose
    middle lies at start + (N//2)·b + (b − 1)/2: between two pixels where b is even.  The crop is by whole pixels, so
    up to half a pixel, 1/(2b) bins, remains.
    """
    ratio = settings.pixel_ratio
    return int(np.floor(center - (settings.frame_px // 2) * ratio - (ratio - 1) / 2 + 0.5))


def make_plan(
    settings: CleaningSettings,
    layout: FCCDLayout,
    dark: DarkStatistics | None,
    center: tuple[float, float],
    *,
    energy_eV: float,
    xp: ModuleType = np,
) -> CleaningPlan:
    """Prepare the cleaning of a scan's frames.

    Parameters
    ----------
    settings : CleaningSettings
    layout : FCCDLayout
        As `get_layout` returns it for the frames.
    dark : DarkStatistics or None
        Without dark frames the overscan alone gives the pedestal, and no pixel is known to be bad.
    center : (float, float)
        Row and column of the zero order on the assembled image.
    energy_eV : float
        Photon energy.
    xp : module
        NumPy or CuPy.

    Raises
    ------
    ValueError
        Where the window does not touch the sensor.
    """
    image_rows, image_columns = layout.image_shape
    crop, px, bin_px = settings.crop_px, settings.frame_px, settings.crop_px // settings.frame_px
    row0, column0 = (window_start(c, settings) for c in center)
    rows = slice(max(row0, 0), min(row0 + crop, image_rows))
    columns = slice(max(column0, 0), min(column0 + crop, image_columns))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise ValueError(
            f"center_px = {center}: expected a place on the image of {image_rows} × {image_columns} pixels"
        )
    per_adc = layout.data_columns_per_adc
    adcs = slice(columns.start // per_adc, -(-columns.stop // per_adc))
    width = slice(adcs.start * per_adc, adcs.stop * per_adc)

    image_good = np.ones(layout.image_shape, bool) if dark is None else ~assemble(dark.bad, layout)
    good = np.zeros((crop, width.stop - width.start), np.float32)
    good[rows.start - row0 : rows.stop - row0] = image_good[rows, width]
    source = slice(columns.start - width.start, columns.stop - width.start)
    target = slice(columns.start - column0, columns.stop - column0)

    window_good = np.zeros((crop, crop), np.float32)
    window_good[:, target] = good[:, source]
    on_sensor = np.zeros((crop, crop), np.float32)
    on_sensor[rows.start - row0 : rows.stop - row0, target] = 1
    mask, share = _bins(window_good, on_sensor, px)
    adu = adu_per_photon(settings, energy_eV)
    scale = np.where(mask == 0, 1 / (np.maximum(share, LEAST_GOOD_FRACTION) * adu), 0).astype(np.float32)
    return CleaningPlan(
        center=(float(center[0]), float(center[1])),
        frame_px=px,
        bin_px=bin_px,
        mask=xp.asarray(mask),
        background=image_background(settings, layout, dark, slice(row0, row0 + crop), adcs, xp),
        good=xp.asarray(good),
        source=source,
        target=target,
        scale=xp.asarray(scale),
        threshold_adu=settings.photon_threshold * adu,
        xp=xp,
    )


def plan_for(
    frames: npt.NDArray[np.uint16],
    settings: CleaningSettings,
    layout: FCCDLayout,
    dark: DarkStatistics | None,
    *,
    energy_eV: float,
    xp: ModuleType = np,
) -> CleaningPlan:
    """Prepare the cleaning of a scan with its centre as set, or found on some of its raw frames (n, rows, columns).

    Raises
    ------
    ValueError
        As `find_center` and `make_plan`.
    """
    center = settings.center_px
    if center is None:
        center = find_center(*mean_image(frames, dark, settings, layout, energy_eV=energy_eV))
    return make_plan(settings, layout, dark, center, energy_eV=energy_eV, xp=xp)


def _bins(
    good: npt.NDArray[np.float32], on_sensor: npt.NDArray[np.float32], px: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]:
    """Return mask and share of good pixels of each bin of a window, (px, px)."""
    bin_px = len(good) // px
    share, present = (a.reshape(px, bin_px, px, bin_px).mean(axis=(1, 3)) for a in (good, on_sensor))
    mask = np.where(present < LEAST_GOOD_FRACTION, MASK_MISSING, 0)
    mask = np.where((present >= LEAST_GOOD_FRACTION) & (share < LEAST_GOOD_FRACTION), MASK_BAD, mask)
    return mask.astype(np.uint32), share


def clean(frames: Any, plan: CleaningPlan, out: Any = None) -> Any:
    """Return raw frames as photons per pixel of the clean grid.

    Parameters
    ----------
    frames : (n, rows, columns) uint16
        Raw frames, on the plan's device.
    plan : CleaningPlan
    out : (n, frame_px, frame_px) float32, optional
        Where the result goes.

    Returns
    -------
    (n, frame_px, frame_px) float32
        Photons; zero frequency at N//2; 0 where `plan.mask` is not.  Noise makes single values negative: the mean is
        free of bias.
    """
    xp, px, bin_px = plan.xp, plan.frame_px, plan.bin_px
    if out is None:
        out = xp.empty((len(frames), px, px), xp.float32)
    # A CPU is fastest on what stays in its cache, a GPU on all frames at once.
    step = 1 if xp is np else max(len(frames), 1)
    work = xp.zeros((min(step, len(frames)), *plan.good.shape), xp.float32)
    window = xp.zeros((len(work), px, px * bin_px), xp.float32)
    for start in range(0, len(frames), step):
        block = slice(start, start + step)
        subtract_background(frames[block], plan.background, work)
        xp.multiply(work, plan.good, out=work)
        if plan.threshold_adu:
            xp.multiply(work, keep_photons(work, plan.threshold_adu), out=work)
        rows = work.reshape(len(work), px, bin_px, -1).sum(axis=2)
        window[..., plan.target] = rows[..., plan.source]
        xp.multiply(window.reshape(len(work), px, px, bin_px).sum(axis=3), plan.scale, out=out[block])
    return out


def mean_image(
    frames: npt.NDArray[np.uint16],
    dark: DarkStatistics | None,
    settings: CleaningSettings,
    layout: FCCDLayout,
    *,
    energy_eV: float,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return the mean of raw frames (n, rows, columns) as an image in photons, and its good pixels.

    The whole sensor at full resolution, `layout.image_shape`, as `find_center` needs it.
    """
    rows, columns = layout.image_shape
    background = image_background(settings, layout, dark, slice(0, rows), slice(0, layout.adcs_per_half))
    image = np.zeros((1, rows, columns), np.float32)
    for frame in frames:
        one = np.empty_like(image)
        subtract_background(frame[None], background, one)
        image += one
    good = np.ones((rows, columns), bool) if dark is None else ~assemble(dark.bad, layout)
    return image[0] / np.float32(len(frames) * adu_per_photon(settings, energy_eV)), good
