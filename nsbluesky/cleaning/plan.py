"""All of a scan's cleaning that is the same for every frame, prepared once."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from nsbluesky.cleaning.background import HalfBackground, image_background, subtract_background
from nsbluesky.cleaning.center import find_center
from nsbluesky.cleaning.darks import DarkStatistics
from nsbluesky.cleaning.layout import FCCDLayout, assemble, by_adc
from nsbluesky.cleaning.photons import CLUSTER_NOISE, adu_per_photon, counting_threshold
from nsbluesky.cleaning.pixel_files import bad_pixels, beamstop_transmission, flat_field
from nsbluesky.cleaning.resample import (
    Filling,
    FourierResampling,
    bins_before_fourier,
    filling,
    fourier_resampling,
    share_of_area,
)
from nsbluesky.cleaning.spikes import NO_LINES, SpikeFit, spike_fits
from nsbluesky.cleaning.words import (
    LevelProbe,
    as_counts,
    decode_words,
    has_lost_packets,
    level_probe,
    never_measured,
)
from nsbluesky.settings import CleaningSettings, SettingsError

__all__ = [
    "FCCD_PIXEL_M",
    "CleaningPlan",
    "Counting",
    "center_and_mean",
    "check_darks",
    "check_overscan",
    "make_plan",
    "mean_image",
    "plan_for",
    "window_start",
]

FCCD_PIXEL_M = 30e-6

# CXI mask codes
MASK_BAD = 0x80
MASK_MISSING = 0x200

# A bin with fewer good pixels than this is no measurement.
LEAST_GOOD_FRACTION = 0.5

# A window so many times as large as the frame holds all of it, wherever the zero order is.
MOST_WINDOW = 2

# Read noise that is taken where no dark frames tell it.
USUAL_NOISE_ADU = 3.0
RATE_SMOOTHING_PX = 9

# Where ADC rows have at least so many photons a pixel, overscan columns must have less than this share of them.
LIT_PHOTONS = 5.0
OVERSCAN_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class Counting:
    """How photons are counted one by one, in photons.

    Attributes
    ----------
    noise : float
        Read noise of a pixel.
    threshold : (crop_px, width) float32
        Charge of a cluster that is a photon, by the light that is expected at its place.
    keep : float
        Threshold of what is not counted.
    """

    noise: float
    threshold: Any
    keep: float


@dataclass(frozen=True, eq=False)
class CleaningPlan:
    """All that is the same for every frame of a scan, made by `make_plan`.

    The *window* is a square of `crop_px` detector pixels of the assembled image.  Frames are worked on in its rows
    and in the whole ADCs that it touches, whose columns are the *width*.

    Attributes
    ----------
    settings : CleaningSettings
    layout : FCCDLayout
    center : (float, float)
        Row and column of the zero order on the assembled image; pixel centres are whole numbers.
    start : (int, int)
        First row and column of the window on the assembled image.
    mask : (frame_px, frame_px) uint32
        CXI codes: 0 good, 0x80 too many bad pixels, 0x200 off the sensor.
    background : tuple of HalfBackground
        Dark, overscan offset and gain of the halves that the window touches.
    good : (crop_px, width) float32
        1 for good pixels, 0 elsewhere.
    spikes : tuple of SpikeFit
        For the interference that the darks showed; empty where none is removed.
    sensitivity : (crop_px, width) float32 or None
        What to multiply by for the flat field.
    adu_per_photon, threshold_adu : float
        At gain ×8; a threshold of 0 keeps everything.
    counting : Counting or None
    behind_beamstop : (crop_px, width) float32 or None
        What to multiply by for the beamstop.
    source, target : slice
        Columns of the width that lie in the window, and where they go in it.
    bin_px : int
        Side of the bins that are summed, in detector pixels.
    scale : (bins, bins) float32
        From the sum of a bin's good pixels' ADU to photons of the whole bin; 0 for bins that are no measurement.
    filling : Filling or None
    resampling : FourierResampling or None
        From bins to clean frames; None where bins are the clean frames.
    packet_rows : (r,) int
        Raw rows where a word of 0 says that it never came; none where words have no pedestal.
    probe : LevelProbe or None
        Tells frames from anything else.
    xp : module
        NumPy or CuPy: where the arrays of the plan live and frames are cleaned.
    """

    settings: CleaningSettings
    layout: FCCDLayout
    center: tuple[float, float]
    start: tuple[int, int]
    mask: Any
    background: tuple[HalfBackground, ...]
    good: Any
    spikes: tuple[SpikeFit, ...]
    sensitivity: Any | None
    adu_per_photon: float
    threshold_adu: float
    counting: Counting | None
    behind_beamstop: Any | None
    source: slice
    target: slice
    bin_px: int
    scale: Any
    filling: Filling | None
    resampling: FourierResampling | None
    packet_rows: Any
    probe: LevelProbe | None
    xp: ModuleType

    @property
    def frame_px(self) -> int:
        """Side of a clean frame."""
        return self.settings.frame_px

    @property
    def crop_px(self) -> int:
        """Side of the window."""
        return self.settings.crop_px

    @property
    def num_bins(self) -> int:
        """Bins along a side of the window."""
        return self.settings.crop_px // self.bin_px


def window_start(center: float, settings: CleaningSettings) -> int:
    """Return the first detector pixel of the window along one axis.

    The zero order belongs into the *middle* of pixel N//2.  Of bins of b detector pixels that one covers pixels
    start + (N//2)·b … + b − 1, whose middle lies at start + (N//2)·b + (b − 1)/2: between two pixels where b is even.
    The crop is by whole pixels, so up to half a pixel, 1/(2b) bins, remains; resampling by Fourier transform takes
    that out as well.
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
    pixel_size_m: float = FCCD_PIXEL_M,
    mean: npt.NDArray[np.float32] | None = None,
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
    pixel_size_m : float
        Detector pixel, for the beamstop.
    mean : image_shape float32, optional
        Mean image in photons, as `center_and_mean` makes it: photon counting takes from it how rare photons are, and
        pixels where it is NaN are bad.
    xp : module
        NumPy or CuPy.

    Raises
    ------
    ValueError
        Where the window does not touch the sensor or is far larger, or not one pixel in it can be used.
    """
    image_rows, image_columns = layout.image_shape
    crop = settings.crop_px
    if crop > MOST_WINDOW * max(layout.image_shape):
        raise SettingsError(
            f"crop_px = {crop} with frames of {image_rows} × {image_columns}: most of that is off the sensor; "
            f"set cleaning.crop_px={min(layout.image_shape)} or less"
        )
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

    def on_window(image: npt.NDArray[Any], outside: float) -> npt.NDArray[np.float32]:
        window = np.full((crop, width.stop - width.start), outside, np.float32)
        window[rows.start - row0 : rows.stop - row0] = image[rows, width]
        return window

    usable = _usable(settings, layout, dark)
    if mean is not None:
        usable &= np.isfinite(mean)
        mean = np.nan_to_num(mean)
    good = on_window(usable, 0)
    source = slice(columns.start - width.start, columns.stop - width.start)
    target = slice(columns.start - column0, columns.stop - column0)
    square_good = np.zeros((crop, crop), np.float32)
    square_good[:, target] = good[:, source]
    on_sensor = np.zeros((crop, crop), np.float32)
    on_sensor[rows.start - row0 : rows.stop - row0, target] = 1

    fourier = settings.downsample == "fourier"
    bin_px = bins_before_fourier(crop, settings.frame_px) if fourier else crop // settings.frame_px
    bins_mask, share = _mask_of(square_good, on_sensor, crop // bin_px)
    mask = bins_mask if not fourier else _mask_of(square_good, on_sensor, settings.frame_px)[0]
    if not (mask == 0).any():
        raise ValueError("not one pixel of the window can be used: check the dark frames, or take them again")
    adu = adu_per_photon(settings, energy_eV)
    scale = np.where(bins_mask == 0, 1 / (np.maximum(share, LEAST_GOOD_FRACTION) * adu), 0).astype(np.float32)
    background = image_background(settings, layout, dark, slice(row0, row0 + crop), adcs, xp)
    noise_adu = max(_noise(dark, layout), 1e-3)
    flat = flat_field(settings, layout)
    beamstop = beamstop_transmission(settings, layout, center, pixel_size_m)
    resampling = None
    if fourier:
        in_window = (center[0] - row0, center[1] - column0)
        resampling = fourier_resampling(crop, settings.frame_px, in_window, bin_px, xp, settings.lag_filter)
    return CleaningPlan(
        settings=settings,
        layout=layout,
        center=(float(center[0]), float(center[1])),
        start=(row0, column0),
        mask=xp.asarray(mask),
        background=background,
        good=xp.asarray(good),
        spikes=spike_fits(
            dark.lines if dark is not None and settings.spikes == "lines" else NO_LINES,
            layout,
            [(half.raw_rows, half.image_rows) for half in background],
            adu_per_photon=adu,
            noise_adu=noise_adu,
            xp=xp,
        ),
        sensitivity=None if flat is None else xp.asarray(on_window(1 / flat, 0)),
        adu_per_photon=adu,
        threshold_adu=settings.photon_threshold * adu if settings.photons == "threshold" else 0.0,
        counting=_counting(settings, noise_adu / adu, None if mean is None else on_window(mean, 0), good.shape, xp),
        behind_beamstop=None if beamstop is None else xp.asarray(on_window(1 / beamstop, 0)),
        source=source,
        target=target,
        bin_px=bin_px,
        scale=xp.asarray(scale),
        filling=filling(bins_mask == 0, bins_mask == MASK_BAD, xp) if fourier else None,
        resampling=resampling,
        packet_rows=xp.asarray(_packet_rows(dark, layout, noise_adu)),
        probe=None if dark is None else level_probe(dark.mean, layout, settings, xp),
        xp=xp,
    )


def _usable(settings: CleaningSettings, layout: FCCDLayout, dark: DarkStatistics | None) -> npt.NDArray[np.bool_]:
    """Return which image pixels neither the darks nor the settings call bad."""
    usable = np.ones(layout.image_shape, bool) if dark is None else ~assemble(dark.bad, layout)
    bad = bad_pixels(settings, layout)
    return usable if bad is None else usable & ~bad


def _mask_of(
    good: npt.NDArray[np.float32], on_sensor: npt.NDArray[np.float32], side: int
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
    """Return mask and share of good pixels of each pixel of a coarser grid, (side, side)."""
    share, present = (share_of_area(a, side) for a in (good, on_sensor))
    least = LEAST_GOOD_FRACTION - 1e-9
    mask = np.where(present < least, MASK_MISSING, np.where(share < least, MASK_BAD, 0))
    return mask.astype(np.uint32), share


def _noise(dark: DarkStatistics | None, layout: FCCDLayout) -> float:
    """Return the usual read noise in ADU."""
    if dark is None or dark.num_frames < 2:
        return USUAL_NOISE_ADU
    return float(np.median(assemble(dark.std, layout)))


def _packet_rows(dark: DarkStatistics | None, layout: FCCDLayout, noise_adu: float) -> npt.NDArray[np.int64]:
    if dark is None:
        return np.concatenate([np.arange(start, stop) for start, stop in layout.good_rows])
    return np.flatnonzero(np.median(dark.mean, axis=1) > 10 * noise_adu)


def _counting(
    settings: CleaningSettings,
    noise: float,
    mean: npt.NDArray[np.float32] | None,
    shape: tuple[int, ...],
    xp: ModuleType,
) -> Counting | None:
    if settings.photons != "counting":
        return None
    rate = np.zeros(shape, np.float32)
    if mean is not None:
        rate = scipy.ndimage.uniform_filter(mean, RATE_SMOOTHING_PX)
    threshold = counting_threshold(CLUSTER_NOISE * noise, rate).astype(np.float32)
    return Counting(noise, xp.asarray(threshold), settings.photon_threshold)


def plan_for(
    frames: npt.NDArray[np.uint16],
    settings: CleaningSettings,
    layout: FCCDLayout,
    dark: DarkStatistics | None,
    *,
    energy_eV: float,
) -> CleaningPlan:
    """Prepare the cleaning of a scan with what some of its raw frames (n, rows, columns) tell.

    The centre, unless it is set, and how rare photons are.

    Raises
    ------
    ValueError
        As `check_darks`, `check_overscan`, `find_center` and `make_plan`.
    """
    center, mean = center_and_mean(frames, settings, layout, dark, energy_eV=energy_eV)
    return make_plan(settings, layout, dark, center, energy_eV=energy_eV, mean=mean)


def center_and_mean(
    frames: npt.NDArray[np.uint16],
    settings: CleaningSettings,
    layout: FCCDLayout,
    dark: DarkStatistics | None,
    *,
    energy_eV: float,
    silent: npt.NDArray[np.bool_] | None = None,
) -> tuple[tuple[float, float], npt.NDArray[np.float32]]:
    """Return what `make_plan` needs to know of some raw frames (n, rows, columns): the centre and the mean image.

    The mean image is NaN where `silent` (rows, columns) is true, by default where these frames `never_measured`.

    Raises
    ------
    ValueError
        As `check_darks`, `check_overscan` and `find_center`.
    """
    check_darks(dark, layout)
    frames = as_counts(frames)
    if silent is None:
        silent = never_measured(frames, layout)
    frames = _whole_frames(frames, dark, settings, layout)
    mean, good = mean_image(frames, dark, settings, layout, energy_eV=energy_eV)
    check_overscan(frames, dark, settings, layout, mean)
    silent = assemble(silent, layout)
    good &= ~silent
    mean[silent] = np.nan
    return settings.center_px or find_center(mean, good), mean


def _whole_frames(
    frames: npt.NDArray[np.uint16], dark: DarkStatistics | None, settings: CleaningSettings, layout: FCCDLayout
) -> npt.NDArray[np.uint16]:
    """Return the frames without those that lack packets or are none, unless there are no others."""
    if dark is None or layout.adcs_per_half == 1:
        return frames
    bad = has_lost_packets(frames, layout)
    probe = level_probe(dark.mean, layout, settings)
    if probe is not None:
        bad |= probe.corrupt(frames)
    return frames if bad.all() else frames[~bad]


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
    mean = image[0] / np.float32(len(frames) * adu_per_photon(settings, energy_eV))
    return mean, _usable(settings, layout, dark)


def check_darks(dark: DarkStatistics | None, layout: FCCDLayout) -> None:
    """Raise a ValueError for darks of an FCCD that never change: a sensor that is alive has read noise."""
    if dark is None or dark.num_frames < 2 or layout.adcs_per_half == 1:
        return
    if np.median(assemble(dark.std, layout)) == 0:
        raise ValueError(
            f"more than half of the pixels have the same value in all {dark.num_frames} dark frames: expected read "
            "noise; the camera was off or froze, take darks again"
        )


def check_overscan(
    frames: npt.NDArray[np.uint16],
    dark: DarkStatistics | None,
    settings: CleaningSettings,
    layout: FCCDLayout,
    mean: npt.NDArray[np.float32],
) -> None:
    """Raise a SettingsError where overscan columns hold light: their place is declared wrongly.

    Parameters
    ----------
    frames : (n, rows, columns) uint16
    dark : DarkStatistics or None
        Without darks nothing can be told.
    settings : CleaningSettings
    layout : FCCDLayout
    mean : image_shape float32
        Their mean image in photons.
    """
    if dark is None or not layout.overscan_columns:
        return
    sums = np.zeros(layout.shape, np.float32)
    for frame in frames:
        values, factors = decode_words(frame, settings.gain_words)
        sums += (values - dark.mean) * (1 if factors is None else factors)
    excess = by_adc(sums / np.float32(len(frames)), layout)
    usable = by_adc(~dark.bad, layout).all(axis=-1)
    first = 0
    for half, (start, stop) in enumerate(layout.good_rows):
        rows, own = excess[start:stop], layout.for_half(half)
        light = np.median(rows, axis=-1)
        by_columns = mean[first : first + stop - start].reshape(*light.shape, -1)
        first += stop - start
        lit = (np.median(by_columns, axis=-1) > LIT_PHOTONS) & usable[start:stop]
        if not lit.any():
            continue
        columns = rows[lit].mean(axis=0) / light[lit].mean()
        if any(columns[k] >= OVERSCAN_SHARE for k in own.overscan_columns):
            dim = [int(k) for k in np.flatnonzero(columns < OVERSCAN_SHARE)]
            dim = dim if half == 0 else sorted(layout.columns_per_adc - 1 - k for k in dim)
            found = f"columns {', '.join(map(str, dim))} hold none" if dim else "every column holds some"
            raise SettingsError(
                f"overscan_columns = {layout.overscan_columns} hold light, {found}: "
                "set cleaning.detector_mode, or another cleaning.layout"
            )
