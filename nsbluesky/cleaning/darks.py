"""Dark frames: mean and standard deviation per pixel, and from them the bad pixels and ADCs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nsbluesky.cleaning.layout import FCCDLayout, by_adc
from nsbluesky.cleaning.spikes import NO_LINES, InterferenceLines, background_sequences, find_lines
from nsbluesky.cleaning.words import (
    WILD_ADU,
    WILD_SHARE,
    as_counts,
    decode_words,
    find_lost_words,
    gain_of_frame,
    has_lost_packets,
)
from nsbluesky.settings import CleaningSettings

__all__ = ["DarkAccumulator", "DarkStatistics", "RollingDarks"]

# Bad ADCs of a real frame had 6 to 60 times the normal noise: the mildest stay far below `bad_std_adu`.  The median
# over the thousands of pixels of an ADC is so well known that half of that tells it from a good one.
BAD_ADC_NOISE_RATIO = 3.0
# Of two frames alone, the drift of a whole ADC looks like noise of up to five times the normal, and good pixels often
# have the same value twice.
OF_TWO = 2.0
# Pedestals of good ADCs spread by about 0.5 %.
BAD_ADC_SHIFT_SIGMAS = 10.0

# Dark frames whose interference is looked at.
LINE_FRAMES = 8

# Of a dark frame, every so many words in both directions are compared with those of the others.
PROBE_EVERY = 13
# Of so few frames none can be told to be the odd one.
LEAST_TO_COMPARE = 3

# n·Σx² and (Σx)² of 16-bit words stay below 2⁶⁴ up to here.
MAX_FRAMES = 65535


@dataclass(frozen=True, eq=False)
class DarkStatistics:
    """What the dark frames tell.

    Attributes
    ----------
    mean, std : (rows, columns) float32
        Mean and sample standard deviation in ADU, at the highest gain that there are darks of; zeros where there
        are too few frames to tell.
    bad : (rows, columns) bool
        True for pixels that must not be used, those of bad ADCs among them.
    bad_adcs : (k,) int
        Bad ADCs, counted as in `nsbluesky.cleaning.layout`.
    num_frames : int
        Frames that were really averaged, at that gain; of some of them, lost packets may be missing.
    lines : InterferenceLines
        Periodic interference along the readout.
    gain_steps : (2, rows, columns) float32 or None
        What the means at the middle and at the lowest gain exceed `mean` by, 0 for a gain without darks; None where
        all darks are of one gain.
    num_left_out : int
        Frames that were given as darks and are something else.
    """

    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]
    bad: npt.NDArray[np.bool_]
    bad_adcs: npt.NDArray[np.int_]
    num_frames: int
    lines: InterferenceLines = NO_LINES
    gain_steps: npt.NDArray[np.float32] | None = None
    num_left_out: int = 0


class _Sums:
    """Exact sums over the dark frames of one gain, and the first of them that are whole."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.num_frames = 0
        self.sum = np.zeros(shape, np.uint64)
        self.sum_of_squares = np.zeros(shape, np.uint64)
        self.first: list[npt.NDArray[np.uint16]] = []
        self._lost: npt.NDArray[np.uint64] | None = None

    def add(self, values: npt.NDArray[np.uint16], lost: npt.NDArray[np.bool_] | None) -> None:
        """Add a frame; of which `lost` says, where given, what never came."""
        if lost is None and len(self.first) < LINE_FRAMES:
            self.first.append(values.copy())
        words = values.astype(np.uint32)
        if lost is not None:
            words[lost] = 0
            self._lose(lost)
        self.sum += words
        np.multiply(words, words, out=words)  # 65535² fits
        self.sum_of_squares += words
        self.num_frames += 1

    def merge(self, other: _Sums) -> None:
        self.num_frames += other.num_frames
        self.sum += other.sum
        self.sum_of_squares += other.sum_of_squares
        self.first = (self.first + other.first)[-LINE_FRAMES:]
        if other._lost is not None:
            self._lose(other._lost)

    def _lose(self, words: npt.NDArray[Any]) -> None:
        lost = words.astype(np.uint64)
        self._lost = lost if self._lost is None else self._lost + lost

    @property
    def counts(self) -> npt.NDArray[np.uint64]:
        """How many words each pixel has: (rows, columns), or one number for all."""
        frames = np.uint64(self.num_frames)
        return np.asarray(frames if self._lost is None else frames - self._lost)

    @property
    def mean(self) -> npt.NDArray[np.float32]:
        mean: npt.NDArray[np.float32] = (self.sum / np.maximum(self.counts, 1)).astype(np.float32)
        return mean

    @property
    def std(self) -> npt.NDArray[np.float32]:
        """The sample standard deviation; 0 where fewer than two words tell it."""
        n = self.counts
        scatter = n * self.sum_of_squares - self.sum * self.sum  # exact: zero means constant
        std: npt.NDArray[np.float32] = np.sqrt(scatter / np.maximum(n * (n - 1.0), 1)).astype(np.float32)
        return np.where(n < 2, np.float32(0), std)


class DarkAccumulator:
    """Exact running sums over dark frames; memory does not grow with their number.

    Dark frames taken at a lower gain, as their gain bits tell, are summed apart.  Lost packets do not count, nor do
    frames that are nothing like the others.

    Parameters
    ----------
    layout : FCCDLayout
    gain_words : str
        As `CleaningSettings.gain_words`.
    """

    def __init__(self, layout: FCCDLayout, gain_words: str = "plain") -> None:
        self.layout = layout
        self.gain_words = gain_words
        self.num_left_out = 0
        self._gains: dict[int, _Sums] = {}

    @property
    def num_frames(self) -> int:
        """Frames added so far."""
        return sum(sums.num_frames for sums in self._gains.values())

    def add(self, frames: npt.NDArray[Any]) -> None:
        """Add raw frames (n, rows, columns) of integers.

        Raises
        ------
        ValueError
            For frames of another shape or dtype, or too many of them.
        """
        frames = as_counts(frames)
        if frames.ndim != 3 or frames.shape[1:] != self.layout.shape or frames.dtype.kind != "u":
            raise ValueError(
                f"dark frames {frames.shape} {frames.dtype}: expected (n, {self.layout.rows}, {self.layout.columns}) "
                "integers; check cleaning.layout"
            )
        if self.num_frames + len(frames) > MAX_FRAMES:
            raise ValueError(f"more than {MAX_FRAMES} dark frames: expected some tens")
        words = np.minimum(frames, 0xFFFF).astype(np.uint16, copy=False)  # no dark has more
        values, _ = decode_words(words, "plain" if self.gain_words == "plain" else "13_bits")
        by_gain: dict[int, list[int]] = {}
        for k, frame in enumerate(words):
            by_gain.setdefault(gain_of_frame(frame, self.gain_words), []).append(k)
        partly_lost = has_lost_packets(words, self.layout)
        for gain, rows in by_gain.items():
            sums = self._of_gain(gain)
            for k, wild in zip(rows, _wild(values[rows], sums), strict=True):
                if wild:
                    self.num_left_out += 1
                else:
                    sums.add(values[k], find_lost_words(words[k], self.layout) if partly_lost[k] else None)

    def merge(self, other: DarkAccumulator) -> None:
        """Add what another one has seen."""
        self.num_left_out += other.num_left_out
        for gain, sums in other._gains.items():
            self._of_gain(gain).merge(sums)

    def _of_gain(self, gain: int) -> _Sums:
        return self._gains.setdefault(gain, _Sums(self.layout.shape))

    def result(self, settings: CleaningSettings) -> DarkStatistics:
        """Return the statistics of what was added so far.

        A pixel is bad where its standard deviation exceeds the median by `settings.bad_std_adu`, or is zero among
        pixels that have noise, which two frames do not tell.  An ADC is bad where the median of its pixels is so,
        exceeds the median of all several times, or where its pedestal stands far away from the others'.
        """
        highest = min(self._gains, default=None)
        if highest is None:
            return self._statistics(_Sums(self.layout.shape), settings)
        statistics = self._statistics(self._gains[highest], settings)
        if len(self._gains) == 1:
            return statistics
        steps = np.zeros((2, *self.layout.shape), np.float32)
        for gain, sums in self._gains.items():
            if gain != highest:
                steps[gain - 1] = sums.mean - statistics.mean
        return replace(statistics, gain_steps=steps)

    def _statistics(self, sums: _Sums, settings: CleaningSettings) -> DarkStatistics:
        n, mean = sums.num_frames, sums.mean
        if n < 2:
            bad, bad_adcs = np.zeros(self.layout.shape, bool), np.zeros(0, int)
            return DarkStatistics(mean, np.zeros_like(mean), bad, bad_adcs, n, num_left_out=self.num_left_out)
        std = sums.std
        ratio = BAD_ADC_NOISE_RATIO * (OF_TWO if n == 2 else 1)
        bad_adcs = _bad_adcs(mean, std, self.layout, settings.bad_std_adu, ratio)
        typical = _typical_std(std, self.layout)
        bad = _bad_std(std, typical, settings.bad_std_adu, stuck=n > 2) | (sums.counts < 2)
        _mark_adcs(bad, bad_adcs, self.layout)
        wanted = settings.spikes == "lines" and sums.first
        lines = self._lines(sums.first, mean, bad, settings) if wanted else NO_LINES
        return DarkStatistics(mean, std, bad, bad_adcs, n, lines, num_left_out=self.num_left_out)

    def _lines(
        self,
        frames: list[npt.NDArray[np.uint16]],
        mean: npt.NDArray[np.float32],
        bad: npt.NDArray[np.bool_],
        settings: CleaningSettings,
    ) -> InterferenceLines:
        """Return the lines in dark frames: without light, nothing else looks like them."""
        sequences = background_sequences(np.stack(frames), mean, bad, self.layout, settings.bad_std_adu)
        return find_lines(sequences, settings.spike_sigmas, self.layout.columns_per_adc)


class RollingDarks:
    """Dark frames that are taken again while a scan runs: the newest ones count.

    Parameters
    ----------
    layout : FCCDLayout
    settings : CleaningSettings
        `rolling_darks` says how many frames are enough to forget older ones.
    """

    def __init__(self, layout: FCCDLayout, settings: CleaningSettings) -> None:
        self._layout, self._settings = layout, settings
        self._batches: list[DarkAccumulator] = []
        self._open = False

    def add(self, frames: npt.NDArray[Any]) -> None:
        """Add raw frames (n, rows, columns) uint16 to those taken last; as `DarkAccumulator.add`."""
        if not self._open:
            self._batches.append(DarkAccumulator(self._layout, self._settings.gain_words))
            self._open = True
        self._batches[-1].add(frames)

    @property
    def has_news(self) -> bool:
        """Whether frames came since the last result."""
        return self._open

    def result(self) -> DarkStatistics:
        """Return the statistics of the newest batches that are enough together, and forget older ones.

        A batch is what came between two results.
        """
        self._open = False
        total = DarkAccumulator(self._layout, self._settings.gain_words)
        kept: list[DarkAccumulator] = []
        for batch in reversed(self._batches):
            if kept and total.num_frames >= self._settings.rolling_darks:
                break
            kept.insert(0, batch)
            total.merge(batch)
        self._batches = kept
        return total.result(self._settings)


def _wild(frames: npt.NDArray[np.uint16], sums: _Sums) -> npt.NDArray[np.bool_]:
    """Return which dark frames (n, rows, columns) are nothing like the others of their gain, (n,)."""
    probe = frames[:, ::PROBE_EVERY, ::PROBE_EVERY].astype(np.float32)
    if sums.num_frames:
        typical = sums.mean[::PROBE_EVERY, ::PROBE_EVERY]
    elif len(frames) >= LEAST_TO_COMPARE:
        typical = np.median(probe, axis=0)
    else:
        return np.zeros(len(frames), bool)
    wild: npt.NDArray[np.bool_] = (np.abs(probe - typical) > WILD_ADU).mean(axis=(1, 2)) > WILD_SHARE
    return wild


def _blocks(values: npt.NDArray[Any], layout: FCCDLayout) -> npt.NDArray[Any]:
    """Return the image pixels of every ADC, (ADCs, pixels)."""
    blocks = [
        np.moveaxis(by_adc(values[start:stop], layout)[..., layout.for_half(half).data_columns], 1, 0)
        for half, (start, stop) in enumerate(layout.good_rows)
    ]
    return np.concatenate(blocks).reshape(len(layout.halves) * layout.adcs_per_half, -1)


def _typical_std(std: npt.NDArray[np.float32], layout: FCCDLayout) -> float:
    return float(np.median(_blocks(std, layout)))


def _bad_std(
    std: npt.NDArray[np.float32], typical: float, excess_adu: float, *, stuck: bool = True
) -> npt.NDArray[np.bool_]:
    """Return where a standard deviation is too large or, if `stuck`, zero; a typical zero is a photon counter's."""
    bad = std > typical + excess_adu
    if stuck and typical > 0:
        bad |= std == 0
    return bad


def _bad_adcs(
    mean: npt.NDArray[np.float32], std: npt.NDArray[np.float32], layout: FCCDLayout, excess_adu: float, ratio: float
) -> npt.NDArray[np.int_]:
    noise = np.median(_blocks(std, layout), axis=1)
    pedestal = np.median(_blocks(mean, layout), axis=1)
    typical = float(np.median(noise))
    bad = _bad_std(noise, typical, excess_adu)
    if typical > 0:
        bad |= noise > ratio * typical
    shift = np.abs(pedestal - np.median(pedestal))
    sigma = 1.4826 * float(np.median(shift))  # of a normal distribution, from the median deviation
    bad |= shift > max(BAD_ADC_SHIFT_SIGMAS * sigma, excess_adu)
    return np.flatnonzero(bad)


def _mark_adcs(bad: npt.NDArray[np.bool_], bad_adcs: npt.NDArray[np.int_], layout: FCCDLayout) -> None:
    blocks = by_adc(bad, layout)
    for adc in bad_adcs:
        half, column = divmod(int(adc), layout.adcs_per_half)
        start, stop = layout.halves[half]
        blocks[start:stop, column] = True
