"""Cleaning on a GPU: blocks of frames over two streams, so that one is cleaned while the next one is on its way.

A block's raw words go to pinned memory, over the bus, through the kernels, and its clean frames come back, all in the
order of one stream; the other stream does the same half a step later.  The work space is allocated once.

With a plan in NumPy the same steps run on the host, which is how they are tested without a GPU.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Launch, cuda_launch, pinned
from nsbluesky.cleaning.background import overscan_offset
from nsbluesky.cleaning.device_kernels import SOURCE, twin_launch
from nsbluesky.cleaning.flags import Doubts
from nsbluesky.cleaning.photons import count_photons
from nsbluesky.cleaning.resample import resample
from nsbluesky.cleaning.spikes import remove_spikes, remove_spikes_fourier
from nsbluesky.cleaning.words import GAIN_FACTORS, VALUE_BITS, has_lost_packets, saturation_limit

if TYPE_CHECKING:
    from nsbluesky.cleaning.plan import CleaningPlan

__all__ = ["BLOCK_FRAMES", "DeviceCleaning"]

BLOCK_FRAMES = 32
"""77 MB of raw words: a bus at 25 GB/s takes 3 ms, long against what it costs to start a kernel."""
NUM_LANES = 2


class DeviceCleaning:
    """One plan's tables and work space; for one thread at a time.

    Parameters
    ----------
    plan : CleaningPlan
    launch : Launch, optional
        What runs the fused kernels; chosen by the plan's array module.
    """

    _known: ClassVar[weakref.WeakKeyDictionary[CleaningPlan, DeviceCleaning]] = weakref.WeakKeyDictionary()

    @classmethod
    def of(cls, plan: CleaningPlan) -> DeviceCleaning:
        """Return the one of this plan; made at the first call."""
        if plan not in cls._known:
            cls._known[plan] = cls(plan)
        return cls._known[plan]

    def __init__(self, plan: CleaningPlan, launch: Launch | None = None) -> None:
        self._steps = _Steps(plan, launch or (twin_launch if plan.xp is np else cuda_launch(plan.xp, SOURCE)))
        self._lanes = [_Lane(plan) for _ in range(NUM_LANES)]
        self._shape = plan.frame_px, plan.frame_px

    def __call__(self, frames: Any, out: Any) -> Doubts:
        """Clean `frames` (n, rows, columns) uint16 to `out` (n, frame_px, frame_px) float32, each on host or device.

        What comes out for a frame with any doubt must not be used.
        """
        doubts = Doubts(*np.zeros((3, len(frames)), bool))
        for k, start in enumerate(range(0, len(frames), BLOCK_FRAMES)):
            block = slice(start, start + BLOCK_FRAMES)
            lane = self._lanes[k % NUM_LANES]
            lane.finish()
            lane.begin(self._steps, frames[block], out[block], [doubt[block] for doubt in doubts])
        for lane in self._lanes:
            lane.finish()
        return doubts


class _Lane:
    """A stream with its work space: pinned memory on the host, and a block's arrays on the device.

    The stream waits for what the default stream has begun: the plan's arrays, and frames that are on the device.
    """

    def __init__(self, plan: CleaningPlan) -> None:
        xp, block = plan.xp, BLOCK_FRAMES
        self._on_device = xp is not np
        self._stream = xp.cuda.Stream() if self._on_device else None
        self._sent = pinned(xp, (block, *plan.layout.shape), np.uint16)
        self._returned = pinned(xp, (block, plan.frame_px, plan.frame_px), np.float32)
        self._doubts = pinned(xp, (3, block), np.uint8)
        self._raw = xp.empty(self._sent.shape, np.uint16)
        self.values = xp.empty((block, *plan.good.shape), np.float32)
        self.bins = xp.empty((block, plan.num_bins, plan.num_bins), np.float32)
        self.doubts = xp.zeros((3, block), np.uint8)
        self._pending: tuple[int, Any, list[npt.NDArray[np.bool_]]] | None = None

    def begin(self, steps: _Steps, frames: Any, out: Any, doubts: list[npt.NDArray[np.bool_]]) -> None:
        """Start a block; the caller goes on at once."""
        count = len(frames)
        with self._stream if self._stream is not None else contextlib.nullcontext():
            raw = frames
            if self._on_device and isinstance(frames, np.ndarray):
                self._sent[:count] = frames
                raw = self._raw[:count]
                self._copy(raw, self._sent[:count], to_device=True)
            clean = steps(raw, self)
            if self._on_device and isinstance(out, np.ndarray):
                self._copy(clean, self._returned[:count], to_device=False)
                self._pending = count, out, doubts
            else:
                out[...] = clean
                self._pending = count, None, doubts
            self._copy(self.doubts, self._doubts, to_device=False)
            self._kept = raw, clean  # until the copies are done

    def finish(self) -> None:
        """Wait for the block that was begun, and hand over what came out."""
        if self._pending is None:
            return
        if self._stream is not None:
            self._stream.synchronize()
        count, out, doubts = self._pending
        self._pending = None
        if out is not None:
            out[...] = self._returned[:count]
        for told, found in zip(doubts, self._doubts, strict=True):
            told[...] = found[:count]

    def _copy(self, device: Any, host: npt.NDArray[Any], to_device: bool) -> None:
        """Start a copy; both sides are contiguous."""
        if not self._on_device:
            host[...] = device
        elif to_device:
            device.data.copy_from_host_async(host.ctypes.data, host.nbytes, self._stream)
        else:
            device.data.copy_to_host_async(host.ctypes.data, host.nbytes, self._stream)


class _Steps:
    """The steps of a plan in their order, on the arrays of a lane."""

    def __init__(self, plan: CleaningPlan, launch: Launch) -> None:
        xp, layout, settings = plan.xp, plan.layout, plan.settings
        crop, width = plan.good.shape
        raw_rows, halves = np.full(crop, -1, np.int32), np.zeros(crop, np.int32)
        columns = np.zeros((2, width), np.int32)
        dark = xp.zeros((3, crop, width), np.float32)
        for k, half in enumerate(plan.background):
            raw_rows[half.image_rows] = np.arange(half.raw_rows.start, half.raw_rows.stop)
            halves[half.image_rows] = k
            by_adc = np.arange(layout.columns).reshape(-1, layout.columns_per_adc)
            columns[k] = by_adc[half.adcs, half.layout.data_columns].ravel()
            dark[:, half.image_rows] = half.dark.reshape(len(half.dark), width)
            if half.gain_steps is not None:
                dark[1:, half.image_rows] += half.gain_steps.reshape(2, len(half.dark), width)
        full_bits, full = saturation_limit(settings)
        middle = GAIN_FACTORS[settings.gain_words].index(4.0) if settings.gain_words in GAIN_FACTORS else 0
        value_bits = 0xFFFF if settings.gain_words == "plain" else VALUE_BITS
        self._launch = launch
        self._layout, self._settings, self._xp = layout, settings, xp
        self._background, self._spikes = plan.background, plan.spikes
        self._good, self._sensitivity, self._counting = plan.good, plan.sensitivity, plan.counting
        self._adu, self._probe, self._packet_rows = plan.adu_per_photon, plan.probe, plan.packet_rows
        self._places = [xp.asarray(a) for a in (raw_rows, halves, columns)]
        self._dark, self._usable = dark, (plan.good != 0).astype(np.uint8)
        self._codes = value_bits, middle, full_bits, full
        self._weights = xp.ones((crop, width), np.float32) if plan.behind_beamstop is None else plan.behind_beamstop
        self._place = plan.source.start, plan.target.start, plan.source.stop - plan.source.start
        self._bins = plan.num_bins, plan.bin_px
        self._scale, self._threshold = plan.scale, float(plan.threshold_adu)
        self._filling, self._resampling = plan.filling, plan.resampling
        self._inside = plan.mask == 0

    def __call__(self, raw: Any, lane: _Lane) -> Any:
        """Return clean frames (n, frame_px, frame_px) of raw ones (n, rows, columns), and leave the lane's doubts."""
        xp, n = self._xp, len(raw)
        values, bins, doubts = lane.values[:n], lane.bins[:n], lane.doubts
        crop, width = values.shape[1:]
        per_adc = self._layout.data_columns_per_adc
        raw = xp.ascontiguousarray(raw)
        doubts[...] = 0
        self._launch(
            "load_window", values.size,
            raw, *self._places, self._dark, self._offsets(raw, crop, width // per_adc), self._usable, values,
            doubts[0], n, *self._layout.shape, crop, width, per_adc, *self._codes,
        )  # fmt: skip
        doubts[1, :n] = has_lost_packets(raw, self._layout, self._packet_rows, xp)
        if self._probe is not None:
            doubts[2, :n] = self._probe.corrupt(raw)
        self._remove_interference(values)
        threshold = self._threshold
        if self._sensitivity is not None:
            values *= self._sensitivity
        if self._counting is not None:
            adu, counting = np.float32(self._adu), self._counting
            values[...] = count_photons(values / adu, counting.noise, counting.threshold, counting.keep, xp) * adu
            threshold = 0.0
        self._launch(
            "sum_bins", bins.size,
            values, self._weights, self._scale, bins, n, crop, width, *self._place, *self._bins, threshold,
        )  # fmt: skip
        if self._resampling is None or self._filling is None:
            return bins
        self._filling.fill(bins)
        clean = resample(bins, self._resampling)
        clean *= self._inside
        return clean

    def _offsets(self, raw: Any, rows: int, adcs: int) -> Any:
        """Return the overscan's offset of every ADC, (n, rows, ADCs)."""
        offsets = self._xp.zeros((len(raw), rows, adcs), np.float32)
        for half in self._background:
            if half.overscan is not None:
                offsets[:, half.image_rows] = overscan_offset(raw, half, half.overscan)
        return offsets

    def _remove_interference(self, values: Any) -> None:
        settings, xp = self._settings, self._xp
        if settings.spikes == "fourier":
            parts = [(half.raw_rows, half.image_rows) for half in self._background]
            remove_spikes_fourier(
                values, self._layout, parts, limit_adu=self._adu, sigmas=settings.spike_sigmas, xp=xp
            )
        elif self._spikes:
            remove_spikes(values, self._spikes, self._good, xp)
        else:
            return
        values *= self._good
