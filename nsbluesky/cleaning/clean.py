"""Raw frames to photons on a square that is centred on the zero order, block after block.

The order is that of the light's way back: words, dark, overscan offset, gain, bad pixels, interference, flat field,
photons, beamstop, crop, downsampling, flags.  `nsbluesky.cleaning.loops` does the same compiled, on a CPU, and
`nsbluesky.cleaning.device` on a GPU; what stands here is the reference, and takes over where a frame is not whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.background import apply_gain, subtract_dark, subtract_offset
from nsbluesky.cleaning.device import DeviceCleaning
from nsbluesky.cleaning.flags import Doubts, FrameFlag
from nsbluesky.cleaning.layout import assemble
from nsbluesky.cleaning.loops import CompiledCleaning, can_compile
from nsbluesky.cleaning.photons import count_photons, keep_photons
from nsbluesky.cleaning.plan import LEAST_GOOD_FRACTION, CleaningPlan
from nsbluesky.cleaning.resample import filling, rebin, resample
from nsbluesky.cleaning.spikes import remove_spikes, remove_spikes_fourier
from nsbluesky.cleaning.words import (
    as_16_bits,
    as_counts,
    find_errors,
    find_lost_words,
    has_lost_packets,
    is_saturated,
    spread_saturation,
)

__all__ = ["IN_PHOTONS", "CleanedFrames", "clean", "clean_reference", "trace"]


IN_PHOTONS = ("photons", "beamstop", "clean")
"""Steps of `trace` whose windows are in photons; the others are in ADU."""


class CleanedFrames(NamedTuple):
    """Clean frames, and what is wrong with them.

    Attributes
    ----------
    frames : (n, frame_px, frame_px) float32
        Photons; zero frequency at N//2; 0 where the plan's mask is not, NaN where that frame alone did not measure.
        Noise makes single values negative: the mean is free of bias.
    flags : (n,) uint16
        `FrameFlag` of each.
    """

    frames: Any
    flags: npt.NDArray[np.uint16]


def clean(frames: Any, plan: CleaningPlan, out: Any = None, *, threads: int = 1) -> CleanedFrames:
    """Clean raw frames.

    Parameters
    ----------
    frames : (n, rows, columns) of integers
        On the host or, with a plan for a GPU, on the device as well.  Words of the Fast CCD are uint16; other
        detectors write wider ones, and negative ones where a pixel did not measure.
    plan : CleaningPlan
    out : (n, frame_px, frame_px) float32, optional
        Where the clean frames go; by default they lie where the frames do.
    threads : int
        On a CPU.
    """
    xp = plan.xp
    frames = as_counts(frames, np if isinstance(frames, np.ndarray) else xp)
    if tuple(frames.shape[1:]) != plan.layout.shape or frames.dtype.kind != "u":
        raise ValueError(
            f"raw frames {frames.shape} {frames.dtype}: expected (n, {plan.layout.rows}, {plan.layout.columns}) "
            "integers; check cleaning.layout"
        )
    if out is None:
        home = np if isinstance(frames, np.ndarray) else xp
        out = home.empty((len(frames), plan.frame_px, plan.frame_px), np.float32)
    doubtful, lost, corrupt = _clean_whole(frames, plan, out, threads)
    flags = np.zeros(len(frames), np.uint16)
    for k in np.flatnonzero(doubtful | lost):
        image = xp.asarray(out[k])
        flags[k] = _clean_doubtful(xp.asarray(frames[k]), plan, image, bool(lost[k]))
        _put(out, k, image)
    for k in np.flatnonzero(corrupt):
        flags[k] |= FrameFlag.CORRUPT
        _put(out, k, xp.where(plan.mask == 0, xp.float32(np.nan), xp.float32(0)))
    return CleanedFrames(out, flags)


def _clean_whole(frames: Any, plan: CleaningPlan, out: Any, threads: int) -> Doubts:
    """Clean frames as if they were whole, and return which ones may not be: also where 16 bits do not hold a word."""
    frames = as_16_bits(frames, plan.settings, np if isinstance(frames, np.ndarray) else plan.xp)
    if plan.xp is not np:
        return DeviceCleaning.of(plan)(frames, out)
    if can_compile(plan):
        return CompiledCleaning.of(plan)(frames, out, threads)
    clean_reference(frames, plan, out)
    doubtful = is_saturated(frames, plan.settings).any(axis=(1, 2))
    errors = find_errors(frames, plan.settings)
    if errors is not None:
        doubtful = doubtful | errors.any(axis=(1, 2))
    lost = has_lost_packets(frames, plan.layout, plan.packet_rows)
    corrupt = np.zeros(len(frames), bool) if plan.probe is None else plan.probe.corrupt(frames)
    return Doubts(doubtful, lost, corrupt)


def _put(out: Any, k: Any, image: Any) -> None:
    """Write a frame to `out`, wherever the two live."""
    out[k] = image.get() if isinstance(out, np.ndarray) and hasattr(image, "get") else image


def clean_reference(frames: Any, plan: CleaningPlan, out: Any) -> None:
    """Clean whole frames step by step with array operations alone."""
    # A CPU is fastest on what stays in its cache, a GPU on all frames at once.
    step = 1 if plan.xp is np else max(len(frames), 1)
    for start in range(0, len(frames), step):
        block = slice(start, start + step)
        out[block] = _downsample(_crop(_stepped(frames[block], plan, plan.good), plan), plan)


def trace(frame: Any, plan: CleaningPlan) -> dict[str, npt.NDArray[np.float32]]:
    """Return the window of one frame (rows, columns) after each step, by the step's name, and the clean frame.

    All in ADU at gain ×8 but "photons" and what follows, which are in photons.
    """
    raw = assemble(frame, plan.layout, plan.xp).astype(np.float32)
    windows = {"raw": _on_window(raw, plan)}
    for name, values in _steps(frame[None], plan, plan.good):
        scale = plan.adu_per_photon if name in IN_PHOTONS else 1.0
        windows[name] = _crop(values, plan)[0] / np.float32(scale)
    windows["clean"] = clean(frame[None], plan).frames[0]
    return windows if plan.xp is np else {name: plan.xp.asnumpy(a) for name, a in windows.items()}


def _on_window(image: Any, plan: CleaningPlan) -> Any:
    window = plan.xp.zeros((plan.crop_px, plan.crop_px), np.float32)
    (row, column), side = plan.start, plan.crop_px
    top, left = max(-row, 0), max(-column, 0)
    part = image[max(row, 0) : row + side, max(column, 0) : column + side]
    window[top : top + part.shape[0], left : left + part.shape[1]] = part
    return window


def _steps(frames: Any, plan: CleaningPlan, good: Any, lost: Any = None) -> Iterator[tuple[str, Any]]:
    """Yield each step's name and the frames after it, (n, crop_px, width) float32 in ADU: one array, in place."""
    xp, settings = plan.xp, plan.settings
    values = xp.zeros((len(frames), *plan.good.shape), xp.float32)
    subtract_dark(frames, plan.background, values)
    yield "dark", values
    subtract_offset(frames, plan.background, values, lost)
    yield "overscan", values
    apply_gain(frames, plan.background, values)
    values *= good
    yield "bad_pixels", values
    if settings.spikes == "fourier":
        parts = [(half.raw_rows, half.image_rows) for half in plan.background]
        remove_spikes_fourier(
            values, plan.layout, parts, limit_adu=plan.adu_per_photon, sigmas=settings.spike_sigmas, xp=xp
        )
    else:
        remove_spikes(values, plan.spikes, good, xp)
    values *= good
    yield "spikes", values
    if plan.sensitivity is not None:
        values *= plan.sensitivity
        yield "flat_field", values
    if plan.counting is not None:
        adu = np.float32(plan.adu_per_photon)
        counting = plan.counting
        values = count_photons(values / adu, counting.noise, counting.threshold, counting.keep, xp) * adu
    elif plan.threshold_adu:
        values *= keep_photons(values, plan.threshold_adu)
    yield "photons", values
    if plan.behind_beamstop is not None:
        values *= plan.behind_beamstop
        yield "beamstop", values


def _stepped(frames: Any, plan: CleaningPlan, good: Any, lost: Any = None) -> Any:
    """Return frames after the last step."""
    *_, (_, values) = _steps(frames, plan, good, lost)
    return values


def _crop(values: Any, plan: CleaningPlan) -> Any:
    """Return windows (n, crop_px, crop_px); 0 off the sensor."""
    window = plan.xp.zeros((len(values), plan.crop_px, plan.crop_px), plan.xp.float32)
    window[..., plan.target] = values[..., plan.source]
    return window


def _downsample(windows: Any, plan: CleaningPlan) -> Any:
    """Return clean frames in photons from windows in ADU."""
    bins = rebin(windows, plan.num_bins)
    bins *= plan.scale
    return _from_bins(bins, plan)


def _from_bins(bins: Any, plan: CleaningPlan) -> Any:
    if plan.resampling is None or plan.filling is None:
        return bins
    plan.filling.fill(bins)
    frames = resample(bins, plan.resampling)
    frames *= plan.mask == 0
    return frames


def _clean_doubtful(frame: Any, plan: CleaningPlan, out: Any, has_lost: bool) -> int:
    """Clean a frame that may be saturated or not whole; return its flags.

    A pixel of the clean frame is NaN where anything in it was saturated, which is never by chance, or where half of
    it was lost.
    """
    xp, layout = plan.xp, plan.layout
    lost_words = find_lost_words(frame, layout, xp) if has_lost else xp.zeros(layout.shape, bool)
    errors = find_errors(frame, plan.settings, xp)
    unread = lost_words if errors is None else lost_words | errors
    lost = _widen(assemble(unread, layout, xp), plan) & (plan.good != 0)
    saturated = assemble(is_saturated(frame, plan.settings) & ~lost_words, layout, xp)
    saturated = _widen(saturated, plan) & (plan.good != 0)
    if bool(saturated.any()):
        full = xp.zeros(layout.image_shape, bool)
        _narrow(full, plan)[...] = _rows_on_sensor(saturated, plan)
        saturated = _widen(spread_saturation(full, layout, plan.settings, xp), plan) & (plan.good != 0)
    flags = FrameFlag.LOST_PACKETS * (has_lost or bool(lost.any())) | FrameFlag.SATURATED * bool(saturated.any())
    whole = not bool(lost.any() | saturated.any())  # what is missing lies elsewhere on the sensor
    if whole and frame.dtype == np.uint16:
        return int(flags)
    good = plan.good * ~(lost | saturated)
    values = _stepped(frame[None], plan, good, unread[None] if bool(lost_words.any()) else None)
    sums, shares, hit = (
        rebin(_crop(a[None], plan), plan.num_bins)[0] for a in (values[0], good, saturated.astype(np.float32))
    )
    shares /= plan.bin_px**2
    measured = (plan.scale != 0) & (hit == 0) & (shares >= LEAST_GOOD_FRACTION - 1e-6)
    bins = xp.where(measured, sums / (xp.maximum(shares, LEAST_GOOD_FRACTION) * plan.adu_per_photon), 0)
    bins = bins.astype(np.float32)
    if plan.resampling is None:
        out[...] = xp.where(plan.scale != 0, xp.where(measured, bins, np.nan), 0)
    else:
        filling(_host(measured, xp), _host(plan.scale != 0, xp), xp).fill(bins[None])
        clean_frame = resample(bins[None], plan.resampling)[0]
        gone = (plan.scale != 0) & ~measured
        out[...] = xp.where(plan.mask != 0, 0, xp.where(_covers(gone, plan.frame_px, xp), np.nan, clean_frame))
    usable = plan.mask == 0
    if float(xp.isfinite(out[usable]).mean()) < LEAST_GOOD_FRACTION:
        flags |= FrameFlag.CORRUPT
    return int(flags)


def _host(array: Any, xp: Any) -> Any:
    return array if xp is np else xp.asnumpy(array)


def _covers(bins: Any, side: int, xp: Any) -> Any:
    """Return which pixels of a coarser grid (side, side) touch any of `bins` that are True."""
    count = len(bins)
    first = xp.arange(side) * count // side
    last = -(-(xp.arange(side) + 1) * count // side)
    total = xp.zeros((count + 1, count + 1), xp.int64)
    total[1:, 1:] = bins.astype(xp.int64).cumsum(axis=0).cumsum(axis=1)
    rows = total[last] - total[first]
    return (rows[:, last] - rows[:, first]) > 0


def _rows_on_sensor(window: Any, plan: CleaningPlan) -> Any:
    row, rows = plan.start[0], plan.layout.image_shape[0]
    return window[max(-row, 0) : rows - row]


def _narrow(image: Any, plan: CleaningPlan) -> Any:
    """Return the part of an image (rows, columns) that lies under the plan's rows and whole ADCs."""
    row = plan.start[0]
    first = plan.background[0].adcs.start * plan.layout.data_columns_per_adc
    return image[max(row, 0) : row + plan.crop_px, first : first + plan.good.shape[1]]


def _widen(image: Any, plan: CleaningPlan) -> Any:
    """Return an image's part under the plan's rows and whole ADCs, (crop_px, width); 0 off the sensor."""
    window = plan.xp.zeros(plan.good.shape, image.dtype)
    part = _narrow(image, plan)
    top = max(-plan.start[0], 0)
    window[top : top + len(part)] = part
    return window
