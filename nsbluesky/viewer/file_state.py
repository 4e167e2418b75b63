"""What a CXI file holds, as the parts of a `LiveState` that panels show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import get_backend
from nsbluesky.callbacks.derived_run import UNITS
from nsbluesky.callbacks.live_parts import DarkStatistics, Detector, Fit, LowResolution, ShownPicture
from nsbluesky.callbacks.live_state import LiveState
from nsbluesky.cleaning.darks import DarkAccumulator
from nsbluesky.cleaning.layout import LAYOUTS, get_layout
from nsbluesky.cxi import CxiData, CxiImage, FrameStack, read_cxi
from nsbluesky.low_resolution import LowResolutionAccumulator
from nsbluesky.settings import CleaningSettings
from nsbluesky.solver.fit import modelled_frame, r_of
from nsbluesky.solver.propagation import propagator_of

__all__ = [
    "RawFrames",
    "dark_statistics",
    "exposures_of",
    "fit_of_frame",
    "frames_of",
    "low_resolution_of",
    "mean_frame",
    "reconstruction_of",
    "state_of",
]

BLOCK_FRAMES = 64

MAX_MEAN_FRAMES = 64
"""Frames, evenly spaced, that a mean is made of where the file holds none."""


def reconstruction_of(data: CxiData, image: CxiImage) -> ShownPicture:
    """Return a picture of a file as windows show it: on the stage, NaN where nothing was measured."""
    pixel_m = image.pixel_m
    if not np.isfinite(pixel_m):
        frame_px = data.mask.shape[-1]
        pixel_m = data.geometry().object_pixel_m(frame_px)
    measured = (image.mask == 0) & (image.object != 0)
    object = np.where(measured, image.object, np.complex64(complex(np.nan, np.nan)))
    half_x, half_y = 0.5 * pixel_m * object.shape[1], 0.5 * pixel_m * object.shape[0]
    x, y = image.center_m
    probe = image.probe
    if probe is None:
        probe = np.zeros((1, 1, 1), np.complex64) if data.illumination is None else data.illumination[None]
    return ShownPicture(
        object=object,
        probe=probe,
        pixel_size_m=pixel_m,
        extent_m=(x - half_x, x + half_x, y - half_y, y + half_y),
        r_factor=float(image.errors[-1]) if len(image.errors) else np.nan,
        num_frames=len(data.translation_m),
        num_passes=len(image.errors),
        coverage=np.nan,
        newest_age_s=np.nan,
        final=image.complete,
    )


class RawFrames(Protocol):
    """The raw frames of a recorded run; both raise an `OSError` or a `ValueError` where they cannot be read."""

    def frame(self, seq_num: int) -> npt.NDArray[np.generic] | None:
        """Return the frame (rows, columns) of a point; None where it was not recorded."""

    def darks(self, count: int) -> npt.NDArray[np.generic]:
        """Return at most so many dark frames (n, rows, columns)."""


def frames_of(data: CxiData) -> FrameStack:
    """Return the clean frames, or the raw ones where there are no others."""
    stack = data.frames if data.frames is not None else data.raw_data
    assert stack is not None  # read_cxi refuses a file without either
    return stack


def state_of(data: CxiData, images: Sequence[CxiImage]) -> LiveState:
    """Return the parts of a file with these pictures, oldest first, that panels show, but for the frame."""
    detector = None
    if data.frames is not None:
        masked = np.where(data.good, 0, data.mask)
        detector = Detector((np.nan, np.nan), masked, data.pixel_size_m[1])
    darks, count = {}, max(1, data.number_exposures)
    if data.dark_data is not None:
        for exposure in range(count):
            whole = len(data.dark_data) - len(data.dark_data) % count
            dark = dark_statistics(_some(data.dark_data, np.arange(exposure, whole, count)))
            if dark is not None:
                darks[exposure] = replace(dark, exposure=exposure)
    reconstruction = reconstruction_of(data, images[-1]) if images else None
    return LiveState(darks=darks, detector=detector, reconstruction=reconstruction)


def exposures_of(data: CxiData) -> npt.NDArray[np.intp]:
    """Return which exposure of its point each frame is: those of a point follow one another at one place."""
    place_m, numbers = data.translation_m, np.arange(len(data.translation_m))
    if data.frames is not None or not len(numbers):
        return np.zeros(len(numbers), np.intp)
    begins = np.concatenate([[True], (np.diff(place_m, axis=0) != 0).any(axis=1)])
    return (numbers - np.maximum.accumulate(np.where(begins, numbers, 0))) % max(1, data.number_exposures)


def _some(stack: FrameStack, index: npt.NDArray[np.intp]) -> npt.NDArray[np.generic]:
    count = min(len(index), MAX_MEAN_FRAMES)
    return stack[index[np.unique(np.linspace(0, len(index) - 1, count).round().astype(np.intp))]]


def mean_frame(data: CxiData, frames: FrameStack) -> tuple[npt.NDArray[np.float32], str]:
    """Return the mean frame, of raw ones that of the first exposure of each point, and its title."""
    if data.frames is not None and data.illumination_intensities is not None:
        return data.illumination_intensities, "Mean frame"
    if not len(frames):
        return np.zeros(frames.shape[1:], np.float32), "Mean frame"
    index = np.flatnonzero(exposures_of(data) == 0) if len(data.translation_m) else np.arange(len(frames))
    some = _some(frames, index)
    every = "all" if len(some) == len(index) else str(len(some))
    title = "Mean of 1 frame" if len(index) == 1 else f"Mean of {every} frames"
    if data.frames is None and data.number_exposures > 1:
        title += " of the first exposure"
    return np.asarray(some, dtype=np.float32).mean(axis=0), title


def dark_statistics(frames: npt.NDArray[np.generic]) -> DarkStatistics | None:
    """Return the statistics of dark frames (n, rows, columns); None where there are none.

    Bad pixels are those that the cleaning finds with its defaults, in the first detector mode of that shape.
    """
    if not len(frames):
        return None
    shape = (frames.shape[1], frames.shape[2])
    layout = next((name for name, mode in LAYOUTS.items() if mode.shape == shape), "none")
    settings = CleaningSettings(layout=layout)
    darks = DarkAccumulator(get_layout(settings, shape), settings.gain_words)
    darks.add(frames)
    found = darks.result(settings)
    bad_adcs = tuple(int(adc) for adc in found.bad_adcs)
    return DarkStatistics(found.mean, found.std, found.bad.astype(np.uint8), bad_adcs, found.num_frames)


def fit_of_frame(
    data: CxiData,
    picture: ShownPicture,
    index: int,
    frame: npt.NDArray[np.floating[npt.NBitBase]],
    corrected_m: npt.NDArray[np.float64] | None = None,
) -> Fit | None:
    """Return a clean frame beside what a picture of the file expects it to be; None where their sides differ.

    Parameters
    ----------
    data : CxiData
    picture : ShownPicture
    index : int
        Of the frame, from 0.
    frame : (N, N) floating
        Photons.
    corrected_m : (n, 2) float64, optional
        Where the picture has the frames, NaN for those that it does not have; by default where they were told to be.
    """
    if picture.probe.shape[-2:] != frame.shape:
        return None
    x, y = (float(at) for at in data.translation_m[index, :2])
    if corrected_m is not None and index < len(corrected_m) and np.isfinite(corrected_m[index]).all():
        x, y = (float(at) for at in corrected_m[index])
    origin = (picture.extent_m[0], picture.extent_m[2])
    backend = get_backend("numpy")
    propagator = propagator_of(backend, data.geometry(), len(frame), picture.pixel_size_m)
    shown = (picture.object, picture.probe, picture.pixel_size_m)
    model = modelled_frame(backend, propagator, *shown, origin, (x, y))
    measured = np.where(data.good, frame, np.float32(np.nan)).astype(np.float32)
    return Fit(int(data.seq_nums[index]), measured, model, r_of(measured, model))


def low_resolution_of(path: Path, stopped: Callable[[], bool] = lambda: False) -> LowResolution | None:
    """Return the low-resolution images of the clean frames of a file; None where there are none, or when stopped.

    Raises
    ------
    CxiError
        If the file cannot be read.
    """
    with read_cxi(path) as data:
        frames = data.frames
        used = np.flatnonzero(data.frame_weights > 0)
        if frames is None or not len(used):
            return None
        images = LowResolutionAccumulator(np.where(data.good, 0, data.mask).astype(np.uint32))
        for start in range(0, len(used), BLOCK_FRAMES):
            if stopped():
                return None
            rows = used[start : start + BLOCK_FRAMES]
            x, y = data.translation_m[rows, :2].T
            images.add(data.seq_nums[rows], frames[rows].astype(np.float32), x, y)
    found = images.result()
    return LowResolution(
        found.transmission,
        found.dpc_x,
        found.dpc_y,
        found.extent_m,
        found.num_frames,
        {name: unit for name, unit in UNITS.items() if hasattr(found, name)},
        found.dark_field,
    )
