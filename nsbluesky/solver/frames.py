"""The frames a solver holds: amplitudes in memory once, keyed by sequence number, growing without a copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.backend import Backend
from nsbluesky.solver import amplitude_loops
from nsbluesky.solver.amplitude_arrays import brightest_of, roots_of, sums_of
from nsbluesky.solver.amplitude_chunks import AmplitudeChunks
from nsbluesky.solver.checkpoint import CheckpointError
from nsbluesky.solver.device_loops import StoredAmplitudes, device_loops
from nsbluesky.solver.hold_out import HoldOut
from nsbluesky.solver.light import NOT_MEASURED, SUMS
from nsbluesky.solver.propagation import FarField, Propagator

__all__ = ["FOREVER", "MOST_VARIATION", "FrameStore"]

NEARLY = 1 - 2**-12
"""Part of a full scale that counts as it: factors were rounded."""

MOST_VARIATION = 8
"""Modes of variation that a probe can have (`nsbluesky.solver.variation`)."""

FOREVER = 255
"""For how many passes a frame is suspended that is left out for good."""

FIRST_SLOTS = 64
"""Frames that there is room for from the start."""

DEVICE_FRAMES = 64
"""Frames that are taken in at once on a device."""

HOST_PIXELS = 2**16
"""Pixels of those that a host's thread takes in at once."""

SAME_PHOTONS = 1e-6
SAME_PLACE_PX = 1e-3
"""A frame with equal photons, to this part, at an equal place is the one that a checkpoint tells of."""

_IDENTITY = ("seq_nums", "photons", "told_px")
_FOUND = ("corners_px", "shifts_px", "flux", "backgrounds", "variation", "residuals", "uses", "suspended", "misfits")


@dataclass
class _Column:
    """One number (or row of numbers) per frame in host memory; grows by doubling, for it is small."""

    values: npt.NDArray[Any]
    version: Any = 0
    """Another one after each change."""

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.values[index] = value
        self.version += 1

    def reserve(self, size: int) -> None:
        if size > len(self.values):
            grown = np.zeros((max(size, 2 * len(self.values)), *self.values.shape[1:]), self.values.dtype)
            grown[: len(self.values)] = self.values
            self.values = grown


class FrameStore:
    """Measured amplitudes √photons in FFT order, with what belongs to each frame.

    A frame lives in a *slot*; the slot of a sequence number never changes, so that a frame that comes again
    replaces the earlier one in place.  A frame that must not be used has weight 0.

    Parameters
    ----------
    frame_px : int
        Side N of a frame.
    backend : Backend
        Where the amplitudes live.
    propagator : Propagator, optional
        What exit waves become where they were measured; by default the far field.
    half : bool
        Keep amplitudes in half precision.

    Attributes
    ----------
    slots : dict of int to int
        The slot of each sequence number.  All columns below are read and written by slot.
    seq_nums : int64
    corners_px : (2,) int64
        First row and column of the window, on the stage's grid of object pixels.
    shifts_px : (2,) float64
        What is left of a pixel: the window begins at corner + shift.
    told_px : (2,) float64
        Where the stage says that it begins, fractions included.
    weights : float32
        0…1.
    flux : float64
        Relative to the mean over frames.
    backgrounds : float64
        Photons a pixel beyond those of `SolverState.background`.
    variation : (MOST_VARIATION,) float32
        How much the frame has of each mode of a probe that varies.
    photons, amplitude_sums : float64
        Σ m·A² and Σ m·A over the pixels that are used.
    central_photons, central_amplitude_sums : float64
        The same over the central half of the detector.
    residuals : float64
        Σ m·|G − A| at the latest use, from before its update; of a central half made as large as of the whole frame.
    light_sums : (SUMS,) float64
        What the latest use told (`nsbluesky.solver.light`); 0 where that is of no use any more.
    uses : int64
        Updates with it so far.
    suspended : uint8
        For how many more passes it is not used; `FOREVER` where it is left out for good.
    misfits : uint8
        1 where it was suspended once because it did not fit (`nsbluesky.solver.misfits`).
    brightest : float32
        √photons of the brightest pixel that is used.
    piled_up : int64
        How many more pixels have as many than have a little less (`nsbluesky.solver.saturation`).
    full_scale : numpy.float32
        √photons from which on a pixel counts as not measured.
    good : (N, N) float32 array of the backend
        1 for pixels that may be used, else 0; FFT order.
    hold_out : HoldOut or None
    """

    def __init__(
        self, frame_px: int, backend: Backend, propagator: Propagator | None = None, *, half: bool = False
    ) -> None:
        self.frame_px = frame_px
        self.backend = backend
        self.propagator = FarField(backend) if propagator is None else propagator
        self.slots: dict[int, int] = {}
        self.seq_nums = _Column(np.zeros(FIRST_SLOTS, np.int64))
        self.corners_px = _Column(np.zeros((FIRST_SLOTS, 2), np.int64))
        self.shifts_px = _Column(np.zeros((FIRST_SLOTS, 2), np.float64))
        self.told_px = _Column(np.zeros((FIRST_SLOTS, 2), np.float64))
        self.flux = _Column(np.ones(FIRST_SLOTS, np.float64))
        self.backgrounds = _Column(np.zeros(FIRST_SLOTS, np.float64))
        self.variation = _Column(np.zeros((FIRST_SLOTS, MOST_VARIATION), np.float32))
        self.weights = _Column(np.zeros(FIRST_SLOTS, np.float32))
        self.photons = _Column(np.zeros(FIRST_SLOTS, np.float64))
        self.amplitude_sums = _Column(np.zeros(FIRST_SLOTS, np.float64))
        self.central_photons = _Column(np.zeros(FIRST_SLOTS, np.float64))
        self.central_amplitude_sums = _Column(np.zeros(FIRST_SLOTS, np.float64))
        self.residuals = _Column(np.zeros(FIRST_SLOTS, np.float64))
        self.uses = _Column(np.zeros(FIRST_SLOTS, np.int64))
        self.suspended = _Column(np.zeros(FIRST_SLOTS, np.uint8))
        self.misfits = _Column(np.zeros(FIRST_SLOTS, np.uint8))
        self.light_sums = _Column(np.zeros((FIRST_SLOTS, SUMS), np.float64))
        self.brightest = _Column(np.zeros(FIRST_SLOTS, np.float32))
        self.piled_up = _Column(np.zeros(FIRST_SLOTS, np.int64))
        self.full_scale = np.float32(np.inf)
        self.good = backend.xp.ones((frame_px, frame_px), np.float32)
        self.hold_out: HoldOut | None = None
        self._has_gaps = False
        self._amplitudes = AmplitudeChunks(frame_px, backend, half=half)
        self._expected: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        """Return the number of slots, whatever their weight."""
        return len(self.slots)

    @property
    def _columns(self) -> tuple[_Column, ...]:
        return tuple(value for value in vars(self).values() if isinstance(value, _Column))

    @property
    def active(self) -> npt.NDArray[np.intp]:
        """Slots of the frames with a weight above 0 that are not suspended (`nsbluesky.solver.misfits`)."""
        return np.flatnonzero((self.weights[: len(self)] > 0) & (self.suspended[: len(self)] == 0))

    @property
    def wanted(self) -> npt.NDArray[np.intp]:
        """Slots of the frames with a weight above 0 that are not left out, those that are suspended among them."""
        return np.flatnonzero((self.weights[: len(self)] > 0) & (self.suspended[: len(self)] < FOREVER))

    def awaits(self, slot: int) -> bool:
        """Return whether a checkpoint knows the frame of a slot, but it has not come yet."""
        return slot in self._expected

    @property
    def has_gaps(self) -> bool:
        """Whether `amplitudes` of any frame may be `NOT_MEASURED`."""
        return self._has_gaps or self.hold_out is not None

    @property
    def version(self) -> tuple[Any, ...]:
        """What changes with where frames lie, their weights and corrections, or their number."""
        columns = self.corners_px, self.shifts_px, self.weights, self.flux, self.backgrounds
        return len(self.slots), id(self.weights), id(self.hold_out), *(column.version for column in columns)

    @property
    def nbytes(self) -> int:
        """Bytes of the amplitudes."""
        return self._amplitudes.nbytes

    def set_good(self, good: npt.NDArray[np.bool_], held_out: npt.NDArray[np.int64] | None = None) -> None:
        """Set which pixels (N, N; zero frequency at N//2) any frame may use, also of the frames that are here.

        With `held_out`, a number 0, 1, … for each pixel, those of one number are not used of a frame, but good enough
        to judge the solver by; the next frame has the next number.
        """
        self.good = self.backend.from_numpy(np.fft.ifftshift(good).astype(np.float32, order="C"))
        self.hold_out = None
        if held_out is not None:
            numbers = np.where(good, held_out, -1)
            self.hold_out = HoldOut(self.backend.from_numpy(np.fft.ifftshift(numbers)), int(held_out.max()) + 1)
        self.backend.map(self._measure_again, self._runs(len(self)))

    def put(
        self,
        seq_nums: npt.ArrayLike,
        frames: Any,
        corners_px: npt.ArrayLike,
        weights: npt.ArrayLike = 1.0,
        shifts_px: npt.ArrayLike = 0.0,
    ) -> npt.NDArray[np.intp]:
        """Store frames (n, N, N) of photons, zero frequency at N//2, of n different numbers; return their slots.

        The centres of their windows lie at `corners_px` + N/2 + `shifts_px` (n, 2: row, column), shifts of at most
        half a pixel; this is also what `corrections_px` refers to from now on.  A frame that a checkpoint knows gets
        its uses and corrections from there, once.
        """
        slots = self.note(seq_nums, corners_px, shifts_px, weights)
        self._amplitudes.reserve(len(self))
        runs = self._runs(len(slots))
        gaps = self.backend.map(lambda run: self._take(slots[run], frames[run]), runs)
        self._has_gaps = self._has_gaps or any(gaps)
        for slot in slots.tolist() if self._expected else ():
            self._recall(slot, self._expected.pop(slot, None))
        return slots

    def _runs(self, count: int) -> list[slice]:
        """Cut so many frames into runs that are taken in or measured at once."""
        length = DEVICE_FRAMES if self.backend.on_device else max(1, HOST_PIXELS // self.frame_px**2)
        return [slice(first, min(first + length, count)) for first in range(0, count, length)]

    def _take(self, slots: npt.NDArray[np.intp], photons: Any) -> bool:
        """Keep a few frames (n, N, N); return whether there are pixels that they did not measure."""
        xp = self.backend.xp
        if self.backend.on_device:
            amplitudes = roots_of(xp, xp.asarray(photons, dtype=np.float32))
            has_gaps = bool((amplitudes < 0).any())
        else:
            amplitudes = np.empty((len(slots), self.frame_px, self.frame_px), np.float32)
            has_gaps = amplitude_loops.take_roots(np.ascontiguousarray(photons, np.float32), amplitudes)
        self._amplitudes.check(amplitudes)
        if np.isfinite(self.full_scale):
            has_gaps |= self._cut(amplitudes)
        for slot, amplitude in zip(slots.tolist(), amplitudes, strict=True):
            self._amplitudes.write(slot, amplitude)
        self._measure(slots, self._amplitudes.rounded(amplitudes))
        return has_gaps

    def end_at(self, amplitude: float | None) -> None:
        """Take pixels of this √photons and more for not measured, of the frames that are here and that will come.

        With None, none of those that will come.
        """
        self.full_scale = np.float32(np.inf if amplitude is None else NEARLY * amplitude)
        self.backend.map(self._cut_again, self._runs(len(self)))

    def _cut_again(self, run: slice) -> None:
        slots = np.arange(run.start, run.stop)
        slots = slots[self.brightest[slots] >= self.full_scale]
        if not len(slots):
            return
        amplitudes = self.backend.xp.stack([self.amplitude(slot) for slot in slots.tolist()])
        self._has_gaps |= self._cut(amplitudes)
        for slot, amplitude in zip(slots.tolist(), amplitudes, strict=True):
            self._amplitudes.write(slot, amplitude)
        self._measure(slots, amplitudes)

    def _cut(self, amplitudes: Any) -> bool:
        """Take what has the full scale for not measured, of a few frames; return whether anything has."""
        saturated = amplitudes >= self.full_scale
        amplitudes[saturated] = NOT_MEASURED
        return bool(saturated.any())

    def forget(self, slots: npt.NDArray[np.intp] | slice) -> None:
        """Count uses and misfits of these slots from here on, and know nothing of their light."""
        for column in (self.uses, self.suspended, self.misfits, self.light_sums):
            column[slots] = 0

    def note(
        self, seq_nums: npt.ArrayLike, corners_px: npt.ArrayLike, shifts_px: npt.ArrayLike, weights: npt.ArrayLike
    ) -> npt.NDArray[np.intp]:
        """Know of frames of different numbers (n,), of which no amplitudes need be here, and return their slots."""
        numbers = np.asarray(seq_nums, np.int64)
        slots = np.array([self.slots.setdefault(number, len(self.slots)) for number in numbers.tolist()], np.intp)
        for column in self._columns:
            column.reserve(len(self))
        self.seq_nums[slots], self.weights[slots] = numbers, weights
        self.corners_px[slots], self.shifts_px[slots] = corners_px, shifts_px
        self.told_px[slots] = self.places_px(slots)
        self.flux[slots], self.backgrounds[slots], self.variation[slots] = 1.0, 0.0, 0.0
        self.forget(slots)
        return slots

    def contents(self) -> dict[str, Any]:
        """Return what is known of each slot but its amplitudes, for a checkpoint."""
        return {name: getattr(self, name)[: len(self)].copy() for name in (*_IDENTITY, *_FOUND)}

    def restore(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned: for the frames that are here, or for those that will come.

        Raises
        ------
        CheckpointError
            If there are frames here, but not those of the checkpoint.
        """
        records = [dict(zip(contents, values, strict=True)) for values in zip(*contents.values(), strict=True)]
        slots = {int(record["seq_nums"]): slot for slot, record in enumerate(records)}
        if not self.slots:
            self.slots.update(slots)
            for column in self._columns:
                column.reserve(len(slots))
            self.seq_nums[: len(slots)], self.flux[: len(slots)] = contents["seq_nums"], 1.0
            self._expected = dict(enumerate(records))
        elif self.slots != slots or not all(self._recall(slot, record) for slot, record in enumerate(records)):
            raise CheckpointError("the checkpoint is of other frames than these: begin anew")

    def recall(self, contents: Mapping[str, Any]) -> None:
        """Take up what `contents` returned, for frames that `note` has made known in any order.

        Raises
        ------
        CheckpointError
            If these are other frames.
        """
        slots = [self.slots.get(number, -1) for number in contents["seq_nums"].tolist()]
        same = len(slots) == len(self) and min(slots, default=0) >= 0
        if not same or not np.allclose(self.told_px[slots], contents["told_px"], atol=SAME_PLACE_PX):
            raise CheckpointError("the checkpoint is of other frames than these: begin anew")
        for name in ("photons", *_FOUND):
            getattr(self, name)[slots] = contents[name]

    def _recall(self, slot: int, record: Mapping[str, Any] | None) -> bool:
        """Take up a record of the frame in a slot; False, and nothing is changed, where it is not of this frame."""
        if record is None or not np.isclose(self.photons[slot], record["photons"], rtol=SAME_PHOTONS):
            return False
        if not np.allclose(self.told_px[slot], record["told_px"], atol=SAME_PLACE_PX):
            return False
        for name in _FOUND:
            getattr(self, name)[slot] = record[name]
        return True

    def _measure_again(self, run: slice) -> None:
        slots = np.arange(run.start, run.stop)
        self._measure(slots, self.backend.xp.stack([self.amplitude(slot) for slot in slots.tolist()]))

    def _measure(self, slots: npt.NDArray[np.intp], amplitudes: Any) -> None:
        """Sum the photons and amplitudes of the pixels of frames that are used, and those of their central halves.

        `amplitudes` (n, N, N) are overwritten.
        """
        if self.hold_out is not None:
            for slot, amplitude in zip(slots.tolist(), amplitudes, strict=True):
                self.hold_out.apply(self.seq_nums[slot], amplitude)
        if self.backend.on_device:
            xp = self.backend.xp
            sums = self.backend.to_numpy(sums_of(xp, amplitudes, self.good))
            brightest, piled_up = (self.backend.to_numpy(array) for array in brightest_of(xp, amplitudes, self.good))
        else:
            sums, brightest = np.empty((len(slots), 4)), np.empty(len(slots), np.float32)
            amplitude_loops.sum_amplitudes(amplitudes, self.good, sums)
            piled_up = np.empty(len(slots), np.int64)
            amplitude_loops.find_brightest(amplitudes, self.good, brightest, piled_up)
        self.amplitude_sums[slots], self.photons[slots] = sums[:, 0], sums[:, 1]
        self.central_amplitude_sums[slots], self.central_photons[slots] = sums[:, 2], sums[:, 3]
        self.brightest[slots], self.piled_up[slots] = brightest, piled_up

    def turn(self, orientation: int) -> None:
        """Flip and swap the axes of all frames that are here, as in `nsbluesky.geometry.Geometry.orientation`."""
        if orientation:
            self._amplitudes.turn(orientation)

    @property
    def whole(self) -> FrameStore:
        """The whole frames: these."""
        return self

    def amplitude(self, slot: int) -> Any:
        """Return the amplitudes (N, N) float32 of a slot, FFT order; not to be changed."""
        return self._amplitudes.read(slot)

    def photons_of(self, slots: npt.NDArray[np.intp]) -> Any:
        """Return the photons of frames (n, N, N) as they came: zero frequency at N//2, NaN where not measured."""
        xp = self.backend.xp
        amplitudes = xp.stack([self.amplitude(slot) for slot in slots])
        return xp.fft.fftshift(xp.where(amplitudes >= 0, amplitudes * amplitudes, np.float32(np.nan)), axes=(1, 2))

    def places_px(self, slots: npt.NDArray[np.intp] | slice) -> npt.NDArray[np.float64]:
        """Return where the windows of `slots` begin, fractions included, (n, 2: row, column)."""
        return np.asarray(self.corners_px[slots] + self.shifts_px[slots])

    def corrections_px(self, slots: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """Return how far the windows of `slots` lie from where they were put, (n, 2: row, column)."""
        return np.asarray(self.places_px(slots) - self.told_px[slots])

    def correct(self, slots: npt.NDArray[np.intp], corrections_px: npt.NDArray[np.float64]) -> None:
        """Let the windows of `slots` lie `corrections_px` (n, 2: row, column) from where they were put."""
        places = self.told_px[slots] + corrections_px
        self.corners_px[slots] = np.rint(places)
        self.shifts_px[slots] = places - self.corners_px[slots]

    def amplitudes(self, slots: npt.NDArray[np.intp], out: Any, *, all_pixels: bool = False) -> Any:
        """Copy the amplitudes of `slots`, with corrected light, to the first rows of `out` (n, N, N).

        What the background of a frame was beyond the mean is subtracted, so that one background serves all frames; it
        is small beside what was counted.  Amplitudes are `NOT_MEASURED` where there are none, and on the pixels that
        are held out but for `all_pixels`.
        """
        if self.backend.on_device:
            loops = device_loops(self.backend.xp)
            loops.take_amplitudes(self.stored(slots, all_pixels=all_pixels), out[: len(slots)])
            return out[: len(slots)]
        scales, backgrounds = (np.asarray(x, np.float32) for x in (self.flux[slots] ** -0.5, self.backgrounds[slots]))
        self._amplitudes.copy(slots, out, scales, backgrounds)
        hold_out = None if all_pixels else self.hold_out
        if hold_out is not None:
            for row, slot in enumerate(slots):
                hold_out.apply(self.seq_nums[slot], out[row])
        return out[: len(slots)]

    def stored(self, slots: npt.NDArray[np.intp], *, all_pixels: bool = False) -> StoredAmplitudes:
        """Return where `amplitudes` of `slots` come from, for a device that reads them itself."""
        hold_out = None if all_pixels else self.hold_out
        return StoredAmplitudes(
            side=self._amplitudes.side,
            is_half=self._amplitudes.is_half,
            addresses=self._amplitudes.addresses(slots),
            gains=np.asarray(self.flux[slots] ** -0.5, np.float32),
            backgrounds=np.asarray(self.backgrounds[slots], np.float32),
            held=None if hold_out is None else np.asarray(self.seq_nums[slots] % hold_out.count, np.int32),
            numbers=None if hold_out is None else hold_out.numbers,
        )

    def mean_intensity(self, slots: npt.NDArray[np.intp]) -> Any:
        """Return the mean photons (N, N), FFT order, over the frames that measured a pixel; 0 where none did."""
        xp = self.backend.xp
        total = xp.zeros((self.frame_px, self.frame_px), np.float64)
        count = xp.zeros((self.frame_px, self.frame_px), np.int64)
        for slot in slots:
            amplitude = self.amplitude(slot)
            measured = amplitude >= 0
            total += xp.where(measured, amplitude, 0) ** 2
            count += measured
        return (total / xp.maximum(count, 1) * self.good).astype(np.float32)
